"""Reembed: what another embedding function changes in a collection, and the vectors it makes of records."""

from __future__ import annotations

import hashlib
import json
import uuid
from typing import Any

import numpy as np

from chroma_gpu.api import collection_configuration
from chroma_gpu.api.types import DataLoader, EmbeddingFunction, Loadable
from chroma_gpu.embed import embed_texts
from chroma_gpu.embed.memory.protocol import Memory
from chroma_gpu.engine.catalog import Entry
from chroma_gpu.errors import InvalidArgumentError
from chroma_gpu.records import RecordBatch, Vectors


class Reembedding:
    """Makes the vectors of records: of their documents, and of what their uris point to where there is no document.

    loader  loads what uris point to; without one every record needs a document
    memory  of vectors of texts that were embedded before
    stored  the function as the configuration keeps it
    """

    def __init__(
        self, function: EmbeddingFunction[Any], loader: DataLoader[Loadable] | None, memory: Memory | None = None
    ) -> None:
        self.stored = collection_configuration.stored_function(function)
        self._function = function
        self._loader = loader
        self._memory = memory

    def key(self) -> str:
        """What is equal for two calls if the vectors of one can be used by the other.

        A function that cannot be written down is like no other: what it leaves unfinished is begun anew.
        """
        if self.stored is None or self.stored["type"] != "known":
            return uuid.uuid4().hex
        return hashlib.sha256(json.dumps(self.stored, sort_keys=True).encode()).hexdigest()

    def changes(self, entry: Entry) -> dict[str, Any]:
        """What changes in a collection's entry: the function, and the distance if the function does not support it."""
        stored = entry.configuration
        kind = "hnsw" if stored.get("hnsw") is not None else "spann"
        index = dict(stored[kind])
        if self.stored is not None and self.stored["type"] == "known" and index["space"] not in self._function.supported_spaces():
            index["space"] = self._function.default_space()
        new = {**stored, kind: index, "embedding_function": self.stored}
        return {"configuration": new, "metric": collection_configuration.metric(new)}

    def check(self, missing: int, total: int) -> None:
        """Raises InvalidArgumentError if some records have nothing to be embedded."""
        if missing:
            needed = "a document" if self._loader is None else "a document or a uri"
            raise InvalidArgumentError(
                f"{missing:,} of {total:,} records do not have {needed}, so they cannot be embedded.",
                hint="Update them with documents, or delete them, then call again.",
            )

    def __call__(self, batch: RecordBatch) -> Vectors:
        documents, uris = batch.documents or (), batch.uris or ()
        texts = [at for at, document in enumerate(documents) if document is not None]
        loaded = [at for at, uri in enumerate(uris) if documents[at] is None and uri is not None and self._loader is not None]
        self.check(len(batch) - len(texts) - len(loaded), len(batch))
        parts = []
        if texts:
            parts.append(embed_texts(self._function, [documents[at] for at in texts], progress=False, memory=self._memory))
        if loaded and self._loader is not None:
            parts.append(embed_texts(self._function, self._loader(uris=[str(uris[at]) for at in loaded]), progress=False))
        made = np.concatenate(parts)
        vectors = np.empty_like(made)
        vectors[[*texts, *loaded]] = made
        return vectors
