"""What a write does to the tables of a store, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from zlib import crc32

import numpy as np

from chroma_gpu.errors import CorruptRecord, DimensionMismatch, DuplicateIDError, InvalidArgumentError, NoteChanged, StoreError
from chroma_gpu.records import NO_ROW, Metadata, Mode, Note, RecordBatch, Rows, Vectors
from chroma_gpu.store import Written
from chroma_gpu.store.encoding import (
    BIRTHS,
    DOCUMENTS,
    IDS,
    NOTES,
    PENDING,
    RECORDS,
    Change,
    KeptNote,
    Record,
    Summary,
    decode_name,
    decode_note,
    decode_record,
    encode,
    find_rows,
    id_key,
    id_payload,
    pack_row,
    row_bytes,
    row_of,
    text,
)
from chroma_gpu.store.inverted.fold import due, fold, fold_anew
from chroma_gpu.store.keyvalue import Transaction
from chroma_gpu.store.ledger import Ledger
from chroma_gpu.store.seal import seal, unseal
from chroma_gpu.store.vectors import VectorLog
from chroma_gpu.words import Indexing

_DELETED_AT_A_TIME: Final = 256
_LONGEST_NOTE_NAME: Final = 256
_LONGEST_NOTE: Final = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Draft:
    """A batch, with everything encoded that does not depend on rows.

    crcs     crc32 of each vector
    records  payloads of the records as they are if they are new; empty for an update
    """

    ids: Sequence[str]
    keys: list[bytes]
    vectors: Vectors | None
    crcs: list[int]
    documents: list[bytes | None]
    metadatas: Sequence[Metadata | None]
    uris: Sequence[str | None]
    records: list[bytes]
    note: Note | None

    @classmethod
    def of(cls, batch: RecordBatch, mode: Mode) -> Draft:
        """Raises InvalidArgumentError for values that cannot be stored, DuplicateIDError."""
        if len(set(batch.ids)) != len(batch):
            raise DuplicateIDError("an id is in the batch more than once.")
        if batch.note is not None:
            _check_note(batch.note)
        none: list[None] = [None] * len(batch)
        vectors = None if batch.vectors is None or not len(batch) else np.ascontiguousarray(batch.vectors, np.float32)
        crcs = [0] * len(batch) if vectors is None else [crc32(vector.data) for vector in vectors]
        documents = [None if each is None else text(each) for each in batch.documents or none]
        metadatas, uris = batch.metadatas or none, batch.uris or none
        records: list[bytes] = []
        if vectors is not None and mode is not Mode.UPDATE:
            columns = zip(batch.ids, metadatas, uris, crcs, strict=True)
            records = [encode(Record(id_, _merged(None, metadata), uri, crc)) for id_, metadata, uri, crc in columns]
        return cls(batch.ids, [id_key(id_) for id_ in batch.ids], vectors, crcs, documents, metadatas, uris, records, batch.note)


@dataclass(frozen=True, slots=True, eq=False)
class _Edit:
    """What becomes of a record that exists.

    moved                     whether it has a new vector, and so gets a new row
    record, document          its payloads from now on; document is None where it has none or keeps it in place
    old_record, old_document  the sealed values that they take the place of
    """

    position: int
    row: int
    moved: bool
    record: bytes
    document: bytes | None
    old_record: bytes
    old_document: bytes | None
    record_changed: bool
    document_changed: bool

    @property
    def key(self) -> bytes:
        return pack_row(self.row)

    @property
    def old_metadata(self) -> bytes:
        """The metadata that was, as msgpack."""
        return bytes(decode_name(unseal(RECORDS, self.key, self.old_record)).metadata)

    @property
    def concerns_index(self) -> bool:
        """Whether the inverted index knows of what changes."""
        return self.document_changed or bytes(decode_name(self.record).metadata) != self.old_metadata


def write_batch(
    txn: Transaction, log: VectorLog, draft: Draft, mode: Mode, indexing: Indexing = Indexing.FULL
) -> tuple[Written, Summary]:
    """Add, update or upsert; what was done, and the state to be committed.  Can be run again after a rollback."""
    ledger = Ledger(txn)
    summary = ledger.summary
    _check_dim(summary, draft)
    if summary.dim is not None:
        log.commit(summary.rows, summary.dim)
    rows = find_rows(txn, draft.ids, draft.keys)
    fresh = [] if mode is Mode.UPDATE else [position for position, row in enumerate(rows) if row < 0]
    if fresh and draft.vectors is None:
        raise InvalidArgumentError(f"id {draft.ids[fresh[0]]!r} is new and needs a vector.")
    edits = [] if mode is Mode.ADD else _edits(ledger, log, draft, rows)
    moved = [edit for edit in edits if edit.moved]
    touched = [edit for edit in edits if not edit.moved and (edit.record_changed or edit.document_changed)]
    if not (_put_note(ledger, draft.note) or fresh or moved or touched):
        return Written(summary.seq), summary

    first = summary.rows
    appended = sorted([*fresh, *(edit.position for edit in moved)])
    _append_vectors(summary, log, draft, appended)
    _append_records(ledger, draft, moved, dict(zip(appended, range(first, summary.rows), strict=True)))
    _remember(ledger, touched)
    _rewrite(ledger, touched)
    summary.live += len(fresh)
    summary.ops += len(fresh) + len(moved) + len(touched)
    dead, rewritten = row_bytes(edit.row for edit in moved), row_bytes(edit.row for edit in touched)
    if due(summary, ledger.count(PENDING)):
        fold(ledger, indexing)
    ledger.finish(Change(first, summary.rows, dead, rewritten))
    return Written(summary.seq, added=len(fresh), replaced=len(moved), rewritten=len(touched), first=first), summary


def delete_rows(txn: Transaction, rows: Rows) -> tuple[Written, Summary]:
    """Remove records; what was done, and the state to be committed.  Can be run again after a rollback."""
    ledger = Ledger(txn)
    wanted = np.unique(rows)
    dead: list[int] = []
    for start in range(0, len(wanted), _DELETED_AT_A_TIME):
        records = txn.get_many(RECORDS, [pack_row(row) for row in wanted[start : start + _DELETED_AT_A_TIME].tolist()])
        keys = [key for key, _ in records]
        names = [id_key(decode_name(unseal(RECORDS, key, value)).id) for key, value in records]
        ledger.remove(RECORDS, records)
        for table, their in ((IDS, names), (DOCUMENTS, keys), (BIRTHS, keys)):
            ledger.remove(table, txn.get_many(table, their))
        dead += [row_of(key) for key in keys]
    summary = ledger.summary
    if not dead:
        return Written(summary.seq), summary
    ledger.bury(np.array(dead, np.uint32))
    summary.live -= len(dead)
    summary.ops += len(dead)
    ledger.finish(Change(summary.rows, summary.rows, row_bytes(dead), b""))
    return Written(summary.seq, removed=len(dead)), summary


def set_dim(txn: Transaction, dim: int) -> tuple[Written, Summary]:
    """Fix the length of the vectors of a store that has no row yet.  Can be run again after a rollback."""
    ledger = Ledger(txn)
    summary = ledger.summary
    if summary.rows or summary.dim is not None:
        raise InvalidArgumentError("the length of the vectors is fixed already.")
    summary.dim = dim
    ledger.finish(Change(0, 0, b"", b""))
    return Written(summary.seq), summary


def set_ops(txn: Transaction, ops: int) -> tuple[Written, Summary]:
    """Go on counting operations from a number.  Can be run again after a rollback."""
    ledger = Ledger(txn)
    summary = ledger.summary
    if summary.ops != ops:
        summary.ops = ops
        ledger.finish(Change(summary.rows, summary.rows, b"", b""))
    return Written(summary.seq), summary


def fold_rest(txn: Transaction, indexing: Indexing = Indexing.FULL, *, anew: bool = False) -> tuple[Written, Summary]:
    """Take every row into the inverted index, ``anew``: into a new one.  Can be run again after a rollback."""
    ledger = Ledger(txn)
    summary = ledger.summary
    if anew:
        fold_anew(ledger, indexing)
    elif summary.folded < summary.rows or ledger.count(PENDING):
        fold(ledger, indexing)
    else:
        return Written(summary.seq), summary
    ledger.finish(Change(summary.rows, summary.rows, b"", b""))
    return Written(summary.seq), summary


def _check_note(note: Note) -> None:
    if not 1 <= len(note.name) <= _LONGEST_NOTE_NAME:
        raise InvalidArgumentError(f"the name of a note has 1 to {_LONGEST_NOTE_NAME} characters, got {len(note.name)}.")
    text(note.name)
    if note.value is not None and len(note.value) > _LONGEST_NOTE:
        raise InvalidArgumentError(f"a note has at most {_LONGEST_NOTE:,} bytes, got {len(note.value):,}.")


def _put_note(ledger: Ledger, note: Note | None) -> bool:
    """Put or remove a note; whether that changes anything.  Raises NoteChanged if another one is there than was expected"""
    if note is None:
        return False
    key = id_key(note.name)
    old = ledger.txn.get(NOTES, key)
    there = None if old is None else decode_note(unseal(NOTES, key, old))
    if there is not None and there.name != note.name:
        raise StoreError("two long names of notes have the same digest.", hint="Change one of them.")
    if (None if there is None else there.value) != note.expected:
        raise NoteChanged(
            f"the note {note.name!r} is not what was expected: somebody else has written it.",
            hint="Nothing was written. Read the note and go on from there.",
        )
    if note.value == note.expected:
        return False
    if note.value is not None:
        ledger.replace(NOTES, key, encode(KeptNote(note.name, note.value)), old)
    elif old is not None:
        ledger.remove(NOTES, [(key, old)])
    return True


def _check_dim(summary: Summary, draft: Draft) -> None:
    if draft.vectors is None:
        return
    dim = draft.vectors.shape[1]
    if dim == 0:
        raise InvalidArgumentError("vectors must have at least one value.")
    if summary.dim is not None and dim != summary.dim:
        raise DimensionMismatch(f"Collection expecting embedding with dimension of {summary.dim}, got {dim}")


def _edits(ledger: Ledger, log: VectorLog, draft: Draft, rows: list[int]) -> list[_Edit]:
    """What the batch makes of the records that exist."""
    known = [position for position, row in enumerate(rows) if row >= 0]
    if not known:
        return []
    keys = [pack_row(rows[position]) for position in known]
    records = ledger.txn.get_many(RECORDS, keys)
    if len(records) != len(keys):
        raise CorruptRecord("the id table names a row that has no record.", hint="Run verify.")
    old_payloads = [unseal(RECORDS, key, value) for key, value in records]
    old_records = [decode_record(payload) for payload in old_payloads]
    stored = [(rows[position], old.vector) for position, old in zip(known, old_records, strict=True)]
    moves = _moves(log, draft, known, stored)
    wanted = [key for key, at, moved in zip(keys, known, moves, strict=True) if moved or draft.documents[at] is not None]
    documents = dict(ledger.txn.get_many(DOCUMENTS, wanted))
    edits = []
    columns = zip(known, records, old_payloads, old_records, moves, strict=True)
    for position, (key, old_value), old_payload, old, moved in columns:
        metadata, uri, document = draft.metadatas[position], draft.uris[position], draft.documents[position]
        record = encode(
            Record(
                old.id,
                old.metadata if metadata is None else _merged(old.metadata, metadata),
                old.uri if uri is None else uri,
                draft.crcs[position] if moved else old.vector,
            )
        )
        old_document = documents.get(key)
        old_text = None if old_document is None else unseal(DOCUMENTS, key, old_document)
        document = old_text if document is None else document
        changed = (record != old_payload, document != old_text)
        edits.append(_Edit(position, rows[position], moved, record, document, old_value, old_document, *changed))
    return edits


def _moves(log: VectorLog, draft: Draft, known: list[int], stored: list[tuple[int, int]]) -> list[bool]:
    """Which of the known records are given another vector than they have; ``stored`` is the row and checksum of theirs.

    The same vector again costs no new row.
    """
    if draft.vectors is None:
        return [False] * len(known)
    moves = np.array([draft.crcs[position] != crc for position, (_, crc) in zip(known, stored, strict=True)])
    alike = np.flatnonzero(~moves)
    if len(alike):
        theirs = log.gather(np.array([row for row, _ in stored], np.uint32)[alike])
        given = draft.vectors[np.array(known)[alike]]
        moves[alike] = (theirs.view(np.uint32) != given.view(np.uint32)).any(axis=1)
    flags: list[bool] = moves.tolist()
    return flags


def _merged(old: Metadata | None, given: Metadata | None) -> Metadata | None:
    """Metadata with the given keys set, and those given as None deleted. None if nothing is left."""
    merged = {**(old or {}), **(given or {})}
    if None in merged.values():
        merged = {key: value for key, value in merged.items() if value is not None}
    return merged or None


def _append_vectors(summary: Summary, log: VectorLog, draft: Draft, positions: list[int]) -> None:
    """Give rows to the vectors at some positions of the batch, in their order."""
    if not positions or draft.vectors is None:
        return
    if summary.rows + len(positions) > int(NO_ROW):
        raise StoreError(f"a collection holds at most {int(NO_ROW):,} rows.", hint="Compact it, or split it.")
    whole = len(positions) == len(draft.ids)
    log.append(summary.rows, draft.vectors if whole else draft.vectors[positions])
    summary.rows += len(positions)
    summary.dim = draft.vectors.shape[1]


def _append_records(ledger: Ledger, draft: Draft, moved: list[_Edit], new_rows: dict[int, int]) -> None:
    """Put the records of new rows, and take away those that moved there; ``new_rows`` by position, ascending."""
    records, documents = draft.records, draft.documents
    if moved:
        records, documents = list(records) or [b""] * len(draft.ids), list(documents)
        for edit in moved:
            records[edit.position], documents[edit.position] = edit.record, edit.document
    keys = {position: pack_row(row) for position, row in new_rows.items()}
    ledger.append(RECORDS, ((key, records[position]) for position, key in keys.items()))
    texts = ((key, documents[position]) for position, key in keys.items())
    ledger.append(DOCUMENTS, ((key, each) for key, each in texts if each is not None))
    gone = {edit.position for edit in moved}
    ids = [position for position in new_rows if position not in gone]
    ledger.insert(IDS, sorted((draft.keys[at], id_payload(draft.keys[at], draft.ids[at], new_rows[at])) for at in ids))
    if moved:
        _leave(ledger, draft, moved, new_rows)


def _leave(ledger: Ledger, draft: Draft, moved: list[_Edit], new_rows: dict[int, int]) -> None:
    """Point the ids of moved records to their new rows, keep their place in insertion order, and empty their old rows."""
    births = dict(ledger.txn.get_many(BIRTHS, [edit.key for edit in moved]))
    for edit in moved:
        at, key = edit.position, draft.keys[edit.position]
        old = seal(key, id_payload(key, draft.ids[at], edit.row))
        ledger.replace(IDS, key, id_payload(key, draft.ids[at], new_rows[at]), old)
    first = {edit.position: unseal(BIRTHS, edit.key, births[edit.key]) if edit.key in births else edit.key for edit in moved}
    ledger.append(BIRTHS, ((pack_row(new_rows[at]), first[at]) for at in sorted(first)))
    ledger.remove(BIRTHS, births.items())
    ledger.remove(RECORDS, ((edit.key, edit.old_record) for edit in moved))
    ledger.remove(DOCUMENTS, ((edit.key, edit.old_document) for edit in moved if edit.old_document is not None))
    ledger.bury(np.array([edit.row for edit in moved], np.uint32))


def _remember(ledger: Ledger, touched: list[_Edit]) -> None:
    """Keep what the inverted index knows of records that are about to change where they are, so that it can be taken back."""
    known = sorted((edit.key, edit) for edit in touched if edit.row < ledger.summary.folded and edit.concerns_index)
    if known:
        there = {key for key, _ in ledger.txn.get_many(PENDING, [key for key, _ in known])}
        ledger.insert(PENDING, ((key, edit.old_metadata) for key, edit in known if key not in there))


def _rewrite(ledger: Ledger, touched: list[_Edit]) -> None:
    """Change records where they are."""
    for edit in touched:
        if edit.record_changed:
            ledger.replace(RECORDS, edit.key, edit.record, edit.old_record)
        if edit.document_changed and edit.document is not None:
            ledger.replace(DOCUMENTS, edit.key, edit.document, edit.old_document)
