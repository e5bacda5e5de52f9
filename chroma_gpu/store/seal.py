"""The seal around every stored value, which finds damage that the disk or LMDB lets through."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Final
from zlib import crc32

from chroma_gpu.errors import CorruptRecord

_FORMAT: Final = 1
_HEAD: Final = struct.Struct("<BI")
_SIZE: Final = _HEAD.size


def seal(key: bytes, payload: bytes) -> bytes:
    """u8 format, u32 crc32(key then payload), payload. The key is in it, so that a value under a wrong key is found too."""
    return _HEAD.pack(_FORMAT, crc32(payload, crc32(key))) + payload


def unseal(table: str, key: bytes, value: bytes) -> bytes:
    """The payload.  Raises CorruptRecord, which names table and key, if the seal does not hold."""
    payload = value[_SIZE:]
    if len(value) < _SIZE or _HEAD.unpack_from(value) != (_FORMAT, crc32(payload, crc32(key))):
        raise CorruptRecord(f"the value of {key!r} in table {table} is damaged.", hint="Run verify, then restore it from a copy.")
    return payload


def unseal_view(table: str, key: bytes, value: bytes) -> memoryview:
    """``unseal`` without a copy, for large values."""
    payload = memoryview(value)[_SIZE:]
    if len(value) < _SIZE or _HEAD.unpack_from(value) != (_FORMAT, crc32(payload, crc32(key))):
        unseal(table, key, value)  # raises
    return payload


def unseal_all(items: Sequence[tuple[bytes, bytes]]) -> list[bytes] | None:
    """The payloads of many (key, value) pairs; None if a seal does not hold, and ``unseal`` then says which."""
    payloads = [value[_SIZE:] for _, value in items]
    heads = [_HEAD.pack(_FORMAT, crc32(payload, crc32(key))) for (key, _), payload in zip(items, payloads, strict=True)]
    return payloads if heads == [value[:_SIZE] for _, value in items] else None


def checksum(value: bytes) -> int:
    """The checksum in the seal of a value, as it was stored."""
    return int.from_bytes(value[1:_SIZE], "little")


def seal_all(pairs: Iterable[tuple[bytes, bytes]]) -> tuple[list[tuple[bytes, bytes]], int]:
    """Seal (key, payload) pairs: (key, value) pairs, and the sum of their checksums."""
    sealed, total, pack = [], 0, _HEAD.pack
    for key, payload in pairs:
        crc = crc32(payload, crc32(key))
        total += crc
        sealed.append((key, pack(_FORMAT, crc) + payload))
    return sealed, total
