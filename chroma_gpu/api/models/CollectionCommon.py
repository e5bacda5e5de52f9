"""CollectionCommon: what a collection is, and how what callers give becomes vectors."""

from __future__ import annotations

import html
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any, TypeVar, cast
from uuid import UUID

from chroma_gpu.api import collection_configuration, mismatch, validate
from chroma_gpu.api.backend import Backend
from chroma_gpu.api.collection_model import Collection as CollectionModel
from chroma_gpu.api.schema import sparse
from chroma_gpu.api.schema.reconcile import schema_function
from chroma_gpu.api.schema.sparse import SparseKey
from chroma_gpu.api.search import answer
from chroma_gpu.api.search.plan import Search
from chroma_gpu.api.types import (
    CollectionMetadata,
    DataLoader,
    DefaultEmbeddingFunction,
    EmbeddingFunction,
    Include,
    Loadable,
    Schema,
)
from chroma_gpu.embed import SparseEmbeddingFunction, embed_texts, validate_embedding_function
from chroma_gpu.embed.progress import Progress
from chroma_gpu.embed.sparse import validate_sparse_vectors
from chroma_gpu.embed.stream.kept import Kept
from chroma_gpu.embed.texts import BATCH
from chroma_gpu.engine.catalog import Entry
from chroma_gpu.engine.rebuild import Rebuilt
from chroma_gpu.records import Metric, SparseVector, Vectors

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


def validation_context(name: str) -> Callable[[F], F]:
    """A decorator: whatever the method raises says in which call that was."""

    def decorator(method: F) -> F:
        @wraps(method)
        def named(*args: Any, **kwargs: Any) -> Any:
            with validate.within(name, (Exception,)):
                return method(*args, **kwargs)

        return cast(F, named)

    return decorator


class CollectionCommon:
    """The identity of a collection, its configuration, its embedding function and its data loader."""

    def __init__(
        self,
        client: Backend,
        model: Entry | CollectionModel,
        embedding_function: EmbeddingFunction[Any] | None = None,
        data_loader: DataLoader[Loadable] | None = None,
    ) -> None:
        if embedding_function is not None:
            validate_embedding_function(embedding_function)
        self._engine = client
        self._shown: tuple[Entry, CollectionModel] | None = None
        self._sparse: tuple[Entry, dict[str, SparseKey]] | None = None
        if isinstance(model, Entry):
            self._entry = model
        else:
            self._model = model
        self._embedding_function = embedding_function
        self._stored_function: tuple[Any, EmbeddingFunction[Any]] | None = None
        self._data_loader = data_loader
        self._successors: list[tuple[EmbeddingFunction[Any], Any]] = []
        """What each running ``reembed`` of this object embeds with, and how it is stored; all but the first will end with StoreBusy."""

    @property
    def _client(self) -> Backend:
        """Chroma's name for what a collection stands on; programs ask it for ``get_max_batch_size``."""
        return self._engine

    @property
    def id(self) -> UUID:
        """The collection's identity, which a rename does not change."""
        return self._model.id

    @property
    def name(self) -> str:
        """The name it had when this object was made or last modified it."""
        return self._model.name

    @property
    def metadata(self) -> CollectionMetadata | None:
        """The collection's own metadata."""
        return self._model.metadata

    @property
    def tenant(self) -> str:
        """The tenant it belongs to."""
        return self._model.tenant

    @property
    def database(self) -> str:
        """The database it belongs to."""
        return self._model.database

    @property
    def configuration(self) -> collection_configuration.CollectionConfiguration:
        """Index settings and the embedding function. Raises ValueError if that function is unknown to this process."""
        return collection_configuration.loaded(self.configuration_json)

    @property
    def configuration_json(self) -> dict[str, Any]:
        """The configuration as it is stored."""
        return self._model.configuration_json

    @property
    def schema(self) -> Schema:
        """Which indexes there are, by metadata key; keys that records have by now are among them.

        Warns of an embedding function that is unknown to this process. Raises NotFoundError.
        Cost  that of a filter: reads the metadata that was written since the last one
        """
        return Schema.deserialize_from_json(self.get_model().serialized_schema or {})

    def get_model(self) -> CollectionModel:
        """What the collection is now, as plain values: its schema in full, its dimension and version. Raises NotFoundError."""
        return self._engine.described(self._entry)

    @property
    def _model(self) -> CollectionModel:
        """What the collection was when this object was made or last modified it."""
        if self._shown is None or self._shown[0] is not self._entry:
            entry = self._entry
            configuration = collection_configuration.shown(entry.configuration)
            shown = CollectionModel(
                entry.id, entry.name, configuration, entry.schema, entry.metadata, None, entry.tenant, entry.database
            )
            self._shown = entry, shown
        return self._shown[1]

    @_model.setter
    def _model(self, model: CollectionModel) -> None:
        stored = model.configuration_json
        self._entry = Entry(
            id=model.id,
            tenant=model.tenant,
            database=model.database,
            name=model.name,
            folder="",
            created=0,
            metric=Metric((stored.get("hnsw") or stored.get("spann") or {}).get("space", Metric.L2)),
            metadata=model.metadata,
            configuration=stored,
            schema=model.serialized_schema,
        )
        self._shown = self._entry, model

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

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, CollectionCommon)
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

    def _vectors(
        self, given: validate.Given, embeddable: tuple[str, ...], progress: Progress = None, kept: Kept | None = None
    ) -> Vectors:
        """The given vectors, else those of the one column that can be embedded; ``kept`` as in ``embed_texts``."""
        if given.vectors is not None:
            return given.vectors
        named = {"documents": given.documents, "images": given.images, "uris": given.uris}
        name = validate.exactly_one(named, embeddable)
        inputs: Any = named[name]
        return self._embed(self._load(inputs) if name == "uris" else inputs, progress=progress, kept=kept)

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

    def _embed(self, input: Any, is_query: bool = False, progress: Progress = None, kept: Kept | None = None) -> Vectors:
        batch = BATCH if progress else None
        # Chroma's own tests embed through collections of clients that are none.
        memory = None if is_query else getattr(self._engine, "memory", None)
        return embed_texts(self._function(), input, query=is_query, progress=progress, batch=batch, kept=kept, memory=memory)

    def _sparse_keys(self) -> dict[str, SparseKey]:
        """The metadata keys with a sparse index. Their embedding functions are made once."""
        if self._sparse is None or self._sparse[0] is not self._entry:
            self._sparse = self._entry, sparse.sparse_keys(self._entry.schema)
        return self._sparse[1]

    def _sparse_function(self, key: str) -> SparseEmbeddingFunction[Any] | None:
        """What embeds the texts that are searched for under a metadata key."""
        return self._sparse_keys()[key].function if key in self._sparse_keys() else None

    def _sparse_settings(self, key: str) -> tuple[bool, bool]:
        """Of a metadata key: whether it has a sparse index, and whether that weighs as BM25 does."""
        found = self._sparse_keys().get(key)
        return found is not None, found is not None and found.bm25

    def _embed_search_string_queries(self, search: Search) -> Search:
        """The same search with a vector in place of every text."""
        return answer.embedded(search, self._embed_search_text)

    def _embed_search_text(self, text: str, key: str) -> list[float] | SparseVector:
        validate.check_documents([text], nullable=False)
        if key == "#embedding":
            return cast(list[float], self._embed([text], is_query=True)[0].tolist())
        function = self._sparse_function(key)
        if function is None:
            raise ValueError(
                f"Cannot embed string query for key '{key}': no embedding function configured for this key in the schema. "
                "Please provide an embedded vector or configure an embedding function."
            )
        vectors = validate_sparse_vectors(function.embed_query(input=[text]))
        if len(vectors) != 1:
            raise ValueError("Sparse embedding function returned unexpected number of embeddings")
        return vectors[0]

    def _explained(self, given: bool) -> AbstractContextManager[None]:
        """Where vectors of another dimension come from is said. ``given``: by the caller, not by an embedding function."""
        stored = self._entry.configuration.get("embedding_function")
        return mismatch.explained(self.name, stored, None if given else self._function())

    def _function(self) -> EmbeddingFunction[Any]:
        """Which function embeds: the one given to this object, else the stored one, else the schema's, else the default."""
        given = self._embedding_function
        if given is not None and not isinstance(given, DefaultEmbeddingFunction):
            return given
        source, known = (self.configuration_json, self._entry.schema), self._stored_function
        if known is None or known[0] != source:
            stored = self.configuration["embedding_function"] or schema_function(self._entry.schema)
            known = self._stored_function = source, stored or given or DefaultEmbeddingFunction()
        return known[1]

    def _current(self, work: Callable[[int], T]) -> T:
        """Run ``work``, which embeds and then reads or writes; again if the collection was given other vectors by ``reembed``.

        ``work`` is given a number that it hands on to the engine, which raises Rebuilt if it is not that of the collection.
        """
        while True:
            rebuilt = self._entry.rebuilt
            try:
                return work(rebuilt)
            except Rebuilt:
                self._catch_up()

    def _catch_up(self) -> None:
        """Go on with the collection as it was embedded anew. Raises ValueError if this object was given another function than that."""
        entry, given = self._engine.entry(self.id), self._embedding_function
        stored = entry.configuration.get("embedding_function")
        successor = next((function for function, known in list(self._successors) if known == stored), None)
        if successor is not None:
            self._embedding_function = successor
        elif given is not None:
            collection_configuration.check_same_function(given, stored)
            self._embedding_function = DefaultEmbeddingFunction()
        # Last: who reads the new number may rely on the new function.
        self._entry = entry

    def _load(self, uris: list[str]) -> Any:
        if self._data_loader is None:
            raise ValueError("You must set a data loader on the collection if loading from URIs.")
        return self._data_loader(uris=uris)

    def _check_loader(self, include: Include) -> None:
        if "data" in include and self._data_loader is None:
            raise ValueError("You must set a data loader on the collection if loading from URIs.")
