"""Collection: what users add to and query."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from chroma_gpu.api import collection_configuration, names, results, validate, where
from chroma_gpu.api.models.CollectionCommon import CollectionCommon
from chroma_gpu.api.types import (
    CollectionMetadata,
    DeleteResult,
    GetResult,
    Include,
    QueryResult,
    Where,
    WhereDocument,
)
from chroma_gpu.filter.expr import And, Expr
from chroma_gpu.records import Mode, RecordBatch, Vectors


class Collection(CollectionCommon):
    """The records of one name: ids with vectors, documents, metadata and uris.

    Safe to share between threads. Every call sees what other clients, threads and processes have committed.
    """

    def add(
        self,
        ids: Any,
        embeddings: Any = None,
        metadatas: Any = None,
        documents: Any = None,
        images: Any = None,
        uris: Any = None,
    ) -> None:
        """Add records; ids that exist already are skipped. There is no limit to their number.

        embeddings  one vector or many: lists, arrays or tensors of any device; without them, the documents, images or what the
                    uris point to are embedded
        Durable when it returns: all records are there, or, after an error or a crash, none.
        """
        with validate.within("add"):
            given = validate.records(ids, embeddings, metadatas, documents, images, uris, merging=False)
            vectors = self._vectors(given, ("documents", "images", "uris"))
        self._write(given, vectors, Mode.ADD)

    def update(
        self,
        ids: Any,
        embeddings: Any = None,
        metadatas: Any = None,
        documents: Any = None,
        images: Any = None,
        uris: Any = None,
    ) -> None:
        """Change records; unknown ids are skipped.

        Metadata is merged key by key and a value of None deletes its key. Documents that are given without embeddings are embedded.
        """
        with validate.within("update"):
            given = validate.records(ids, embeddings, metadatas, documents, images, uris, merging=True)
            embeddable = given.documents is not None or given.images is not None
            vectors = self._vectors(given, ("documents", "images")) if embeddable else given.vectors
        self._write(given, vectors, Mode.UPDATE)

    def upsert(
        self,
        ids: Any,
        embeddings: Any = None,
        metadatas: Any = None,
        documents: Any = None,
        images: Any = None,
        uris: Any = None,
    ) -> None:
        """Add the records whose ids are new and update the others, as ``add`` and ``update`` do."""
        with validate.within("upsert"):
            given = validate.records(ids, embeddings, metadatas, documents, images, uris, merging=True)
            vectors = self._vectors(given, ("documents", "images"))
        self._write(given, vectors, Mode.UPSERT)

    def get(
        self,
        ids: Any = None,
        where: Where | None = None,
        limit: int | None = None,
        offset: int | None = None,
        where_document: WhereDocument | None = None,
        include: Include = ["metadatas", "documents"],  # noqa: B006  Chroma's default; never changed here
    ) -> GetResult:
        """Records by ids, by filters, or all, in insertion order."""
        with validate.within("get"):
            wanted = validate.as_list(ids)
            if wanted is not None:
                validate.check_ids(wanted)
            expr = _expr(where, where_document)
            validate.check_include(include, refused=("distances",))
            self._check_loader(include)
        limit, offset = validate.check_page("limit", limit), validate.check_page("offset", offset)
        with self._engine.table(self.id) as table:
            records = table.fetch(expr, results.columns(include), ids=wanted, limit=limit, offset=offset or 0)
        return results.get_result(records, include, self._data_loader)

    def peek(self, limit: int = 10) -> GetResult:
        """The first records, with their embeddings."""
        return self.get(limit=limit, include=["metadatas", "documents", "embeddings"])

    def query(
        self,
        query_embeddings: Any = None,
        query_texts: Any = None,
        query_images: Any = None,
        query_uris: Any = None,
        ids: Any = None,
        n_results: int = 10,
        where: Where | None = None,
        where_document: WhereDocument | None = None,
        include: Include = ["metadatas", "documents", "distances"],  # noqa: B006  Chroma's default; never changed here
    ) -> QueryResult:
        """The nearest records of each query among those that pass the filters; equal distances in the order of insertion.

        n_results  any number; more than there are gives all of them
        ids        look only among these; unknown ones are left out
        """
        with validate.within("query"):
            queries = self._queries(query_embeddings, query_texts, query_images, query_uris)
            wanted = validate.as_list(ids)
            expr = _expr(where, where_document)
            validate.check_include(include)
            validate.check_n_results(n_results)
            self._check_loader(include)
            vectors = queries if isinstance(queries, np.ndarray) else self._embed(queries, query=True)
        with self._engine.table(self.id) as table:
            found = table.search(vectors, n_results, expr, results.columns(include), ids=wanted)
        return results.query_result(found, include, self._data_loader)

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
            expr = _expr(where, where_document)
        written = self._engine.delete(self.id, expr, wanted, limit)
        return DeleteResult(deleted=len(wanted) if wanted is not None and expr is None else written.removed)

    def count(self) -> int:
        """How many records there are."""
        with self._engine.table(self.id) as table:
            return table.count()

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
        changed = None if not configuration else collection_configuration.updated(self._entry.configuration, configuration)
        self._engine.entry(self.id)
        self._entry = self._engine.catalog.change(
            self.id,
            name=name,
            metadata=metadata,
            configuration=changed,
            params=None if changed is None else collection_configuration.graph_params(changed),
        )
        self._stored_function = None

    def embed_queries(self, texts: Any) -> Vectors:
        """The vectors [q, dim] that ``query(query_texts=texts)`` would search for."""
        with validate.within("embed_queries"):
            wanted = validate.as_list(texts)
            validate.check_documents(wanted, nullable=False)
            return self._embed(wanted, query=True)

    def wait_indexed(self) -> None:
        """Return when every committed record is in every index. Queries find all records before that too, only slower.

        Raises what building an index raised.
        """
        with self._engine.table(self.id) as table:
            table.wait_indexed()

    def compact(self) -> None:
        """Give back the disk and memory of deleted and replaced records. Queries go on meanwhile, writers wait."""
        self._engine.compact(self.id)

    def _write(self, given: validate.Given, vectors: Vectors | None, mode: Mode) -> None:
        batch = RecordBatch(given.ids, vectors, given.documents, given.metadatas, given.uris)
        self._engine.write(self.id, batch, mode)


def _expr(where_filter: Where | None, where_document: WhereDocument | None) -> Expr | None:
    """Both filters as one expression; None if there is none."""
    parts = []
    if where_filter is not None:
        parts.append(where.parse_where(where_filter))
    if where_document is not None:
        parts.append(where.parse_where_document(where_document))
    return None if not parts else parts[0] if len(parts) == 1 else And(tuple(parts))
