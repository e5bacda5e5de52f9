"""Chroma's name of this module; what is in it lives in ``chroma_gpu.embed.minilm``."""

from __future__ import annotations

from chroma_gpu.embed.minilm import ONNXMiniLM_L6_V2

__all__ = ["ONNXMiniLM_L6_V2"]
