"""Inverted lists: how much is read, when lists are made anew, what a checkpoint keeps."""

from __future__ import annotations

import numpy as np
import pytest
from neighbours import ArraySource, assert_same_neighbours, brute_force, recall

from benchmarks.datasets import clustered, folded
from chroma_gpu.errors import FormatError, InvalidArgumentError, StoreError
from chroma_gpu.index import IndexSpec, create, lists, load
from chroma_gpu.index.effort import Effort, Reached, Trial, doubling
from chroma_gpu.index.ivf import IvfIndex
from chroma_gpu.records import Metric
from chroma_gpu.rowset import RowSet

N, DIM, QUERIES = 8_000, 32, 60
KINDS = pytest.mark.parametrize("kind", ["ivf", "ivf_pq"])


@pytest.fixture(scope="module")
def sheet():
    both = folded(N + QUERIES, DIM, intrinsic=8)
    return both[:N], both[N:]


def made(vectors, kind="ivf", metric=Metric.COSINE, stop=None, **params):
    index = create(IndexSpec(kind, metric, vectors.shape[1], params), ArraySource(vectors))
    index.add(stop or len(vectors))
    return index


@KINDS
def test_recall_is_what_was_asked_for(sheet, kind, dear_exact):
    vectors, queries = sheet
    want = brute_force(queries, vectors, 10, Metric.COSINE)
    low, high = (made(vectors, kind, recall=target) for target in (0.8, 0.99))
    assert low.traits.reads < high.traits.reads < 1
    for index, least in ((low, 0.74), (high, 0.97)):
        assert index.traits.recall >= index._recall
        got = index.search(queries, 10)
        assert not got.exact
        assert recall(got, want) > least
    assert recall(high.search(queries, 100), brute_force(queries, vectors, 100, Metric.COSINE)) > 0.97


@KINDS
def test_more_is_read_under_a_mask(sheet, kind, dear_exact, monkeypatch):
    vectors, queries = sheet
    index = made(vectors, kind, recall=0.9)
    asked = []
    search = index._lists.search
    monkeypatch.setattr(
        index._lists, "search", lambda q, fetch, probes, *more: asked.append(probes) or search(q, fetch, probes, *more)
    )
    for share in (1, 0.3, 0.05):
        mask = RowSet.where(np.random.default_rng(0).random(N) < share)
        got = index.search(queries, 10, mask)
        assert recall(got, brute_force(queries, vectors, 10, Metric.COSINE, mask)) > 0.85
    assert asked == sorted(asked)
    assert asked[0] < asked[2]


def test_a_mask_that_forbids_what_is_near_is_caught(dear_exact):
    both = clustered(N + 4, DIM, clusters=50, spread=0.5)
    vectors, queries = both[:N], both[N:]
    nearness = vectors @ queries[0]
    mask = RowSet.where(nearness < np.quantile(nearness, 0.3))
    got = made(vectors, recall=0.9).search(queries[:1], 10, mask)
    assert got.guard == "exact"
    assert_same_neighbours(got, brute_force(queries[:1], vectors, 10, Metric.COSINE, mask))


def test_a_small_table_is_scanned(sheet):
    index = made(sheet[0][:4_000])
    assert index.traits.reads == 1
    got = index.search(sheet[1], 10)
    assert (got.exact, got.guard) == (True, None)


@KINDS
def test_lists_are_made_anew_as_the_table_grows(sheet, kind, dear_exact, monkeypatch):
    vectors, queries = sheet
    monkeypatch.setattr("chroma_gpu.index.ivf._FIRST", 1_000)
    source = ArraySource(vectors[:1_500].copy())
    index = create(IndexSpec(kind, Metric.L2, DIM, {}), source)
    index.add(1_500)
    before = index._lists.lists
    object.__setattr__(source, "vectors", vectors)
    index.add(5_900)
    assert index._lists.lists == before
    index.add(6_000)
    assert index._lists.lists > before
    index.add(N)
    assert len(index._lists) == N
    assert recall(index.search(queries, 10), brute_force(queries, vectors, 10, Metric.L2)) > 0.95


def test_lists_are_for_the_rows_that_will_be_there(sheet):
    assert made(sheet[0], stop=4_500)._lists.lists == lists.lists_for(N)
    assert [lists.lists_for(rows) for rows in (1, 100, 4_096, 10**6)] == [1, 2, 102, 2_000]


@KINDS
def test_another_recall_than_in_the_checkpoint_is_tried(sheet, kind, tmp_path, dear_exact):
    vectors, queries = sheet
    index = made(vectors, kind, recall=0.99)
    index.save(tmp_path / "index")
    spec = IndexSpec(kind, Metric.COSINE, DIM, {"recall": 0.7})
    again = load(tmp_path / "index", spec, ArraySource(vectors))
    assert again.traits.reads < index.traits.reads
    same = load(tmp_path / "index", index.spec, ArraySource(vectors))
    assert same._effort == index._effort
    first, second = (each._lists.search(queries, 20, 5) for each in (same, index))
    np.testing.assert_array_equal(first, second)


def test_a_checkpoint_whose_lists_are_nonsense(sheet, tmp_path):
    index = made(sheet[0])
    index.save(tmp_path / "index")
    whole = (tmp_path / "index").read_bytes()
    start = 12 + int.from_bytes(whole[8:12], "little") + 4 * N
    (tmp_path / "index").write_bytes(whole[:start] + b"\xff" * 4 + whole[start + 4 :])
    with pytest.raises(StoreError, match="do not fit its lists"):
        load(tmp_path / "index", index.spec, ArraySource(sheet[0]))
    (tmp_path / "index").write_bytes(whole.replace(b'"effort"', b'"effart"'))
    with pytest.raises(FormatError, match="what recall needs"):
        load(tmp_path / "index", index.spec, ArraySource(sheet[0]))


@pytest.mark.parametrize("dim", [1, 7, 60, 100, 384, 4_096])
def test_codes_of_any_dimension(dim):
    groups, width = lists.groups_of(dim), lists.width_of("ivf_pq", dim)
    assert width % groups == 0
    assert dim <= width < dim + groups
    assert groups <= max(1, dim // 8) or groups == 96


def test_a_dimension_that_groups_do_not_divide(dear_exact):
    both = folded(5_040, 45, intrinsic=6)
    got = made(both[:5_000], "ivf_pq", Metric.L2).search(both[5_000:], 10)
    assert recall(got, brute_force(both[5_000:], both[:5_000], 10, Metric.L2)) > 0.95


def test_too_few_ordinary_rows_to_train_on():
    vectors = np.full((4_200, 4), 1e30, np.float32)
    index = made(vectors, "ivf_pq", Metric.L2)
    assert index._lists is None
    assert index.search(vectors[:1], 3).counts[0] == 3


@pytest.mark.parametrize("params", [{"nlist": 3}, {"recall": 0}, {"recall": "much"}])
def test_parameters_are_checked(params):
    with pytest.raises(InvalidArgumentError, match=next(iter(params))):
        IvfIndex(IndexSpec("ivf", Metric.L2, 4, params), ArraySource(np.zeros((0, 4), np.float32)))


def test_levels_and_what_they_reach(sheet):
    assert list(doubling(13)) == [1, 2, 3, 4, 6, 8, 12, 13]
    assert list(doubling(1)) == [1]
    vectors = sheet[0][:500]
    trial = Trial(ArraySource(vectors), Metric.L2, np.linalg.norm(vectors, axis=1), 5, np.empty(0, np.uint32))
    true = brute_force(trial.queries, vectors, 20, Metric.L2).rows.astype(np.int64)
    assert trial.recall(true) == 1
    assert trial.recall(np.where(np.arange(20) < 4, true, -1)) == 0.8
    assert trial.least(range(1, 9), lambda level: true[:, :level], 0.6) == Reached(3, 0.6)
    # Nothing more comes: the first level of the best is taken, and not all are tried.
    tried = []
    assert trial.least(range(1, 99), lambda level: tried.append(level) or true[:, : min(level, 2)], 0.6) == Reached(2, 0.4)
    assert len(tried) == 6
    effort = Effort.between(500, 0.9, Reached(4, 0.93), Reached(8, 0.95))
    assert [effort.needed(k) for k in (1, 10, 100, 1_000)] == [4, 4, 8, 16]
