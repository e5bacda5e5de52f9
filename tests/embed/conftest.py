"""Fixtures of the tests of embedding services."""

from __future__ import annotations

import contextlib
import sys
import types

import pytest
from embed.services import KEY, Service

from chroma_gpu.embed.services import google, remote


@pytest.fixture
def play(monkeypatch):
    """Starts a service with the given answers, and leads every request to it."""
    with contextlib.ExitStack() as stack:

        def start(answers):
            service = Service(answers)
            stack.callback(service.close)
            monkeypatch.setattr(remote, "shared_client", lambda process: service.client)
            return service

        yield start


@pytest.fixture
def waits(monkeypatch):
    """The waits between attempts, which take no time."""
    seen = []

    def pause(stop, seconds):
        seen.append(seconds)
        return stop.is_set()

    monkeypatch.setattr(remote, "pause", pause)
    return seen


@pytest.fixture
def keys(monkeypatch):
    """A key in MY_KEY, and none where services usually have theirs."""
    for name in ("OPENAI", "COHERE", "HUGGINGFACE", "GOOGLE", "JINA", "VOYAGE", "CLOUDFLARE", "TOGETHER", "BASETEN", "ROBOFLOW"):
        monkeypatch.delenv(f"{name}_API_KEY", raising=False)
    monkeypatch.delenv("CHROMA_EMBED_URL", raising=False)
    monkeypatch.setenv("MY_KEY", KEY)


@pytest.fixture
def google_credentials(monkeypatch):
    """The package google-auth, with a token."""
    held = types.SimpleNamespace(valid=False, token=None, renewed=0)

    def refresh(request):
        held.renewed += 1
        held.valid, held.token = True, f"token-{held.renewed}"

    held.refresh = refresh
    auth = types.ModuleType("google.auth")
    auth.default = lambda scopes: (held, "project")
    requests = types.ModuleType("google.auth.transport.requests")
    requests.Request = object
    package = types.ModuleType("google")
    package.auth = auth
    for name, module in {
        "google": package,
        "google.auth": auth,
        "google.auth.transport": types.ModuleType("google.auth.transport"),
        "google.auth.transport.requests": requests,
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(google, "_CREDENTIALS", [])
    return held
