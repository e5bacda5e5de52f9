"""From texts to vectors in large, even batches: tokenised ahead, sorted by length, cut by a budget of tokens, put back in order.

An encoder has three verbs. ``pre`` makes tokens on the CPU, ``core`` runs one batch on the device, ``post`` brings its vectors
to the host. The pipeline runs ``pre`` of the next windows of texts while ``core`` works on this one, and ``post`` of a batch only
after the next one has been launched, so that a GPU does not wait for either.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from chroma_gpu.device import with_smaller_batches
from chroma_gpu.embed.kept import Keeping, Kept
from chroma_gpu.embed.progress import Progress, bar
from chroma_gpu.embed.texts import Block, check_text, unique
from chroma_gpu.errors import ChromaError, DeviceError, EmbeddingFailed
from chroma_gpu.records import Rows, Vectors

Places: TypeAlias = npt.NDArray[np.intp]
"""[m] positions of texts in their window."""

WINDOW: Final = 8_192
"""Texts that are sorted together; also the length of a block."""

WINDOW_CHARACTERS: Final = 16 << 20
"""A window of long texts ends earlier, so that the memory of a stream stays bounded."""

AHEAD: Final = 2
"""Windows that are tokenised before their turn."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is put before every text; ``pooled`` says whether its tokens count in pooling, None leaves that to the model."""

    text: str = ""
    pooled: bool | None = None


class Tokens(Protocol):
    """The tokens of the texts of one window."""

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """[n] how long each text is, in tokens or in proportion to them."""
        ...


class Encoder(Protocol):
    """A model, in the three verbs that the pipeline overlaps. Encoders may be shared between threads.

    dim      numbers per vector
    budget   padded tokens per batch; lowered by the pipeline after running out of memory
    """

    dim: int
    budget: int

    def pre(self, texts: Sequence[str], prompt: Prompt) -> Any:
        """``Tokens`` of texts, on the CPU."""
        ...

    def core(self, tokens: Any, places: Places) -> Any:
        """The vectors of the texts at ``places``, on the device, in the model's own form. Need not wait for the device."""
        ...

    def post(self, vectors: Any) -> Vectors:
        """[m, dim] float32 on the host. Waits for the device."""
        ...

    def on_cpu(self) -> Encoder | None:
        """The same model on the CPU, for a text that the device cannot hold; None if this one is there already."""
        ...


def stream(
    encoder: Encoder,
    texts: Iterable[str],
    prompt: Prompt = Prompt(),
    *,
    progress: Progress = None,
    window: int = WINDOW,
    kept: Kept | None = None,
) -> Iterator[Block]:
    """The vectors of texts in blocks of one window, in order.

    texts   any number; they are read in the caller's thread, at most 1 + AHEAD windows ahead of the block that is yielded
    kept    takes what is on a device of the same vectors; a block is there before it is yielded
    Yields  (start, [m, encoder.dim] float32)
    Raises  EmbeddingFailed with the cause chained, ValueError for what is no text. It is raised in the caller at the block that
            failed; the blocks before are good.
    Cost    equal texts of a window are embedded once; memory for 1 + AHEAD windows of texts and tokens
    """
    start = 0
    with bar(len(texts) if isinstance(texts, Sequence) else None, progress) as count:
        for tokens, repeats in _tokenised(encoder, texts, prompt, window):
            vectors = _encoded(encoder, tokens, count, kept)
            if kept is not None:
                kept.close_window(start, repeats)
            count(len(repeats) - len(vectors))
            block = vectors if len(vectors) == len(repeats) else vectors[repeats]
            yield start, block
            start += len(block)


def _tokenised(encoder: Encoder, texts: Iterable[str], prompt: Prompt, window: int) -> Iterator[tuple[Tokens, Rows]]:
    """The tokens of each window's distinct texts, and the place of each text among them."""

    def tokenise(part: list[str]) -> tuple[Tokens, Rows]:
        try:
            distinct, repeats = unique(part)
            return encoder.pre(distinct, prompt), repeats
        except ChromaError:
            raise
        except Exception as error:
            raise EmbeddingFailed(f"the texts cannot be tokenised: {type(error).__name__}: {error}") from error

    parts = _windows(texts, window)
    first, second = next(parts, None), next(parts, None)
    if first is None:
        return
    if second is None:
        yield tokenise(first)
        return
    pool = ThreadPoolExecutor(1, thread_name_prefix="tokenise")
    ahead: deque[Future[tuple[Tokens, Rows]]] = deque(pool.submit(tokenise, part) for part in (first, second))
    try:
        while ahead:
            for part in parts:
                ahead.append(pool.submit(tokenise, part))
                if len(ahead) > AHEAD:
                    break
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _windows(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    part: list[str] = []
    characters = 0
    for position, text in enumerate(texts):
        check_text(text, position)
        part.append(text)
        characters += len(text)
        if len(part) >= size or characters >= WINDOW_CHARACTERS:
            yield part
            part, characters = [], 0
    if part:
        yield part


def _encoded(encoder: Encoder, tokens: Tokens, count: Callable[[int], object], kept: Kept | None) -> Vectors:
    """The vectors of one window, in the order of its texts."""
    lengths = tokens.lengths
    vectors = np.empty((len(lengths), encoder.dim), np.float32)
    launched: deque[tuple[Places, Any]] = deque()
    on_device = encoder.on_device if isinstance(encoder, Keeping) else None

    def run(part: Places) -> Any:
        try:
            return encoder.core(tokens, part)
        except Exception:
            if kept is not None:
                kept.drop()  # its memory may be what is missing
            raise

    def collect() -> None:
        places, result = launched.popleft()
        vectors[places] = encoder.post(result)
        if kept is not None and on_device is not None:
            kept.take(places, on_device(result))
        count(len(places))

    try:
        for batch in _batches(encoder, lengths):
            for places, result in with_smaller_batches(run, batch, _on_cpu(encoder, tokens)):
                if len(places) < len(batch):
                    encoder.budget = min(encoder.budget, int(lengths[places].max()) * len(places))
                launched.append((places, result))
                if len(launched) > 1:
                    collect()
        while launched:
            collect()
    except ChromaError:
        raise
    except Exception as error:
        raise EmbeddingFailed(
            f"the model failed: {type(error).__name__}: {error}", hint="Nothing of this batch was written."
        ) from error
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise EmbeddingFailed(
            f"the model returned NaN or infinity for {len(bad)} of {len(vectors)} texts.",
            hint='Its weights may be damaged, or overflow in 16 bits: try model_kwargs={"dtype": "float32"}.',
        )
    return vectors


def _batches(encoder: Encoder, lengths: npt.NDArray[np.int64]) -> Iterator[Places]:
    """Positions by falling length, cut so that a batch padded to its longest text keeps to the budget."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, encoder.budget // max(1, int(lengths[order[start]])))
        yield order[start : start + size]
        start += size


def _on_cpu(encoder: Encoder, tokens: Tokens) -> Any:
    """What runs a text that does not fit into the device alone."""

    def run(places: Places) -> Any:
        other = encoder.on_cpu()
        if other is None:
            raise DeviceError("there is not enough memory to embed a single text.", hint="Shorten it, or close other programs.")
        warnings.warn(
            "a text did not fit into the memory of the device and was embedded on the CPU", RuntimeWarning, stacklevel=2
        )
        return other.post(other.core(tokens, places))

    return run
