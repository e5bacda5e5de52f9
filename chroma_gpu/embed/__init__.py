"""Texts to vectors: the contract of every embedding function, the table of the ones that ship, and the one door through which they are called.

``EmbeddingFunction`` is Chroma's protocol; a class written for Chroma works here unchanged. What is stored of a function is its
name and its configuration, ``{"type": "known", "name": ..., "config": ...}``; ``config_to_embedding_function`` rebuilds it.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any, Final, Literal, Protocol, TypeAlias, TypeVar, cast, overload, runtime_checkable

import numpy.typing as npt

from chroma_gpu.embed.known import PROVIDERS, SPARSE_PROVIDERS, KnownFunctions
from chroma_gpu.embed.results import Embeddings, normalize_embeddings, retried, validate_embeddings
from chroma_gpu.embed.sparse import (
    SparseEmbeddingFunction,
    SparseVectors,
    validate_sparse_embedding_function,
    validate_sparse_vectors,
)
from chroma_gpu.embed.texts import embed_blocks, embed_texts

__all__ = [
    "PROVIDERS",
    "SPARSE_PROVIDERS",
    "Documents",
    "Embeddable",
    "EmbeddingFunction",
    "Embeddings",
    "Images",
    "Space",
    "SparseEmbeddingFunction",
    "SparseVectors",
    "config_to_embedding_function",
    "embed_blocks",
    "embed_texts",
    "known_embedding_functions",
    "normalize_embeddings",
    "register_embedding_function",
    "register_sparse_embedding_function",
    "sparse_known_embedding_functions",
    "validate_embedding_function",
    "validate_embeddings",
    "validate_sparse_embedding_function",
    "validate_sparse_vectors",
]

Documents: TypeAlias = list[str]
Images: TypeAlias = list[npt.NDArray[Any]]
Embeddable: TypeAlias = Documents | Images
"""What an embedding function may be given."""

Space: TypeAlias = Literal["cosine", "l2", "ip"]

D_contra = TypeVar("D_contra", bound=Embeddable, contravariant=True)


@runtime_checkable
class EmbeddingFunction(Protocol[D_contra]):
    """Chroma's protocol of embedding functions, to be subclassed.

    A subclass writes ``__init__``, ``__call__``, ``name``, ``get_config`` and ``build_from_config``. Its ``__call__`` is wrapped:
    what it returns (lists of numbers, a [n, dim] array, a list of arrays) becomes a list of arrays and is checked.

    Raises ValueError, with Chroma's messages, when the result has another form.
    """

    @abstractmethod
    def __call__(self, input: D_contra) -> Embeddings:
        """The vectors of the inputs, in their order. The parameter must be called ``input``."""
        ...

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        call: Callable[[Any, Any], Any] | None = cls.__dict__.get("__call__")
        if call is None:
            return

        # Not functools.wraps: callers compare the signature with the protocol's, which this wrapper has, whatever `call` names it.
        def checked(self: Any, input: Any) -> Embeddings:
            return validate_embeddings(normalize_embeddings(call(self, input)))

        checked.__name__, checked.__qualname__, checked.__doc__ = "__call__", f"{cls.__qualname__}.__call__", call.__doc__
        cls.__call__ = checked  # type: ignore[method-assign]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _warn_missing(f"The class {type(self).__name__} does not implement __init__.")

    def embed_query(self, input: D_contra) -> Embeddings:
        """The vectors of search queries. Some models embed them differently from documents; by default they are the same."""
        return self.__call__(input)

    def embed_with_retries(self, input: D_contra, **retry_kwargs: Any) -> Embeddings:
        """``__call__`` under ``tenacity.retry(**retry_kwargs)``.  Raises MissingDependency without the package tenacity."""
        return cast(Embeddings, retried(self.__call__, input, retry_kwargs))

    @staticmethod
    def name() -> str:
        """The name under which the function is stored."""
        _warn_missing("The EmbeddingFunction class does not implement name().")
        return NotImplemented  # type: ignore[no-any-return]

    def get_config(self) -> dict[str, Any]:
        """What ``build_from_config`` needs to make this function again, as JSON values. Never a secret."""
        _warn_missing(f"The class {type(self).__name__} does not implement get_config().")
        return NotImplemented  # type: ignore[no-any-return]

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> EmbeddingFunction[D_contra]:
        """The function that ``get_config`` described."""
        _warn_missing("The EmbeddingFunction class does not implement build_from_config().")
        return NotImplemented  # type: ignore[no-any-return]

    def default_space(self) -> Space:
        """The metric of a collection that names none."""
        return "l2"

    def supported_spaces(self) -> list[Space]:
        """The metrics that make sense for these vectors."""
        return ["cosine", "l2", "ip"]

    @staticmethod
    def validate_config(config: dict[str, Any]) -> None:
        """Raises ValueError if ``build_from_config`` cannot take the configuration."""
        return

    def validate_config_update(self, old_config: dict[str, Any], new_config: dict[str, Any]) -> None:
        """Raises ValueError if a collection of the old configuration cannot go on with the new one."""
        return

    def is_legacy(self) -> bool:
        """Whether the function lacks what storing it needs (a name, a configuration, a way back from it)."""
        return (
            self.name() is NotImplemented
            or self.get_config() is NotImplemented
            or self.build_from_config(self.get_config()) is NotImplemented
        )


def _warn_missing(what: str) -> None:
    warnings.warn(f"{what} This will be required in a future version.", DeprecationWarning, stacklevel=3)


def validate_embedding_function(function: Any) -> None:
    """Raises ValueError unless ``__call__`` takes exactly (self, input)."""
    got = signature(type(function).__call__).parameters.keys()
    expected = signature(EmbeddingFunction.__call__).parameters.keys()
    if got != expected:
        raise ValueError(
            f"Expected EmbeddingFunction.__call__ to have the following signature: {expected}, got {got}\n"
            "Write a class that derives from EmbeddingFunction and whose __call__ takes one list called `input`."
        )


# Chroma's API has these tables once per process: users register their classes in them by decorator.
known_embedding_functions: Final[KnownFunctions[type[EmbeddingFunction[Any]]]] = KnownFunctions(PROVIDERS)
sparse_known_embedding_functions: Final[KnownFunctions[type[SparseEmbeddingFunction[Any]]]] = KnownFunctions(SPARSE_PROVIDERS)

F = TypeVar("F", bound=type[Any])


@overload
def register_embedding_function(ef_class: F) -> F: ...
@overload
def register_embedding_function(ef_class: None = None) -> Callable[[F], F]: ...
def register_embedding_function(ef_class: F | None = None) -> F | Callable[[F], F]:
    """Make a class known by its ``name()``, so that collections stored with it can embed. Usable as a decorator, with or without ()."""
    return _registered(ef_class, known_embedding_functions, "embedding function")


@overload
def register_sparse_embedding_function(ef_class: F) -> F: ...
@overload
def register_sparse_embedding_function(ef_class: None = None) -> Callable[[F], F]: ...
def register_sparse_embedding_function(ef_class: F | None = None) -> F | Callable[[F], F]:
    """Make a sparse class known by its ``name()``, likewise."""
    return _registered(ef_class, sparse_known_embedding_functions, "sparse embedding function")


def _registered(ef_class: F | None, table: KnownFunctions[Any], what: str) -> F | Callable[[F], F]:
    def register(function: F) -> F:
        try:
            table[function.name()] = function
        except Exception as error:
            raise ValueError(f"Failed to register {what}: {error}") from error
        return function

    return register if ef_class is None else register(ef_class)


def config_to_embedding_function(config: Mapping[str, Any]) -> EmbeddingFunction[Any]:
    """The function that a stored configuration describes. Nothing is loaded before it embeds.

    Raises ValueError for a name that is not known in this process, or a configuration the class does not take.
    """
    if "name" not in config:
        raise ValueError("Config must contain a 'name' field.")
    name = config["name"]
    if name not in known_embedding_functions:
        raise ValueError(f"Unsupported embedding function: {name}")
    return known_embedding_functions[name].build_from_config(config.get("config", {}))
