"""Windows of texts: as many as are sorted together, read in order, and made into tokens without those that are known or fail."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from chroma_gpu import device as devices
from chroma_gpu.embed.memory.protocol import Remembered
from chroma_gpu.embed.stream.batches import Sorted
from chroma_gpu.embed.stream.protocol import WINDOW, Encoder, Places, Prompt
from chroma_gpu.embed.texts import check_text, unique
from chroma_gpu.errors import ChromaError, EmbeddingFailed
from chroma_gpu.records import Rows, Vectors

WINDOW_CHARACTERS: Final = 16 << 20
"""A window of long texts ends earlier, so that the memory of a stream stays bounded."""

WINDOW_BYTES: Final = 64 << 20
"""A window ends before its vectors take more."""

NAMED: Final = 5
"""Positions that an error lists."""

EXCERPT: Final = 60
"""Characters of a text that an error shows."""


@dataclass(slots=True, eq=False)
class Window:
    """Some consecutive texts on their way to vectors.

    start      position of the first in the stream
    given      the texts as they were read
    texts      the distinct ones; ``repeats[i]`` is where text i is among them
    asked      which of these go through the model; ``tokens`` and ``sorted`` are of them
    next       place in ``sorted`` where the next batch begins
    returned   batches that a lane gave back, and the lanes' members that have failed at them
    left       asked texts that have neither vector nor failure yet
    vectors    [len(texts), dim] float32
    failed     distinct text -> why it has no vector
    on_device  (texts, vectors) of batches where they were made, while that is wanted
    error      what ends the stream at this window
    """

    start: int
    given: list[str]
    characters: int
    texts: Sequence[str] = ()
    repeats: Rows = field(default_factory=lambda: np.empty(0, np.uint32))
    asked: Places = field(default_factory=lambda: np.empty(0, np.intp))
    tokens: Any = None
    sorted: Sorted | None = None
    next: int = 0
    returned: list[tuple[Places, frozenset[int]]] = field(default_factory=list)
    left: int = -1
    vectors: Vectors = field(default_factory=lambda: np.empty((0, 0), np.float32))
    failed: dict[int, Exception] = field(default_factory=dict)
    on_device: list[tuple[Places, Any]] = field(default_factory=list)
    error: BaseException | None = None

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return self.left == 0 or self.error is not None

    @property
    def total(self) -> int:
        """Tokens of all its texts; 0 before they are known."""
        return 0 if self.sorted is None else int(self.sorted.sums[-1])

    def positions(self, rows: Places) -> Places:
        """Where in the stream the given ones of the distinct texts are, rising."""
        return np.flatnonzero(np.isin(self.repeats, rows)) + self.start

    def named(self, rows: Places) -> str:
        """The given ones of the distinct texts in words."""
        found = self.positions(rows)
        where = ", ".join(map(str, found[:NAMED])) + (f" and {len(found) - NAMED} more" if len(found) > NAMED else "")
        first = self.given[int(found[0]) - self.start]
        shown = repr(first[:EXCERPT]) + ("..." if len(first) > EXCERPT else "")
        if len(found) == 1:
            return f"It was given the text at position {where}: {shown}."
        return f"It was given {len(found)} texts, at the positions {where}; the first is {shown}."


def window_sizes(encoder: Encoder) -> Iterator[int]:
    """Texts per window: at first as few as any encoder has, so that the device does not wait long, then what the encoder likes."""
    most = max(1, min(getattr(encoder, "window", WINDOW), WINDOW_BYTES // (4 * encoder.dim)))
    size = min(WINDOW, most)
    while True:
        yield size
        size = min(2 * size, most)


def windows(texts: Iterable[str], sizes: Iterator[int]) -> Iterator[Window]:
    """The texts in windows.  Raises ValueError for what is no text, and what reading raises; the windows before are good."""
    start, characters, size = 0, 0, next(sizes)
    part: list[str] = []
    for position, text in enumerate(texts):
        check_text(text, position)
        part.append(text)
        characters += len(text)
        if len(part) >= size or characters >= WINDOW_CHARACTERS:
            yield Window(start, part, characters)
            start += len(part)
            part, characters, size = [], 0, next(sizes)
    if part:
        yield Window(start, part, characters)


def tokenise(window: Window, encoder: Encoder, prompt: Prompt, remembered: Remembered | None, forgiving: bool) -> None:
    """The tokens of those of a window's distinct texts that are not remembered; the vectors of the others.

    forgiving  texts that cannot be tokenised go into ``window.failed``; otherwise they raise
    Raises     EmbeddingFailed that names the first such text, errors of ours unchanged; what the memory raises
    """
    window.texts, window.repeats = unique(window.given)
    window.vectors = np.empty((len(window.texts), encoder.dim), np.float32)
    asked = np.arange(len(window.texts))
    if remembered is not None:
        known, vectors = remembered.find(window.texts)
        window.vectors[known] = vectors
        asked = np.flatnonzero(~known)
    if len(asked):
        window.tokens, window.asked = _tokens(window, encoder, prompt, asked, forgiving)
    window.sorted = Sorted.of(np.asarray(window.tokens.lengths) if len(window.asked) else np.empty(0, np.int64))


def _tokens(window: Window, encoder: Encoder, prompt: Prompt, asked: Places, forgiving: bool) -> tuple[Any, Places]:
    """The tokens of the distinct texts that were asked for, and which of them have some."""
    try:
        return encoder.pre(_chosen(window.texts, asked), prompt), asked
    except Exception as error:
        if devices.is_out_of_memory(error) or (isinstance(error, ChromaError) and not forgiving):
            raise
        failure = error

    def fails(rows: Places) -> Exception | None:
        try:
            encoder.pre(_chosen(window.texts, rows), prompt)
        except Exception as error:
            return error.with_traceback(None)
        return None

    bad = _bad(asked, failure, fails, most=len(asked) if forgiving else 1)
    if not forgiving or (len(bad) == len(asked) and _always(encoder, prompt)):
        raise EmbeddingFailed(
            f"the texts cannot be tokenised: {type(failure).__name__}: {failure}. {window.named(np.array(list(bad) or asked))}"
        ) from failure
    window.failed.update(bad)
    good = np.array([row for row in asked if row not in bad], np.intp)
    return (encoder.pre(_chosen(window.texts, good), prompt) if len(good) else None), good


def _bad(rows: Places, failure: Exception, fails: Any, most: int) -> dict[int, Exception]:
    """Those of some rows, which fail together, that fail alone, by halves; the first ``most`` of them."""
    bad: dict[int, Exception] = {}
    waiting: list[tuple[Places, Exception | None]] = [(rows, failure)]
    while waiting and len(bad) < most:
        part, known = waiting.pop()
        error = known if known is not None else fails(part)
        if error is None:
            continue
        if len(part) == 1:
            bad[int(part[0])] = error
        else:
            half = len(part) // 2
            waiting += [(part[half:], None), (part[:half], None)]
    return bad


def _always(encoder: Encoder, prompt: Prompt) -> bool:
    """Whether the tokeniser fails whatever it is given."""
    try:
        encoder.pre(["a"], prompt)
    except Exception:
        return True
    return False


def _chosen(texts: Sequence[str], rows: Places) -> Sequence[str]:
    return texts if len(rows) == len(texts) else [texts[row] for row in rows]
