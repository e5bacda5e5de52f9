"""Keys and payloads of the inverted index.

    fields     id_key(name) -> [number u32, name, {type: rows that have a value of it}]
    postings   field u32, type u8, chunk u16 -> the rows that have a value of that type, as a container of ``roaring``
               the same, "=", value -> the rows with that value. Not for scalar ints and floats, which are in numbers
    numbers    field u32, type u8, chunk u16 -> the distinct values, ascending, and which of them each row has
    pending    row u32 -> its metadata as it was when it was taken in, msgpack

A type is a code of TYPES, with ARRAY added for elements of arrays, or SPARSE.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from chroma_gpu.errors import CorruptRecord
from chroma_gpu.roaring import CHUNK, Places
from chroma_gpu.store.encoding import FIELDS, LONGEST_PLAIN_ID
from chroma_gpu.store.seal import unseal, unseal_all, unseal_view
from chroma_gpu.values import Kind, NumberBlock

TYPES: Final[Mapping[Kind, int]] = {Kind.BOOL: 0, Kind.INT: 1, Kind.FLOAT: 2, Kind.STR: 3}
SPARSE: Final = 4
ARRAY: Final = 0x80

REPAIR: Final = "Run `chroma-gpu repair`: it makes the index again from the records."

chunk_key: Final = struct.Struct(">IBH").pack
"""(field, type, chunk): where a chunk's part of a column begins."""
column_key: Final = struct.Struct(">IB").pack
split_key: Final = struct.Struct(">IBH").unpack_from

CHUNK_KEY_SIZE: Final = 7


class Field(msgspec.Struct, array_like=True, gc=False):
    """A metadata field: its number in keys, and by type how many rows have a value, rows that died since among them."""

    number: int
    name: str
    counts: dict[int, int]


def type_of(kind: Kind | None, array: bool) -> int:
    """The code of a type; kind None for sparse vectors."""
    if kind is None:
        return SPARSE
    return TYPES[kind] | ARRAY if array else TYPES[kind]


def column_type(code: int) -> tuple[Kind | None, bool]:
    """The type of a code."""
    return _COLUMN_TYPES[code]


def is_number(code: int) -> bool:
    """Whether values of a type are in table numbers."""
    return code in (TYPES[Kind.INT], TYPES[Kind.FLOAT])


def value_keys(kind: Kind, values: Sequence[Any]) -> list[bytes]:
    """What stands for each value in a key."""
    return list(map(_VALUE_KEYS[kind], values))


def opened(table: str, key: bytes, value: bytes | None) -> bytes:
    """The payload of a sealed value of the index.  Raises CorruptRecord, also for None: a value that should be there"""
    if value is None:
        raise CorruptRecord(f"table {table} lacks {key!r}.", hint=REPAIR)
    try:
        return unseal(table, key, value)
    except CorruptRecord as error:
        raise CorruptRecord(f"the value of {key!r} in table {table} is damaged.", hint=REPAIR) from error


def opened_view(table: str, key: bytes, value: bytes | None) -> memoryview:
    """``opened`` without a copy, for large values."""
    if value is None:
        raise CorruptRecord(f"table {table} lacks {key!r}.", hint=REPAIR)
    try:
        return unseal_view(table, key, value)
    except CorruptRecord as error:
        raise CorruptRecord(f"the value of {key!r} in table {table} is damaged.", hint=REPAIR) from error


def opened_all(table: str, items: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
    """``opened`` for many keys and values.  Cost: a third of a microsecond a value"""
    payloads = unseal_all(items)
    return [opened(table, key, value) for key, value in items] if payloads is None else payloads


def opened_field(key: bytes, value: bytes) -> Field:
    """A field of table fields.  Raises CorruptRecord"""
    field: Field = _decode_field(opened(FIELDS, key, value))
    return field


def encode_numbers(values: npt.NDArray[Any], ranks: npt.NDArray[np.uint16], places: Places) -> bytes:
    """u32 how many distinct values, u32 how many rows, values i64 or f64, ranks u16, and places u16 if they are not 0 to n - 1."""
    dense = bool(len(places)) and int(places[-1]) == len(places) - 1
    tail = b"" if dense else places.astype("<u2", copy=False).tobytes()
    head = _NUMBERS_HEAD.pack(len(values), len(ranks))
    return b"".join((head, values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes(), ranks.tobytes(), tail))


def decode_numbers(code: int, chunk: int, payload: bytes) -> NumberBlock:
    """A block of table numbers; its arrays are views of the payload."""
    distinct, n = _NUMBERS_HEAD.unpack_from(payload)
    at = _NUMBERS_HEAD.size
    values = np.frombuffer(payload, "<i8" if code == TYPES[Kind.INT] else "<f8", distinct, at)
    ranks = np.frombuffer(payload, "<u2", n, at + 8 * distinct)
    at += 8 * distinct + 2 * n
    return NumberBlock(chunk, values, ranks, None if at == len(payload) else np.frombuffer(payload, "<u2", n, at))


def places_of(block: NumberBlock) -> Places:
    """The places of a block, also where it is dense."""
    if block.places is not None:
        return block.places
    return np.arange(len(block.ranks), dtype=np.uint16)


def chunks_of(rows: int) -> int:
    """How many chunks there are below a row."""
    return -(-rows // CHUNK)


def _string_key(value: str) -> bytes:
    plain = value.encode()
    # 0xFF is in no UTF-8 text.
    return plain if len(plain) <= LONGEST_PLAIN_ID else b"\xff" + blake2b(plain, digest_size=32).digest()


def _float_key(value: float) -> bytes:
    # -0.0 equals 0.0.
    return _FLOAT.pack(value + 0.0)


_COLUMN_TYPES: Final[Mapping[int, tuple[Kind | None, bool]]] = {
    **{type_of(kind, array): (kind, array) for kind in Kind for array in (False, True)},
    SPARSE: (None, False),
}
_NUMBERS_HEAD: Final = struct.Struct("<II")
_FLOAT: Final = struct.Struct(">d")
_VALUE_KEYS: Final[Mapping[Kind, Callable[[Any], bytes]]] = {
    Kind.STR: _string_key,
    Kind.INT: struct.Struct(">q").pack,
    Kind.FLOAT: _float_key,
    Kind.BOOL: (b"\0", b"\1").__getitem__,
}
_decode_field: Final = msgspec.msgpack.Decoder(Field).decode
