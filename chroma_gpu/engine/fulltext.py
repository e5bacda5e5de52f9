"""Ranked full text of a table: the words in the store's index, and in memory those of rows that are not in it yet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from chroma_gpu import words
from chroma_gpu.engine.view import View
from chroma_gpu.index import fulltext
from chroma_gpu.index.fulltext import Documents
from chroma_gpu.records import Hits, Rows
from chroma_gpu.roaring import CHUNK
from chroma_gpu.rowset import RowSet
from chroma_gpu.store import Inverted, Store
from chroma_gpu.words import Counts, Keys, Lengths, Postings

Flags: TypeAlias = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class FullTextView:
    """The words of all documents at one moment.

    indexed  [live.size] bool: the live rows for which the store's index answers
    parts    the words of the other live rows
    """

    index: Inverted
    indexed: Flags
    live: RowSet
    documents: Documents
    parts: Sequence[_Part]

    def search(self, query: str, k: int, candidates: RowSet) -> Hits:
        """The k candidates that are most about the words of a text; see ``fulltext.search``. Raises KeyError if the index went on."""
        hashes, weights = words.hashes(query)
        if not len(hashes) or not self.documents.count:
            return Hits.empty(1)
        postings = [self._masked(*each) for each in self.index.word_postings(hashes)]
        live = self.live.flags() if self.parts else self.indexed
        for part in self.parts:
            for at, rows, counts in part.postings_of(hashes):
                stop = int(np.searchsorted(rows, self.live.size))
                alive = live[rows[:stop]]
                postings[at] = _joined(postings[at], (rows[:stop][alive], counts[:stop][alive]))
        return fulltext.search(postings, weights, self.documents, k, candidates)

    def _masked(self, rows: Rows, counts: Counts) -> tuple[Rows, Counts]:
        stop = int(np.searchsorted(rows, len(self.indexed)))
        stays = self.indexed[rows[:stop]]
        return rows[:stop][stays], counts[:stop][stays]


class FullText:
    """Follows a store. One thread at a time; what it returns is safe for many."""

    def __init__(self) -> None:
        self._seq = 0
        self._folds = -1
        self._lengths: Lengths = np.empty(0, np.uint16)
        self._unknown = RowSet.empty(0)
        self._parts: tuple[_Part, ...] = ()
        self._taken = 0
        self._view: tuple[View, FullTextView] | None = None

    def caught_up(self, store: Store, view: View) -> FullTextView:
        """The words as of a view, or later.

        Raises  KeyError if the index went on meanwhile
        Cost    the documents of rows that were appended or rewritten since the last call, and are not in the index, are read, about
                20 ns a byte; after a fold 2 bytes a row are read. Where words are not indexed, all documents are read and kept as words
        """
        state = store.state()
        if self._view is not None and self._view[0] is view and state.folds == self._folds:
            return self._view[1]
        index = store.inverted(state.folds)
        if state.folds != self._folds:
            self._seq = 0  # what fails half way starts anew at the next call
            self._lengths, self._unknown = index.lengths()
            self._folds = state.folds
        changes = store.changes(self._seq) if self._seq else None
        size, indexed = view.live.size, view.live.flags()
        indexed[index.rows :] = False
        known = min(index.rows, size)
        indexed[:known] &= ~self._unknown.flags()[:known]
        indexed[index.pending[index.pending < size]] = False
        if changes is None:
            self._parts, self._taken = (), 0
            others = np.flatnonzero(view.live.flags() & ~indexed).astype(np.uint32)
        else:
            touched = changes.touched[changes.touched < self._taken]
            self._parts = tuple(part.without(touched) for part in self._parts)
            fresh = view.live.flags() & ~indexed
            fresh[: self._taken] = False
            others = np.concatenate((touched, np.flatnonzero(fresh).astype(np.uint32)))
        self._seq = 0
        for first in range(0, len(others), CHUNK):
            self._take(store, others[first : first + CHUNK])
        self._seq, self._taken = state.seq, max(self._taken, size)
        lengths = np.zeros(size, np.uint16)
        lengths[:known] = self._lengths[:known]
        lengths[~indexed] = 0
        for part in self._parts:
            stays = part.stays & (part.rows < size)
            lengths[part.rows[stays]] = part.lengths[stays]
            indexed[part.rows[stays]] = False  # it may have been rewritten after the index was looked at
        found = FullTextView(index, indexed, view.live, Documents.of(lengths, view.live), self._parts)
        self._view = view, found
        return found

    def _take(self, store: Store, rows: Rows) -> None:
        """Read the words of some rows; parts are read again together until each has twice the rows of the next."""
        parts = list(self._parts)
        while parts and len(parts[-1].rows) < 2 * len(rows) and len(parts[-1].rows) + len(rows) <= CHUNK:
            last = parts.pop()
            rows = np.union1d(last.rows[last.stays], rows)
        if len(rows):
            parts.append(_Part.read(store, rows))
        self._parts = tuple(parts)


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """The words of some rows.

    rows      [n] uint32, ascending, at most CHUNK; a place in the postings is a position among them
    lengths   [n] uint16: how many words each has
    stays     [n] bool: which of them count; the others were rewritten
    """

    rows: Rows
    postings: Postings
    lengths: Lengths
    stays: Flags

    @classmethod
    def read(cls, store: Store, rows: Rows) -> _Part:
        """From the documents; rows without one have no words."""
        texts = [text or b"" for text in store.documents(rows)]
        postings, lengths = words.words(texts, np.arange(len(rows), dtype=np.uint16))
        return cls(rows, postings, lengths, np.ones(len(rows), np.bool_))

    def without(self, gone: Rows) -> _Part:
        """With some rows counting no more."""
        return replace(self, stays=self.stays & ~np.isin(self.rows, gone)) if len(gone) else self

    def postings_of(self, hashes: Keys) -> Iterator[tuple[int, Rows, Counts]]:
        """(which word, the rows that have it, how often) for each word that occurs."""
        keys, starts, counts = self.postings.keys, self.postings.starts, self.postings.counts
        if not len(keys) or counts is None:
            return
        places = np.minimum(np.searchsorted(keys, hashes), len(keys) - 1)
        for at in np.flatnonzero(keys[places] == hashes).tolist():
            part = slice(starts[places[at]], starts[places[at] + 1])
            some = self.postings.places[part]
            stays = self.stays[some]
            yield at, self.rows[some[stays]], counts[part][stays]


def _joined(left: tuple[Rows, Counts], right: tuple[Rows, Counts]) -> tuple[Rows, Counts]:
    return np.concatenate((left[0], right[0])), np.concatenate((left[1], right[1]))
