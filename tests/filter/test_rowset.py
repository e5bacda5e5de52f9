"""RowSet against Python's sets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chroma_gpu.rowset import RowSet

SIZES = st.sampled_from([1, 63, 64, 65, 200, 1000, 5000])


@st.composite
def members(draw):
    size = draw(SIZES)
    if draw(st.booleans()):
        return size, draw(st.sets(st.integers(0, size - 1), max_size=12))
    return size, set(np.flatnonzero(np.random.default_rng(draw(st.integers(0, 99))).random(size) < 0.3).tolist())


def of(size, rows):
    return RowSet.of(np.array(list(rows), np.uint32), size)


@given(members(), members(), st.integers(0, 1100), st.none() | st.integers(0, 1100))
def test_a_row_set_is_a_set(pair, other, start, stop):
    size, rows = pair
    found = of(size, rows)
    assert found.rows().tolist() == np.flatnonzero(found.flags()).tolist() == sorted(rows)
    assert (len(found), bool(found), found.rows().dtype) == (len(rows), bool(rows), np.uint32)
    assert (~found).rows().tolist() == [row for row in range(size) if row not in rows]
    assert found.between(start, stop).tolist() == sorted(rows)[start:stop]
    second = other[1] & set(range(size))
    with_second = of(size, second)
    assert (found & with_second).rows().tolist() == sorted(rows & second)
    assert (found | with_second).rows().tolist() == sorted(rows | second)
    assert (found - with_second).rows().tolist() == sorted(rows - second)
    assert found.resized(other[0]).rows().tolist() == [row for row in sorted(rows) if row < other[0]]
    assert [row in found for row in range(size + 70)] == [row in rows for row in range(size + 70)]


def test_rows_may_come_in_any_order_and_twice():
    assert RowSet.of(np.array([900, 3, 900, 2], np.uint32), 1000).rows().tolist() == [2, 3, 900]


@pytest.mark.parametrize("size", [10, 1000])
def test_a_row_past_the_end_is_refused(size):
    with pytest.raises(IndexError):
        RowSet.of(np.array([size], np.uint32), size)


def test_no_rows_at_all():
    assert RowSet.empty(0).rows().tolist() == RowSet.full(0).between(0, None).tolist() == (~RowSet.empty(0)).rows().tolist() == []
