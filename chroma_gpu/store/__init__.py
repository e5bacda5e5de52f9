"""Where records are kept: the contract of the store.

The store is the truth; indexes and columns are derived from it and catch up through ``changes``. A commit is the only moment
that matters: before it nothing of a batch is visible, after it everything is, and stays after a crash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from chroma_gpu.errors import StoreError
from chroma_gpu.records import Changes, Column, Metadata, Mode, RecordBatch, Rows, VectorSource
from chroma_gpu.roaring import Postings
from chroma_gpu.rowset import RowSet
from chroma_gpu.values import ColumnStatistics, Kind, NumberBlock, Scalar
from chroma_gpu.words import Counts, Keys, Lengths


@dataclass(frozen=True, slots=True)
class State:
    """One committed state of a store.

    seq    number of the last committed write; 0 for a new store
    rows   rows ever given: every row is below this
    live   how many of them are in the table
    dim    length of the vectors; None before the first one
    folds  number of the last change of the inverted index; it answers for the rows below ``folded``, but for those in ``pending()``
    """

    seq: int
    rows: int
    live: int
    dim: int | None
    folds: int = 0
    folded: int = 0


@dataclass(frozen=True, slots=True)
class Totals:
    """What a store counts besides its state.

    ops        records ever added, changed or removed; a write that leaves a record as it was is none
    documents  live records that have a document
    """

    ops: int
    documents: int


class Moved(StoreError):
    """The records may not be written here: they are kept elsewhere now, or a fork shares them. The write did not happen."""


@dataclass(frozen=True, slots=True, eq=False)
class Written:
    """What a write did.

    added, replaced, rewritten, removed  how many records: new ids, existing ids with a new vector (and so a new row), existing ids
                                         whose metadata or document changed in place, ids deleted
    first                                the first new row: those that were added or replaced have consecutive ones in the order of
                                         the batch
    """

    seq: int
    added: int = 0
    replaced: int = 0
    rewritten: int = 0
    removed: int = 0
    first: int = 0


class Inverted(Protocol):
    """The inverted index of a store as of one change of it: from values in metadata and from texts to rows below ``rows``.

    It knows nothing of rows that died, and for those in ``pending`` it answers for what they were when it took them in: the caller
    masks both. A row has at most one value of a type, or an array of values. Row sets have size ``rows``; each call is a snapshot
    of its own, and raises KeyError if the index was changed since, CorruptRecord if what it needs is damaged.
    """

    rows: int
    pending: Rows
    """[n] uint32, ascending, below ``rows``."""
    changed: Sequence[int]
    """For each chunk of 65,536 rows a number that is another one after every change of the metadata in it: with an equal number what was
    read of the chunk from an earlier index of this store still holds."""

    def statistics(self) -> Sequence[ColumnStatistics]:
        """Every column that has values.  Cost: one key for each field"""
        ...

    def among(
        self, field: str, kind: Kind, array: bool, values: Sequence[Scalar], chunks: Sequence[int] | None = None
    ) -> Postings:
        """The rows with one of some values of this very type: strings, bools, elements of arrays. Scalar numbers are not kept so.

        chunks  only the rows in some chunks, ascending; None for all
        Cost    one key for each value and chunk
        """
        ...

    def having(self, field: str, kind: Kind | None, array: bool, chunks: Sequence[int] | None = None) -> Postings:
        """The rows with a value of this type; None for sparse vectors.  Cost: one key for each chunk"""
        ...

    def numbers(self, field: str, kind: Kind, chunks: Sequence[int] | None = None) -> Sequence[NumberBlock]:
        """The scalar ints or floats of a field, by ascending chunk.  Cost: up to 12 bytes a value are read"""
        ...

    def values(self, field: str, kind: Kind, chunks: Sequence[int], most: int) -> Sequence[tuple[int, bytes, bytes]] | None:
        """Every scalar string or bool in some chunks, ascending: (chunk, what ``value_keys`` has for it, the container of its rows).

        None if there are more than ``most``.  Cost: one key for each value and chunk
        """
        ...

    def value_keys(self, kind: Kind, values: Sequence[Scalar]) -> Sequence[bytes]:
        """What stands for each of some values of this very kind: equal for equal ones."""
        ...

    def containing(self, grams: Sequence[bytes]) -> RowSet:
        """The rows whose document may have every one of some three-byte strings, and those whose document was not taken in.

        A superset of those that do.  Cost: some keys for each block of documents; a block is one fold of a chunk
        """
        ...

    def containing_text(self, text: bytes) -> tuple[RowSet, RowSet]:
        """The rows whose document has a UTF-8 text of one byte or more, as far as that is known; and these with those that may have it.

        Cost  some 30 µs a block of documents, and for a word that many have one pass over all different words of the block
        """
        ...

    def word_postings(self, hashes: Keys) -> list[tuple[Rows, Counts]]:
        """For each word (``words.hashes``) the rows whose document has it, ascending, and how often.  Cost: as ``containing``"""
        ...

    def lengths(self) -> tuple[Lengths, RowSet]:
        """[rows] uint16: how many words each document has; and the rows of which that is not known.  Cost: 2 bytes a row"""
        ...


class Store(Protocol):
    """The records of one collection. Safe for many threads and many processes."""

    vectors: VectorSource

    def state(self) -> State:
        """The last committed state, commits of other processes included.  Cost: one key read."""
        ...

    def totals(self) -> Totals:
        """Counts of the last committed state.  Cost: one key read."""
        ...

    def write(self, batch: RecordBatch, mode: Mode) -> Written:
        """Add, update or upsert a batch in one transaction; durable when it returns.

        ids must be unique within the batch. New ids need vectors. UPDATE and UPSERT merge metadata key by key (a value of None
        deletes the key) and keep documents, uris and vectors that are not given or None. A note is kept in the same moment, in
        every mode, also where the batch has no records or changes none.
        Raises   DimensionMismatch, Moved, DiskFull, StoreBusy, NoteChanged, InvalidArgumentError; nothing was written then
        Cost     O(len(batch)), whatever the size of the table
        """
        ...

    def delete(self, rows: Rows, *, seen: int | None = None) -> Written:
        """Remove records in one transaction; rows that are dead already are skipped.

        seen    the sequence number as of which they were chosen
        Raises  KeyError if one of them was rewritten in place since; nothing was removed then
        """
        ...

    def set_dim(self, dim: int) -> None:
        """Fix the length of the vectors of a store that has no row yet, as its first write would. Raises InvalidArgumentError."""
        ...

    def set_ops(self, ops: int) -> None:
        """Go on counting operations from a number, as a copy of another store does."""
        ...

    def rows_of(self, ids: Sequence[str]) -> Rows:
        """[len(ids)] uint32: the row of each id, NO_ROW where there is none."""
        ...

    def read(self, rows: Rows, columns: frozenset[Column]) -> RecordBatch:
        """The asked columns of live rows, in the order of rows. Dead rows raise KeyError.

        Copies, but for vectors, which may be a read-only view of rows that lie together; it stays valid after ``close``.
        """
        ...

    def metadatas(self, rows: Rows) -> list[Metadata | None]:
        """The metadata of each row in the order of rows; None where there is none, and for dead rows."""
        ...

    def documents(self, rows: Rows) -> Iterator[bytes | None]:
        """The UTF-8 text of each row in the order of rows, None where there is none. For scans: streamed, not decoded."""
        ...

    def live(self) -> RowSet:
        """The live rows of the last committed state, of size state().rows."""
        ...

    def births(self, first: int = 0) -> tuple[Rows, Rows]:
        """(rows, births): rows from ``first`` on whose record was first inserted under an earlier row, and that earlier row.

        A record keeps its place in insertion order when a new vector gives it a new row; all other rows are their own birth.
        """
        ...

    def listing(self) -> tuple[int, Rows, list[str]]:
        """(seq, rows, ids) of the live records in insertion order, of one committed state.  Cost: every record's id is read."""
        ...

    def changes(self, since: int) -> Changes | None:
        """What happened after sequence number ``since``; None if the log does not reach back so far (start from ``live``)."""
        ...

    def note(self, name: str) -> bytes | None:
        """What was kept under this name beside the records, as of the last commit; None for nothing.  Cost: one key read."""
        ...

    def notes(self) -> list[str]:
        """The names of all notes, sorted.  Cost: every note is read."""
        ...

    def inverted(self, folds: int) -> Inverted:
        """The inverted index of State.folds.

        Raises  KeyError if it was changed since; so does each of its methods
        Cost    one key read, and the keys of the pending rows
        """
        ...

    def pending(self) -> Rows:
        """[n] uint32, ascending: rows below State.folded that were rewritten since the index took them in; some may be dead.

        Cost  one key for each is read; they are fewer than the rows that a write takes in by itself, 4,096
        """
        ...

    def fold(self) -> None:
        """Take every row into the inverted index now; nothing is written if all of them are in it already.

        Raises  as ``write``
        Cost    about 10 µs a row, and with a document some 40 ns more for each byte of it
        """
        ...

    def refold(self) -> None:
        """Drop the inverted index, whatever is in it, and make it again from the records, in one transaction.

        Raises  as ``write``; the old index is there then
        Cost    as ``fold`` of every row; writers wait, readers do not
        """
        ...

    def tidy(self, stopped: Callable[[], bool] = lambda: False) -> bool:
        """Index the documents of one full chunk as one block, if they are in many; whether there was such a chunk.

        stopped  asked now and then; if it says so, nothing is done
        Raises   Moved and the store's errors
        Cost     some 80 ns a byte of the chunk's documents, while nobody waits; then a write of a moment
        """
        ...

    def verify(self) -> list[str]:
        """Every inconsistency found by reading everything: checksums, counts, digests, id table against records. Empty is sound."""
        ...

    def exclusive(self) -> AbstractContextManager[None]:
        """Keep every other writer out, those of other processes too; reading goes on."""
        ...

    def copy_live(self, target: Store) -> None:
        """Write every live record to an empty store, in insertion order, so that rows are dense again; and the notes."""
        ...

    def close(self) -> None:
        """Release files and memory. Idempotent."""
        ...
