"""Which way is taken, from counts alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chroma_gpu.config import Settings
from chroma_gpu.engine.planner import CODES_RECALL, Choice, Way, plan, wanted
from chroma_gpu.index import IndexSpec, Traits
from chroma_gpu.index.cost import SHIPPED, Costs
from chroma_gpu.index.gpu_cost import CARDS, WIDTHS, Card, Search, limit, listed_pays, row_bytes, whole
from chroma_gpu.records import Metric

MILLION = 1_000_000


def choice(kind, rows, device="cpu", card=None):
    return Choice(IndexSpec(kind, Metric.L2, 384), Traits(kind == "flat", True, device), rows, card)


CODES = choice("codes", 50_000)
BOTH = (choice("codes", MILLION), choice("hnsw", MILLION))


def way(candidates, rows=50_000, k=10, queries=1, indexes=(CODES,), **more):
    taken = plan(candidates, rows, k, queries, 384, indexes, **more)
    return taken.way, taken.kind


def costs_of(taken):
    return {str(each): each.cost for each in taken.considered}


def test_nothing_passes():
    assert way(0) == (Way.NOTHING, None)


def test_few_candidates_are_gathered():
    assert way(5) == way(400) == (Way.GATHER, None)


def test_all_candidates_go_to_the_codes():
    assert way(50_000) == way(30_000) == (Way.INDEX, "codes")


def test_without_an_index_all_is_scanned():
    assert way(50_000, indexes=()) == (Way.SCAN, None)


def test_an_index_that_lags_far_behind_saves_nothing():
    late = costs_of(plan(50_000, 50_000, 10, 1, 384, [choice("codes", 2_048)]))
    whole = costs_of(plan(50_000, 50_000, 10, 1, 384, [CODES]))
    assert late["index(codes)"] > 0.95 * late["scan"]
    assert late["index(codes)"] > 2 * whole["index(codes)"]


def test_a_graph_pays_on_many_rows_and_wide_filters():
    assert way(MILLION, MILLION, indexes=BOTH) == (Way.INDEX, "hnsw")
    assert way(2_000, MILLION, indexes=BOTH) == (Way.GATHER, None)


def test_large_batches_and_large_k_are_scanned():
    assert way(50_000, queries=1_000) == way(50_000, k=20_000) == (Way.SCAN, None)


@pytest.mark.parametrize("dim", [128, 384, 768])
@pytest.mark.parametrize("rows", [50_000, MILLION])
def test_narrower_filters_cost_less(dim, rows):
    indexes = [choice("codes", rows), choice("hnsw", rows)]
    shares = [0.1, 0.05, 0.02, 0.01, 0.003, 0.001, 0.0001]
    costs = [plan(round(share * rows), rows, 10, 1, dim, indexes).cost for share in shares]
    assert costs == sorted(costs, reverse=True)


def test_thresholds_are_rows_not_shares():
    """The same candidates are gathered from a table ten times as large, where they are a tenth of the share."""
    for rows in (200_000, 2_000_000):
        assert way(1_000, rows, indexes=[choice("codes", rows)]) == (Way.GATHER, None)


def test_thresholds_follow_the_costs():
    assert way(20_000, MILLION, indexes=BOTH, costs=SHIPPED.scaled(gathered=0.01, listed=0.01)) == (Way.GATHER, None)
    assert way(20_000, MILLION, indexes=BOTH, costs=SHIPPED.scaled(gathered=8, listed=8)) != (Way.GATHER, None)


def test_a_plan_counts_on_failing_guards():
    sure, doubtful = (plan(MILLION // 2, MILLION, 10, 1, 128, BOTH, Costs(doubt=doubt)) for doubt in (0, 0.5))
    assert costs_of(doubtful)["index(hnsw)"] > costs_of(sure)["index(hnsw)"] + 0.4 * costs_of(sure)["gather"]


def test_a_plan_counts_on_failing_codes():
    """A search for which no code suffices costs what an exact one does on top."""
    sure, lost = (costs_of(plan(50_000, 50_000, 10, 1, 384, [CODES], Costs(lost=share))) for share in (0, 0.5))
    assert lost["index(codes)"] == pytest.approx(sure["index(codes)"] + 0.5 * sure["scan"])


def test_a_batch_under_a_mask_is_gathered_where_its_scores_would_be_copied():
    assert way(100_000, 200_000, queries=1, indexes=()) == (Way.GATHER, None)
    assert way(100_000, 200_000, queries=32, indexes=()) == (Way.GATHER, None)
    assert way(200_000, 200_000, queries=32, indexes=()) == (Way.SCAN, None)


def test_what_each_way_can_promise():
    assert {str(each): each.recall for each in plan(MILLION // 2, MILLION, 10, 1, 128, BOTH).considered} == {
        "gather": 1.0,
        "scan": 1.0,
        "index(codes)": CODES_RECALL,
        "index(hnsw)": None,
    }
    seen = plan(MILLION, MILLION, 10, 1, 128, BOTH, replace(SHIPPED, found=0.991))
    assert (seen.kind, seen.recall) == ("hnsw", 0.991)


def test_a_least_recall_rules_ways_out():
    assert way(MILLION, MILLION, indexes=BOTH, recall=0.9999) == (Way.INDEX, "codes")
    assert way(MILLION, MILLION, indexes=BOTH, recall=1.0)[0] in (Way.SCAN, Way.GATHER)
    assert way(MILLION, MILLION, indexes=BOTH, recall=0.98, costs=replace(SHIPPED, found=0.99)) == (Way.INDEX, "hnsw")


@pytest.mark.parametrize(("ratio", "kept"), [(1.1, True), (1.3, False)])
def test_an_exact_way_is_kept_while_another_is_hardly_better(ratio, kept):
    gather = SHIPPED.exact_rows(1_000, 384)
    reading = (gather / ratio - SHIPPED.exact_block(1_000, 1_000, 384) + 384_000 * SHIPPED.read) / 384_000
    costs = replace(SHIPPED, read=reading)  # with it a scan costs so much less than gathering
    first = plan(1_000, 1_000, 10, 1, 384, (), costs)
    assert first.way is Way.SCAN
    assert costs_of(first)["gather"] == pytest.approx(ratio * first.cost)
    again = plan(1_010, 1_010, 10, 1, 384, (), costs, last=replace(first, way=Way.GATHER))
    assert (again.way is Way.GATHER) is kept


def test_another_question_and_a_better_way_are_not_held_back():
    scan = plan(50_000, 50_000, 10, 1, 384, ())
    assert scan.way is Way.SCAN
    assert plan(100, 50_000, 10, 1, 384, (), last=scan).way is Way.GATHER
    held = replace(scan, way=Way.GATHER)
    assert plan(50_000, 50_000, 10, 1, 384, (), last=held).way is Way.SCAN  # more than 20 % better
    assert plan(50_000, 50_000, 10, 1, 384, [CODES], last=scan).kind == "codes"  # approximate ways depend on nothing but counts


def test_a_gpu_answers_what_is_large():
    assert way(MILLION, MILLION, indexes=[choice("flat", MILLION, "cuda")]) == (Way.INDEX, "flat")
    assert way(MILLION, MILLION, indexes=[choice("flat", MILLION)]) == (Way.SCAN, None)


def test_few_candidates_are_gathered_by_the_host_beside_a_gpu():
    assert way(50, MILLION, indexes=[choice("flat", MILLION, "cuda", Card.of("NVIDIA H200"))]) == (Way.GATHER, None)


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
@pytest.mark.parametrize("dim", [128, 384, 768])
def test_on_a_gpu_narrower_filters_never_cost_more(card, dim):
    for queries in (1, 32, 1_024):
        shares = [1, 0.9, 0.5, 0.1, 0.05, 0.02, 0.01, 0.003, 0.001, 0.0001]
        for codes in WIDTHS:
            costs = [whole(card, Search(10 * MILLION, dim, codes, queries, round(10 * MILLION * share))) for share in shares[1:]]
            assert costs == sorted(costs, reverse=True)


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_on_a_gpu_few_rows_are_listed_and_many_masked(card):
    """A list is eight bytes a row and a mask one bit, but a mask is read for all rows."""
    assert listed_pays(card, Search(10 * MILLION, 384, "float16", passing=10_000))
    assert not listed_pays(card, Search(10 * MILLION, 384, "float16", passing=5 * MILLION))
    assert not listed_pays(card, Search(10 * MILLION, 384, "float16"))


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_on_a_gpu_codes_pay_by_their_bytes_and_halves_in_large_batches(card):
    def costs(queries):
        return {codes: whole(card, Search(10 * MILLION, 384, codes, queries)) for codes in WIDTHS}

    few, many = costs(1), costs(1_024)
    assert 2.5 < few["float32"] / few["int8"] < 4.1
    assert 1.5 < few["float32"] / few["float16"] < 2.1
    assert many["float16"] < 0.9 * many["float32"]  # GeForce cards sum halves in float32 at half rate; 0.15 on others
    read = 10 * MILLION * row_bytes(384, "float32") / card.bandwidth
    assert few["float32"] == pytest.approx(card.launch + read, rel=0.05)


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
@pytest.mark.parametrize("codes", WIDTHS)
@pytest.mark.parametrize("queries", [1, 32, 1_024])
@pytest.mark.parametrize("passing", [None, 5 * MILLION, 100_000])
def test_no_search_is_expected_to_beat_its_limit(card, codes, queries, passing):
    search = Search(10 * MILLION, 384, codes, queries, passing)
    assert whole(card, search) > limit(card, search) > 0


def test_a_card_is_known_by_its_model():
    assert Card.of("NVIDIA A100-SXM4-80GB").name == "A100"
    assert Card.of("Tesla T4").name == "T4"
    assert Card.of("NVIDIA GeForce RTX 5090") == Card.unknown()


def test_k_is_at_most_the_candidates_and_every_way_is_told():
    taken = plan(7, 50_000, 100, 1, 384, [CODES])
    assert taken.k == 7
    assert set(costs_of(taken)) == {"gather", "scan", "index(codes)"}
    assert list(costs_of(taken).values()) == sorted(costs_of(taken).values())
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
        ("ivf", 1_000, True, False, ()),
        ("ivf", 50_000, True, False, ("ivf",)),
        ("ivf_pq", 50_000, True, True, ("ivf_pq",)),
        ("cagra", 50_000, False, True, ("cagra",)),
    ],
)
def test_which_indexes_are_kept(index, rows, faiss, gpu, kinds):
    assert wanted(Settings(index=index), rows, faiss=faiss, gpu=gpu) == kinds


@pytest.mark.parametrize("kind", ["ivf", "ivf_pq"])
def test_lists_are_asked_as_far_as_their_recall_goes(kind):
    seen = Traits(False, True, "cpu", reads=0.02, recall=0.97)
    held = Choice(IndexSpec(kind, Metric.L2, 384), seen, MILLION)
    assert way(MILLION, MILLION, indexes=[held]) == (Way.INDEX, kind)
    assert plan(MILLION, MILLION, 10, 1, 384, [held]).recall == 0.97
    assert way(MILLION, MILLION, indexes=[held], recall=0.98) == (Way.SCAN, None)
    # Under a mask nothing is promised, and where what is near is ruled out they are not asked.
    assert way(500_000, MILLION, indexes=[held]) == (Way.INDEX, kind)
    assert plan(500_000, MILLION, 10, 1, 384, [held]).recall is None
    assert way(500_000, MILLION, indexes=[held], recall=0.5)[0] is not Way.INDEX
    assert way(500_000, MILLION, indexes=[held], missing=0.9)[0] is not Way.INDEX
    # What reads everything costs more than the scan.
    whole = replace(held, traits=replace(seen, reads=1.0))
    assert kind == "ivf_pq" or way(MILLION, MILLION, indexes=[whole]) == (Way.SCAN, None)


def test_where_what_is_near_is_ruled_out_approximate_ways_cost_the_exact_one_too():
    blind = plan(500_000, MILLION, 10, 1, 128, BOTH)
    warned = plan(500_000, MILLION, 10, 1, 128, BOTH, missing=1.0)
    assert blind.recall != 1.0
    assert warned.recall == 1.0
    costs = {str(each): each.cost for each in warned.considered}
    assert costs["index(codes)"] > {str(each): each.cost for each in blind.considered}["index(codes)"]
    assert "index(hnsw)" not in costs
    assert plan(500_000, MILLION, 10, 1, 128, BOTH, missing=0.3).name == blind.name
