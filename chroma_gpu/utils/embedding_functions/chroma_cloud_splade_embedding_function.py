"""Chroma's name of this module; what is in it lives in ``chroma_gpu.embed.services.chroma_cloud``."""

from __future__ import annotations

from chroma_gpu.embed.services.chroma_cloud import ChromaCloudSpladeEmbeddingFunction, ChromaCloudSpladeEmbeddingModel

__all__ = ["ChromaCloudSpladeEmbeddingFunction", "ChromaCloudSpladeEmbeddingModel"]
