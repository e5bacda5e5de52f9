"""SharedSystemClient, under the module name that Chroma gives it."""

from __future__ import annotations

from chroma_gpu.api.shared import SharedSystemClient

__all__ = ["SharedSystemClient"]
