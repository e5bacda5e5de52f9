"""From texts to vectors in large, even batches: tokenised ahead, sorted by length, cut by a budget of tokens, put back in order.

Texts are read in the caller's thread. Threads make tokens of the next windows of texts, and one thread per device (or more, on a CPU
that gains by it) runs batch after batch, also while the caller is busy with the block that it was given. One lane on the CPU is the caller's own while it waits:

    windows    reading, and which texts of a window go through the model
    batches    where a batch ends; budget: how large it may be
    board      what is to be done and what is done
    lanes      the model: launching, fetching, and what happens when a batch fails
    crew       the threads
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat
from typing import Final

import numpy as np

from chroma_gpu.embed.memory.protocol import Memory
from chroma_gpu.embed.progress import Progress, bar
from chroma_gpu.embed.stream.board import Board
from chroma_gpu.embed.stream.crew import Crew, ahead, make_tokens
from chroma_gpu.embed.stream.failures import Failures
from chroma_gpu.embed.stream.kept import Kept
from chroma_gpu.embed.stream.lanes import Lane, lanes
from chroma_gpu.embed.stream.protocol import WINDOW, Encoder, Places, Prompt, Tokens
from chroma_gpu.embed.stream.stats import Stats
from chroma_gpu.embed.stream.team import Team, members_of
from chroma_gpu.embed.stream.windows import Window, window_sizes, windows
from chroma_gpu.embed.texts import Block
from chroma_gpu.errors import EmbeddingFailed

__all__ = ["WINDOW", "Encoder", "Places", "Prompt", "Tokens", "stream"]

NO_PROMPT: Final = Prompt()

CHARACTERS: Final = 64 << 20
TOKENS: Final = 32 << 20
"""What windows in flight hold at most, give or take one."""


def stream(
    encoder: Encoder,
    texts: Iterable[str],
    prompt: Prompt = NO_PROMPT,
    *,
    progress: Progress = None,
    window: int | None = None,
    kept: Kept | None = None,
    failures: Failures | None = None,
    memory: Memory | None = None,
    stats: Stats | None = None,
) -> Iterator[Block]:
    """The vectors of texts in blocks of one window, in order.

    encoder   a ``Team`` shares the work among its devices
    texts     any number; they are read in the caller's thread, at most 1 + ``crew.ahead()`` windows ahead of the block that is yielded
    window    texts that are sorted together; None: as many as the encoder likes
    kept      takes what is on a device of the same vectors, where all rows of a window are on one; a block is there before it is yielded
    failures  takes the texts that have no vector, by their positions in the stream; their rows are NaN. Without it the first raises
    memory    knows vectors of texts, and learns those that are made, batch by batch; unused by encoders without ``fingerprint``
    stats     counts what is done
    Yields    (start, [m, encoder.dim] float32)
    Raises    EmbeddingFailed that names the texts it came from, with the cause chained; ValueError for what is no text; what reading
              raises. In the caller at the block that failed: the blocks before are good. Also with ``failures`` where the model
              fails whatever it is given, or the device is lost.
    Warns     RuntimeWarning when a text had to go to the CPU, or a device of several works no more
    Cost      equal texts of a window are embedded once. Texts of one window only need no thread. Memory for 1 + ``crew.ahead()``
              windows of texts and tokens, and for the vectors of ``board.OPEN`` + 1
    """
    members = members_of(encoder)
    remembered = None
    if memory is not None and (fingerprint := getattr(encoder, "fingerprint", None)) is not None:
        remembered = memory.of(f"{fingerprint}/{prompt}", encoder.dim)
    board = Board(members, prompt, failures is not None, remembered, kept, Stats() if stats is None else stats)
    if isinstance(encoder, Team):
        board.lost = lambda member: encoder.lose(members[member])
    source = _Source(windows(texts, window_sizes(encoder) if window is None else repeat(window)))
    with bar(len(texts) if isinstance(texts, Sequence) else None, progress) as count:
        first = source.next()
        second = None if first is None else source.next()
        if first is not None and second is None:
            yield _block(board, _alone(board, first, members[0], count), failures, count)
        elif first is not None and second is not None:
            board.add(first)
            board.add(second)
            with Crew(board, members[0]) as crew:
                del first, second
                while board.flight:
                    source.fill(board, ahead() + 1)
                    found = _next(board, crew.mine, count)
                    source.fill(board, ahead())
                    block = _block(board, found, failures, count)
                    crew.away()
                    yield block
                    del found, block
                    crew.resume()
        source.end()


class _Source:
    """The windows of a stream. What reading raises waits until the windows before are done."""

    def __init__(self, parts: Iterator[Window]) -> None:
        self._parts = parts
        self._error: Exception | None = None

    def next(self) -> Window | None:
        """The next window; None at the end."""
        try:
            return next(self._parts, None)
        except Exception as error:
            self._error = error
            return None

    def fill(self, board: Board, most: int) -> None:
        """Read until so many windows are in flight, or what they hold is enough."""
        while self._error is None and board.room(most, CHARACTERS, TOKENS) and (window := self.next()) is not None:
            board.add(window)

    def end(self) -> None:
        """Raises what reading raised."""
        if self._error is not None:
            raise self._error


def _alone(board: Board, window: Window, encoder: Encoder, count: Callable[[int], object]) -> Window:
    """Embed the only window in this thread."""
    board.flight.append(window)
    make_tokens(board, window, encoder)
    working = lanes(board)
    seen = 0
    while not window.done:
        for lane in working:
            while lane.step(wait=False):
                count(board.delivered - seen)
                seen = board.delivered
    _, notices, _ = board.news(seen)
    _warn(notices)
    return window


def _next(board: Board, mine: Lane | None, count: Callable[[int], object]) -> Window:
    """Wait for the first window in flight, working at this thread's own lane if it has one, and tell what is done meanwhile."""
    while True:
        seen = board.counted
        board.counted, notices, window = board.news(seen, None if mine is None else 0)
        count(board.counted - seen)
        _warn(notices)
        if window is not None:
            return window
        if mine is not None:
            mine.step(wait=False)


def _warn(notices: Sequence[str]) -> None:
    for notice in notices:
        warnings.warn(notice, RuntimeWarning, stacklevel=4)


def _block(board: Board, window: Window, failures: Failures | None, count: Callable[[int], object]) -> Block:
    """What the caller gets of a window that is done.  Raises what it failed with."""
    if window.error is not None:
        raise window.error
    vectors, repeats, failed = window.vectors, window.repeats, window.failed
    if failed and failures is None:
        raise EmbeddingFailed(
            f"the model returned NaN or infinity for {len(failed)} of {len(vectors)} texts. {window.named(np.array(list(failed)))}",
            hint='Its weights may be damaged, or overflow in 16 bits: try model_kwargs={"dtype": "float32"}.',
        )
    if failures is not None and failed:
        vectors[list(failed)] = np.nan
        for position in window.positions(np.array(list(failed))):
            failures.add(int(position), failed[int(repeats[position - window.start])])
    board.close_kept(window)
    board.stats.texts += len(repeats)
    count(len(repeats) - len(window.asked))
    return window.start, vectors if len(vectors) == len(repeats) else vectors[repeats]
