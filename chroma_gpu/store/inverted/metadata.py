"""The values of metadata in one chunk of rows, as postings and blocks of numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from chroma_gpu import roaring
from chroma_gpu.errors import CorruptRecord
from chroma_gpu.records import Metadata
from chroma_gpu.roaring import CHUNK, Places
from chroma_gpu.store.encoding import FIELDS, NUMBERS, POSTINGS, SPARSE_CODE, encode, id_key
from chroma_gpu.store.inverted.layout import (
    REPAIR,
    SPARSE,
    Field,
    chunk_key,
    decode_numbers,
    encode_numbers,
    is_number,
    opened,
    opened_field,
    places_of,
    split_key,
    type_of,
    value_keys,
)
from chroma_gpu.store.ledger import Ledger
from chroma_gpu.values import Kind, NumberBlock, typed

Given: TypeAlias = tuple[Places, npt.NDArray[Any]]
"""Places, ascending, and the number that each has."""

_FEW: Final = 8


class Sparse:
    """Stands for a sparse vector, of which the index knows only that it is there."""


_SPARSE: Final = Sparse()


class Metadatas:
    """Reads metadata out of records, and notes whether sparse vectors were in it."""

    def __init__(self) -> None:
        self.sparse = False
        self._decode_record = msgspec.msgpack.Decoder(_Record, ext_hook=self._extension).decode
        self._decode = msgspec.msgpack.Decoder(Metadata | None, ext_hook=self._extension).decode

    def of_record(self, payload: bytes) -> Metadata | None:
        """The metadata in the payload of a record."""
        found: Metadata | None = self._decode_record(payload).metadata
        return found

    def decoded(self, payload: bytes) -> Metadata | None:
        """Metadata as it is in table pending."""
        found: Metadata | None = self._decode(payload)
        return found

    def _extension(self, code: int, data: memoryview) -> Sparse:
        if code == SPARSE_CODE:
            self.sparse = True
        return _SPARSE


class _Record(msgspec.Struct, array_like=True, gc=False):
    id: msgspec.Raw
    metadata: Metadata | None


class Names(Protocol):
    """The fields by name."""

    def named(self, name: str) -> Field:
        """The field of a name."""
        ...


class Fields:
    """The fields as one write knows and changes them."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._next = ledger.count(FIELDS)
        self._known: dict[str, tuple[Field, bytes | None]] = {}
        self._numbers: dict[int, Field] = {}

    def named(self, name: str) -> Field:
        """The field of a name, a new one if there is none."""
        known = self._known.get(name)
        if known is None:
            key = id_key(name)
            old = self._ledger.txn.get(FIELDS, key)
            if old is None:
                known = (Field(self._next, name, {}), None)
                self._next += 1
            else:
                known = (opened_field(key, old), old)
            self._known[name] = known
            self._numbers[known[0].number] = known[0]
        return known[0]

    def numbered(self, number: int) -> Field:
        """A field that was asked for by name before."""
        return self._numbers[number]

    def put(self) -> None:
        """Put every field that was asked for, once."""
        items = sorted((id_key(name), encode(found), old) for name, (found, old) in self._known.items())
        self._ledger.replace_many(FIELDS, items)


@dataclass(slots=True)
class Values:
    """Values by the key under which they are kept in one chunk.

    rows      chunk_key -> the places that have a value of that type, each once
    postings  chunk_key, "=", value -> the places with that value, ascending
    numbers   chunk_key -> the scalar ints or floats
    """

    rows: dict[bytes, Places] = field(default_factory=dict)
    postings: dict[bytes, list[int]] = field(default_factory=dict)
    numbers: dict[bytes, Given] = field(default_factory=dict)


def values_of(fields: Names, chunk: int, places: Places, metadatas: Sequence[Metadata | None], sparse: bool) -> Values:
    """What is to be kept of the metadata at some places of a chunk; ``sparse``: there may be sparse vectors in it."""
    values = Values()
    at_all = places.tolist()
    for name, kind, array, at, given in typed(metadatas):
        code = type_of(kind, array)
        prefix = chunk_key(fields.named(name).number, code, chunk)
        whole = isinstance(at, slice)
        here = places if whole else places[at]
        values.rows[prefix] = np.unique(here) if array else here
        if is_number(code):
            values.numbers[prefix] = here, np.array(given, np.int64 if kind is Kind.INT else np.float64)
        else:
            by_value = _by_value(value_keys(kind, given), at_all if whole else here.tolist())
            for key, with_it in by_value.items():
                values.postings[prefix + b"=" + key] = list(dict.fromkeys(with_it)) if array else with_it
    if sparse:
        for name, with_one in _sparse_rows(at_all, metadatas).items():
            values.rows[chunk_key(fields.named(name).number, SPARSE, chunk)] = np.array(with_one, np.uint16)
    return values


def put_values(ledger: Ledger, fields: Fields, chunk: int, first: int, added: Values, removed: Values) -> None:
    """Change a chunk: take ``removed`` away and put ``added``. Places from ``first`` on are not in the chunk yet.

    Raises  CorruptRecord
    Cost    one reading and one writing of each key
    """
    _count(fields, added, 1)
    _count(fields, removed, -1)
    _put_postings(ledger, first, {**added.rows, **added.postings}, {**removed.rows, **removed.postings})
    keys = sorted(added.numbers.keys() | removed.numbers.keys())
    old = dict(ledger.txn.get_many(NUMBERS, keys))
    items, gone = [], []
    for key in keys:
        value, code = old.get(key), split_key(key)[1]
        block = None if value is None else decode_numbers(code, chunk, opened(NUMBERS, key, value))
        merged = _merged(block, added.numbers.get(key), removed.numbers.get(key))
        if merged is not None:
            items.append((key, encode_numbers(*merged), value))
        elif value is not None:
            gone.append((key, value))
    ledger.replace_many(NUMBERS, items)
    ledger.remove(NUMBERS, gone)


def _count(fields: Fields, values: Values, sign: int) -> None:
    for key, places in values.rows.items():
        number, code, _ = split_key(key)
        counts = fields.numbered(number).counts
        counts[code] = counts.get(code, 0) + sign * len(places)


def _put_postings(ledger: Ledger, first: int, added: Mapping[bytes, Any], removed: Mapping[bytes, Any]) -> None:
    """``added`` and ``removed`` by key: places as lists or arrays."""
    keys = sorted(added.keys() | removed.keys())
    old = dict(ledger.txn.get_many(POSTINGS, keys)) if first or removed else {}
    items: list[tuple[bytes, bytes, bytes | None]] = []
    gone: list[tuple[bytes, bytes]] = []
    for key in keys:
        more, less, value = added.get(key, ()), removed.get(key, ()), old.get(key)
        if value is None:
            if len(less):
                raise CorruptRecord(f"table {POSTINGS} has no {key!r}, but a row with it.", hint=REPAIR)
            items.append((key, _container(more), None))
            continue
        old_container = opened(POSTINGS, key, value)
        changed = len(less) or more[0] < first
        container = roaring.changed(old_container, less, more) if changed else roaring.extended(old_container, _places(more))
        if container is None:
            gone.append((key, value))
        else:
            items.append((key, container, value))
    ledger.replace_many(POSTINGS, items)
    ledger.remove(POSTINGS, gone)


def _container(places: Any) -> bytes:
    if len(places) <= _FEW and isinstance(places, list):
        return roaring.few(places)
    return roaring.encoded(_places(places))


def _places(places: Any) -> Places:
    return np.asarray(places, np.uint16)


def _merged(
    block: NumberBlock | None, added: Given | None, removed: Given | None
) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint16], Places] | None:
    """(values, ranks, places) of a changed block; None if nothing is left."""
    left = None if block is None else _without(block, removed)
    if left is None:
        if added is None:
            return None
        values, inverse = np.unique(added[1], return_inverse=True)
        return values, inverse.astype(np.uint16), added[0]
    values, ranks, places = left
    if added is not None:
        values, ranks = _with_ranks(values, ranks, added[1])
        if added[0][0] > places[-1]:
            places = np.concatenate((places, added[0]))
        else:
            at = np.searchsorted(places, added[0])
            ranks = np.insert(ranks[: len(places)], at, ranks[len(places) :])
            places = np.insert(places, at, added[0])
    return values, ranks, places


def _without(block: NumberBlock, removed: Given | None) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint16], Places] | None:
    """(values, ranks, places) of a block without some places, and without values that no place has then: at most CHUNK are left."""
    values, ranks, places = block.values, block.ranks, places_of(block)
    if removed is not None:
        gone = np.zeros(CHUNK, np.bool_)
        gone[removed[0]] = True
        stays = ~gone[places]
        ranks, places = ranks[stays], places[stays]
        used = np.bincount(ranks, minlength=len(values)) > 0
        values, ranks = values[used], (np.cumsum(used) - 1).astype(np.uint16)[ranks]
    return (values, ranks, places) if len(places) else None


def _with_ranks(
    values: npt.NDArray[Any], ranks: npt.NDArray[np.uint16], more: npt.NDArray[Any]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint16]]:
    """Distinct values and ranks with further numbers behind them."""
    at = np.minimum(np.searchsorted(values, more), len(values) - 1)
    new = values[at] != more
    if new.any():
        distinct = np.unique(more[new])
        before = np.searchsorted(values, distinct)
        shifts = np.cumsum(np.bincount(before, minlength=len(values) + 1))[: len(values)]
        ranks = (np.arange(len(values)) + shifts).astype(np.uint16)[ranks]
        values = np.insert(values, before, distinct)
        at = np.searchsorted(values, more)
    return values, np.concatenate((ranks, at.astype(np.uint16)))


def _by_value(keys: list[bytes], places: list[int]) -> dict[bytes, list[int]]:
    by_value: dict[bytes, list[int]] = defaultdict(list)
    for key, place in zip(keys, places, strict=True):
        by_value[key].append(place)
    return by_value


def _sparse_rows(places: list[int], metadatas: Sequence[Metadata | None]) -> dict[str, list[int]]:
    by_field: dict[str, list[int]] = defaultdict(list)
    for place, metadata in zip(places, metadatas, strict=True):
        for name, value in (metadata or {}).items():
            if isinstance(value, Sparse):
                by_field[name].append(place)
    return by_field
