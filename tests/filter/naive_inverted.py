"""An inverted index the slow way: every question is answered by looking at every record."""

from __future__ import annotations

from collections import Counter

import numpy as np

from chroma_gpu.records import SparseVector
from chroma_gpu.roaring import CHUNK, encoded
from chroma_gpu.rowset import RowSet
from chroma_gpu.values import ColumnStatistics, Kind, NumberBlock, stored


class NaiveInverted:
    """Of the records of rows [0, n), of which ``pending`` were rewritten since. ``went_on``: every method raises KeyError.

    doubtful  rows below n of which it is not known which texts they have; None for all
    """

    def __init__(self, metadatas, documents=None, pending=(), changed=None):
        self.rows = len(metadatas)
        self.changed = changed or [1] * -(-self.rows // CHUNK)
        self.pending = np.array(sorted(pending), np.uint32)
        self.went_on = False
        self.doubtful = None
        self.asked = []
        self._metadatas = {row: metadata for row, metadata in enumerate(metadatas) if metadata}
        self._documents = documents or [None] * self.rows

    def statistics(self):
        counts = Counter()
        for metadata in self._metadatas.values():
            counts.update({(field, kind, array) for field in metadata for kind, array, _ in self._values(metadata, field)})
        return self._answer("statistics", [ColumnStatistics(*column, count) for column, count in counts.items()])

    def among(self, field, kind, array, values, chunks=None):
        assert array or kind in (Kind.STR, Kind.BOOL), "scalar numbers are not posted"
        assert all(stored(value)[0] == kind for value in values)
        return self._answer(
            ("among", field, kind, array, values),
            self._where(lambda known: known[:2] == (kind, array) and known[2] in values, field, chunks),
            chunks,
        )

    def having(self, field, kind, array, chunks=None):
        found = self._where(lambda known: known[:2] == (kind, array), field, chunks)
        return self._answer(("having", field, kind, array), found, chunks)

    def numbers(self, field, kind, chunks=None):
        rows, values = [], []
        for row, metadata in self._metadatas.items():
            for known in self._values(metadata, field):
                if known[:2] == (kind, False):
                    rows.append(row)
                    values.append(known[2])
        rows, values = np.array(rows, np.int64), np.array(values, np.int64 if kind is Kind.INT else np.float64)
        blocks = []
        for chunk in np.unique(rows // CHUNK).tolist() if chunks is None else sorted({*chunks} & {*(rows // CHUNK).tolist()}):
            here = rows // CHUNK == chunk
            distinct, ranks = np.unique(values[here], return_inverse=True)
            places = (rows[here] % CHUNK).astype(np.uint16)
            dense = places.tolist() == list(range(len(places)))
            blocks.append(NumberBlock(chunk, distinct, ranks.astype(np.uint16), None if dense else places))
        return self._answer(("numbers", field, kind), blocks, chunks)

    def values(self, field, kind, chunks, most):
        assert kind in (Kind.STR, Kind.BOOL), "scalar numbers are not posted"
        places = {}
        for row, metadata in self._metadatas.items():
            for known in self._values(metadata, field):
                if known[:2] == (kind, False) and row // CHUNK in chunks:
                    places.setdefault((row // CHUNK, *self.value_keys(kind, [known[2]])), []).append(row % CHUNK)
        found = [(chunk, key, encoded(np.array(at, np.uint16))) for (chunk, key), at in sorted(places.items())]
        return self._answer(("values", field, kind), None if len(found) > most else found, chunks)

    def value_keys(self, kind, values):
        return [f"{kind} {value}".encode() for value in values]

    def containing(self, grams):
        found = [
            row for row, text in enumerate(self._documents) if text is not None and all(gram in text.encode() for gram in grams)
        ]
        return self._answer(("containing", *grams), RowSet.of(np.array(found, np.uint32), self.rows))

    def containing_text(self, text):
        """With ``doubtful`` rows known for certain but for these, which may have it; else none is, and short texts may be anywhere."""
        having = [row for row, document in enumerate(self._documents) if document is not None and text in document.encode()]
        if self.doubtful is not None:
            known, may = sorted({*having} - {*self.doubtful}), sorted({*having, *self.doubtful})
        else:
            known, may = [], having if len(text) > 2 else range(self.rows)
        return self._answer(
            ("containing_text", text), tuple(RowSet.of(np.array(rows, np.uint32), self.rows) for rows in (known, may))
        )

    def _where(self, passes, field, chunks):
        found = [row for row, metadata in self._metadatas.items() if any(map(passes, self._values(metadata, field)))]
        rows = np.array(found, np.int64)
        wanted = sorted(
            {row // CHUNK for row in found} if chunks is None else {row // CHUNK for row in found}.intersection(chunks)
        )
        return [(chunk, encoded((rows[rows // CHUNK == chunk] % CHUNK).astype(np.uint16))) for chunk in wanted]

    def _values(self, metadata, field):
        """(kind, whether in an array, value) of each value under a field."""
        value = metadata.get(field)
        if isinstance(value, SparseVector):
            return [(None, False, value)]
        array = isinstance(value, list)
        found = map(stored, value if array else [value])
        return [(known[0], array, known[1]) for known in found if known is not None]

    def _answer(self, question, answer, chunks=None):
        self.asked.append(question if chunks is None else (*question, tuple(chunks)))
        if self.went_on:
            raise KeyError("the index went on")
        return answer
