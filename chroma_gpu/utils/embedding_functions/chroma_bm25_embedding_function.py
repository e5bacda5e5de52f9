"""Chroma's name of this module; what is in it lives in ``chroma_gpu.embed.bm25``."""

from __future__ import annotations

from chroma_gpu.embed.bm25 import (
    DEFAULT_AVG_DOC_LENGTH,
    DEFAULT_B,
    DEFAULT_CHROMA_BM25_STOPWORDS,
    DEFAULT_K,
    DEFAULT_TOKEN_MAX_LENGTH,
    ChromaBm25EmbeddingFunction,
)

__all__ = [
    "DEFAULT_AVG_DOC_LENGTH",
    "DEFAULT_B",
    "DEFAULT_CHROMA_BM25_STOPWORDS",
    "DEFAULT_K",
    "DEFAULT_TOKEN_MAX_LENGTH",
    "ChromaBm25EmbeddingFunction",
]
