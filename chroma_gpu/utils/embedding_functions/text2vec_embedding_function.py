"""Chroma's name of this module; what is in it lives in ``chroma_gpu.embed.local``."""

from __future__ import annotations

from chroma_gpu.embed.local import Text2VecEmbeddingFunction

__all__ = ["Text2VecEmbeddingFunction"]
