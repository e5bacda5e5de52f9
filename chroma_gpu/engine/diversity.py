"""Diversity: which of the records found say something new.

Carbonell and Goldstein, The use of MMR, diversity-based reranking for reordering documents and producing summaries, SIGIR 1998.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from chroma_gpu.index import scoring
from chroma_gpu.records import Metric, Vectors


def diversified(
    relevance: npt.NDArray[np.float64], vectors: Vectors, balance: float, k: int, metric: Metric
) -> npt.NDArray[np.intp]:
    """The places of k of n records, in the order in which they are chosen: each the one with the largest
    (1 - balance) * distance to the nearest of those before it - balance * relevance; equal ones by place.

    The first is the most relevant one. That is maximal marginal relevance, with distances in place of similarities.

    relevance  [n], smaller is better, of the size of distances
    vectors    [n, dim] float32
    balance    from 0, as different as can be, to 1, relevance alone
    Cost       min(k, n) * n distances: 0.5 µs each at dim 384
    """
    n = len(relevance)
    chosen = np.empty(min(k, n), np.intp)
    left = np.arange(n)
    nearest, gain = np.full(n, np.inf), -relevance
    for place in range(len(chosen)):
        at = left[np.argmax(gain[left])]
        chosen[place] = at
        left = left[left != at]
        nearest = np.minimum(nearest, scoring.distances(vectors[at], vectors, metric))
        with np.errstate(invalid="ignore"):
            gain = (1 - balance) * nearest - balance * relevance
        gain[np.isnan(gain)] = -np.inf  # distances beyond float32
    return chosen
