"""BM25 against sums over dictionaries."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plain_words import bm25, words_of

from chroma_gpu.index import fulltext
from chroma_gpu.index.fulltext import Documents
from chroma_gpu.rowset import RowSet
from chroma_gpu.words import hashes
from chroma_gpu.words import words as taken_in


def rows(*numbers):
    return np.array(numbers, np.uint32)


def search(texts, query, k, candidates=None, live=None):
    """What is found among texts by row, [(row, distance)]."""
    live = RowSet.full(len(texts)) if live is None else live
    postings, lengths = taken_in([text.encode() for text in texts], np.arange(len(texts), dtype=np.uint16))
    known, weights = hashes(query)
    found = []
    for key in known.tolist():
        at = np.flatnonzero(postings.keys == key)
        part = slice(postings.starts[at[0]], postings.starts[at[0] + 1]) if len(at) else slice(0)
        some = postings.places[part].astype(np.uint32)
        alive = live.flags()[some]
        found.append((some[alive], postings.counts[part][alive]))
    hits = fulltext.search(found, weights, Documents.of(lengths, live), k, live if candidates is None else candidates)
    n = int(hits.counts[0])
    assert hits.exact
    return list(zip(hits.rows[0, :n].tolist(), hits.distances[0, :n].tolist(), strict=True))


def test_one_word_by_hand():
    n, df, length, average = 3, 2, 2, 5 / 3
    idf = math.log(1 + (n - df + 0.5) / (df + 0.5))
    first = idf * 2 * 2.2 / (2 + 1.2 * (0.25 + 0.75 * length / average))
    second = idf * 1 * 2.2 / (1 + 1.2 * (0.25 + 0.75 * length / average))
    found = search(["red red", "red green", "blue"], "Red!", 5)
    assert found == [(0, pytest.approx(1 - first)), (1, pytest.approx(1 - second))]


def test_rare_words_weigh_more_and_words_that_are_asked_for_twice_weigh_twice():
    texts = ["common", "common", "common rare", "common", "rare"]
    assert {row for row, _ in search(texts, "common rare", 2)} == {2, 4}
    once, twice = (1 - search(texts, query, 1)[0][1] for query in ("rare", "rare rare"))
    assert twice == pytest.approx(2 * once)


def test_equal_scores_are_in_the_order_of_rows_and_the_cut_keeps_the_first():
    assert [row for row, _ in search(["a"] * 40 + ["a a"], "a", 4)] == [40, 0, 1, 2]


def test_nothing_to_find():
    assert search(["a", "b"], "c", 3) == search(["a", "b"], "", 3) == search(["", ""], "a", 3) == search([], "a", 3) == []
    assert search(["a", "b"], "a", 3, candidates=RowSet.of(rows(1), 2)) == []


TEXTS = st.lists(st.lists(st.sampled_from(["a", "b", "c", "dd", "東京", "É", "-"]), max_size=7).map(" ".join), max_size=14)


@given(texts=TEXTS, query=st.lists(st.sampled_from(["a", "b", "dd", "É", "京", "x"]), max_size=5).map(" ".join), data=st.data())
def test_it_is_bm25(texts, query, data):
    n = len(texts)
    live = data.draw(st.sets(st.integers(0, n - 1))) if n else set()
    candidates = data.draw(st.sets(st.sampled_from(sorted(live)))) if live else set()
    k = data.draw(st.integers(1, 20))
    found = search(texts, query, k, RowSet.of(rows(*candidates), n), RowSet.of(rows(*live), n))
    expected = dict(bm25({row: texts[row] for row in live}, query, candidates, n))
    # A sum may differ in its last place; the order must be that of what was found.
    assert dict(found) == pytest.approx({row: expected[row] for row, _ in found}, rel=1e-6, abs=1e-6)
    assert found == sorted(found, key=lambda pair: (pair[1], pair[0]))
    assert len(found) == min(k, len(expected))
    left = [score for row, score in expected.items() if row not in dict(found)]
    assert not found or not left or min(left) >= found[-1][1] - 1e-5


def test_statistics_are_of_live_rows_with_words():
    lengths = np.array([3, 0, 5, 9], np.uint16)
    documents = Documents.of(lengths, RowSet.of(rows(0, 1, 2), 4))
    assert (documents.count, documents.average) == (2, 4.0)
    assert Documents.of(lengths, RowSet.empty(4)).count == 0


def test_the_plain_reference_counts_every_word():
    assert Counter(words_of("a b A")) == {"a": 2, "b": 1}
