"""The judge of the benchmark: exact answers, ties, filters."""

import numpy as np
import pytest

from benchmarks.workload import FILTERS, Filter, Truth, Workload, WrongAnswerError, generated


def line(positions, years=None):
    """Records on a quarter circle: the smaller the position, the nearer to the query (1, 0)."""
    angles = np.array(positions, dtype=np.float32)
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    ids = [f"r{each}" for each in range(len(positions))]
    metadatas = [{"year": year} for year in years or [2020] * len(ids)]
    return Workload(ids, ids, metadatas, 3 * vectors, np.array([[2, 0]], dtype=np.float32))


def test_recall_is_the_share_of_true_neighbours():
    truth = Truth(line([0.4, 0.1, 0.3, 0.2]), None, k=2)
    assert truth.recall([["r1", "r3"]]) == 1.0
    assert truth.recall([["r1", "r2"]]) == 0.5
    assert truth.recall([["r1"]]) == 0.5
    assert truth.recall([[]]) == 0.0


def test_equal_distances_are_one_group():
    truth = Truth(line([0.1, 0.2, 0.2, 0.2, 0.3]), None, k=2)
    assert [truth.recall([["r0", other]]) for other in ("r1", "r2", "r3", "r4")] == [1.0, 1.0, 1.0, 0.5]


def test_a_filter_leaves_fewer_candidates_than_k():
    years = Filter("some", "year", "$gte", 2024)
    truth = Truth(line([0.1, 0.2, 0.3, 0.4], [2020, 2024, 2025, 2020]), years, k=3)
    assert truth.share == 0.5
    assert truth.recall([["r1", "r2"]]) == 1.0
    assert truth.recall([["r2"]]) == 0.5


@pytest.mark.parametrize("answer", [["r1", "r1"], ["r0", "r1"], ["r1", "r2", "r1"]])
def test_wrong_answers_are_not_scored(answer):
    truth = Truth(line([0.1, 0.2, 0.3], [2020, 2024, 2025]), Filter("some", "year", "$gte", 2024), k=2)
    with pytest.raises(WrongAnswerError):
        truth.recall([answer])


def test_grown_records_are_copies_under_new_ids():
    grown = line([0.1, 0.2, 0.3]).grown(2)
    assert grown.ids[3:] == ["single-r0", "single-r1"]
    assert (grown.vectors[3:] == grown.vectors[:2]).all()
    assert len(grown.documents) == len(grown.metadatas) == len(grown.vectors) == 5


def test_filters_say_the_same_in_every_language():
    assert [each.sql() for each in FILTERS] == ["year >= 2024", "rank > 0", "month = '2025-02'", "document LIKE '%async%'"]
    assert FILTERS[2].arguments() == {"where": {"month": {"$eq": "2025-02"}}}
    assert FILTERS[3].arguments() == {"where_document": {"$contains": "async"}}


def test_generated_records_have_the_shares_of_the_packages(tmp_path):
    made = generated(5_000, dim=16)
    shares = [each.mask(made.metadatas, made.documents).mean() for each in FILTERS]
    assert np.allclose(shares, [0.614, 0.018, 0.0085, 0.01], rtol=0.5)
    assert made.vectors.shape == (5_000, 16)
    assert made.vectors.dtype == np.float32
    assert len(made.queries) == 1_000
    made.save(tmp_path)
    again = Workload.load(tmp_path)
    assert again.metadatas == made.metadatas
    assert (again.vectors == made.vectors).all()
