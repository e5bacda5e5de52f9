"""Numbers by rank: the same rows as comparing every number, exactly, whatever the chunks look like."""

from __future__ import annotations

import math

import numpy as np
import pytest
from filter.random_metadata import FLOATS, INTS, NUMBERS
from hypothesis import given
from hypothesis import strategies as st

from chroma_gpu.filter.numbers import Numbers, all_between
from chroma_gpu.roaring import CHUNK
from chroma_gpu.rowset import RowSet
from chroma_gpu.values import INT_MAX, INT_MIN, Kind, NumberBlock

BOUNDS = st.none() | NUMBERS | st.sampled_from([math.inf, -math.inf, math.nan])


def numbers(kind, values, size=None):
    """From numbers by row."""
    rows = np.array(sorted(values), np.int64)
    held = np.array([values[row] for row in rows.tolist()], np.int64 if kind is Kind.INT else np.float64)
    blocks = []
    for chunk in np.unique(rows // CHUNK).tolist():
        here = rows // CHUNK == chunk
        distinct, ranks = np.unique(held[here], return_inverse=True)
        places = (rows[here] % CHUNK).astype(np.uint16)
        dense = len(places) == int(places[-1]) + 1
        blocks.append(NumberBlock(chunk, distinct, ranks.astype(np.uint16), None if dense else places))
    return Numbers.of(kind, size or int(rows[-1]) + 1, blocks)


def found_between(made, low, high, include_low=True, include_high=True, within=None):
    return all_between([(made, [(low, high, include_low, include_high)])], within)


def between(value, low, high, include_low, include_high):
    return (low is None or (value >= low if include_low else value > low)) and (
        high is None or (value <= high if include_high else value < high)
    )


@st.composite
def columns(draw):
    """Numbers in the first chunk, in one with gaps, and in one with few."""
    kind = draw(st.sampled_from([Kind.INT, Kind.FLOAT]))
    each = (
        INTS.filter(lambda value: INT_MIN <= value <= INT_MAX)
        if kind is Kind.INT
        else FLOATS | st.sampled_from([math.inf, -math.inf])
    )
    return kind, dict(
        zip(
            [*range(5), *range(CHUNK + 1, CHUNK + 12, 2), 3 * CHUNK - 1, 3 * CHUNK],
            draw(st.lists(each, min_size=13, max_size=13)),
            strict=True,
        )
    )


@given(
    columns(), BOUNDS, BOUNDS, st.booleans(), st.booleans(), st.sets(st.sampled_from([0, 3, 4, CHUNK + 3, CHUNK + 4, 3 * CHUNK]))
)
def test_a_range_is_exact(column, low, high, include_low, include_high, some):
    kind, values = column
    made = numbers(kind, values)
    expected = [row for row, value in values.items() if between(value, low, high, include_low, include_high)]
    found = found_between(made, low, high, include_low, include_high)
    assert (found.size, found.rows().tolist()) == (made.size, expected)
    within = RowSet.of(np.array(sorted(some), np.uint32), made.size)
    found = found_between(made, low, high, include_low, include_high, within)
    assert (found & within).rows().tolist() == [row for row in expected if row in some]


@given(columns(), st.lists(NUMBERS | st.sampled_from(["1", True, math.inf]), min_size=1, max_size=4))
def test_equality_is_exact(column, wanted):
    kind, values = column
    wanted_numbers = [value for value in wanted if not isinstance(value, str | bool)]
    expected = [row for row, value in values.items() if any(value == each for each in wanted_numbers)]
    assert numbers(kind, values).among(wanted).rows().tolist() == expected


def random_column(share, distinct, seed=0):
    rng = np.random.default_rng(seed)
    rows = np.flatnonzero(rng.random(2 * CHUNK + 999) < share)
    return dict(zip(rows.tolist(), rng.integers(0, distinct, len(rows)).tolist(), strict=True))


@pytest.mark.parametrize("share", [1.0, 0.9, 0.3, 0.13, 0.12, 0.01])
@pytest.mark.parametrize("distinct", [2, 300, 1 << 40])
def test_full_chunks_chunks_with_gaps_and_sparse_ones(share, distinct):
    values = random_column(share, distinct)
    made = numbers(Kind.INT, values, 3 * CHUNK)
    rows, held = np.array(list(values)), np.array(list(values.values()))
    everywhere = RowSet.of(np.arange(0, 3 * CHUNK, 3, dtype=np.uint32), 3 * CHUNK)
    few = RowSet.of(np.arange(0, 3 * CHUNK, 1000, dtype=np.uint32), 3 * CHUNK)
    for low, high in [(None, None), (0, distinct // 2), (distinct // 2, None), (distinct // 3, distinct // 2), (None, 0)]:
        expected = rows[(held >= (low or 0)) & (held <= (distinct if high is None else high))]
        assert found_between(made, low, high, True, True).rows().tolist() == expected.tolist()
        for within in everywhere, few:
            found = found_between(made, low, high, True, True, within) & within
            assert found.rows().tolist() == expected[within.flags()[expected]].tolist()
    filled = np.full(3 * CHUNK, np.nan)
    made.fill(filled)
    assert np.flatnonzero(~np.isnan(filled)).tolist() == rows.tolist()
    assert filled[rows].tolist() == held.astype(float).tolist()
    wanted = held[:: max(1, len(held) // 20)].tolist()
    assert made.among(wanted).rows().tolist() == rows[np.isin(held, wanted)].tolist()
    assert (made.among(wanted, few) & few).rows().tolist() == [row for row in few.rows() if values.get(int(row)) in wanted]


def test_a_chunk_may_have_as_many_values_as_rows():
    made = numbers(Kind.FLOAT, {row: row / 7 for row in range(CHUNK)})
    assert len(found_between(made, None, None, True, True)) == CHUNK
    assert found_between(made, (CHUNK - 2) / 7, None, False, True).rows().tolist() == [CHUNK - 1]
    assert found_between(made, None, 1 / 7, True, True).rows().tolist() == [0, 1]


def test_chunks_outside_of_what_is_asked_are_not_looked_at():
    made = numbers(Kind.INT, {row: row % 9 for row in range(2 * CHUNK)})
    within = RowSet.of(np.arange(CHUNK, CHUNK + 5_000, dtype=np.uint32), 2 * CHUNK)
    found = found_between(made, 3, 4, True, True, within)
    assert int(found.rows()[0]) >= CHUNK
    assert len(found & within) == sum(row % 9 in (3, 4) for row in range(CHUNK, CHUNK + 5_000))


def test_bytes_are_counted():
    few, many = random_column(1.0, 2), random_column(1.0, 1 << 40)
    n = len(few)
    assert n <= numbers(Kind.INT, few).nbytes <= n + 3_000
    assert 2 * n <= numbers(Kind.INT, random_column(1.0, 257)).nbytes <= 2 * n + 10_000
    assert 10 * n <= numbers(Kind.INT, many).nbytes <= 10 * n + 3_000
