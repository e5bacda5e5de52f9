"""Where Chroma's users import things from."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

_MODULES: Final = frozenset(
    ["async_to_sync", "batch_utils", "data_loaders", "distance_functions", "embedding_functions", "results"]
)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
