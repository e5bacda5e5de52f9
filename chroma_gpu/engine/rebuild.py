"""Rebuild: the records of a collection with other vectors, made in a folder beside it while readers and writers go on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias
from uuid import UUID

import numpy as np

from chroma_gpu.engine.catalog import Catalog, Entry, Staging, next_folder
from chroma_gpu.engine.folders import Folders
from chroma_gpu.engine.tables import Tables
from chroma_gpu.errors import NotFoundError, StoreBusy, StoreError
from chroma_gpu.records import NO_ROW, Column, Metadata, Mode, Note, RecordBatch, Rows, Vectors
from chroma_gpu.store import Store

VectorsOf: TypeAlias = Callable[[RecordBatch], Vectors]
"""The new vectors [n, dim] of n records, which are given with their documents, metadata and uris."""

ROUNDS: Final = 8
"""How often what changed meanwhile is brought over while writers go on, before they are held back."""
MISSES: Final = 100
"""How often records are looked up again that others have replaced in between."""

_COLUMNS: Final = frozenset({Column.DOCUMENT, Column.METADATA, Column.URI})


class Rebuilt(StoreError):
    """The vectors of the collection were made anew since the caller's were made. Nothing was done; make them again."""


class Rebuilds:
    """Begins, goes on with, ends and gives up the rebuilds of an engine's collections.

    A rebuild is known to the catalog from before its folder is made until it takes the place of the collection's own, in one
    transaction; so the folder is never swept, and a crash at any moment leaves the collection as it was.
    """

    def __init__(self, catalog: Catalog, folders: Folders, tables: Tables) -> None:
        self._catalog = catalog
        self._folders = folders
        self._tables = tables

    def run(
        self,
        collection: UUID,
        vectors_of: VectorsOf,
        key: str,
        changes: Callable[[Entry], Mapping[str, Any]],
        *,
        batch_size: int,
        progress: Callable[[int, int], object] | None,
    ) -> Entry:
        """``Engine.rebuild``."""
        staging = self._staging(collection, key)

        def is_staged() -> bool:
            entry = self._catalog.entry(collection)
            return entry is not None and entry.staging == staging

        def require_staged() -> None:
            if not is_staged():
                raise NotFoundError(f"The rebuild of collection [{collection}] was given up.")

        try:
            with self._folders.claim(staging.folder) as mine:
                if not mine:
                    raise _running()
                # Somebody else may have ended it before it was ours: then the folder is the collection's own.
                require_staged()
                staged = self._folders.open(staging.folder, is_staged)
                try:
                    work = Rebuild(staged, vectors_of, require_staged, batch_size=batch_size, progress=progress)
                    folder, seq = self._stage(collection, work, batch_size)
                    with self._folders.maintenance():
                        return self._settle(collection, staging, work, folder, seq, changes)
                finally:
                    self._folders.close(staged)
        except (StoreError, NotFoundError, OSError):
            # If it was given up meanwhile, the folder may have been removed while it was opened, or was made here once more.
            self._tables.discard([staging.folder])
            require_staged()
            raise

    def abandon(self, collection: UUID) -> bool:
        """``Engine.abandon``."""
        with self._folders.maintenance():
            staging = self._catalog.require(collection).staging
            if staging is not None:
                self._give_up(collection, staging)
            return staging is not None

    def _staging(self, collection: UUID, key: str) -> Staging:
        """Where a rebuild with this key goes on, or a new place; one with another key is given up."""
        with self._folders.maintenance():
            entry = self._catalog.require(collection)
            if entry.staging is not None:
                if entry.staging.key == key:
                    return entry.staging
                self._give_up(collection, entry.staging)
            staging = Staging(next_folder(entry), key)
            self._catalog.stage(collection, staging)
            return staging

    def _give_up(self, collection: UUID, staging: Staging) -> None:
        """Under ``maintenance``, so that nobody begins another one meanwhile."""
        with self._folders.claim(staging.folder) as mine:
            if not mine:
                raise _running()
            self._catalog.stage(collection, None)
            self._folders.discard(staging.folder)

    def _stage(self, collection: UUID, work: Rebuild, enough: int) -> tuple[str, int | None]:
        """Bring over until little changes meanwhile; the folder that was read, and up to which sequence number."""
        folder, seq = "", None
        for _ in range(ROUNDS):
            held = self._tables.take(collection)
            try:
                since = seq if held.entry.folder == folder else None
                folder = held.entry.folder
                seq, made = work.bring_over(held.store, since)
            finally:
                self._tables.give_back(held)
            if made <= enough:
                break
        return folder, seq

    def _settle(
        self,
        collection: UUID,
        staging: Staging,
        work: Rebuild,
        folder: str,
        seq: int | None,
        changes: Callable[[Entry], Mapping[str, Any]],
    ) -> Entry:
        """With writers held back, bring over the rest and swap. Under ``maintenance``, so that nobody else moves the collection."""
        held = self._tables.take(collection)
        try:
            with held.store.exclusive():
                work.finish(held.store, seq if held.entry.folder == folder else None)
                entry = self._catalog.settle(collection, staging, changes)
        finally:
            self._tables.give_back(held)
        self._tables.retire(collection)
        self._tables.discard([held.entry.folder])
        return entry


class Rebuild:
    """Makes ``staged`` hold what a source holds, in its order, with vectors from ``vectors_of``.

    The vector of a record is made from its document and its uri, so it is made again only where one of these changed. What is
    staged may come from an earlier run that was killed at any moment: nothing is assumed about it but who made its vectors.
    ``alive`` is called before each batch; what it raises ends the work.
    """

    def __init__(
        self,
        staged: Store,
        vectors_of: VectorsOf,
        alive: Callable[[], None],
        *,
        batch_size: int,
        progress: Callable[[int, int], object] | None,
    ) -> None:
        self._staged = staged
        self._vectors_of = vectors_of
        self._alive = alive
        self._batch_size = batch_size
        self._progress = progress

    def bring_over(self, source: Store, since: int | None) -> tuple[int, int]:
        """Bring over what changed in the source after a sequence number, or all for None.

        Returns  the sequence number that was reached, and how many vectors were made
        """
        seq, rows, ids = source.listing()
        kept = self._keep_beginning(ids)
        changed = _changed(source, rows[:kept], since)
        wanted = [*(ids[at] for at in changed), *ids[kept:]]
        start, size, made, misses = 0, self._batch_size, 0, 0
        self._tell(len(ids) - len(wanted), len(ids))
        while start < len(wanted):
            self._alive()
            page = wanted[start : start + size]
            found = source.rows_of(page)
            try:
                batch = source.read(found[found != NO_ROW], _COLUMNS)
            except KeyError as error:
                # Some were replaced in between: ask for fewer.
                size, misses = max(size // 2, 1), misses + 1
                if misses == MISSES:
                    raise StoreBusy("a record is replaced again and again.", hint="Try again when less is written.") from error
                continue
            made += self._take_in(batch)
            start, size, misses = start + len(page), min(2 * size, self._batch_size), 0
            self._tell(len(ids) - len(wanted) + start, len(ids))
        return seq, made

    def finish(self, source: Store, since: int | None) -> None:
        """The same for a source that nobody writes; then both hold the same records in the same order, and the same notes.

        Raises StoreError if they do not.
        """
        for _ in range(3):
            since, _ = self.bring_over(source, since)
            if self._staged.listing()[2] == source.listing()[2]:
                self._carry_notes(source)
                self._staged.set_ops(source.totals().ops)
                return
        raise StoreError("the rebuilt records are not those of the collection.", hint="Nothing was changed; try again.")

    def _carry_notes(self, source: Store) -> None:
        for name in sorted({*source.notes(), *self._staged.notes()}):
            note = Note(name, source.note(name), self._staged.note(name))
            self._staged.write(RecordBatch([], note=note), Mode.UPDATE)

    def _keep_beginning(self, ids: list[str]) -> int:
        """Remove what is staged but for a beginning of ``ids`` in their order; how long that is.

        The rest is appended after it, so the order comes out right. New records are at the end of the source's order, and a record
        that was removed and added again is there too; so what stands in the way is little.
        """
        _, rows, theirs = self._staged.listing()
        kept, strays = 0, []
        for row, id_ in zip(rows.tolist(), theirs, strict=True):
            if kept < len(ids) and id_ == ids[kept]:
                kept += 1
            else:
                strays.append(row)
        if strays:
            self._staged.delete(np.array(strays, np.uint32))
        return kept

    def _take_in(self, batch: RecordBatch) -> int:
        """Put records where they are missing or differ; how many vectors were made."""
        metadatas, documents, uris = _columns(batch)
        rows = self._staged.rows_of(batch.ids)
        known = np.flatnonzero(rows != NO_ROW)
        old = dict(zip(known.tolist(), zip(*_columns(self._staged.read(rows[known], _COLUMNS)), strict=True), strict=True))
        fresh, touched, vanished = [], [], []
        for at in range(len(batch)):
            if at not in old:
                fresh.append(at)
                continue
            metadata, document, uri = old[at]
            if (documents[at], uris[at]) != (document, uri):
                fresh.append(at)
                if (documents[at] is None and document is not None) or (uris[at] is None and uri is not None):
                    vanished.append(at)  # only a record that was removed and added again can lose one
            elif repr(metadatas[at]) != repr(metadata):
                touched.append(at)
        merged = [_replacing(old[at][0] if at in old else None, metadatas[at]) for at in range(len(batch))]
        if vanished:
            self._staged.delete(rows[vanished])
        if touched:
            changed = RecordBatch([batch.ids[at] for at in touched], metadatas=[merged[at] for at in touched])
            self._staged.write(changed, Mode.UPDATE)
        if fresh:
            given = _some(batch, fresh)
            vectors = self._vectors_of(given)
            new = RecordBatch(given.ids, vectors, given.documents, [merged[at] for at in fresh], given.uris)
            self._staged.write(new, Mode.UPSERT)
        return len(fresh)

    def _tell(self, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(done, total)


def _running() -> StoreBusy:
    return StoreBusy("a rebuild of this collection is running.", hint="Wait for it to end.")


def _changed(source: Store, rows: Rows, since: int | None) -> list[int]:
    """Positions in ``rows`` of what was written after a sequence number; all of them if that is not known."""
    changes = None if since is None else source.changes(since)
    if changes is None:
        return list(range(len(rows)))
    found: list[int] = np.flatnonzero((rows >= changes.first) | np.isin(rows, changes.touched)).tolist()
    return found


def _columns(batch: RecordBatch) -> tuple[list[Metadata | None], list[str | None], list[str | None]]:
    return list(batch.metadatas or ()), list(batch.documents or ()), list(batch.uris or ())


def _some(batch: RecordBatch, positions: list[int]) -> RecordBatch:
    metadatas, documents, uris = _columns(batch)
    return RecordBatch(
        [batch.ids[at] for at in positions],
        None,
        [documents[at] for at in positions],
        [metadatas[at] for at in positions],
        [uris[at] for at in positions],
    )


def _replacing(old: Metadata | None, new: Metadata | None) -> Metadata | None:
    """What a write, which merges, has to be given so that ``new`` takes the place of ``old``."""
    return {**dict.fromkeys(old or {}), **(new or {})} or None
