"""Chroma's name of this module; what is in it lives in ``chroma_gpu.embed.services.hosted``."""

from __future__ import annotations

from chroma_gpu.embed.services.hosted import JinaEmbeddingFunction, JinaQueryConfig

__all__ = ["JinaEmbeddingFunction", "JinaQueryConfig"]
