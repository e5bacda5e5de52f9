"""How clients say who they are to a server, under Chroma's names."""

from __future__ import annotations

from chroma_gpu.api.remote.credentials import ClientAuthHeaders, ClientAuthProvider
from chroma_gpu.api.types import UserIdentity

__all__ = ["ClientAuthHeaders", "ClientAuthProvider", "UserIdentity"]
