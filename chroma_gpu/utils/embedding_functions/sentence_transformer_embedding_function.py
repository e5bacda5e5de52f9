"""Chroma's name of this module; what is in it lives in ``chroma_gpu.embed.local``."""

from __future__ import annotations

from chroma_gpu.embed.local import SentenceTransformerEmbeddingFunction

__all__ = ["SentenceTransformerEmbeddingFunction"]
