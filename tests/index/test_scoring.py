"""The distances that everything reports: right, and the same in any company."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.datasets import folded, with_extremes
from chroma_gpu.index import scoring
from chroma_gpu.records import Metric


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("dim", [1, 3, 8, 127, 128, 129, 384, 1_000])
def test_a_distance_does_not_depend_on_its_company(metric, dim):
    vectors, query = folded(3_001, dim)[:-1], folded(3_001, dim)[-1]
    together = scoring.distances(query, vectors, metric)
    for few in (slice(0, 1), slice(7, 8), slice(2_000, 2_017), slice(1, None, 3)):
        np.testing.assert_array_equal(scoring.distances(query, np.ascontiguousarray(vectors[few]), metric), together[few])
    paired = scoring.distances(np.tile(query, (len(vectors), 1)), vectors, metric)
    np.testing.assert_array_equal(paired, together)


@given(
    st.lists(
        st.tuples(st.floats(width=32, min_value=-1e6, max_value=1e6), st.floats(width=32, min_value=-1e6, max_value=1e6)),
        min_size=1,
        max_size=40,
    )
)
def test_a_distance_is_the_rounded_exact_value(pairs):
    query, vector = np.array(pairs, np.float32).T.copy()
    product = sum((Fraction(float(a)) * Fraction(float(b)) for a, b in zip(query, vector, strict=True)), Fraction(0))
    square = sum(((Fraction(float(a)) - Fraction(float(b))) ** 2 for a, b in zip(query, vector, strict=True)), Fraction(0))
    size = float(sum((abs(Fraction(float(a)) * Fraction(float(b))) for a, b in zip(query, vector, strict=True)), Fraction(1)))
    # Rounding to float32, and what 40 float64 operations may lose where terms cancel.
    found = scoring.distances(query, vector[None], Metric.IP)[0]
    assert abs(float(found) - float(1 - product)) <= 2.0**-24 * abs(float(1 - product)) + 2.0**-46 * size + 2.0**-149
    found = scoring.distances(query, vector[None], Metric.L2)[0]
    assert abs(float(found) - float(square)) <= 2.0**-23 * float(square) + 2.0**-149


def test_cosine_of_itself_is_zero_and_never_outside_its_range():
    vectors = with_extremes(folded(500, 33))
    for vector in vectors:
        assert scoring.distances(vector, vector[None], Metric.COSINE)[0] == 0
        assert scoring.distances(vector, -vector[None], Metric.COSINE)[0] == 2
    found = scoring.distances(vectors[3], vectors * np.float32(0.37), Metric.COSINE)
    assert found.min() >= 0
    assert found.max() <= 2


def test_a_zero_vector_has_cosine_zero():
    zero = np.zeros(5, np.float32)
    one = np.ones((1, 5), np.float32)
    assert scoring.distances(zero, one, Metric.COSINE)[0] == 1
    assert scoring.distances(one[0], zero[None], Metric.COSINE)[0] == 1
    assert scoring.distances(zero, zero[None], Metric.COSINE)[0] == 1


def test_distances_beyond_float32_are_infinite():
    huge = np.full((2, 3), 3e38, np.float32)
    huge[1] *= -1
    np.testing.assert_array_equal(scoring.distances(huge[0], huge, Metric.L2), [0, np.inf])
    np.testing.assert_array_equal(scoring.distances(huge[0], huge, Metric.IP), [-np.inf, np.inf])
    np.testing.assert_array_equal(scoring.distances(huge[0], huge, Metric.COSINE), [0, 2])


def test_norms():
    vectors = with_extremes(folded(2_000, 50))
    vectors[17] = 0
    wide = np.sqrt((vectors.astype(np.float64) ** 2).sum(axis=1))
    found = scoring.norms(vectors)
    np.testing.assert_allclose(found, wide, rtol=52 * 2.0**-24, atol=2.0**-149)
    assert found[17] == 0
    assert (np.delete(found, 17) > 0).all()
    assert scoring.norms(np.full((1, 50), 3e38, np.float32))[0] == np.inf


def test_normalised():
    vectors = with_extremes(folded(300, 50))
    vectors[17] = 0
    vectors[18] = 3e38
    found = scoring.normalised(vectors, scoring.norms(vectors))
    assert found.dtype == np.float32
    wide = np.sqrt((found.astype(np.float64) ** 2).sum(axis=1))
    assert wide[17] == 0
    # A subnormal coordinate has few bits, so that its vector's direction, not its length, is what is lost.
    np.testing.assert_allclose(np.delete(wide, 17), 1, atol=1e-5)
