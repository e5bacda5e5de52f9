"""The rows whose documents are most about some words: Okapi BM25, exact.

Source: S. Robertson and H. Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009 (doi:10.1561/1500000019).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from chroma_gpu.index import answers
from chroma_gpu.records import Hits, Rows
from chroma_gpu.rowset import RowSet
from chroma_gpu.words import Counts, Lengths

K1: Final = 1.2
"""How slowly a word that comes again adds to the score."""

B: Final = 0.75
"""How much long documents are marked down, 0 to 1."""


@dataclass(frozen=True, slots=True, eq=False)
class Documents:
    """How long documents are, in words.

    lengths  [size] uint16 by row; 0 where there is no document, or no word in it
    count    how many live rows have words; average: how many they have
    """

    lengths: Lengths
    count: int
    average: float

    @classmethod
    def of(cls, lengths: Lengths, live: RowSet) -> Documents:
        """Those of the live rows.  Cost: one pass over them"""
        counted = lengths[live.flags()]
        n, total = int(np.count_nonzero(counted)), int(counted.sum(dtype=np.int64))
        return cls(lengths, n, total / n if n else 0.0)


def search(
    postings: Sequence[tuple[Rows, Counts]],
    weights: npt.NDArray[np.int64],
    documents: Documents,
    k: int,
    candidates: RowSet,
) -> Hits:
    """The k candidates with the highest BM25; those that have none of the words are not found.

    postings  of each word: the live rows that have it, each once, and how often they have it
    weights   [words]: how often each word is asked for
    Returns   Hits of one query. A distance is 1 - BM25, as of sparse vectors: what each word adds is summed in float64 in the order of
              words and rounded once to float32. For a word, that is weight * idf * tf * (K1 + 1) / (tf + K1 * (1 - B + B * length /
              average)) with idf = ln(1 + (n - df + 0.5) / (df + 0.5)), where n is ``documents.count`` and df counts the rows
              of the word, whatever the candidates are
    Cost      one pass over the postings, about 30 ns each, and over a bit a row
    """
    found_rows, scores = [np.empty(0, np.uint32)], [np.empty(0)]
    flags = candidates.flags()
    for (rows, counts), weight in zip(postings, weights.tolist(), strict=True):
        idf = np.log1p((documents.count - len(rows) + 0.5) / (len(rows) + 0.5))
        passed = flags[rows]
        some, frequency = rows[passed], counts[passed].astype(np.float64)
        usual = K1 * (1.0 - B + B * documents.lengths[some] / documents.average) if len(some) else frequency
        found_rows.append(some)
        scores.append(weight * idf * frequency * (K1 + 1.0) / (frequency + usual))
    found, sums = answers.summed(np.concatenate(found_rows), np.concatenate(scores), candidates.size)
    distances = (1.0 - sums).astype(np.float32)
    k = min(k, len(found))
    if 0 < k < len(found):
        near = distances <= np.partition(distances, k - 1)[k - 1]
        found, distances = found[near], distances[near]
    return answers.ranked(np.zeros(len(found), np.intp), found, distances, 1, k)
