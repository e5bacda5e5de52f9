"""``Search`` under Chroma's path."""

from __future__ import annotations

from chroma_gpu.api.search.plan import Search

__all__ = ["Search"]
