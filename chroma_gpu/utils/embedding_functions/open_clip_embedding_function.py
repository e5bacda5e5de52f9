"""Chroma's name of this module; what is in it lives in ``chroma_gpu.embed.clip``."""

from __future__ import annotations

from chroma_gpu.embed.clip import OpenCLIPEmbeddingFunction

__all__ = ["OpenCLIPEmbeddingFunction"]
