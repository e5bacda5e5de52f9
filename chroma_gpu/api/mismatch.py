"""Saying which two sides do not fit together, and the line of code that helps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from chroma_gpu.errors import DimensionMismatch


@contextmanager
def explained(name: str, stored: Mapping[str, Any] | None, function: Any) -> Iterator[None]:
    """Add to a DimensionMismatch where either side comes from and what to do.

    stored    the collection's embedding function, as its configuration has it
    function  what made the vectors of this call; None if they were given
    """
    try:
        yield
    except DimensionMismatch as error:
        made_with = (stored or {}).get("name") or "vectors that were given, or a function that is not stored"
        came_from = "were given" if function is None else f"are from the embedding function {described(function)}"
        error.hint = (
            f"The collection {name!r} was made with {made_with}; the vectors of this call {came_from}. "
            "To use the same function for both, leave embeddings out and give documents or query_texts; "
            f"to change over, run client.get_collection({name!r}).reembed(embedding_function)."
        )
        error.args = (f"{error.args[0]}. {error.hint}", *error.args[1:])
        raise


def described(function: Any) -> str:
    """An embedding function's stored name, or its class where it has none."""
    try:
        return str(function.name())
    except (AttributeError, NotImplementedError, TypeError):
        return type(function).__name__
