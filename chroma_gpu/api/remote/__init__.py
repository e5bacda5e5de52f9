"""A Chroma server as a backend: its REST API, version 2, behind the calls that clients and collections make on the engine."""

from __future__ import annotations

from chroma_gpu.api.remote.server import Server

__all__ = ["Server"]
