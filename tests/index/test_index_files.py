"""Checkpoints that do not fit are refused, whatever is wrong with them; and the table of kinds."""

from __future__ import annotations

import builtins
import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from neighbours import ArraySource

from benchmarks.datasets import folded
from chroma_gpu.errors import FormatError, InvalidArgumentError, MissingDependency, StoreError
from chroma_gpu.index import INDEX_KINDS, IndexSpec, checkpoint, create, load
from chroma_gpu.records import Metric

pytestmark = pytest.mark.usefixtures("fake_cuvs")

SOURCE = ArraySource(folded(4_500, 64))
KINDS = pytest.mark.parametrize("kind", list(INDEX_KINDS))


@pytest.fixture(scope="module")
def files(tmp_path_factory, fake_cuvs):
    """(path, spec) of a checkpoint of each kind."""
    made = {}
    for kind in INDEX_KINDS:
        spec = IndexSpec(kind, Metric.L2, 64, {"M": 4, "ef_construction": 16} if kind == "hnsw" else {})
        index = create(spec, SOURCE)
        index.add(len(SOURCE))
        made[kind] = tmp_path_factory.mktemp(kind) / "index", spec
        index.save(made[kind][0])
    return made


@KINDS
@pytest.mark.parametrize("change", [{"metric": Metric.IP}, {"dim": 65}], ids=["metric", "dim"])
def test_another_spec(files, kind, change):
    path, spec = files[kind]
    with pytest.raises(FormatError, match=f"with another {next(iter(change))}"):
        load(path, dataclasses.replace(spec, **change), SOURCE)


def test_another_kind(files):
    with pytest.raises(FormatError, match="with another kind"):
        load(files["flat"][0], files["codes"][1], SOURCE)


def test_other_parameters_of_building_but_not_of_searching(files):
    path, spec = files["hnsw"]
    with pytest.raises(FormatError, match="with another params"):
        load(path, dataclasses.replace(spec, params={**spec.params, "M": 5}), SOURCE)
    assert load(path, dataclasses.replace(spec, params={**spec.params, "ef_search": 77}), SOURCE).ef_search == 77
    path, spec = files["codes"]
    assert len(load(path, dataclasses.replace(spec, params={"fetch": 9}), SOURCE)) == len(SOURCE)


@pytest.mark.parametrize("kind", ["codes", "hnsw", "ivf_pq"])
def test_another_version_of_faiss(files, kind, monkeypatch):
    monkeypatch.setattr(checkpoint, "faiss_version", lambda: "0.0")
    with pytest.raises(FormatError, match="with another faiss"):
        load(*files[kind], SOURCE)


@KINDS
def test_files_that_are_not_whole(files, kind, tmp_path):
    path, spec = files[kind]
    whole = path.read_bytes()
    for length in [0, 3, 8, 11, 40, 300, len(whole) // 3, len(whole) // 2, len(whole) - 1]:
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(StoreError):
            load(tmp_path / "cut", spec, SOURCE)


@KINDS
def test_damaged_headers(files, kind, tmp_path):
    path, spec = files[kind]
    whole = path.read_bytes()
    length = int.from_bytes(whole[8:12], "little")
    header, rest = whole[12 : 12 + length], whole[12 + length :]
    for damaged in (
        b"[]",
        b"{}",
        b"{" * length,
        header.replace(b'"count": 4500', b'"count": -1'),
        header.replace(b'"count": 4500', b'"count": 4499'),
        header.replace(b'"<f4", [4500]', b'"<f4", [-4500]'),
        header.replace(b'"<f4", [4500]', b'"<f4", [99999999999999]'),
        header.replace(b'"<f4", [4500]', b'"|O", [4500]'),
        header.replace(b'"<f4", [4500]', b'"<f8", [2250]'),
    ):
        (tmp_path / "damaged").write_bytes(whole[:8] + len(damaged).to_bytes(4, "little") + damaged + rest)
        with pytest.raises(StoreError):
            load(tmp_path / "damaged", spec, SOURCE)


@pytest.mark.parametrize(("kind", "other"), [("codes", "hnsw"), ("hnsw", "codes"), ("ivf_pq", "hnsw")])
def test_the_faiss_index_of_another_kind(files, kind, other, tmp_path):
    def split(path):
        whole = path.read_bytes()
        length = 12 + int.from_bytes(whole[8:12], "little")
        arrays = 4 * 4_500 * (2 if b'"radii"' in whole[:length] else 1)
        return whole[: length + arrays], whole[length + arrays :]

    (tmp_path / "mixed").write_bytes(split(files[kind][0])[0] + split(files[other][0])[1])
    with pytest.raises(FormatError, match="does not hold"):
        load(tmp_path / "mixed", files[kind][1], SOURCE)


def test_no_file(tmp_path):
    with pytest.raises(StoreError, match="could not be read"):
        load(tmp_path / "none", IndexSpec("flat", Metric.L2, 64), SOURCE)


@KINDS
def test_a_folder_that_cannot_be_written(kind, tmp_path):
    with pytest.raises(StoreError, match="could not be written"):
        create(IndexSpec(kind, Metric.L2, 64), SOURCE).save(tmp_path / "none" / "index")


@pytest.mark.parametrize("kind", ["codes", "hnsw", "ivf", "ivf_pq"])
def test_without_faiss(kind, monkeypatch):
    importing = builtins.__import__

    def refuse(name, *given):
        if name == "faiss":
            raise ImportError(name)
        return importing(name, *given)

    monkeypatch.setattr(builtins, "__import__", refuse)
    monkeypatch.delitem(sys.modules, "faiss", raising=False)
    with pytest.raises(MissingDependency, match="pip install"):
        create(IndexSpec(kind, Metric.L2, 64), SOURCE)


def test_the_flat_index_needs_neither_faiss_nor_torch():
    script = """
import sys
import numpy as np
from chroma_gpu.index import IndexSpec, create
from chroma_gpu.records import Metric
from neighbours import ArraySource
index = create(IndexSpec("flat", Metric.L2, 4), ArraySource(np.eye(4, dtype=np.float32)))
index.add(4)
assert index.search(np.eye(4, dtype=np.float32)[:1], 1).rows[0, 0] == 0
assert not {"faiss", "torch"} & sys.modules.keys()
"""
    subprocess.run(
        [sys.executable, "-c", script], check=True, timeout=60, env={"PYTHONPATH": ":".join(path for path in sys.path if path)}
    )


def test_an_unknown_kind():
    with pytest.raises(InvalidArgumentError, match="no index kind 'tree'; there are flat, codes, hnsw"):
        create(IndexSpec("tree", Metric.L2, 4), SOURCE)


@KINDS
def test_a_checkpoint_is_smaller_than_its_vectors(files, kind):
    size = files[kind][0].stat().st_size
    assert (
        size < {"flat": 0.02, "codes": 0.2, "hnsw": 0.8, "ivf": 0.08, "ivf_pq": 0.25, "cagra": 1.02}[kind] * SOURCE.vectors.nbytes
    )


def test_an_index_of_no_rows_is_saved_too(tmp_path):
    for kind in INDEX_KINDS:
        spec = IndexSpec(kind, Metric.COSINE, 64)
        create(spec, SOURCE).save(tmp_path / kind)
        again = load(tmp_path / kind, spec, SOURCE)
        assert len(again) == 0
        assert not again.search(np.ones((1, 64), np.float32), 3).counts.any()
