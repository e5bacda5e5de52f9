"""Texts to sparse vectors: Chroma's protocol of sparse embedding functions, and what they may return."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any, Protocol, TypeAlias, TypeVar, cast, runtime_checkable

from chroma_gpu.embed.results import retried
from chroma_gpu.records import SparseVector

SparseVectors: TypeAlias = list[SparseVector]
"""One sparse vector per input."""

D_contra = TypeVar("D_contra", contravariant=True)


@runtime_checkable
class SparseEmbeddingFunction(Protocol[D_contra]):
    """Chroma's protocol of sparse embedding functions, to be subclassed.

    A subclass writes ``__init__``, ``__call__``, ``name``, ``get_config`` and ``build_from_config``. Its ``__call__`` is wrapped:
    what it returns is checked.

    Raises ValueError, with Chroma's messages, when the result is no non-empty list of SparseVector.
    """

    @abstractmethod
    def __call__(self, input: D_contra) -> SparseVectors:
        """The sparse vectors of the inputs, in their order. The parameter must be called ``input``."""
        ...

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        call: Callable[[Any, Any], Any] | None = cls.__dict__.get("__call__")
        if call is None:
            return

        def checked(self: Any, input: Any) -> SparseVectors:
            return validate_sparse_vectors(call(self, input))

        checked.__name__, checked.__qualname__, checked.__doc__ = "__call__", f"{cls.__qualname__}.__call__", call.__doc__
        cls.__call__ = checked  # type: ignore[method-assign]

    @abstractmethod
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def embed_query(self, input: D_contra) -> SparseVectors:
        """The sparse vectors of search queries; by default the same as of documents."""
        return self.__call__(input)

    def embed_with_retries(self, input: D_contra, **retry_kwargs: Any) -> SparseVectors:
        """``__call__`` under ``tenacity.retry(**retry_kwargs)``.  Raises MissingDependency without the package tenacity."""
        return cast(SparseVectors, retried(self.__call__, input, retry_kwargs))

    @staticmethod
    @abstractmethod
    def name() -> str:
        """The name under which the function is stored."""
        ...

    @abstractmethod
    def get_config(self) -> dict[str, Any]:
        """What ``build_from_config`` needs to make this function again, as JSON values. Never a secret."""
        ...

    @staticmethod
    @abstractmethod
    def build_from_config(config: dict[str, Any]) -> SparseEmbeddingFunction[D_contra]:
        """The function that ``get_config`` described."""
        ...

    @staticmethod
    def validate_config(config: dict[str, Any]) -> None:
        """Raises ValueError if ``build_from_config`` cannot take the configuration."""
        return

    def validate_config_update(self, old_config: dict[str, Any], new_config: dict[str, Any]) -> None:
        """Raises ValueError if a collection of the old configuration cannot go on with the new one."""
        return


def validate_sparse_vectors(vectors: Any) -> SparseVectors:
    """The vectors themselves.  Raises ValueError unless they are a non-empty list of SparseVector."""
    if not isinstance(vectors, list):
        raise ValueError(f"Expected sparse vectors to be a list, got {type(vectors).__name__}")
    if not vectors:
        raise ValueError("Expected sparse vectors to be a non-empty list, got 0 sparse vectors")
    for position, vector in enumerate(vectors):
        if not isinstance(vector, SparseVector):
            raise ValueError(f"Expected SparseVector instance at position {position}, got {type(vector).__name__}")
    return vectors


def validate_sparse_embedding_function(function: Any) -> None:
    """Raises ValueError unless ``__call__`` takes exactly (self, input)."""
    got = signature(type(function).__call__).parameters.keys()
    expected = signature(SparseEmbeddingFunction.__call__).parameters.keys()
    if got != expected:
        raise ValueError(
            f"Expected SparseEmbeddingFunction.__call__ to have the following signature: {expected}, got {got}\n"
            "Write a class that derives from SparseEmbeddingFunction and whose __call__ takes one list called `input`."
        )


def sorted_vector(indices: Sequence[int], values: Sequence[float], labels: Sequence[str] | None = None) -> SparseVector:
    """A sparse vector of coordinates in any order.  Raises ValueError for columns of different lengths, or an index given twice."""
    lengths = {len(column) for column in (indices, values, labels) if column is not None}
    if len(lengths) > 1:
        raise ValueError(f"indices, values and labels must have the same length, got {sorted(lengths)}")
    order = sorted(range(len(indices)), key=indices.__getitem__)
    return SparseVector(
        [indices[at] for at in order],
        [values[at] for at in order],
        [labels[at] for at in order] if labels is not None and order else None,
    )
