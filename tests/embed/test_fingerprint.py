"""The name of a model changes with everything that its vectors depend on, and with nothing else."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from embed import tiny_models

from chroma_gpu.embed.encoders.fingerprint import fingerprint
from chroma_gpu.embed.encoders.layout import read
from chroma_gpu.embed.encoders.library import LibraryEncoder
from chroma_gpu.embed.encoders.static import from_files
from chroma_gpu.embed.encoders.transformer import TransformerEncoder
from chroma_gpu.embed.stream.protocol import Prompt


@pytest.fixture
def directory(tmp_path):
    return tiny_models.transformer(tmp_path / "model", dense=12)


def test_a_copy_elsewhere_has_the_same_name(directory, tmp_path):
    copy = shutil.copytree(directory, tmp_path / "elsewhere" / "other")
    (copy / "README.md").write_text("a page about it")
    assert fingerprint(read(copy), "float32") == fingerprint(read(directory), "float32")
    assert len(fingerprint(read(directory))) == 64


def test_whatever_vectors_depend_on_changes_it(directory):
    seen = {
        fingerprint(read(directory), "float32"),
        fingerprint(read(directory), "bfloat16"),
        fingerprint(read(directory), "float32", 7),
    }
    for name, change in {
        "model.safetensors": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        "2_Dense/model.safetensors": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        "tokenizer.json": lambda data: data.replace(b'"kitten"', b'"kittem"'),
        "1_Pooling/config.json": lambda data: data.replace(b'"include_prompt": true', b'"include_prompt": false'),
        "sentence_bert_config.json": lambda data: data.replace(b"16", b"17"),
        "modules.json": lambda data: b"[" + data.rpartition(b', {"idx"')[0][1:] + b"]",
    }.items():
        path: Path = directory / name
        before = path.read_bytes()
        assert change(before) != before, name
        path.write_bytes(change(before))
        seen.add(fingerprint(read(directory), "float32"))
        path.write_bytes(before)
    assert len(seen) == 9


def test_a_file_is_hashed_once_for_each_of_its_states(directory, monkeypatch):
    hashed = []
    digest = hashlib.file_digest

    def noted(file, kind):
        hashed.append(Path(file.name).name)
        return digest(file, kind)

    monkeypatch.setattr(hashlib, "file_digest", noted)
    first = fingerprint(read(directory))
    assert "model.safetensors" in hashed
    hashed.clear()
    assert fingerprint(read(directory)) == first
    assert not hashed
    weights = directory / "model.safetensors"
    state = weights.stat()
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    os.utime(weights, ns=(state.st_atime_ns, state.st_mtime_ns))  # the same size and time: the inode still changed
    assert fingerprint(read(directory)) != first
    assert hashed == ["model.safetensors"]


def test_files_that_changed_after_loading_give_no_name(directory, tmp_path):
    layout = read(directory)
    table = tiny_models.static(tmp_path / "table")
    loaded = [
        TransformerEncoder(layout, "cpu"),
        LibraryEncoder(layout, "cpu", {}),
        from_files(table / "model.safetensors", table / "tokenizer.json", unit=True),
    ]
    for weights in (directory / "model.safetensors", table / "model.safetensors"):
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
    assert [each.fingerprint for each in loaded] == [None, None, None]
    assert TransformerEncoder(layout, "cpu").fingerprint is not None


def test_encoders_say_their_own(directory, tmp_path):
    layout = read(directory)
    exact, half = TransformerEncoder(layout, "cpu"), TransformerEncoder(layout, "cpu", "bfloat16")
    assert exact.fingerprint == TransformerEncoder(layout, "cpu").fingerprint
    assert exact.fingerprint != half.fingerprint
    pytest.importorskip("sentence_transformers", reason="the library under test")
    library = LibraryEncoder(layout, "cpu", {"truncate_dim": 3})
    assert library.fingerprint not in {None, exact.fingerprint, LibraryEncoder(layout, "cpu", {}).fingerprint}
    tables = [tiny_models.static(tmp_path / str(normal), normalize=normal) for normal in (True, False)]
    static = [
        from_files(path / "model.safetensors", path / "tokenizer.json", unit=unit) for path in tables for unit in (True, False)
    ]
    assert len({each.fingerprint for each in static}) == 2
    for each in (exact, library, *static):
        assert each.window >= 1_024
        assert each.lanes == 1
        assert each.peak(2, 8) is None
        assert isinstance(each.padded, bool)
        assert each.post(each.core(each.pre(["a cat"], Prompt()), np.arange(1))).shape == (1, each.dim)


def test_vectors_that_depend_on_their_batch_are_not_remembered(tmp_path):
    left = tiny_models.transformer(tmp_path / "left", left=True)
    right = tiny_models.transformer(tmp_path / "right")
    assert TransformerEncoder(read(left), "cpu").fingerprint is None
    assert TransformerEncoder(read(right), "cpu").fingerprint is not None
