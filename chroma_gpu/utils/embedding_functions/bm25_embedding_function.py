"""Chroma's name of this module; what is in it lives in ``chroma_gpu.embed.sparse_models``."""

from __future__ import annotations

from chroma_gpu.embed.sparse_models import Bm25EmbeddingFunction

__all__ = ["Bm25EmbeddingFunction"]
