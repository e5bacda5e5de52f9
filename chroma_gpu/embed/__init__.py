"""Texts to vectors: the contract of every embedding function, the table of the ones that ship, and the one door through which they are called.

``EmbeddingFunction`` is Chroma's protocol; a class written for Chroma works here unchanged. What is stored of a function is its
name and its configuration, ``{"type": "known", "name": ..., "config": ...}``; ``config_to_embedding_function`` rebuilds it.
"""

from __future__ import annotations

import importlib
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from inspect import signature
from typing import Any, Final, Literal, Protocol, TypeAlias, TypeVar, cast, overload, runtime_checkable

import numpy.typing as npt

from chroma_gpu.embed.results import Embeddings, normalize_embeddings, validate_embeddings
from chroma_gpu.embed.texts import embed_blocks, embed_texts
from chroma_gpu.errors import MissingDependency

__all__ = [
    "PROVIDERS",
    "Documents",
    "Embeddable",
    "EmbeddingFunction",
    "Embeddings",
    "Images",
    "Space",
    "config_to_embedding_function",
    "embed_blocks",
    "embed_texts",
    "known_embedding_functions",
    "normalize_embeddings",
    "register_embedding_function",
    "validate_embedding_function",
    "validate_embeddings",
]

Documents: TypeAlias = list[str]
Images: TypeAlias = list[npt.NDArray[Any]]
Embeddable: TypeAlias = Documents | Images
"""What an embedding function may be given."""

Space: TypeAlias = Literal["cosine", "l2", "ip"]

D_contra = TypeVar("D_contra", bound=Embeddable, contravariant=True)

PROVIDERS: Final[Mapping[str, str]] = {
    "default": "chroma_gpu.embed.local:DefaultEmbeddingFunction",
    "sentence_transformer": "chroma_gpu.embed.local:SentenceTransformerEmbeddingFunction",
    "instructor": "chroma_gpu.embed.local:InstructorEmbeddingFunction",
    "static": "chroma_gpu.embed.local:StaticEmbeddingFunction",
    "hashing": "chroma_gpu.embed.hashing:HashingEmbeddingFunction",
}
"""The functions that ship: stored name -> module:class, imported when first asked for."""


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
        try:
            from tenacity import retry
        except ImportError as error:
            raise MissingDependency("embed_with_retries needs the package tenacity.", hint="pip install tenacity") from error
        return cast(Embeddings, retry(**retry_kwargs)(self.__call__)(input))

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


class KnownFunctions(MutableMapping[str, type[EmbeddingFunction[Any]]]):
    """Name -> class of every function that can be rebuilt from its configuration. Classes that ship are imported on first use."""

    def __init__(self, paths: Mapping[str, str]) -> None:
        self._found: dict[str, str | type[EmbeddingFunction[Any]]] = dict(paths)

    def __getitem__(self, name: str) -> type[EmbeddingFunction[Any]]:
        found = self._found[name]
        if isinstance(found, str):
            module, _, attribute = found.partition(":")
            found = cast(type[EmbeddingFunction[Any]], getattr(importlib.import_module(module), attribute))
            self._found[name] = found
        return found

    def __setitem__(self, name: str, function: type[EmbeddingFunction[Any]]) -> None:
        self._found[name] = function

    def __delitem__(self, name: str) -> None:
        del self._found[name]

    def __contains__(self, name: object) -> bool:
        return name in self._found

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._found))

    def __len__(self) -> int:
        return len(self._found)


# Chroma's API has this one table per process: users register their classes in it by decorator.
known_embedding_functions: Final = KnownFunctions(PROVIDERS)

F = TypeVar("F", bound=type[Any])


@overload
def register_embedding_function(ef_class: F) -> F: ...
@overload
def register_embedding_function(ef_class: None = None) -> Callable[[F], F]: ...
def register_embedding_function(ef_class: F | None = None) -> F | Callable[[F], F]:
    """Make a class known by its ``name()``, so that collections stored with it can embed. Usable as a decorator, with or without ()."""

    def register(function: F) -> F:
        try:
            known_embedding_functions[function.name()] = function
        except Exception as error:
            raise ValueError(f"Failed to register embedding function: {error}") from error
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
