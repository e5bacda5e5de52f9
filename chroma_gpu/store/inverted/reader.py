"""Answers of the inverted index."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

import numpy as np

from chroma_gpu.records import Rows
from chroma_gpu.roaring import Postings
from chroma_gpu.rowset import RowSet
from chroma_gpu.store.encoding import FIELDS, NUMBERS, PENDING, POSTINGS, Summary, id_key, read_summary, row_of
from chroma_gpu.store.inverted import texts
from chroma_gpu.store.inverted.layout import (
    CHUNK_KEY_SIZE,
    chunk_key,
    column_key,
    column_type,
    decode_numbers,
    opened,
    opened_all,
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
    changed  for each chunk of rows a number that is another one after every change of the metadata in it
    Every method raises KeyError if the index was changed since, CorruptRecord if what it needs is damaged.
    """

    def __init__(self, keyvalue: KeyValue, folds: int) -> None:
        self._keyvalue = keyvalue
        self._folds = folds
        self._numbers: dict[str, int | None] = {}
        with keyvalue.read() as txn:
            summary = self._check(txn)
            self.rows = summary.folded
            self.changed: Sequence[int] = tuple(summary.changed)
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

    def among(
        self, field: str, kind: Kind, array: bool, values: Sequence[Scalar], chunks: Sequence[int] | None = None
    ) -> Postings:
        ends = [b"=" + key for key in sorted(set(value_keys(kind, values)))]  # neighbours are found faster than what lies apart
        with self._read() as txn:
            return self._postings(txn, field, type_of(kind, array), ends, chunks)

    def having(self, field: str, kind: Kind | None, array: bool, chunks: Sequence[int] | None = None) -> Postings:
        with self._read() as txn:
            return self._postings(txn, field, type_of(kind, array), [b""], chunks)

    def numbers(self, field: str, kind: Kind, chunks: Sequence[int] | None = None) -> list[NumberBlock]:
        with self._read() as txn:
            number = self._number(txn, field)
            if number is None:
                return []
            code = type_of(kind, False)
            items: Iterable[tuple[bytes, bytes]] = txn.scan(NUMBERS, prefix=column_key(number, code))
            if chunks is not None:
                items = txn.get_many(NUMBERS, [chunk_key(number, code, chunk) for chunk in chunks])
            return [decode_numbers(code, split_key(key)[2], opened(NUMBERS, key, value)) for key, value in items]

    def values(self, field: str, kind: Kind, chunks: Sequence[int], most: int) -> list[tuple[int, bytes, bytes]] | None:
        items: list[tuple[bytes, bytes]] = []
        with self._read() as txn:
            number = self._number(txn, field)
            if number is None:
                return []
            for chunk in chunks:
                prefix = chunk_key(number, type_of(kind, False), chunk) + b"="
                items += islice(txn.scan(POSTINGS, prefix=prefix), most - len(items) + 1)
                if len(items) > most:
                    return None
            containers = opened_all(POSTINGS, items)
        return [
            (split_key(key)[2], key[CHUNK_KEY_SIZE + 1 :], container)
            for (key, _), container in zip(items, containers, strict=True)
        ]

    def value_keys(self, kind: Kind, values: Sequence[Scalar]) -> list[bytes]:
        return value_keys(kind, values)

    def containing(self, grams: Sequence[bytes]) -> RowSet:
        with self._read() as txn:
            return texts.containing(txn, self.rows, grams)

    def containing_text(self, text: bytes) -> tuple[RowSet, RowSet]:
        with self._read() as txn:
            return texts.containing_text(txn, self.rows, text)

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

    def _check(self, txn: Transaction) -> Summary:
        summary = read_summary(txn)
        if summary.folds != self._folds:
            raise KeyError(f"the index is at change {summary.folds}, not {self._folds}")
        return summary

    def _number(self, txn: Transaction, field: str) -> int | None:
        """A field's number in keys; fields do not change without the index."""
        if field not in self._numbers:
            key = id_key(field)
            value = txn.get(FIELDS, key)
            self._numbers[field] = None if value is None else opened_field(key, value).number
        return self._numbers[field]

    def _postings(self, txn: Transaction, field: str, code: int, ends: Sequence[bytes], chunks: Sequence[int] | None) -> Postings:
        """The containers of some chunks, or of all, whose keys have one of some ends."""
        number = self._number(txn, field)
        if number is None:
            return []
        prefixes = [chunk_key(number, code, chunk) for chunk in (range(len(self.changed)) if chunks is None else chunks)]
        items = txn.get_many(POSTINGS, [prefix + end for prefix in prefixes for end in ends])
        return list(zip([split_key(key)[2] for key, _ in items], opened_all(POSTINGS, items), strict=True))


def pending(txn: Transaction) -> Rows:
    """The rows that were rewritten since they were taken in, ascending."""
    return np.fromiter((row_of(key) for key, _ in txn.scan(PENDING, values=False)), np.uint32)
