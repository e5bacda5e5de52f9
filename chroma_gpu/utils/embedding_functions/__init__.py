"""The embedding functions that users import, under Chroma's names. They live in ``chroma_gpu.embed``; nothing heavy is loaded here."""

from __future__ import annotations

from chroma_gpu.embed import (
    EmbeddingFunction,
    config_to_embedding_function,
    known_embedding_functions,
    register_embedding_function,
)
from chroma_gpu.embed.hashing import HashingEmbeddingFunction
from chroma_gpu.embed.local import (
    DefaultEmbeddingFunction,
    InstructorEmbeddingFunction,
    SentenceTransformerEmbeddingFunction,
    StaticEmbeddingFunction,
)

__all__ = [
    "DefaultEmbeddingFunction",
    "EmbeddingFunction",
    "HashingEmbeddingFunction",
    "InstructorEmbeddingFunction",
    "SentenceTransformerEmbeddingFunction",
    "StaticEmbeddingFunction",
    "config_to_embedding_function",
    "known_embedding_functions",
    "register_embedding_function",
]
