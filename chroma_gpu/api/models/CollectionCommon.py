"""CollectionCommon: what a collection is, and how what callers give becomes vectors."""

from __future__ import annotations

import html
from typing import Any
from uuid import UUID

from chroma_gpu.api import collection_configuration, validate
from chroma_gpu.api.types import CollectionMetadata, DataLoader, DefaultEmbeddingFunction, EmbeddingFunction, Include
from chroma_gpu.embed import embed_texts, validate_embedding_function
from chroma_gpu.engine.catalog import Entry
from chroma_gpu.engine.engine import Engine
from chroma_gpu.records import Vectors


class CollectionCommon:
    """The identity of a collection, its configuration, its embedding function and its data loader."""

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
