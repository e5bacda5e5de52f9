"""Which tenant and database a user works in, under Chroma's name."""

from __future__ import annotations

from chroma_gpu.api.identity import maybe_set_tenant_and_database

__all__ = ["maybe_set_tenant_and_database"]
