"""The backend for servers, under Chroma's name and path for it."""

from __future__ import annotations

import httpx

from chroma_gpu.api.remote.server import Server as FastAPI

__all__ = ["FastAPI", "httpx"]
