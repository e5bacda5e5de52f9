"""Chroma's name of this module; what is in it lives in ``chroma_gpu.embed.services.chroma_cloud``."""

from __future__ import annotations

from chroma_gpu.embed.services.chroma_cloud import (
    CHROMA_CLOUD_QWEN_DEFAULT_INSTRUCTIONS,
    ChromaCloudQwenEmbeddingFunction,
    ChromaCloudQwenEmbeddingInstructions,
    ChromaCloudQwenEmbeddingModel,
    ChromaCloudQwenEmbeddingTarget,
)

__all__ = [
    "CHROMA_CLOUD_QWEN_DEFAULT_INSTRUCTIONS",
    "ChromaCloudQwenEmbeddingFunction",
    "ChromaCloudQwenEmbeddingInstructions",
    "ChromaCloudQwenEmbeddingModel",
    "ChromaCloudQwenEmbeddingTarget",
]
