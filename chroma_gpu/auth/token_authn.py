"""Tokens, under Chroma's names."""

from __future__ import annotations

from chroma_gpu.api.remote.credentials import TokenAuthClientProvider, TokenTransportHeader

__all__ = ["TokenAuthClientProvider", "TokenTransportHeader"]
