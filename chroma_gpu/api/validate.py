"""Chroma's rules for what callers give, and the one conversion to columns. Nothing is written before all of it has passed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from chroma_gpu.embed import normalize_embeddings, validate_embeddings
from chroma_gpu.errors import ChromaError, DuplicateIDError, InvalidArgumentError
from chroma_gpu.records import TYPE_KEY, SparseVector, Vectors
from chroma_gpu.values import nearest_float

INCLUDE: Final = ("documents", "embeddings", "metadatas", "distances", "uris", "data")
_SCALARS: Final = frozenset((str, int, float, bool))
MAX_ID: Final = 1 << 20
"""Characters of an id."""
MAX_KEY: Final = 1 << 16
"""Characters of a metadata key."""
MAX_KEYS: Final = 1 << 16
"""Keys of one record's metadata."""
MAX_TEXT: Final = 1 << 24
"""Characters of a text in metadata, and items of a list."""


@dataclass(frozen=True, slots=True, eq=False)
class Given:
    """What a caller gave for a batch of records, as checked columns. ``vectors`` is None where they are still to be embedded."""

    ids: list[str]
    vectors: Vectors | None
    documents: list[str | None] | None
    metadatas: list[dict[str, Any] | None] | None
    images: list[Any] | None
    uris: list[str | None] | None


@contextmanager
def within(
    method: str, refused: tuple[type[Exception], ...] = (ChromaError, ValueError, TypeError, IndexError)
) -> Iterator[None]:
    """Say in which method an argument was refused: the message ends in " in <method>." as Chroma's does."""
    try:
        yield
    except UnicodeError:
        raise
    except refused as error:
        if error.args and isinstance(error.args[0], str) and not error.args[0].endswith(f" in {method}."):
            error.args = (f"{error.args[0]} in {method}.", *error.args[1:])
        raise


def records(ids: Any, embeddings: Any, metadatas: Any, documents: Any, images: Any, uris: Any, *, merging: bool) -> Given:
    """The checked columns of an add, update or upsert.

    merging  update and upsert: a metadata value of None deletes its key
    Raises   ValueError, TypeError, DuplicateIDError, InvalidArgumentError, UnicodeEncodeError
    """
    arrays = as_arrays(embeddings)
    columns: dict[str, Any] = {
        "ids": as_list(ids),
        "metadatas": as_list(metadatas),
        "embeddings": arrays,
        "documents": as_list(documents),
        "images": as_list(images),
        "uris": as_list(uris),
    }
    _check_lengths(columns)
    vectors = None if arrays is None else as_vectors(arrays)
    if columns["documents"] is not None:
        check_documents(columns["documents"], nullable=vectors is not None)
    if columns["images"] is not None:
        _check_images(columns["images"])
    if columns["uris"] is not None:
        _check_uris(columns["uris"])
    check_ids(columns["ids"])
    checked = None if columns["metadatas"] is None else _metadatas(columns["metadatas"], merging=merging)
    return Given(columns["ids"], vectors, columns["documents"], checked, columns["images"], columns["uris"])


def exactly_one(columns: Mapping[str, Any], names: Sequence[str]) -> str:
    """The one column of ``names`` that was given, to be embedded. Raises ValueError."""
    given = [name for name in names if columns[name] is not None]
    if len(given) != 1:
        raise ValueError(f"Exactly one of {', '.join(names)} must be provided")
    return given[0]


def as_list(value: Any) -> list[Any] | None:
    """One or many -> many."""
    return value if value is None or isinstance(value, list) else [value]


def as_arrays(given: Any) -> Any:
    """Embeddings in any of the shapes that are taken -> a [n, dim] array or a list of arrays; None stays None. Raises ValueError."""
    if given is None:
        return None
    try:
        return _arrays(_off_device(given))
    except OverflowError as error:
        raise InvalidArgumentError("Validation error: embeddings: a number is too large for float32") from error


def _arrays(given: Any) -> Any:
    if isinstance(given, np.ndarray) and given.ndim == 2 and len(given):
        return given
    if isinstance(given, list) and given:
        first = given[0]
        if isinstance(first, list | tuple) and not first:
            raise ValueError("Expected each embedding to have at least one value, got an empty one at pos 0")
        if isinstance(first, list) and isinstance(first[0], int | float) and not isinstance(first[0], bool):
            return _rows(given)
        given = [_off_device(each) for each in given]
    return normalize_embeddings(given)


def as_vectors(arrays: Any) -> Vectors:
    """[n, dim] float32, finite and C-contiguous, from what ``as_arrays`` gave.

    Raises  ValueError for what is not a list of numbers, InvalidArgumentError for unequal lengths and for NaN or inf, which
            includes what overflows float32
    Cost    no copy if it is float32 and C-contiguous already
    """
    if not isinstance(arrays, np.ndarray):
        validate_embeddings(arrays)
        if any(each.ndim != 1 for each in arrays):
            raise ValueError("Expected each embedding in a list of arrays to be a 1-dimensional array")
        if len({each.shape for each in arrays}) > 1:
            raise InvalidArgumentError("Inconsistent dimensions in provided embeddings")
        arrays = np.stack(arrays)
    else:
        validate_embeddings(arrays[:1])
    with np.errstate(over="ignore"):
        vectors = np.ascontiguousarray(arrays, dtype=np.float32)
    # A sum is finite unless a value is not, or the values are huge: one cheap pass decides for nearly every batch.
    with np.errstate(over="ignore", invalid="ignore"):
        doubtful = not np.isfinite(vectors.sum(dtype=np.float64))
    if doubtful and not np.isfinite(vectors).all():
        at = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise InvalidArgumentError(
            f"Validation error: embeddings: Embeddings must not contain NaN or Infinity values (embedding {at})"
        )
    return vectors


def check_ids(ids: Any) -> None:
    """Raises ValueError, DuplicateIDError, InvalidArgumentError for an empty id, UnicodeEncodeError."""
    if not isinstance(ids, list):
        raise ValueError(f"Expected IDs to be a list, got {type(ids).__name__} as IDs")
    if len(ids) == 0:
        raise ValueError(f"Expected IDs to be a non-empty list, got {len(ids)} IDs")
    for each in ids:
        if not isinstance(each, str):
            raise ValueError(f"Expected ID to be a str, got {each}")
    if len(set(ids)) != len(ids):
        _raise_duplicates(ids)
    if max(map(len, ids)) > MAX_ID:
        raise InvalidArgumentError(f"an id may have {MAX_ID:,} characters, got one of {max(map(len, ids)):,}")
    if not all(ids):
        raise InvalidArgumentError("Empty ID, ID must have at least one character")
    "".join(ids).encode()


def check_documents(documents: Any, *, nullable: bool) -> None:
    """Raises ValueError, UnicodeEncodeError. ``nullable``: None stands for no document."""
    if not isinstance(documents, list):
        raise ValueError(f"Expected documents to be a list, got {type(documents).__name__}")
    if len(documents) == 0:
        raise ValueError(f"Expected documents to be a non-empty list, got {len(documents)} documents")
    for document in documents:
        if not isinstance(document, str) and not (document is None and nullable):
            raise ValueError(f"Expected document to be a str, got {document}")
        if document is not None and not document.isascii():
            document.encode()


def check_include(include: Any, *, refused: tuple[str, ...] = (), ours: tuple[str, ...] = ()) -> None:
    """Raises ValueError. ``ours``: what may be asked for beyond what Chroma knows."""
    if not isinstance(include, list):
        raise ValueError(f"Expected include to be a list, got {include}")
    for item in include:
        if not isinstance(item, str):
            raise ValueError(f"Expected include item to be a str, got {item}")
        if item not in INCLUDE + ours:
            raise ValueError(f"Expected include item to be one of {', '.join(INCLUDE)}, got {item}")
        if item in refused:
            raise ValueError(f"Include item cannot be one of {', '.join(refused)}, got {item}")


def check_n_results(n_results: Any) -> None:
    """Raises ValueError for what is no int, TypeError below 1, as Chroma does."""
    if not isinstance(n_results, int):
        raise ValueError(f"Expected requested number of results to be a int, got {n_results}")
    if n_results <= 0:
        raise TypeError(f"Number of requested results {n_results}, cannot be negative, or zero.")


def check_max_distance(value: Any) -> float | None:
    """None or a number, infinity too. Raises TypeError, ValueError for NaN."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"Expected max_distance to be a number, got {value!r}")
    distance = nearest_float(value.item() if isinstance(value, np.generic) else value)
    if math.isnan(distance):
        raise ValueError("Expected max_distance to be a number, got NaN")
    return distance


def check_page(name: str, value: Any) -> int | None:
    """A limit or an offset: None or an int from 0. Raises TypeError, OverflowError, as Chroma does."""
    if value is None:
        return None
    if not isinstance(value, (int, np.integer)):
        raise TypeError(f"argument '{name}': '{type(value).__name__}' object cannot be interpreted as an integer")
    if not 0 <= value < 2**63:
        raise OverflowError(f"{name} must be 0 or more and fit in 64 bits, got {value}")
    return int(value)


def collection_metadata(metadata: Any) -> dict[str, Any] | None:
    """A collection's metadata: scalars only. Raises ValueError, TypeError, InvalidArgumentError."""
    if metadata is None:
        return None
    if isinstance(metadata, dict) and not metadata:
        raise InvalidArgumentError("Validation error: metadata: Metadata cannot be empty")
    check_metadata_shape(metadata)
    checked: dict[str, Any] = {}
    for key, value in metadata.items():
        if not key or key[0] in "#$":
            raise InvalidArgumentError(f"Validation error: metadata: Metadata key cannot start with '#' or '$': {key}")
        if value is None or isinstance(value, (list, dict)):
            raise TypeError(f"argument 'metadata': Cannot convert Python object to MetadataValue: {key!r} is {value!r}")
        checked[key] = _scalar(key, value)
    return checked


def check_record_metadata(metadata: Any) -> None:
    """One record's metadata, None as a value allowed. Raises ValueError, TypeError, InvalidArgumentError."""
    _metadata(metadata, 0, set(), merging=True)


def check_metadata_shape(metadata: Any) -> None:
    """A non-empty dict with str keys. Raises ValueError, TypeError."""
    if not isinstance(metadata, dict):
        raise ValueError(f"Expected metadata to be a dict or None, got {type(metadata).__name__} as metadata")
    if not metadata:
        raise ValueError("Expected metadata to be a non-empty dict, got 0 metadata attributes")
    for key in metadata:
        if not isinstance(key, str):
            raise TypeError(f"Expected metadata key to be a str, got {key} which is a {type(key).__name__}")


def _check_lengths(columns: Mapping[str, Any]) -> None:
    given = {name: len(column) for name, column in columns.items() if column is not None}
    empty = [name for name, length in given.items() if length == 0]
    if empty:
        raise ValueError(f"Non-empty lists are required for {empty}")
    if len(set(given.values())) > 1:
        raise ValueError(f"Unequal lengths for fields: {', '.join(f'{name}: {length}' for name, length in given.items())}")


def _off_device(value: Any) -> Any:
    """A tensor of any device as an array; everything else as it is. No tensor library is imported for it."""
    if isinstance(value, np.ndarray) or not hasattr(value, "__array__") or np.isscalar(value):
        return value
    detached = value.detach().cpu() if hasattr(value, "detach") else value
    if str(getattr(detached, "dtype", "")) == "torch.bfloat16":
        detached = detached.float()
    return np.asarray(detached)


def _rows(lists: list[Any]) -> Any:
    try:
        with np.errstate(over="ignore"):  # infinity is refused later, with its place
            return np.array(lists, dtype=np.float32)
    except ValueError:
        return [np.array(row, dtype=np.float32) for row in lists]  # of unequal lengths, or not numbers: numpy says which


def _raise_duplicates(ids: list[str]) -> None:
    seen: set[str] = set()
    # A dict keeps the order in which they came, so that the message is the same each time.
    twice = list({each: None for each in ids if each in seen or seen.add(each)})  # type: ignore[func-returns-value]
    if len(twice) < 10:
        raise DuplicateIDError(f"Expected IDs to be unique, found duplicates of: {', '.join(twice)}")
    raise DuplicateIDError(
        f"Expected IDs to be unique, found {len(twice)} duplicated IDs: {', '.join(twice[:5])}, ..., {', '.join(twice[-5:])}"
    )


def _check_images(images: Any) -> None:
    for image in images:
        if not isinstance(image, np.ndarray) or image.ndim < 2:
            raise ValueError(f"Expected image to be a numpy array, got {image}")


def _check_uris(uris: list[Any]) -> None:
    for uri in uris:
        if uri is not None and not isinstance(uri, str):
            raise ValueError(f"Expected uri to be a str, got {uri}")
        if uri is not None:
            uri.encode()


def _metadatas(metadatas: list[Any], *, merging: bool) -> list[dict[str, Any] | None]:
    good: set[str] = set()
    return [None if each is None else _metadata(each, at, good, merging) for at, each in enumerate(metadatas)]


def _metadata(metadata: Any, at: int, good: set[str], merging: bool) -> dict[str, Any]:
    """A checked copy. ``good`` remembers keys that passed, which nearly all records share."""
    check_metadata_shape(metadata)
    if len(metadata) > MAX_KEYS:
        raise InvalidArgumentError(f"metadata may have {MAX_KEYS:,} keys, got {len(metadata):,} at index {at}")
    checked = {}
    for key, value in metadata.items():
        if key not in good:
            if key == "chroma:document":
                raise ValueError("Expected metadata to not contain the reserved key chroma:document")
            if not key or key[0] in "#$":
                raise InvalidArgumentError(f"Validation error: metadatas: Invalid metadata at index {at}: key {key!r}")
            if len(key) > MAX_KEY:
                raise InvalidArgumentError(f"a metadata key may have {MAX_KEY:,} characters, got {len(key):,} at index {at}")
            key.encode()
            good.add(key)
        kind = type(value)
        if kind is str or kind is bool or (kind is int and -(2**63) <= value < 2**63):
            if kind is str:
                _check_text(key, value)
            checked[key] = value
        elif isinstance(value, list):
            checked[key] = _list(key, value)
        elif isinstance(value, SparseVector) or (isinstance(value, dict) and TYPE_KEY in value):
            checked[key] = value if isinstance(value, SparseVector) else SparseVector.from_dict(value)
        elif value is None:
            if not merging:
                raise TypeError(f"argument 'metadatas': Cannot convert Python object to MetadataValue: {key!r} is None")
            checked[key] = None
        else:
            checked[key] = _scalar(key, value)
    return checked


def _list(key: str, values: list[Any]) -> list[Any]:
    if not values:
        raise ValueError(f"Expected metadata list value for key '{key}' to be non-empty")
    if len(values) > MAX_TEXT:
        raise InvalidArgumentError(f"the list of {key!r} may have {MAX_TEXT:,} items, got {len(values):,}")
    kinds = {bool if isinstance(each, bool) else type(each) for each in values}
    if len(kinds) > 1 or not kinds <= _SCALARS:
        raise ValueError(
            f"Expected metadata list value for key '{key}' to contain only str, int, float, or bool and all elements must be "
            f"the same type, got {values}"
        )
    checked = [_scalar(key, each) for each in values]
    # One int past 64 bits makes them all floats, so that a list keeps one type.
    return [float(each) for each in checked] if kinds == {int} and any(type(each) is float for each in checked) else checked


def _scalar(key: str, value: Any) -> Any:
    """The value as one of the four plain types; ints past 64 bits become floats, as in Chroma."""
    plain: Callable[[Any], Any]
    for plain in (bool, str, int, float):
        if isinstance(value, plain):
            break
    else:
        raise ValueError(
            "Expected metadata value to be a str, int, float, bool, SparseVector, list, or None, "
            f"got {value} which is a {type(value).__name__}"
        )
    if plain is str:
        text = str.__str__(value)
        _check_text(key, text)
        return text
    value = plain(value)
    if plain is int and not -(2**63) <= value < 2**63:
        value = nearest_float(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidArgumentError(f"Validation error: metadatas: the value of {key!r} is {value}; numbers must be finite")
    return value


def _check_text(key: str, text: str) -> None:
    if len(text) > MAX_TEXT:
        raise InvalidArgumentError(f"the text of {key!r} may have {MAX_TEXT:,} characters, got {len(text):,}; make it a document")
    if not text.isascii():
        text.encode()
