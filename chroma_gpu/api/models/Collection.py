"""Collection: what users add to and query."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import numpy as np

from chroma_gpu.api import collection_configuration, names, results, validate, where
from chroma_gpu.api.types import (
    CollectionMetadata,
    DataLoader,
    DefaultEmbeddingFunction,
    DeleteResult,
    EmbeddingFunction,
    GetResult,
    Include,
    QueryResult,
    Where,
    WhereDocument,
)
from chroma_gpu.embed import embed_texts, validate_embedding_function
from chroma_gpu.engine.catalog import Entry
from chroma_gpu.engine.engine import Engine
from chroma_gpu.filter.expr import And, Expr
from chroma_gpu.records import Mode, RecordBatch, Vectors


class Collection:
    """The records of one name: ids with vectors, documents, metadata and uris.

    Safe to share between threads. Every call sees what other clients, threads and processes have committed.
    """

    def __init__(
        self,
        engine: Engine,
        entry: Entry,
        embedding_function: EmbeddingFunction[Any] | None = None,
        data_loader: DataLoader | None = None,
    ) -> None:
        if embedding_function is not None:
            validate_embedding_function(embedding_function)
        self._engine = engine
        self._entry = entry
        self._embedding_function = embedding_function
        self._stored_function: EmbeddingFunction[Any] | None = None
        self._data_loader = data_loader

    @property
    def id(self) -> UUID:
        """The collection's identity, which a rename does not change."""
        return self._entry.id

    @property
    def name(self) -> str:
        """The name it had when this object was made or last modified it."""
        return self._entry.name

    @property
    def metadata(self) -> CollectionMetadata | None:
        """The collection's own metadata."""
        return self._entry.metadata

    @property
    def tenant(self) -> str:
        """The tenant it belongs to."""
        return self._entry.tenant

    @property
    def database(self) -> str:
        """The database it belongs to."""
        return self._entry.database

    @property
    def configuration(self) -> collection_configuration.CollectionConfiguration:
        """Index settings and the embedding function. Raises ValueError if that function is unknown to this process."""
        return collection_configuration.loaded(self._entry.configuration)

    @property
    def configuration_json(self) -> dict[str, Any]:
        """The configuration as it is stored."""
        return self._entry.configuration

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

    def describe(self) -> dict[str, Any]:
        """Facts for people: name, records, dead rows, dimension, distance, embedding function, rows in each open index."""
        function = self.configuration_json.get("embedding_function") or {}
        with self._engine.table(self.id) as table:
            _, dead = table.occupancy()
            return {
                "name": self.name,
                "records": table.count(),
                "dead": dead,
                "dimension": table.dim(),
                "distance": str(self._entry.metric),
                "embedding_function": function.get("name"),
                "indexed": table.indexed(),
            }

    def wait_indexed(self) -> None:
        """Return when every committed record is in every index. Queries find all records before that too, only slower.

        Raises what building an index raised.
        """
        with self._engine.table(self.id) as table:
            table.wait_indexed()

    def compact(self) -> None:
        """Give back the disk and memory of deleted and replaced records. Queries go on meanwhile, writers wait."""
        self._engine.compact(self.id)

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Collection)
            and self._entry == other._entry
            and self._embedding_function == other._embedding_function
            and self._data_loader == other._data_loader
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Collection(name={self.name})"

    def _repr_html_(self) -> str:
        """A small table for notebooks."""
        facts = {**self.describe(), "metadata": self.metadata}
        del facts["name"]
        rows = "".join(
            f"<tr><th>{key.replace('_', ' ')}</th><td>{html.escape(str(value))}</td></tr>" for key, value in facts.items()
        )
        return f"<table><caption>Collection {html.escape(self.name)}</caption>{rows}</table>"

    def _write(self, given: validate.Given, vectors: Vectors | None, mode: Mode) -> None:
        batch = RecordBatch(given.ids, vectors, given.documents, given.metadatas, given.uris)
        self._engine.write(self.id, batch, mode)

    def _vectors(self, given: validate.Given, embeddable: tuple[str, ...]) -> Vectors:
        """The given vectors, else those of the one column that can be embedded."""
        if given.vectors is not None:
            return given.vectors
        named = {"documents": given.documents, "images": given.images, "uris": given.uris}
        name = validate.exactly_one(named, embeddable)
        inputs: Any = named[name]
        return self._embed(self._load(inputs) if name == "uris" else inputs, query=False)

    def _queries(self, embeddings: Any, texts: Any, images: Any, uris: Any) -> Any:
        """Query vectors [q, dim], or what has to be embedded to get them. Embeddings win over anything else, as in Chroma."""
        given = {
            "embeddings": validate.as_arrays(embeddings),
            "documents": validate.as_list(texts),
            "images": validate.as_list(images),
            "uris": validate.as_list(uris),
        }
        if all(column is None for column in given.values()):
            raise ValueError(f"At least one of one of {', '.join(given)} must be provided")
        empty = [name for name, column in given.items() if column is not None and len(column) == 0]
        if empty:
            raise ValueError(f"Non-empty lists are required for {empty}")
        if given["documents"] is not None:
            validate.check_documents(given["documents"], nullable=given["embeddings"] is not None)
        if given["embeddings"] is not None:
            return validate.as_vectors(given["embeddings"])
        name = validate.exactly_one(given, ("documents", "images", "uris"))
        return self._load(given["uris"]) if name == "uris" else given[name]

    def _embed(self, inputs: Any, *, query: bool) -> Vectors:
        return embed_texts(self._function(), inputs, query=query)

    def _function(self) -> EmbeddingFunction[Any]:
        """Which function embeds: the one given to this object, else the stored one, else the default."""
        given = self._embedding_function
        if given is not None and not isinstance(given, DefaultEmbeddingFunction):
            return given
        if self._stored_function is None:
            stored = self._entry.configuration.get("embedding_function")
            self._stored_function = collection_configuration.loaded_function(stored) or given or DefaultEmbeddingFunction()
        return self._stored_function

    def _load(self, uris: list[str]) -> Any:
        if self._data_loader is None:
            raise ValueError("You must set a data loader on the collection if loading from URIs.")
        return self._data_loader(uris=uris)

    def _check_loader(self, include: Include) -> None:
        if "data" in include and self._data_loader is None:
            raise ValueError("You must set a data loader on the collection if loading from URIs.")


def _expr(where_filter: Where | None, where_document: WhereDocument | None) -> Expr | None:
    """Both filters as one expression; None if there is none."""
    parts = []
    if where_filter is not None:
        parts.append(where.parse_where(where_filter))
    if where_document is not None:
        parts.append(where.parse_where_document(where_document))
    return None if not parts else parts[0] if len(parts) == 1 else And(tuple(parts))
