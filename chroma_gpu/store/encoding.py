"""How the tables of a store are laid out: their names, keys and payloads.

    ids        id -> row, u32; the id too where the key is only its digest
    records    row -> id, metadata, uri, checksum of the vector
    documents  row -> UTF-8 text
    births     row -> row of the first insertion, where it is another one
    dead       chunk of 16,384 rows -> bitmap of those that have left the table
    changes    sequence number -> what the write did
    fields     name of a metadata field -> its number and how many rows have values of each type  } the inverted index,
    postings   field, type, chunk of 65,536 rows, value -> the rows with it                      } see store/inverted/
    numbers    field, type, chunk -> the ints or floats in it                                    }
    grams      chunk, block, three bytes of text -> rows; and the runs of letters                }
    words      chunk, block, word -> rows and how often                                          }
    texts      chunk, block -> the documents that it is about                                    }
    pending    row -> its metadata as the index knows it, where it was rewritten since           }
    notes      name (keys as in ids) -> the name and some bytes, which jobs keep beside the records
    state      one key: sequence number, counts, digests of the tables above

A sparse vector in metadata is an extension of msgpack (code 1): indices as u32 and values as f64, little-endian, and labels.

Integers are big-endian in keys, so that their order is the order of keys, and msgpack's in payloads. A row's vector is not here
but at its place in the vector file.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
import numpy as np

from chroma_gpu.errors import InvalidArgumentError, StoreError
from chroma_gpu.records import Metadata, Rows, SparseVector
from chroma_gpu.roaring import CHUNK
from chroma_gpu.store.keyvalue import Transaction
from chroma_gpu.store.seal import unseal

IDS: Final = "ids"
RECORDS: Final = "records"
DOCUMENTS: Final = "documents"
BIRTHS: Final = "births"
DEAD: Final = "dead"
CHANGES: Final = "changes"
FIELDS: Final = "fields"
POSTINGS: Final = "postings"
NUMBERS: Final = "numbers"
GRAMS: Final = "grams"
WORDS: Final = "words"
TEXTS: Final = "texts"
PENDING: Final = "pending"
NOTES: Final = "notes"
STATE: Final = "state"
INVERTED: Final = (FIELDS, POSTINGS, NUMBERS, GRAMS, WORDS, TEXTS, PENDING)
"""Derived from records and documents: they can be dropped and made again."""
SUMMED: Final = (IDS, RECORDS, DOCUMENTS, BIRTHS, DEAD, CHANGES, *INVERTED, NOTES)
TABLES: Final = (*SUMMED, STATE)

STATE_KEY: Final = b"state"
CHUNK_ROWS: Final = 16384
LONGEST_PLAIN_ID: Final = 480

pack_row: Final = struct.Struct(">I").pack
pack_seq: Final = struct.Struct(">Q").pack


class Record(msgspec.Struct, array_like=True, gc=False):
    """One live record but for its document and vector. ``vector`` is the crc32 of the vector's bytes."""

    id: str
    metadata: Metadata | None
    uri: str | None
    vector: int


class Name(msgspec.Struct, array_like=True, gc=False):
    """A record of which only the id, the uri and the vector's checksum are wanted; metadata is skipped undecoded."""

    id: str
    metadata: msgspec.Raw
    uri: str | None
    vector: int


class KeptNote(msgspec.Struct, array_like=True, gc=False):
    """A note. Its name is here too, since the key of a long one is only its digest."""

    name: str
    value: bytes


class Change(msgspec.Struct, array_like=True, gc=False):
    """One write: rows [first, stop) were appended; dead and touched rows as u32, little-endian."""

    first: int
    stop: int
    dead: bytes
    touched: bytes


class Summary(msgspec.Struct, array_like=True):
    """The committed state.

    log_first, log_bytes  where the log of changes begins, and how long its payloads are together
    counts, digests       of each table in SUMMED: how many keys, and the sum of the seals' checksums modulo 2^64
    ops                   how many records were ever added, changed or removed, copies to other folders included
    folds, folded         how often the inverted index was changed; the rows below ``folded`` are in it
    changed               of each chunk of 65,536 of these rows, which of the changes was the last one of its metadata
    """

    seq: int = 0
    rows: int = 0
    live: int = 0
    dim: int | None = None
    log_first: int = 1
    log_bytes: int = 0
    counts: list[int] = msgspec.field(default_factory=lambda: [0] * len(SUMMED))
    digests: list[int] = msgspec.field(default_factory=lambda: [0] * len(SUMMED))
    ops: int = 0
    folds: int = 0
    folded: int = 0
    changed: list[int] = msgspec.field(default_factory=list)


def _packed(value: object) -> msgspec.msgpack.Ext:
    """The one value in metadata that msgpack has no place for."""
    if not isinstance(value, SparseVector):
        raise TypeError(f"{type(value).__name__} cannot be stored")
    labels = value.labels
    if len(value.indices) != len(value.values) or not all(isinstance(label, str) for label in labels or ()):
        raise TypeError("a sparse vector has a value for each index and only texts as labels")
    indices, values = np.array(value.indices, "<u4").tobytes(), np.array(value.values, "<f8").tobytes()
    return msgspec.msgpack.Ext(SPARSE_CODE, msgspec.msgpack.encode((indices, values, labels)))


def _unpacked(code: int, data: memoryview) -> SparseVector:
    if code != SPARSE_CODE:
        raise StoreError(f"a record has a value of unknown kind {code}.", hint="It was written by a newer version.")
    indices, values, labels = _decode_sparse(data)
    # Checked when it was written, and sealed since: not checked again element by element.
    vector = SparseVector.__new__(SparseVector)
    vector.indices, vector.values = np.frombuffer(indices, "<u4").tolist(), np.frombuffer(values, "<f8").tolist()
    vector.labels = labels
    return vector


MALFORMED: Final = (msgspec.MsgspecError, struct.error, ValueError, TypeError, IndexError, OverflowError)
"""What reading a payload raises that is sealed, but not what it should be."""

SPARSE_CODE: Final = 1
_decode_sparse: Final = msgspec.msgpack.Decoder(tuple[bytes, bytes, list[str] | None]).decode
decode_record: Final = msgspec.msgpack.Decoder(Record, ext_hook=_unpacked).decode
decode_name: Final = msgspec.msgpack.Decoder(Name).decode
decode_change: Final = msgspec.msgpack.Decoder(Change).decode
decode_note: Final = msgspec.msgpack.Decoder(KeptNote).decode
_encode: Final = msgspec.msgpack.Encoder(enc_hook=_packed).encode
_decode_summary: Final = msgspec.msgpack.Decoder(Summary).decode


def encode(value: msgspec.Struct) -> bytes:
    """msgpack.  Raises InvalidArgumentError for what it has no place for: integers beyond 64 bits, lone surrogates, objects."""
    try:
        return _encode(value)
    except (TypeError, OverflowError, UnicodeEncodeError, msgspec.MsgspecError) as error:
        raise InvalidArgumentError(f"a record cannot be stored: {error}") from error


def text(document: str) -> bytes:
    """UTF-8.  Raises InvalidArgumentError for lone surrogates."""
    try:
        return document.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(f"a text cannot be stored: {error}") from error


def id_key(id_: str) -> bytes:
    """The key of an id: its UTF-8 bytes, or where LMDB could not take them, 0xFF, which is in no UTF-8 text, and a digest."""
    plain = text(id_)
    if 1 <= len(plain) <= LONGEST_PLAIN_ID:
        return plain
    return b"\xff" + hashlib.blake2b(plain, digest_size=16).digest()


def id_payload(key: bytes, id_: str, row: int) -> bytes:
    """What the id table holds under a key."""
    return pack_row(row) + (text(id_) if key[0] == 0xFF else b"")


def find_rows(txn: Transaction, ids: Sequence[str], keys: Sequence[bytes]) -> list[int]:
    """The row of each id, -1 where there is none; keys are those of the ids."""
    found = {key: unseal(IDS, key, value) for key, value in txn.get_many(IDS, keys)}
    rows = []
    for id_, key in zip(ids, keys, strict=True):
        payload = found.get(key)
        if payload is None:
            rows.append(-1)
            continue
        if len(payload) != 4 and payload[4:] != text(id_):
            raise StoreError("two long ids have the same digest.", hint="Change one of them.")
        rows.append(int.from_bytes(payload[:4], "big"))
    return rows


def read_summary(txn: Transaction) -> Summary:
    """The committed state; that of an empty store where nothing was written yet."""
    value = txn.get(STATE, STATE_KEY)
    if value is None:
        return Summary()
    summary = _decode_summary(unseal(STATE, STATE_KEY, value))
    # Files of the first version do not count operations; each row they have given was one.
    summary.ops = max(summary.ops, summary.rows)
    # Nor do earlier ones have an inverted index, or notes.
    summary.counts += [0] * (len(SUMMED) - len(summary.counts))
    summary.digests += [0] * (len(SUMMED) - len(summary.digests))
    # Nor is it said of all which chunks have changed: any may have, at the last change.
    summary.changed += [summary.folds] * (-(-summary.folded // CHUNK) - len(summary.changed))
    return summary


def row_of(key: bytes) -> int:
    """The row in a key."""
    return int.from_bytes(key, "big")


def row_bytes(rows: Iterable[int]) -> bytes:
    """Rows as they are in a log entry."""
    return np.fromiter(rows, "<u4").tobytes()


def rows_in(data: bytes) -> Rows:
    """Rows of a log entry."""
    return np.frombuffer(data, "<u4").astype(np.uint32)
