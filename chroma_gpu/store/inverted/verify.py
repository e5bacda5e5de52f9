"""Whether the inverted index says what the records say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from chroma_gpu import roaring, words
from chroma_gpu.records import Metadata
from chroma_gpu.roaring import CHUNK
from chroma_gpu.store.encoding import (
    DOCUMENTS,
    FIELDS,
    MALFORMED,
    NUMBERS,
    PENDING,
    POSTINGS,
    RECORDS,
    Summary,
    id_key,
    pack_row,
    row_of,
)
from chroma_gpu.store.inverted import lexicon, texts
from chroma_gpu.store.inverted.layout import (
    CHUNK_KEY_SIZE,
    REPAIR,
    Field,
    chunk_key,
    chunks_of,
    decode_numbers,
    is_number,
    opened,
    opened_field,
    places_of,
    split_key,
)
from chroma_gpu.store.inverted.metadata import Metadatas, values_of
from chroma_gpu.store.keyvalue import Transaction
from chroma_gpu.store.seal import unseal
from chroma_gpu.values import NumberBlock

_SAMPLED_DOCUMENTS: Final = 64
_SAMPLED_PARTS: Final = 8
_UNKNOWN: Final = 0xFFFFFFFF


def findings(txn: Transaction, summary: Summary, live: npt.NDArray[np.bool_]) -> Iterator[str]:
    """Every difference between the index and the records that it is of, with what to do.

    live    [summary.rows] which rows have a record
    Raises  CorruptRecord
    Cost    every record is read, the metadata of one chunk of rows at a time is in memory; of documents only some are compared
    """
    check = _Check(txn, summary, live)
    for findings_of in (check.tables, check.chunks, check.texts):
        try:
            for finding in findings_of():
                yield f"the inverted index: {finding}. {REPAIR}"
        except MALFORMED as error:
            yield f"the inverted index: a value cannot be read ({error}). {REPAIR}"


class _Check:
    def __init__(self, txn: Transaction, summary: Summary, live: npt.NDArray[np.bool_]) -> None:
        self._txn = txn
        self._folded = summary.folded
        self._live = live[: summary.folded]
        self._fields: dict[str, Field] = {}
        self._pending = {row_of(key): opened(PENDING, key, value) for key, value in txn.scan(PENDING)}
        self._seen = {POSTINGS: 0, NUMBERS: 0}
        self._had: dict[tuple[int, int], int] = {}

    def tables(self) -> Iterator[str]:
        for key, value in self._txn.scan(FIELDS):
            field = opened_field(key, value)
            self._fields[field.name] = field
            self._had |= dict.fromkeys(((field.number, code) for code in field.counts), 0)
        if len({field.number for field in self._fields.values()}) != len(self._fields):
            yield "two fields have one number"
        for name in self._fields:
            if self._txn.get(FIELDS, id_key(name)) is None:
                yield f"field {name!r} is kept under another name"
        if any(row >= self._folded for row in self._pending):
            yield "rows are pending that it has never taken in"

    def chunks(self) -> Iterator[str]:
        for chunk in range(chunks_of(self._folded)):
            yield from self._chunk(chunk)
        for field in self._fields.values():
            for code, count in field.counts.items():
                if self._had[field.number, code] != count:
                    yield f"{self._had[field.number, code]} rows have {_column(field, code)}, not {count}"
        for table, seen in self._seen.items():
            if seen != sum(1 for _ in self._txn.scan(table, values=False)):
                yield f"table {table} has keys of no field or chunk"

    def _chunk(self, chunk: int) -> Iterator[str]:
        rows, metadatas, sparse = self._metadatas(chunk)
        expected = values_of(_Names(self._fields), chunk, (rows % CHUNK).astype(np.uint16), metadatas, sparse)
        postings: dict[bytes, Any] = {**expected.rows, **expected.postings}
        numbers = expected.numbers
        alive = self._live[chunk * CHUNK : (chunk + 1) * CHUNK]
        for field in self._fields.values():
            for code in field.counts:
                prefix = chunk_key(field.number, code, chunk)
                for key, value in self._txn.scan(POSTINGS, prefix=prefix):
                    self._seen[POSTINGS] += 1
                    places = roaring.decoded(opened(POSTINGS, key, value))
                    if len(key) == CHUNK_KEY_SIZE:
                        self._had[field.number, code] += len(places)
                    if not _proper(places, len(alive)) or not np.array_equal(places[alive[places]], postings.pop(key, ())):
                        yield f"the rows with {key[CHUNK_KEY_SIZE + 1 :]!r} in {_column(field, code)} differ in chunk {chunk}"
                if is_number(code) and (sealed := self._txn.get(NUMBERS, prefix)) is not None:
                    self._seen[NUMBERS] += 1
                    block = decode_numbers(code, chunk, opened(NUMBERS, prefix, sealed))
                    at, given = numbers.pop(prefix, (np.empty(0, np.uint16), np.empty(0)))
                    if not _sound(block, len(alive)) or not _equal(block, alive, at, given):
                        yield f"the numbers of {_column(field, code)} differ in chunk {chunk}"
        for key in [*postings, *numbers]:
            yield f"field {split_key(key)[0]}, type {split_key(key)[1]} lacks rows in chunk {chunk}"

    def _metadatas(self, chunk: int) -> tuple[npt.NDArray[np.intp], list[Metadata | None], bool]:
        """What it should know: the metadata of live rows, that of pending ones as it was."""
        start, stop = chunk * CHUNK, min((chunk + 1) * CHUNK, self._folded)
        read, rows, metadatas = Metadatas(), [], []
        for key, value in self._txn.scan(RECORDS, pack_row(start), stop=pack_row(stop)):
            row = row_of(key)
            old = self._pending.get(row)
            rows.append(row)
            metadatas.append(read.of_record(unseal(RECORDS, key, value)) if old is None else read.decoded(old))
        return np.array(rows, np.intp), metadatas, read.sparse

    def texts(self) -> Iterator[str]:
        untaken = ~texts.taken(self._txn, self._folded).flags() & self._live
        if untaken.any():
            yield f"the documents of {int(untaken.sum())} rows are not in it, the first is row {int(untaken.argmax())}"
        _, wordless = texts.lengths(self._txn, self._folded)
        rows = np.flatnonzero(self._live)
        rows = rows[np.isin(rows, np.fromiter(self._pending, np.intp), invert=True)]
        chosen = np.random.default_rng(self._folded).permutation(rows)[:_SAMPLED_DOCUMENTS]
        for key, value in self._txn.get_many(DOCUMENTS, [pack_row(row) for row in np.sort(chosen).tolist()]):
            row = row_of(key)
            yield from self._document(row, unseal(DOCUMENTS, key, value), row not in wordless)

    def _document(self, row: int, document: bytes, ranked: bool) -> Iterator[str]:
        place = np.zeros(1, np.uint16)
        grams = _some(words.grams([document], place).keys)
        candidates = texts.containing(self._txn, self._folded, [int(gram).to_bytes(3, "big") for gram in grams])
        if row not in candidates:
            yield f"the document of row {row} is not found by its parts"
        for run in lexicon.runs_of(document)[:1]:
            if row not in texts.containing_text(self._txn, self._folded, run)[1]:
                yield f"the document of row {row} is not found by {run.decode()!r}"
        hashes = _some(words.words([document], place)[0].keys)
        if ranked and any(row not in found for found, _ in texts.word_postings(self._txn, self._folded, hashes)):
            yield f"the document of row {row} is not found by its words"


class _Names:
    """The numbers of fields, and one that no key has for those that are missing."""

    def __init__(self, fields: Mapping[str, Field]) -> None:
        self._fields = fields

    def named(self, name: str) -> Field:
        return self._fields.get(name) or Field(_UNKNOWN, name, {})


def _column(field: Field, code: int) -> str:
    return f"field {field.name!r}, type {code}"


def _proper(places: roaring.Places, size: int) -> bool:
    """Whether there are some, ascending, each once, below size."""
    return bool(len(places)) and bool((places[1:] > places[:-1]).all()) and int(places[-1]) < size


def _sound(block: NumberBlock, size: int) -> bool:
    places, used = places_of(block), np.unique(block.ranks)
    return (
        len(places) == len(block.ranks)
        and _proper(places, size)
        and bool((block.values[1:] > block.values[:-1]).all())
        and np.array_equal(used, np.arange(len(block.values)))
    )


def _equal(block: NumberBlock, alive: npt.NDArray[np.bool_], at: roaring.Places, given: npt.NDArray[Any]) -> bool:
    places = places_of(block)
    stays = alive[places]
    return np.array_equal(places[stays], at) and np.array_equal(block.values[block.ranks[stays]], given)


def _some(keys: words.Keys) -> words.Keys:
    return keys[:: max(len(keys) // _SAMPLED_PARTS, 1)]
