"""An inverted index the slow way: every question is answered by looking at every record."""

from __future__ import annotations

from collections import Counter

import numpy as np

from chroma_gpu.records import SparseVector
from chroma_gpu.roaring import CHUNK
from chroma_gpu.rowset import RowSet
from chroma_gpu.values import ColumnStatistics, Kind, NumberBlock, stored


class NaiveInverted:
    """Of the records of rows [0, n), of which ``pending`` were rewritten since. ``went_on``: every method raises KeyError."""

    def __init__(self, metadatas, documents=None, pending=()):
        self.rows = len(metadatas)
        self.pending = np.array(sorted(pending), np.uint32)
        self.went_on = False
        self.asked = []
        self._metadatas = [metadata or {} for metadata in metadatas]
        self._documents = documents or [None] * self.rows

    def statistics(self):
        counts = Counter()
        for metadata in self._metadatas:
            counts.update({(field, kind, array) for field in metadata for kind, array, _ in self._values(metadata, field)})
        return self._answer("statistics", [ColumnStatistics(*column, count) for column, count in counts.items()])

    def among(self, field, kind, array, values):
        assert array or kind in (Kind.STR, Kind.BOOL), "scalar numbers are not posted"
        assert all(stored(value)[0] == kind for value in values)
        return self._answer(
            ("among", field, kind, array, values),
            self._where(lambda known: known[:2] == (kind, array) and known[2] in values, field),
        )

    def having(self, field, kind, array):
        return self._answer(("having", field, kind, array), self._where(lambda known: known[:2] == (kind, array), field))

    def numbers(self, field, kind):
        rows, values = [], []
        for row, metadata in enumerate(self._metadatas):
            for known in self._values(metadata, field):
                if known[:2] == (kind, False):
                    rows.append(row)
                    values.append(known[2])
        rows, values = np.array(rows, np.int64), np.array(values, np.int64 if kind is Kind.INT else np.float64)
        blocks = []
        for chunk in np.unique(rows // CHUNK).tolist():
            here = rows // CHUNK == chunk
            distinct, ranks = np.unique(values[here], return_inverse=True)
            places = (rows[here] % CHUNK).astype(np.uint16)
            dense = places.tolist() == list(range(len(places)))
            blocks.append(NumberBlock(chunk, distinct, ranks.astype(np.uint16), None if dense else places))
        return self._answer(("numbers", field, kind), blocks)

    def containing(self, grams):
        found = [
            row for row, text in enumerate(self._documents) if text is not None and all(gram in text.encode() for gram in grams)
        ]
        return self._answer(("containing", *grams), RowSet.of(np.array(found, np.uint32), self.rows))

    def _where(self, passes, field):
        found = [row for row, metadata in enumerate(self._metadatas) if any(map(passes, self._values(metadata, field)))]
        return RowSet.of(np.array(found, np.uint32), self.rows)

    def _values(self, metadata, field):
        """(kind, whether in an array, value) of each value under a field."""
        value = metadata.get(field)
        if isinstance(value, SparseVector):
            return [(None, False, value)]
        array = isinstance(value, list)
        found = map(stored, value if array else [value])
        return [(known[0], array, known[1]) for known in found if known is not None]

    def _answer(self, question, answer):
        self.asked.append(question)
        if self.went_on:
            raise KeyError("the index went on")
        return answer
