"""Answers of the inverted index."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby

import numpy as np

from chroma_gpu import roaring
from chroma_gpu.records import Rows
from chroma_gpu.roaring import WORDS
from chroma_gpu.rowset import RowSet
from chroma_gpu.store.encoding import FIELDS, NUMBERS, PENDING, POSTINGS, id_key, read_summary, row_of
from chroma_gpu.store.inverted import texts
from chroma_gpu.store.inverted.layout import (
    CHUNK_KEY_SIZE,
    chunk_key,
    chunks_of,
    column_key,
    column_type,
    decode_numbers,
    opened,
    opened_field,
    split_key,
    type_of,
    value_keys,
)
from chroma_gpu.store.keyvalue import KeyValue, Transaction
from chroma_gpu.values import ColumnStatistics, Kind, NumberBlock, Scalar
from chroma_gpu.words import Counts, Keys, Lengths


class InvertedReader:
    """The index as of one change of it; each call is a snapshot of its own.

    rows     the rows below this are in it
    pending  those that were rewritten since they were taken in: it answers for what they were
    Every method raises KeyError if the index was changed since, CorruptRecord if what it needs is damaged.
    """

    def __init__(self, keyvalue: KeyValue, folds: int) -> None:
        self._keyvalue = keyvalue
        self._folds = folds
        self._numbers: dict[str, int | None] = {}
        with keyvalue.read() as txn:
            self.rows = self._check(txn)
            self.pending = pending(txn)

    def statistics(self) -> list[ColumnStatistics]:
        with self._read() as txn:
            fields = [opened_field(key, value) for key, value in txn.scan(FIELDS)]
        return [
            ColumnStatistics(field.name, *column_type(code), count)
            for field in fields
            for code, count in sorted(field.counts.items())
            if count
        ]

    def among(self, field: str, kind: Kind, array: bool, values: Sequence[Scalar]) -> RowSet:
        with self._read() as txn:
            keys = value_keys(kind, values)
            return self._marked(txn, field, type_of(kind, array), [b"=" + key for key in keys])

    def having(self, field: str, kind: Kind | None, array: bool) -> RowSet:
        with self._read() as txn:
            return self._marked(txn, field, type_of(kind, array), [b""])

    def numbers(self, field: str, kind: Kind) -> list[NumberBlock]:
        with self._read() as txn:
            number = self._number(txn, field)
            if number is None:
                return []
            code = type_of(kind, False)
            items = txn.scan(NUMBERS, prefix=column_key(number, code))
            return [decode_numbers(code, split_key(key)[2], opened(NUMBERS, key, value)) for key, value in items]

    def containing(self, grams: Sequence[bytes]) -> RowSet:
        with self._read() as txn:
            return texts.containing(txn, self.rows, grams)

    def word_postings(self, hashes: Keys) -> list[tuple[Rows, Counts]]:
        """For each word the rows that have it, ascending, and how often; as ``texts.word_postings``."""
        with self._read() as txn:
            return texts.word_postings(txn, self.rows, hashes)

    def lengths(self) -> tuple[Lengths, RowSet]:
        """How many words each row has, and the rows of which that is not known; as ``texts.lengths``."""
        with self._read() as txn:
            return texts.lengths(txn, self.rows)

    @contextmanager
    def _read(self) -> Iterator[Transaction]:
        with self._keyvalue.read() as txn:
            self._check(txn)
            yield txn

    def _check(self, txn: Transaction) -> int:
        summary = read_summary(txn)
        if summary.folds != self._folds:
            raise KeyError(f"the index is at change {summary.folds}, not {self._folds}")
        return summary.folded

    def _number(self, txn: Transaction, field: str) -> int | None:
        """A field's number in keys; fields do not change without the index."""
        if field not in self._numbers:
            key = id_key(field)
            value = txn.get(FIELDS, key)
            self._numbers[field] = None if value is None else opened_field(key, value).number
        return self._numbers[field]

    def _marked(self, txn: Transaction, field: str, code: int, ends: Sequence[bytes]) -> RowSet:
        """The rows in the containers of every chunk whose keys have one of some ends."""
        number = self._number(txn, field)
        if number is None:
            return RowSet.empty(self.rows)
        chunks = chunks_of(self.rows)
        words = np.zeros(chunks * WORDS, np.uint64)
        prefixes = [chunk_key(number, code, chunk) for chunk in range(chunks)]
        items = txn.get_many(POSTINGS, [prefix + end for prefix in prefixes for end in ends])
        for prefix, found in groupby(items, key=lambda item: item[0][:CHUNK_KEY_SIZE]):
            first = split_key(prefix)[2] * WORDS
            roaring.mark_all((opened(POSTINGS, *item) for item in found), words[first : first + WORDS])
        return RowSet(words[: (self.rows + 63) // 64], self.rows)


def pending(txn: Transaction) -> Rows:
    """The rows that were rewritten since they were taken in, ascending."""
    return np.fromiter((row_of(key) for key, _ in txn.scan(PENDING, values=False)), np.uint32)
