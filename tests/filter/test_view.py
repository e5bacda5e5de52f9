"""The view of an index and an overlay: the same rows as columns of the records as they are now, and what is kept of answers."""

from __future__ import annotations

import numpy as np
import pytest
from filter.naive_inverted import NaiveInverted
from filter.random_metadata import CONDITIONS, METADATAS
from hypothesis import given, settings
from hypothesis import strategies as st

from chroma_gpu.bytecache import ByteCache
from chroma_gpu.filter import Columns, Eq, Gt
from chroma_gpu.filter.overlay import Overlay
from chroma_gpu.filter.view import IndexedView, KeptIndex
from chroma_gpu.records import SparseVector
from chroma_gpu.roaring import CHUNK
from chroma_gpu.rowset import RowSet
from chroma_gpu.values import ColumnStatistics, Kind

SPARSE = SparseVector([1], [1.0])


def rows(*numbers):
    return np.array(numbers, np.uint32)


def overlay_of(first, records):
    overlay = Overlay(first)
    for row, metadata in records:
        overlay.take(rows(row), [metadata])
    return overlay


def view_of(before, late=(), rewritten=None, cache=None, lasting=None, changed=None):
    """Of rows that were indexed as ``before``, of which some were rewritten, and of late ones."""
    rewritten, cache = rewritten or {}, cache or ByteCache(1 << 20)
    inverted = NaiveInverted(before, pending=rewritten, changed=changed)
    index = KeptIndex(inverted, cache.section(), lasting or cache.section())
    overlay = overlay_of(len(before), [*rewritten.items(), *enumerate(late, len(before))])
    return IndexedView(len(before) + len(late), index, overlay.snapshot()), index, inverted


@given(
    st.lists(METADATAS, max_size=12),
    st.lists(METADATAS, max_size=6),
    st.dictionaries(st.integers(0, 11), METADATAS, max_size=4),
    CONDITIONS,
)
def test_conditions_find_what_the_columns_of_all_records_find(before, late, rewritten, condition):
    rewritten = {row: metadata for row, metadata in rewritten.items() if row < len(before)}
    view, _, _ = view_of(before, late, rewritten)
    now = [rewritten.get(row, metadata) for row, metadata in enumerate(before)] + late
    columns = Columns()
    columns.append(0, now)
    expected = condition.rows(columns).rows().tolist()
    assert condition.rows(view).rows().tolist() == expected
    assert expected == [row for row, metadata in enumerate(now) if condition.matches(metadata)]
    assert view.has(condition.field).rows().tolist() == columns.has(condition.field).rows().tolist()
    some = RowSet.of(np.arange(0, view.size, 2, dtype=np.uint32), view.size)
    assert (condition.rows(view.restricted(some)) & some).rows().tolist() == [row for row in expected if row % 2 == 0]


def test_an_answer_is_asked_for_once():
    view, _, inverted = view_of([{"s": "a", "n": 1}, {"s": "b", "n": 2}])
    for _ in range(2):
        assert view.equal("s", "a").rows().tolist() == [0]
        assert view.between("n", 1, None, include_low=False).rows().tolist() == [1]
        assert view.equal("n", 1).rows().tolist() == [0]
        assert view.documents_with((b"abc",)).rows().tolist() == []
    assert inverted.asked == [
        "statistics",
        ("among", "s", Kind.STR, False, ("a",)),
        ("numbers", "n", Kind.INT),
        ("containing", b"abc"),
    ]


def test_nothing_is_asked_about_fields_that_nobody_has():
    view, _, inverted = view_of([{"n": 1}], [{"late": "a"}])
    assert view.equal("late", "a").rows().tolist() == [1]
    assert view.equal("n", "1").rows().tolist() == view.has("none").rows().tolist() == []
    assert inverted.asked == ["statistics"]


def test_an_index_that_went_on_is_known_to_be_gone():
    view, index, inverted = view_of([{"s": "a"}, {"s": "b"}])
    assert len(view.equal("s", "a")) == 1
    inverted.went_on = True
    assert len(view.equal("s", "a")) == 1, "what is kept was right when the view was made, and is right for it"
    assert not index.gone
    with pytest.raises(KeyError):
        view.equal("s", "b")
    assert index.gone


ROWS = [0, 3, 65_535, 65_536, 70_000, 131_072, 131_080, 196_607]
"""In three chunks."""
STEPS = st.lists(
    st.tuples(st.dictionaries(st.sampled_from(ROWS), METADATAS, max_size=3), st.integers(0, 3)), min_size=2, max_size=6
)


@settings(max_examples=30)
@given(STEPS, st.lists(CONDITIONS, min_size=1, max_size=4))
def test_what_is_kept_of_earlier_indexes_is_right_for_later_ones(steps, conditions):
    """Of which each knows other rows than the last, and more of them, and says in which chunks."""
    cache = ByteCache(1 << 20)
    lasting, rows, changed, metadatas = cache.section(), 1, [0], [None]
    for number, (change, more) in enumerate(steps, 1):
        grown = min(rows + more * 50_000, 196_608)
        metadatas += [None] * (grown - rows)
        change = {row: metadata for row, metadata in change.items() if row < grown}
        for row, metadata in change.items():
            metadatas[row] = metadata
        changed += [number] * (-(-grown // CHUNK) - len(changed))
        for chunk in {row // CHUNK for row in change} | set(range(rows // CHUNK, len(changed)) if grown > rows else ()):
            changed[chunk] = number
        rows = grown
        view, index, _ = view_of(metadatas, cache=cache, lasting=lasting, changed=list(changed))
        for condition in conditions[number % 2 :]:
            found = condition.rows(view)
            assert found.size == rows
            expected = [row for row in ROWS if row < rows and condition.matches(metadatas[row])]
            assert [row for row in ROWS if row in found] == expected
            assert len(found) == (rows - len([row for row in ROWS if row < rows]) if condition.negated else 0) + len(expected)
        index.drop()


def test_only_chunks_that_changed_are_asked_again():
    before = [None] * 70_000
    before[5], before[6], before[69_000] = {"s": "a", "n": 1}, {"s": "b", "n": 2}, {"s": "a", "n": 3}
    cache = ByteCache(1 << 20)
    lasting = cache.section()

    def asked(changed):
        view, _, inverted = view_of(before, cache=cache, lasting=lasting, changed=changed)
        found = [view.equal("s", "a"), view.among("s", ["a", "b"]), view.between("n", 2, None), view.has("s")]
        return [each.rows().tolist() for each in found], inverted.asked[1:]

    questions = [
        ("among", "s", Kind.STR, False, ("a",)),
        ("among", "s", Kind.STR, False, ("a", "b")),
        ("numbers", "n", Kind.INT),
        ("having", "s", Kind.STR, False),
    ]
    assert asked([1, 1]) == ([[5, 69_000], [5, 6, 69_000], [6, 69_000], [5, 6, 69_000]], questions)
    assert asked([1, 1])[1] == []
    before[6] = {"s": "a", "n": 7}  # which is not said to have changed
    before[69_000], before[68_000] = None, {"s": "b", "n": 2}
    later = [(*question, (1,)) for question in questions]
    assert asked([1, 2]) == ([[5], [5, 6, 68_000], [6, 68_000], [5, 6, 68_000]], later)
    before += [None] * 65_536
    before[140_000 - 5_000] = {"s": "a"}
    later = [(*question, (0, 2)) for question in questions]
    assert asked([3, 2, 3]) == ([[5, 6, 135_000], [5, 6, 68_000, 135_000], [6, 68_000], [5, 6, 68_000, 135_000]], later)


def test_what_is_asked_for_counts_as_memory_too():
    cache = ByteCache(1 << 20)
    view, _, _ = view_of([{"s": "a"}], cache=cache)
    view.among("s", ["x" * 5_000, "y" * 5_000])
    assert cache.nbytes > 10_000


def test_dropping_an_index_gives_its_memory_back():
    cache = ByteCache(1 << 20)
    lasting = cache.section()
    view, index, _ = view_of([{"s": "a"}, {"n": 1}], cache=cache, lasting=lasting)
    view.documents_with((b"abc",))
    before = cache.nbytes
    Eq("s", "a").rows(view)
    Gt("n", 0).rows(view)
    lasts = cache.nbytes - before
    assert min(before, lasts) > 0
    index.drop()
    assert view.documents_with((b"abc",)).rows().tolist() == []
    assert cache.nbytes == lasts
    lasting.drop()
    assert Eq("s", "a").rows(view).rows().tolist() == [0]
    assert cache.nbytes == 0


def test_statistics_add_up_index_and_overlay():
    view, _, _ = view_of([{"s": "a", "v": SPARSE}, {"s": ["a", "b"]}], [{"s": "c", "w": SPARSE}, {"n": 1}])
    assert set(view.statistics()) == {
        ColumnStatistics("s", Kind.STR, False, 2),
        ColumnStatistics("s", Kind.STR, True, 1),
        ColumnStatistics("v", None, False, 1),
        ColumnStatistics("w", None, False, 1),
        ColumnStatistics("n", Kind.INT, False, 1),
    }


def test_an_overlay_takes_rows_in_any_order_but_late_ones_without_gaps():
    overlay = overlay_of(10, [(4, {"n": 4}), (10, {"n": 10}), (2, {"n": 2}), (11, {"n": 11}), (4, {"n": 44}), (10, {"n": 0})])
    view = overlay.snapshot()
    assert view.rows.tolist() == [4, 10, 2, 11]
    assert (view.stale.size, view.stale.rows().tolist()) == (10, [2, 4])
    found = {number: view.spread(view.columns.equal("n", number), 12) for number in (44, 0, 2, 11, 4)}
    assert {number: each.rows().tolist() for number, each in found.items()} == {44: [4], 0: [10], 2: [2], 11: [11], 4: []}
    with pytest.raises(ValueError, match="from 12 on"):
        overlay.take(rows(13), [None])


def test_an_overlay_snapshot_does_not_change():
    overlay = overlay_of(5, [(5, {"n": 1, "v": SPARSE})])
    before = overlay.snapshot()
    overlay.take(rows(5, 6, 1), [{"n": 2}, {"n": 1, "w": SPARSE}, {"n": 1}])
    after = overlay.snapshot()
    assert before.rows.tolist() == [5]
    assert (before.stale, before.sparse, after.sparse) == (None, {"v"}, {"w"})
    assert before.spread(before.columns.equal("n", 1), 7).rows().tolist() == [5]
    assert after.spread(after.columns.equal("n", 1), 7).rows().tolist() == [1, 6]
    assert (overlay.having_sparse("v").tolist(), overlay.having_sparse("w").tolist()) == ([], [6])
