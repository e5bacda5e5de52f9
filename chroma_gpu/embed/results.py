"""What an embedding function returned, brought to one form and checked, with Chroma's messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from chroma_gpu.errors import MissingDependency

Embeddings: TypeAlias = list[npt.NDArray[Any]]
"""One array per input."""

_NUMERIC: Final = frozenset(np.dtype(name) for name in ("float16", "float32", "float64", "int32", "int64"))


def normalize_embeddings(target: Any) -> Embeddings:
    """A list of numbers, a list of lists, an array of one or two dimensions or a list of arrays -> a list of arrays.

    Lists become float32; arrays keep their type, as in Chroma.
    Raises ValueError for anything else, and for nothing.
    """
    if target is None or (hasattr(target, "__len__") and len(target) == 0):
        raise ValueError(f"Expected Embeddings to be non-empty list or numpy array, got {target}")
    if isinstance(target, np.ndarray) and target.ndim == 1:
        return [target]
    if isinstance(target, np.ndarray) and target.ndim == 2:
        return list(target)
    if isinstance(target, list):
        first = target[0]
        if _is_number(first):
            return [np.array(target, np.float32)]
        if isinstance(first, np.ndarray):
            return target
        if isinstance(first, list) and first and _is_number(first[0]):
            return [np.array(row, np.float32) for row in target]
    raise ValueError(
        "Expected embeddings to be a list of floats or ints, a list of lists, a numpy array, or a list of numpy arrays, "
        f"got {target}"
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def validate_embeddings(embeddings: Any) -> Embeddings:
    """The embeddings themselves.  Raises ValueError unless they are a non-empty list of non-empty arrays of ints or floats."""
    if not isinstance(embeddings, list | np.ndarray):
        raise ValueError(f"Expected embeddings to be a list, got {type(embeddings).__name__}")
    if len(embeddings) == 0:
        raise ValueError(f"Expected embeddings to be a list with at least one item, got {len(embeddings)} embeddings")
    if not all(isinstance(embedding, np.ndarray) for embedding in embeddings):
        raise ValueError(
            "Expected each embedding in the embeddings to be a numpy array, got "
            f"{sorted({type(embedding).__name__ for embedding in embeddings})}"
        )
    for position, embedding in enumerate(embeddings):
        if embedding.ndim == 0:
            raise ValueError(f"Expected a 1-dimensional array, got a 0-dimensional array {embedding}")
        if embedding.size == 0:
            raise ValueError(
                "Expected each embedding in the embeddings to be a 1-dimensional numpy array with at least 1 int/float value. "
                f"Got a 1-dimensional numpy array with no values at pos {position}"
            )
        if embedding.dtype not in _NUMERIC:
            raise ValueError(
                "Expected each value in the embedding to be a int or float, got an embedding with "
                f"{embedding.dtype} - {embedding}"
            )
    return embeddings  # type: ignore[return-value]


def retried(call: Callable[[Any], Any], given: Any, arguments: Mapping[str, Any]) -> Any:
    """``call(given)`` under ``tenacity.retry(**arguments)``.  Raises MissingDependency without the package tenacity."""
    try:
        from tenacity import retry
    except ImportError as error:
        raise MissingDependency("embed_with_retries needs the package tenacity.", hint="pip install tenacity") from error
    return retry(**arguments)(call)(given)
