"""Sparse vectors that a schema asks for: made from documents or from texts in metadata, where none are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chroma_gpu.api.schema import serialized
from chroma_gpu.api.schema.index_configs import DOCUMENT_KEY, SparseVectorIndexConfig
from chroma_gpu.api.schema.value_types import SPARSE_VECTOR_VALUE_NAME, slot_of
from chroma_gpu.embed import SparseEmbeddingFunction, validate_sparse_vectors
from chroma_gpu.records import Metadata, SparseVector


@dataclass(frozen=True, slots=True, eq=False)
class SparseKey:
    """A metadata key with a sparse index.

    source  the metadata key whose texts are embedded, or ``#document``; None where nothing is
    bm25    queries are weighed by how rare their terms are
    """

    function: SparseEmbeddingFunction[Any] | None
    source: str | None
    bm25: bool


def sparse_keys(schema: Mapping[str, Any] | None) -> dict[str, SparseKey]:
    """The metadata keys that a schema gives a sparse index, out of its JSON. Warns of an embedding function that is not known here."""
    found = {}
    for key, types in (schema or {}).get("keys", {}).items():
        index = types.get(SPARSE_VECTOR_VALUE_NAME, {}).get("sparse_vector_index", {})
        if index.get("enabled"):
            read = serialized.read({SPARSE_VECTOR_VALUE_NAME: types[SPARSE_VECTOR_VALUE_NAME]})
            config = slot_of(SparseVectorIndexConfig()).get(read).config
            found[key] = SparseKey(config.embedding_function, config.source_key, bool(config.bm25))
    return found


def filled(
    keys: Mapping[str, SparseKey], metadatas: Sequence[Metadata | None] | None, documents: Sequence[str | None] | None
) -> Sequence[Metadata | None] | None:
    """The metadata of a batch with a sparse vector under each key whose record has a text to make it from, and none yet.

    Raises  ValueError if a function gives another number of vectors than it was given texts
    Cost    one call of each function
    """
    keys = {key: each for key, each in keys.items() if each.function is not None and each.source is not None}
    if not keys or (metadatas is None and documents is None):
        return metadatas
    n = len(metadatas if metadatas is not None else documents or ())
    result = [dict(each or {}) for each in (metadatas if metadatas is not None else [None] * n)]
    for key, each in keys.items():
        texts = documents or () if each.source == DOCUMENT_KEY else [record.get(str(each.source)) for record in result]
        places = [place for place, text in enumerate(texts) if isinstance(text, str) and key not in result[place]]
        if not places:
            continue
        for place, vector in zip(places, _vectors(each.function, [texts[place] for place in places]), strict=True):
            result[place][key] = vector
    return [record or None for record in result]


def _vectors(function: Any, texts: list[Any]) -> list[SparseVector]:
    vectors = validate_sparse_vectors(function(input=texts))
    if len(vectors) != len(texts):
        raise ValueError(
            f"Sparse embedding function returned unexpected number of embeddings: {len(vectors)} for {len(texts)} texts."
        )
    return vectors
