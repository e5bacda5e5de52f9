"""Columns: what they hold after appends and rewrites, what a snapshot keeps, what they cost."""

from __future__ import annotations

import numpy as np
import pytest

from chroma_gpu.filter import OPERATORS, Columns, ColumnStatistics, Kind
from chroma_gpu.records import SparseVector


def columns_of(*metadatas):
    columns = Columns()
    columns.append(0, metadatas)
    return columns


def found(rows):
    return rows.rows().tolist()


def rows(*numbers):
    return np.array(numbers, np.uint32)


def test_values_of_one_field_are_kept_apart_by_type():
    columns = columns_of({"v": 1}, {"v": 1.0}, {"v": True}, {"v": "1"}, {"v": [1]}, {}, None)
    assert found(columns.equal("v", 1)) == [0, 1]
    assert found(columns.equal("v", True)) == [2]
    assert found(columns.equal("v", "1")) == [3]
    assert found(columns.containing("v", 1)) == [4]
    assert found(columns.has("v")) == [0, 1, 2, 3, 4]
    assert found(columns.has("w")) == []


def test_numbers_compare_exactly_across_types():
    columns = columns_of({"v": 2**53}, {"v": 2**53 + 1}, {"v": 2.0**53}, {"v": 2.0**53 + 2}, {"v": 1}, {"v": 1.5})
    assert found(columns.equal("v", 2**53 + 1)) == [1]
    assert found(columns.equal("v", 2.0**53)) == [0, 2]
    assert found(columns.equal("v", 1.5)) == [5]
    assert found(columns.between("v", 2**53 + 1, None)) == [1, 3]
    assert found(columns.between("v", 2.0**53, None, include_low=False)) == [1, 3]
    assert found(columns.between("v", 1, 1.5, include_low=False, include_high=False)) == []
    assert found(columns.between("v", None, 10**400)) == [0, 1, 2, 3, 4, 5]
    assert found(columns.between("v", -float("inf"), float("inf"))) == [0, 1, 2, 3, 4, 5]
    assert found(columns.between("v", float("nan"), None)) == []


@pytest.mark.parametrize("many", [2, 50])
def test_among_takes_values_of_any_type(many):
    columns = columns_of({"v": 7}, {"v": 7.0}, {"v": "7"}, {"v": False}, {"v": 8.5})
    others = [10_000 + i for i in range(many)]
    assert found(columns.among("v", [7, *others])) == [0, 1]
    assert found(columns.among("v", [*map(str, others), "7"])) == [2]
    assert found(columns.among("v", [8.5, False, *map(float, others)])) == [3, 4]


def test_rows_may_be_skipped_but_not_appended_twice():
    columns = columns_of({"v": 1})
    columns.append(3, [{"v": 1}])
    assert columns.size == 4
    assert found(columns.equal("v", 1)) == [0, 3]
    with pytest.raises(ValueError, match="4 rows are here"):
        columns.append(3, [{"v": 1}])


def test_rewriting_changes_types_and_presence():
    columns = columns_of(*({"v": n, "w": "a"} for n in range(6)))
    columns.rewrite(rows(4, 0, 2), [{"v": "four"}, None, {"v": 22, "w": ["a", "b"]}])
    assert found(columns.between("v", 0, 100)) == [1, 2, 3, 5]
    assert found(columns.equal("v", 22)) == [2]
    assert found(columns.equal("v", "four")) == [4]
    assert found(columns.equal("w", "a")) == [1, 3, 5]
    assert found(columns.containing("w", "b")) == [2]
    assert found(columns.has("w")) == [1, 2, 3, 5]
    columns.append(6, [{"v": 1}])
    assert found(columns.equal("v", 1)) == [1, 6]


def test_a_field_that_no_row_has_any_more_is_gone():
    columns = columns_of({"v": 1}, {"v": 2})
    columns.rewrite(rows(0, 1), [{}, None])
    assert columns.statistics() == []


@pytest.mark.parametrize(("targets", "metadatas"), [((2,), [{}]), ((1, 1), [{}, {}]), ((0,), [])])
def test_rewriting_refuses_rows_that_are_not_there_or_there_twice(targets, metadatas):
    columns = columns_of({"v": 1}, {"v": 2})
    with pytest.raises(ValueError, match="rows"):
        columns.rewrite(rows(*targets), metadatas)
    assert found(columns.has("v")) == [0, 1]


@pytest.mark.parametrize("given", [[1], [4, 5, 6], None])
def test_all_elements_of_an_array_are_rewritten(given):
    columns = columns_of({"v": [1, 2]}, {"v": [2, 3]})
    columns.rewrite(rows(0), [{"v": given}])
    assert found(columns.containing("v", 2)) == [1]
    assert found(columns.containing("v", 1)) == ([0] if given == [1] else [])
    assert found(columns.containing("v", 6)) == ([0] if given == [4, 5, 6] else [])


def test_elements_of_an_array_share_their_row():
    columns = columns_of({"v": [1, 2]}, None, {"v": [3]})
    assert [found(columns.containing("v", element)) for element in (1, 2, 3)] == [[0], [0], [2]]


def test_what_is_not_a_value_is_not_there():
    columns = columns_of({"v": float("nan")}, {"v": None}, {"v": []}, {"v": {"a": 1}}, {"v": [float("nan")]}, {"v": 1.0})
    assert found(columns.has("v")) == [5]
    assert columns.count("v") == 1
    assert found(columns_of({"v": float("nan")}, {"v": 1.5}).has("v")) == [1]


def test_a_snapshot_does_not_change():
    columns = columns_of(*({"v": 1, "s": "ab"[n % 2]} for n in range(8)))
    columns.append(8, [None])
    before = columns.snapshot()
    columns.append(9, [{"v": 1, "s": "c", "new": True}])
    between = columns.snapshot()
    columns.rewrite(rows(0), [{"v": 5, "s": "b"}])
    columns.append(10, [{"v": 1}])
    assert [each.size for each in (before, between, columns)] == [9, 10, 11]
    assert found(before.equal("v", 1)) == list(range(8))
    assert found(between.equal("v", 1)) == [*range(8), 9]
    assert found(columns.equal("v", 1)) == [*range(1, 8), 9, 10]
    assert found(before.equal("s", "b")) == found(between.equal("s", "b")) == [1, 3, 5, 7]
    assert found(columns.equal("s", "b")) == [0, 1, 3, 5, 7]
    assert (found(before.has("new")), found(between.has("new"))) == ([], [9])


def test_statistics_count_values():
    columns = columns_of({"v": 1, "s": "a"}, {"v": 2.5, "s": "a"}, {"s": ["a", "b"]})
    assert set(columns.statistics()) == {
        ColumnStatistics("v", Kind.INT, False, 1),
        ColumnStatistics("v", Kind.FLOAT, False, 1),
        ColumnStatistics("s", Kind.STR, False, 2),
        ColumnStatistics("s", Kind.STR, True, 2),
    }
    assert columns.count("s") == 4


def test_a_number_costs_at_most_16_bytes_and_a_repeated_string_at_most_11():
    numbers, strings = Columns(), Columns()
    for first in range(0, 20_000, 500):
        numbers.append(first, [{"v": n, "f": n / 7} for n in range(500)])
        strings.append(first, [{"s": "abc"[n % 3]} for n in range(500)])
    assert 12 * 40_000 <= numbers.nbytes <= 16 * 40_000
    assert 8 * 20_000 <= strings.nbytes <= 11 * 20_000


def test_sparse_vectors_are_no_values():
    sparse = SparseVector([1, 2], [1.0, 2.0])
    columns = columns_of({"v": sparse}, {"v": 1, "w": sparse}, {"v": sparse, "w": [1]}, None)
    assert found(columns.has("v")) == [1]
    assert found(columns.has("w")) == [2]
    assert found(OPERATORS["$ne"]("v", 1).rows(columns)) == [0, 2, 3]
    assert found(OPERATORS["$nin"]("v", (1, 2)).rows(columns)) == [0, 2, 3]
    assert found(OPERATORS["$not_contains"]("w", 1).rows(columns)) == [0, 1, 3]
    assert found(OPERATORS["$gte"]("v", 0).rows(columns)) == [1]
    columns.rewrite(rows(0, 1), [{"v": 5}, {"v": sparse}])
    assert found(columns.has("v")) == [0]
    assert {each.field for each in columns.statistics()} == {"v", "w"}
