"""Texts to vectors through any embedding function: nothing that a function may do reaches a store unchecked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, ClassVar, Final, Protocol, TypeAlias, TypeVar, runtime_checkable

import numpy as np

from chroma_gpu.embed.memory.protocol import Memory
from chroma_gpu.embed.progress import Progress, bar
from chroma_gpu.embed.results import normalize_embeddings, validate_embeddings
from chroma_gpu.embed.stream.failures import Failures
from chroma_gpu.embed.stream.kept import Kept
from chroma_gpu.embed.stream.sieve import Sieve
from chroma_gpu.embed.stream.stats import Stats
from chroma_gpu.errors import EmbeddingFailed
from chroma_gpu.records import Rows, Vectors

T = TypeVar("T")

Block: TypeAlias = tuple[int, Vectors]
"""(start, vectors): the vectors of inputs [start, start + len(vectors))."""

BATCH: Final = 1_024
"""Texts per call of a foreign function in ``embed_blocks``."""


@runtime_checkable
class Streaming(Protocol):
    """A function of ours that makes its own batches.

    streams  False in a subclass that changed ``__call__`` or ``embed_query``, which then must be called
    """

    streams: ClassVar[bool]

    def blocks(
        self,
        texts: Iterable[str],
        *,
        query: bool = False,
        progress: Progress = None,
        kept: Kept | None = None,
        failures: Failures | None = None,
        memory: Memory | None = None,
        stats: Stats | None = None,
    ) -> Iterator[Block]:
        """The vectors of texts in blocks, in order; arguments as in ``pipeline.stream``."""
        ...


@runtime_checkable
class Fingerprinted(Protocol):
    """A function that can say what its vectors depend on besides the texts."""

    def fingerprint(self) -> str | None:
        """Equal for functions that make the same vectors; None if they may not be remembered."""
        ...


def embed_texts(
    function: Any,
    texts: Sequence[Any],
    *,
    query: bool = False,
    progress: Progress = None,
    batch: int | None = None,
    kept: Kept | None = None,
    memory: Memory | None = None,
) -> Vectors:
    """The vectors of texts (or images), by any embedding function.

    query     embed as search queries: ``embed_query`` where the function has one
    progress  as in ``progress.bar``
    batch     inputs per call of a foreign function; None gives it all of them at once, as Chroma does
    kept      takes what functions of this package have of the same vectors on a device
    memory    is asked before functions of this package are, and told what they made; queries and functions of others have none
    Returns   [len(texts), dim] float32, finite, C-contiguous; [0, 0] for no texts
    Raises    EmbeddingFailed   the function returned another number of vectors, vectors of different lengths, NaN or infinity
              ValueError        as Chroma does: the result is no list of numeric vectors
              and what the function itself raises, unchanged but for a note, so that callers catch it by its own class
    Cost      a function of this package embeds equal texts once
    """
    if len(texts) == 0:
        return np.empty((0, 0), np.float32)
    if isinstance(function, Streaming) and function.streams:
        return own_vectors(function, texts, query=query, progress=progress, kept=kept, memory=None if query else memory)
    return _gather(_foreign_blocks(function, texts, query, progress, batch or len(texts), memory), len(texts))


def own_vectors(
    function: Streaming,
    texts: Sequence[str],
    *,
    query: bool = False,
    progress: Progress = None,
    kept: Kept | None = None,
    memory: Memory | None = None,
) -> Vectors:
    """The vectors of texts, at least one, by a function of this package: [len(texts), dim] float32. Equal texts are embedded once.

    Raises ValueError for what is no text.
    """
    for position, text in enumerate(texts):
        check_text(text, position)
    distinct, places = unique(texts)
    given: dict[str, Any] = {} if kept is None else {"kept": kept}  # who knows nothing of devices need not take it
    if memory is not None:
        given["memory"] = memory
    vectors = _gather(function.blocks(distinct, query=query, progress=progress, **given), len(distinct))
    if len(distinct) == len(texts):
        return vectors
    if kept is not None:
        kept.repeat(places, len(distinct))
    return vectors[places]


def embed_blocks(
    function: Any,
    texts: Iterable[Any],
    *,
    query: bool = False,
    progress: Progress = None,
    batch: int = BATCH,
    kept: Kept | None = None,
    failures: Failures | None = None,
    memory: Memory | None = None,
    stats: Stats | None = None,
) -> Iterator[Block]:
    """The vectors of any number of texts in blocks of bounded memory, in order, for jobs that commit as they go.

    batch     inputs per call of a foreign function; the functions of this package make their own batches
    failures  takes texts that cannot be embedded, whose rows are NaN then; without it the first of them raises. A foreign function
              is called again with halves of a batch that it fails at; what is not the fault of a text raises all the same. Blocks
              before the first vector have no columns.
    kept, memory, stats  as in ``pipeline.stream``
    Yields    (start, [m, dim] float32)
    Raises    what ``embed_texts`` raises; the blocks before it are good
    """
    if isinstance(function, Streaming) and function.streams:
        chosen = {"kept": kept, "failures": failures, "memory": memory, "stats": stats}
        given: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
        return function.blocks(texts, query=query, progress=progress, **given)
    return _foreign_blocks(function, texts, query, progress, batch, memory, failures, stats)


def check_text(text: object, position: int) -> None:
    """Raises ValueError unless ``text`` is a str."""
    if not isinstance(text, str):
        raise ValueError(f"Expected documents to be strings, got {type(text).__name__} at position {position}")


def unique(texts: Iterable[str]) -> tuple[list[str], Rows]:
    """The distinct texts in the order of their first occurrence, and the place of each text among them, [n] uint32."""
    places: dict[str, int] = {}
    return_to = np.fromiter((places.setdefault(text, len(places)) for text in texts), np.uint32)
    return list(places), return_to


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of ``size``; the last may be shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _gather(blocks: Iterator[Block], n: int) -> Vectors:
    """The blocks as one [n, dim] array."""
    vectors: Vectors | None = None
    for start, block in blocks:
        if vectors is None:
            vectors = block if len(block) == n else np.empty((n, block.shape[1]), np.float32)
        if vectors is not block:
            vectors[start : start + len(block)] = block
    if vectors is None:
        raise EmbeddingFailed(f"an embedding function returned nothing for {n} texts.")
    return vectors


def _foreign_blocks(
    function: Any,
    texts: Iterable[Any],
    query: bool,
    progress: Progress,
    size: int,
    memory: Memory | None = None,
    failures: Failures | None = None,
    stats: Stats | None = None,
) -> Iterator[Block]:
    start, dim = 0, None
    sieve = None if failures is None else Sieve(failures)

    def embed(some: list[Any]) -> Vectors:
        recalled = _recalled(function, some, memory) if memory is not None and not query else None
        return _checked(_called(function, some, query), len(some), function) if recalled is None else recalled

    with bar(len(texts) if isinstance(texts, Sequence) else None, progress) as count:
        for batch in batches(texts, size):
            parts = [(0, embed(batch))] if sieve is None else list(sieve.parts(embed, batch, start))
            for _, part in parts:
                if dim is not None and part.shape[1] != dim:
                    raise _failed(function, f"returned vectors of {dim} dimensions, then of {part.shape[1]}")
                dim = part.shape[1]
            vectors = parts[0][1] if len(parts) == 1 else np.empty((0, 0), np.float32)
            if len(vectors) != len(batch):
                vectors = np.full((len(batch), dim or 0), np.nan, np.float32)
                for first, part in parts:
                    vectors[first : first + len(part)] = part
            if stats is not None:
                stats.texts += len(batch)
                stats.batches += len(parts)
                stats.failed += len(batch) - sum(len(part) for _, part in parts)
            count(len(batch))
            yield start, vectors
            start += len(batch)


def _recalled(function: Any, batch: list[Any], memory: Memory) -> Vectors | None:
    """The vectors of texts by a service of this package, which is asked only for what is not remembered; None for any other function.

    Raises as the function does; what it made before is remembered.
    """
    ours = isinstance(function, Fingerprinted) and type(function).__module__.startswith("chroma_gpu.")
    fingerprint = function.fingerprint() if ours else None
    if fingerprint is None or not all(isinstance(text, str) for text in batch):
        return None
    texts, places = unique(batch)
    dim = memory.dim_of(fingerprint)
    known, found = memory.of(fingerprint, dim).find(texts) if dim else (np.zeros(len(texts), np.bool_), None)
    asked = [text for text, is_known in zip(texts, known, strict=True) if not is_known]
    if not asked and found is not None:
        return found[places]
    made = _checked(_called(function, asked, query=False), len(asked), function)
    if made.shape[1] != dim and known.any():
        made = _checked(_called(function, texts, query=False), len(texts), function)
        known[:] = False
        asked, found = texts, None
    memory.of(fingerprint, made.shape[1]).keep(asked, made)
    vectors = np.empty((len(texts), made.shape[1]), np.float32)
    vectors[~known] = made
    if found is not None:
        vectors[known] = found
    return vectors[places]


def _called(function: Any, batch: list[Any], query: bool) -> Any:
    embed = getattr(function, "embed_query", function) if query else function
    try:
        return embed(input=batch)
    except Exception as error:
        error.add_note(f"Raised by the embedding function {type(function).__name__}. Nothing of this batch was written.")
        raise


def _checked(result: Any, n: int, function: Any) -> Vectors:
    """The result as [n, dim] float32."""
    arrays = validate_embeddings(normalize_embeddings(result))
    if len(arrays) != n:
        raise _failed(function, f"returned {len(arrays)} vectors for {n} texts")
    dim = len(arrays[0])
    for position, array in enumerate(arrays):
        if array.ndim != 1:
            raise _failed(function, f"returned an array of {array.ndim} dimensions for text {position}")
        if len(array) != dim:
            raise _failed(function, f"returned {dim} numbers for text 0 and {len(array)} for text {position}")
    with np.errstate(over="ignore"):
        vectors = np.ascontiguousarray(np.stack(arrays), np.float32)
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise _failed(function, f"returned NaN or infinity for text {bad[0]}")
    return vectors


def _failed(function: Any, what: str) -> EmbeddingFailed:
    return EmbeddingFailed(f"embedding function {type(function).__name__} {what}.", hint="Nothing of this batch was written.")
