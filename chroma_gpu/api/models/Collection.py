"""Collection: what users add to and query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from chroma_gpu.api import collection_configuration, foreign, names, reembed, validate
from chroma_gpu.api.functions import Function
from chroma_gpu.api.models.AttachedFunction import AttachedFunction
from chroma_gpu.api.models.CollectionReads import CollectionReads, expression
from chroma_gpu.api.schema import sparse
from chroma_gpu.api.schema.checks import check_filter
from chroma_gpu.api.types import (
    CollectionMetadata,
    DeleteResult,
    EmbeddingFunction,
    Where,
    WhereDocument,
)
from chroma_gpu.embed import validate_embedding_function
from chroma_gpu.embed.progress import Progress, listener
from chroma_gpu.embed.stream.kept import Kept
from chroma_gpu.engine.rebuild import Rebuilt
from chroma_gpu.engine.repair import Repair
from chroma_gpu.errors import StoreBusy
from chroma_gpu.records import Column, DeviceBlock, Mode, Note, RecordBatch, Vectors


class Collection(CollectionReads):
    """The records of one name: ids with vectors, documents, metadata and uris.

    Safe to share between threads. Every call sees what other clients, threads and processes have committed.
    """

    __class__ = foreign.stands_for("chromadb.api.models.Collection", "Collection")

    def add(
        self,
        ids: Any,
        embeddings: Any = None,
        metadatas: Any = None,
        documents: Any = None,
        images: Any = None,
        uris: Any = None,
        *,
        progress: Progress = None,
    ) -> None:
        """Add records; ids that exist already are skipped. There is no limit to their number.

        embeddings  one vector or many: lists, arrays or tensors of any device; without them, the documents, images or what the
                    uris point to are embedded
        progress    of embedding: True shows a bar, False never, None where it is long and stderr is a terminal; a function is
                    called with (done, total) texts. An embedding function that is not of this package is then called with 1,024
                    texts at a time, else with all at once
        Durable when it returns: all records are there, or, after an error or a crash, none.
        """
        with validate.within("add"):
            given = validate.records(ids, embeddings, metadatas, documents, images, uris, merging=False)
        self._write(given, ("documents", "images", "uris"), Mode.ADD, progress)

    def update(
        self,
        ids: Any,
        embeddings: Any = None,
        metadatas: Any = None,
        documents: Any = None,
        images: Any = None,
        uris: Any = None,
        *,
        progress: Progress = None,
    ) -> None:
        """Change records; unknown ids are skipped.

        Metadata is merged key by key and a value of None deletes its key. Documents that are given without embeddings are embedded.
        """
        with validate.within("update"):
            given = validate.records(ids, embeddings, metadatas, documents, images, uris, merging=True)
        embeddable = given.documents is not None or given.images is not None
        self._write(given, ("documents", "images") if embeddable else (), Mode.UPDATE, progress)

    def upsert(
        self,
        ids: Any,
        embeddings: Any = None,
        metadatas: Any = None,
        documents: Any = None,
        images: Any = None,
        uris: Any = None,
        *,
        progress: Progress = None,
    ) -> None:
        """Add the records whose ids are new and update the others, as ``add`` and ``update`` do."""
        with validate.within("upsert"):
            given = validate.records(ids, embeddings, metadatas, documents, images, uris, merging=True)
        self._write(given, ("documents", "images"), Mode.UPSERT, progress)

    def delete(
        self,
        ids: Any = None,
        where: Where | None = None,
        where_document: WhereDocument | None = None,
        limit: int | None = None,
    ) -> DeleteResult:
        """Remove the records that match everything given; at least one of ids, where and where_document must be.

        limit  remove at most so many, in insertion order; needs a filter
        """
        with validate.within("delete"):
            if ids is None and where is None and where_document is None:
                raise ValueError("At least one of ids, where, or where_document must be provided")
            if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool)):
                raise TypeError("limit must be a non-negative integer")
            if limit is not None and limit < 0:
                raise ValueError("limit must be a non-negative integer")
            if limit is not None and where is None and where_document is None:
                raise ValueError("limit can only be specified when a where or where_document clause is provided")
            wanted = validate.as_list(ids)
            if wanted is not None:
                validate.check_ids(wanted)
            expr = expression(where, where_document)
        check_filter(self._entry.schema, expr)
        written = self._engine.delete(self.id, expr, wanted, limit)
        return DeleteResult(deleted=len(wanted) if wanted is not None and expr is None else written.removed)

    def modify(
        self,
        name: str | None = None,
        metadata: CollectionMetadata | None = None,
        configuration: Mapping[str, Any] | None = None,
    ) -> None:
        """Rename, replace the metadata, or change the configuration. The distance of a collection cannot be changed."""
        if name is not None:
            names.check_collection(name, "new_name")
        if metadata is not None:
            validate.check_metadata_shape(metadata)
            if "hnsw:space" in metadata:
                raise ValueError("Changing the distance function of a collection once it is created is not supported currently.")
            metadata = validate.collection_metadata(metadata)
        now = self._engine.entry(self.id)
        changed = None if not configuration else collection_configuration.updated(now.configuration, configuration)
        self._entry = self._engine.modify(now, name=name, metadata=metadata, configuration=changed)

    def attach_function(
        self, function: Function | str, name: str, output_collection: str, params: dict[str, Any] | None = None
    ) -> tuple[AttachedFunction, bool]:
        """Let the server run a function over this collection; the function, and whether it is new.

        Raises NotImplementedError for an embedded collection, what the server raises for another.
        """
        named = function.value if isinstance(function, Function) else function
        return self._engine.functions.attach(self.id, named, name, output_collection, params)

    def get_attached_function(self, name: str) -> AttachedFunction:
        """The attached function of this name. Raises NotFoundError, and as ``attach_function`` does."""
        return self._engine.functions.get(self.id, name)

    def detach_function(self, name: str, delete_output_collection: bool = False) -> bool:
        """Stop a function; its results go too if asked. Raises as ``attach_function`` does."""
        return self._engine.functions.detach(self.id, name, delete_output_collection)

    def fork(self, new_name: str) -> Collection:
        """A new collection with the records and settings of this one. From then on each goes its own way.

        Raises   NotFoundError, AlreadyExistsError, InvalidArgumentError; nothing was made then
        Cost     one small transaction, whatever the size: both read the same files until one of them is written. The first write to
                 either copies the files, where the file system cannot share their blocks
        """
        names.check_collection(new_name, "new_name")
        return type(self)(self._engine, self._engine.fork(self.id, new_name), self._embedding_function, self._data_loader)

    def fork_count(self) -> int:
        """How many forks there are of this collection, or of the one that it is a fork of in the end. Deleted ones are not counted."""
        return self._engine.fork_count(self.id)

    def reembed(
        self,
        embedding_function: EmbeddingFunction[Any],
        *,
        batch_size: int = 1024,
        progress: Progress = None,
    ) -> None:
        """Embed every record anew with another function, which is the collection's from then on. Vectors may get another length.

        Documents are embedded; where there is none, what the uri points to. Ids, documents, metadata, uris and their order stay, and so
        does the distance, unless the function does not support it: then the function's default is taken. Readers and writers go on
        meanwhile; at the end all is switched at once. A call that was interrupted or killed is gone on with by the next one with the
        same function and configuration; ``reembed_abort`` gives up what it has left.

        batch_size  records that are embedded and written at once; a crash loses no more
        progress    as in ``add``, of records
        Raises      InvalidArgumentError if a record has nothing to be embedded, StoreBusy if another call is at work, and what the
                    function raises; the collection is as it was then
        Cost        one vector a record, and the disk of a second copy until the end. Writers wait at the end for the last changes
        """
        validate_embedding_function(embedding_function)
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, got {batch_size}")
        vectors_of = reembed.Reembedding(embedding_function, self._data_loader, self._engine.memory)
        with self._engine.table(self.id) as table:
            missing, total = table.undocumented(), table.count()
            if missing and self._data_loader is not None:
                records = table.fetch(None, frozenset({Column.DOCUMENT, Column.URI}))
                pairs = zip(records.documents or (), records.uris or (), strict=True)
                missing = sum(document is None and uri is None for document, uri in pairs)
        vectors_of.check(missing, total)
        successor = embedding_function, vectors_of.stored
        self._successors.append(successor)
        try:
            key, changes = vectors_of.key(), vectors_of.changes
            with listener(progress, desc="embedding anew") as tell:
                self._engine.rebuild(self.id, vectors_of, key, changes, batch_size=batch_size, progress=tell)
            self._catch_up()
        finally:
            self._successors.remove(successor)

    def reembed_abort(self) -> bool:
        """Give up what an interrupted ``reembed`` has left, and its disk; whether there was any. Raises StoreBusy while one is at work."""
        return self._engine.abandon(self.id)

    def repair(self, *, check: bool = False) -> Repair:
        """Read everything, and make anew what is derived from the records: the index of metadata and texts, checkpoints of others.

        check   only look
        Records are never changed; if they are damaged, nothing is. What was found is in the result.
        Raises  NotImplementedError for a server's collection, StoreBusy, DiskFull
        Cost    everything is read twice; writers wait while the index is made
        """
        return self._engine.repair(self.id, check=check)

    def compact(self) -> None:
        """Give back the disk and memory of deleted and replaced records. Queries go on meanwhile, writers wait."""
        self._engine.compact(self.id)

    def _note(self, name: str) -> bytes | None:
        """What a job has kept under this name; None for nothing. A fork has the notes of its source, as it has its records.

        Raises NotImplementedError for a server's collection.
        """
        with self._engine.table(self.id) as table:
            return table.note(name)

    def _commit_job(
        self,
        ids: list[str],
        vectors: Vectors | None,
        documents: Sequence[str | None] | None,
        metadatas: Sequence[Mapping[str, Any] | None] | None,
        uris: Sequence[str | None] | None,
        *,
        mode: Mode,
        note: Note | None,
        resident: Sequence[DeviceBlock] = (),
        rebuilt: int | None = None,
    ) -> None:
        """What a job has embedded by itself, checked as ``add``, ``update`` and ``upsert`` check theirs, and how far it is, in one moment.

        ids      may be empty: then there is only the note
        note     see ``records.Note``
        resident  what devices have of the vectors
        rebuilt  ``Entry.rebuilt`` of when the job began; None: as this object knows it
        Raises   NoteChanged if another job was there, StoreBusy if the collection was embedded anew meanwhile, and what ``add`` raises;
                 nothing was written then
        """
        columns: list[Any] = [None if each is None else list(each) for each in (metadatas, documents, uris)]
        with validate.within(str(mode)):
            given = validate.Given(ids, None, None, None, None, None)
            if ids:
                metadata, texts, places = columns
                given = validate.records(ids, vectors, metadata, texts, None, places, merging=mode is not Mode.ADD)
            filled = sparse.filled(self._sparse_keys(), given.metadatas, given.documents)
        batch = RecordBatch(given.ids, given.vectors, given.documents, filled, given.uris, resident, note)
        known = self._entry.rebuilt if rebuilt is None else rebuilt
        try:
            with self._explained(given=True):
                self._engine.write(self.id, batch, mode, rebuilt=known)
        except Rebuilt as error:
            raise StoreBusy(
                f"Collection [{self.name}] was embedded anew with another function while this job was at work.",
                hint="Nothing of this batch was written. Get the collection again, and run the job again: it embeds with that function.",
            ) from error

    def _write(self, given: validate.Given, embeddable: tuple[str, ...], mode: Mode, progress: Progress) -> None:
        with validate.within(str(mode)):
            metadatas = sparse.filled(self._sparse_keys(), given.metadatas, given.documents)

        def write(rebuilt: int) -> None:
            with validate.within(str(mode)):
                own = embeddable and given.vectors is None
                kept = Kept(on) if own and (on := self._engine.devices) else None
                vectors = self._vectors(given, embeddable, progress, kept) if embeddable else given.vectors
            resident = () if kept is None else kept.blocks
            batch = RecordBatch(given.ids, vectors, given.documents, metadatas, given.uris, resident)
            with self._explained(vectors is given.vectors):
                self._engine.write(self.id, batch, mode, rebuilt=None if vectors is given.vectors else rebuilt)

        self._current(write)
