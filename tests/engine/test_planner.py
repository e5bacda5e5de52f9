"""Which way is taken, from counts alone."""

from __future__ import annotations

import pytest

from chroma_gpu.config import Settings
from chroma_gpu.engine.planner import Choice, Way, plan, wanted
from chroma_gpu.index import IndexSpec, Traits
from chroma_gpu.records import Metric


def choice(kind, rows, device="cpu"):
    return Choice(IndexSpec(kind, Metric.L2, 384), Traits(kind == "flat", True, device), rows)


CODES = choice("codes", 50_000)


def way(candidates, rows=50_000, k=10, queries=1, indexes=(CODES,)):
    taken = plan(candidates, rows, k, queries, 384, indexes)
    return taken.way, taken.kind


def test_nothing_passes():
    assert way(0) == (Way.NOTHING, None)


def test_few_candidates_are_gathered():
    assert way(5) == way(400) == (Way.GATHER, None)


def test_all_candidates_go_to_the_codes():
    assert way(50_000) == way(30_000) == (Way.INDEX, "codes")


def test_without_an_index_all_is_scanned():
    assert way(50_000, indexes=()) == (Way.SCAN, None)


def test_an_index_that_lags_far_behind_saves_nothing():
    costs = dict(plan(50_000, 50_000, 10, 1, 384, [choice("codes", 2_048)]).considered)
    assert costs["index(codes)"] > 0.95 * costs["scan"]
    assert costs["index(codes)"] > 3 * dict(plan(50_000, 50_000, 10, 1, 384, [CODES]).considered)["index(codes)"]


def test_a_graph_pays_on_many_rows_and_wide_filters():
    both = [choice("codes", 1_000_000), choice("hnsw", 1_000_000)]
    assert way(1_000_000, 1_000_000, indexes=both) == (Way.INDEX, "hnsw")
    assert way(20_000, 1_000_000, indexes=both)[1] != "hnsw"


def test_an_index_scans_large_batches_and_large_k_itself():
    """It knows the norms of its rows, which a scan would have to find."""
    for given in ({"queries": 1_000}, {"k": 20_000}):
        taken = plan(50_000, 50_000, given.get("k", 10), given.get("queries", 1), 384, [CODES])
        costs = dict(taken.considered)
        assert (taken.way, taken.kind) == (Way.INDEX, "codes")
        assert costs["index(codes)"] < costs["scan"]


def test_a_gpu_answers_what_is_large():
    assert way(1_000_000, 1_000_000, indexes=[choice("flat", 1_000_000, "cuda")]) == (Way.INDEX, "flat")
    assert way(1_000_000, 1_000_000, indexes=[choice("flat", 1_000_000)]) == (Way.SCAN, None)


def test_k_is_at_most_the_candidates_and_every_way_is_told():
    taken = plan(7, 50_000, 100, 1, 384, [CODES])
    assert taken.k == 7
    assert {name for name, _ in taken.considered} == {"gather", "scan", "index(codes)"}
    assert [cost for _, cost in taken.considered] == sorted(cost for _, cost in taken.considered)
    assert "7 of 50,000 rows" in str(taken)


@pytest.mark.parametrize(
    ("index", "rows", "faiss", "gpu", "kinds"),
    [
        ("auto", 100, True, False, ()),
        ("auto", 50_000, True, False, ("codes",)),
        ("auto", 300_000, True, False, ("codes", "hnsw")),
        ("auto", 50_000, False, False, ("flat",)),
        ("auto", 50_000, True, True, ("flat",)),
        ("flat", 50_000, True, False, ("flat",)),
        ("codes", 10**6, True, True, ("codes",)),
        ("hnsw", 3_000, True, False, ("codes", "hnsw")),
    ],
)
def test_which_indexes_are_kept(index, rows, faiss, gpu, kinds):
    assert wanted(Settings(index=index), rows, faiss=faiss, gpu=gpu) == kinds
