"""Chroma's name of this module; what is in it lives in ``chroma_gpu.embed.services.brought``."""

from __future__ import annotations

from chroma_gpu.embed.services.brought import ChromaLangchainEmbeddingFunction, create_langchain_embedding

__all__ = ["ChromaLangchainEmbeddingFunction", "create_langchain_embedding"]
