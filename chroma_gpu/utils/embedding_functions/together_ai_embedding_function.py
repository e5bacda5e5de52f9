"""Chroma's name of this module; what is in it lives in ``chroma_gpu.embed.services.openai_like``."""

from __future__ import annotations

from chroma_gpu.embed.services.openai_like import TogetherAIEmbeddingFunction

__all__ = ["TogetherAIEmbeddingFunction"]
