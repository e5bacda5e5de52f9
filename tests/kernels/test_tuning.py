"""Block sizes: shipped ones fit every architecture, measured ones come first, damage to their file is survived."""

from __future__ import annotations

import pytest

from chroma_gpu.config import tuning_file
from chroma_gpu.kernels import tuning
from chroma_gpu.kernels.tuning import (
    CAPABILITIES,
    SHARED,
    Config,
    Table,
    assuming,
    candidates,
    compare,
    config,
    measure,
    pays,
    shipped,
    trying,
)

KERNELS = ("scan", "gather", "product", "join", "quantise", "encode", "predicate")
SHAPES = [(dtype, dim, q) for dtype in ("float32", "float16", "int8") for dim in (1, 17, 384, 4_000) for q in (1, 3, 32, 1_024)]


def power(number):
    return number > 0 and number & (number - 1) == 0


@pytest.mark.parametrize("capability", [0, *CAPABILITIES, 100, 120])
@pytest.mark.parametrize("kernel", KERNELS)
def test_what_ships_fits(kernel, capability):
    for shape in SHAPES:
        for each in (shipped(kernel, capability, *shape), *candidates(kernel, capability or 75, *shape)):
            assert all(map(power, (each.rows, each.queries, each.dims, each.num_warps)))
            assert not capability or tuning._staged(each, capability, shape[0]) <= SHARED[capability]
            if each.way == "dot":
                assert min(each.rows, each.queries, each.dims) >= 16


@pytest.mark.parametrize("kernel", KERNELS)
def test_turing_gets_no_tensor_cores(kernel):
    """Triton has none there, and would make a loop over vector units that spills thousands of bytes a thread."""
    assert {shipped(kernel, 75, *shape).way for shape in SHAPES} <= {"fma", "split"}


def test_large_batches_go_to_tensor_cores_elsewhere():
    assert shipped("product", 90, "float16", 384, 1_024).way == "dot"
    assert shipped("scan", 80, "int8", 384, 32).way == "dot"
    assert shipped("scan", 80, "int8", 384, 1).way == "fma"


def test_candidates_are_distinct_and_begin_with_what_ships():
    tried = list(candidates("scan", 90, "float16", 384, 32))
    assert tried[0] == shipped("scan", 90, "float16", 384, 32)
    assert len(set(tried)) == len(tried) > 5


SHAPE = (90, "float16", 384, 32)


def test_the_fastest_candidate_is_kept_and_used(tmp_path, monkeypatch):
    path = tmp_path / "cache" / "tuning.json"
    monkeypatch.setenv("CHROMA_GPU_TUNING", str(path))
    tuning._table.cache_clear()
    assert tuning_file() == path
    tried = [Config(64, 16, 64, 4, 2), Config(128, 16, 64, 4, 2), Config(256, 16, 64, 8, 2)]
    seen = []

    def seconds(run):
        run()
        if seen[-1].rows == 256:
            raise RuntimeError("out of resource: shared memory")
        return {64: 3e-6, 128: 2e-6}[seen[-1].rows]

    assert config("scan", *SHAPE) == shipped("scan", *SHAPE)
    try:
        best = measure("scan", "NVIDIA H200", SHAPE, lambda: seen.append(config("scan", *SHAPE)), seconds, path, tried)
        assert seen == tried
        assert best == tried[1] == config("scan", *SHAPE) == config("scan", 90, "float16", 300, 20)
        assert config("scan", 80, *SHAPE[1:]) == shipped("scan", 80, *SHAPE[1:])
        assert config("gather", *SHAPE) == shipped("gather", *SHAPE)
        assert Table.load(path).entries["scan sm_90 float16 384 32"] | {"config": None} == {
            "config": None,
            "us": 2.0,
            "card": "NVIDIA H200",
        }
    finally:
        tuning._table.cache_clear()


def test_a_card_that_runs_no_candidate_says_so(tmp_path):
    def refuse(run):
        raise ValueError("ptxas")

    with pytest.raises(RuntimeError, match="no candidate of scan") as raised:
        measure("scan", "card", SHAPE, lambda: None, refuse, tmp_path / "t.json", [Config(64, 16, 64, 4, 2)])
    assert isinstance(raised.value.__cause__, ValueError)
    assert not (tmp_path / "t.json").exists()


def test_what_is_tried_ends_with_its_block():
    tried = Config(64, 1, 64, 4, 2)
    with trying("scan", tried):
        assert config("scan", *SHAPE) is tried
        with trying("gather", tried), trying("scan", Config(32, 1, 64, 4, 2)):
            assert config("scan", *SHAPE).rows == 32
        assert config("gather", *SHAPE, Table()) == shipped("gather", *SHAPE)
    assert config("scan", *SHAPE, Table()) == shipped("scan", *SHAPE)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"format": 0, "entries": {}}', '{"format": 1}', '{"format": 1, "entries": {"a": {"config": {"x": 1}}}}'],
)
def test_a_damaged_file_counts_as_nothing_measured(tmp_path, text):
    path = tmp_path / "tuning.json"
    path.write_text(text)
    assert Table.load(path) == Table()
    Table.load(path).with_entry("card", "scan", SHAPE, Config(64, 1, 64, 4, 2), 1e-6).save(path)
    assert Table.load(path).of("scan", *SHAPE) == Config(64, 1, 64, 4, 2)
    assert list(tmp_path.iterdir()) == [path]


SEARCH = (90, "float16", 384, 1, 60_000, 10)


def test_other_ways_pay_only_where_that_was_measured(tmp_path, monkeypatch):
    path = tmp_path / "tuning.json"
    monkeypatch.setenv("CHROMA_GPU_TUNING", str(path))
    tuning._table.cache_clear()
    try:
        assert pays("replay", *SEARCH) is None
        assert compare("replay", "NVIDIA H200", SEARCH, 100e-6, 60e-6, 0.01, path) == 250
        assert pays("replay", *SEARCH) == pays("replay", 90, "float16", 300, 1, 20_000, 3) == 250
        others = [
            ("faiss", *SEARCH),
            ("replay", 80, *SEARCH[1:]),
            ("replay", *SEARCH[:5], 11),
            ("replay", *SEARCH[:4], 70_000, 10),
        ]
        others += [("replay", *SEARCH[:4], 10_000, 10), ("replay", *SEARCH[:4], 1 << 25, 10), ("replay", *SEARCH[:5], 5_000)]
        assert [pays(*each) for each in others] == [None] * len(others)
        assert compare("faiss", "NVIDIA H200", SEARCH, 100e-6, 97e-6, 0.0, path) is None, "no more than noise"
        assert pays("faiss", *SEARCH) is None
        assert compare("faiss", "NVIDIA H200", SEARCH, 100e-6, 50e-6, 0.0, path) == 0 == pays("faiss", *SEARCH)
        measure("scan", "card", SHAPE, lambda: None, lambda run: 1e-6, path, [Config(64, 16, 64, 4, 2)])
        assert pays("replay", *SEARCH) == 250, "block sizes and ways are kept beside each other"
        assert config("scan", *SHAPE) == Config(64, 16, 64, 4, 2)
    finally:
        tuning._table.cache_clear()


def test_what_is_assumed_ends_with_its_block():
    with assuming("replay", 3):
        with assuming("faiss", 0), assuming("replay", None):
            assert pays("replay", *SEARCH, Table()) is None
            assert pays("faiss", *SEARCH, Table()) == 0
        assert pays("replay", *SEARCH, Table()) == 3
    assert pays("replay", *SEARCH, Table()) is None


def test_damaged_ways_count_as_nothing_measured(tmp_path):
    path = tmp_path / "tuning.json"
    path.write_text('{"format": 1, "entries": {}, "ways": {"a": {"after": "soon"}}}')
    assert Table.load(path) == Table()
