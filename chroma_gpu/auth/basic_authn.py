"""Names with passwords, under Chroma's names."""

from __future__ import annotations

from chroma_gpu.api.remote.credentials import BasicAuthClientProvider

__all__ = ["BasicAuthClientProvider"]
