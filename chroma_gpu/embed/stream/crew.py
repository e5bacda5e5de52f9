"""The threads of a stream: some make tokens, one per lane runs the model. They end with the stream, however it ends."""

from __future__ import annotations

import gc
import os
import threading
from types import TracebackType
from typing import Any, Final, Self

from chroma_gpu.embed.stream.board import Board
from chroma_gpu.embed.stream.lanes import Lane, lanes
from chroma_gpu.embed.stream.protocol import Encoder
from chroma_gpu.embed.stream.windows import Window, tokenise

TOKENISERS: Final = 8
"""Threads that make tokens, at most. One for every two cores: the others are for reading and launching."""

AHEAD: Final = 2
"""Windows that are read before their turn, besides those in the tokenisers' hands."""


BRIEF: Final = 0.02
"""Seconds that the caller of a model on the CPU may be away before another thread takes its place at the model."""

LOOK: Final = 0.05
"""Seconds after which that thread looks for work again, where there was none."""


class Crew:
    """Threads that work at a board, for use with ``with``. None is a daemon: none dies inside a library.

    Every lane has a thread, but for a model that has one lane on the CPU: there the caller, who waits anyway, runs it, and a thread
    stands in while the caller is away. Two threads that compute would each have torch's pool of threads; one more pool than cores
    makes OpenMP put threads to sleep between two steps of a model, which costs a tenth of its speed.

    Threads hold the board, not the crew, so that they end also when a crew is let go of without being closed.

    Cost  closing waits for the batch, and the window of tokens, that each thread has in hand; where the collector of garbage does it,
          they end by themselves
    """

    def __init__(self, board: Board, encoder: Encoder) -> None:
        self._board, self._encoder = board, encoder
        self._lanes = lanes(board)
        alone = len(self._lanes) == 1 and str(getattr(encoder, "device", "cpu")) == "cpu"
        self.mine: Lane | None = self._lanes.pop() if alone else None
        self._threads: list[threading.Thread] = []
        self._back = threading.Lock()  # free when the caller is back; no event, which Ctrl-C can leave locked

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:  # Ctrl-C too
            self._board.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self._board.closed = True
        if kind is GeneratorExit and (threading.current_thread() in self._threads or _collecting()):
            return  # in the middle of anything: this thread may have the lock of this board, or one that its threads wait for
        self._board.close()
        self._come_back()
        self._join()

    def __del__(self) -> None:
        self._board.closed = True

    def away(self) -> None:
        """The caller goes off with a block."""
        if self.mine is not None:
            self._back = threading.Lock()
            self._back.acquire()
            given = (self._board, self.mine, self._back)
            self._threads.append(threading.Thread(target=_stand_in, args=given, name=f"lane {self.mine.name}"))
            self._threads[-1].start()

    def resume(self) -> None:
        """The caller is back, maybe in another thread than before."""
        if self.mine is not None:
            self._come_back()
            self._threads[-1].join()
            del self._threads[-1]
        if self._board.resume():
            self._join()
            self._start()

    def _come_back(self) -> None:
        if self._back.locked():
            self._back.release()

    def _start(self) -> None:
        self._board.begin()
        given = (self._board, self._encoder)
        self._threads = [threading.Thread(target=_tokenise, args=given, name=f"tokenise {n}") for n in range(tokenisers())]
        self._threads += [threading.Thread(target=lane.run, name=f"lane {lane.name}") for lane in self._lanes]
        for thread in self._threads:
            thread.start()

    def _join(self) -> None:
        for thread in self._threads:
            if thread.is_alive():  # Ctrl-C may come before the last is started
                thread.join()


def _tokenise(board: Board, encoder: Encoder) -> None:
    while (window := board.next_raw()) is not None:
        make_tokens(board, window, encoder)


def _stand_in(board: Board, lane: Lane, back: threading.Lock) -> None:
    pause = BRIEF
    while not back.acquire(timeout=pause) and not board.ended():
        try:
            pause = 0.0 if lane.step(wait=False) else LOOK
        except BaseException as error:
            board.fail(None, error)
            return


def _collecting() -> bool:
    """Whether the collector of garbage is at work."""
    begun: list[str] = []

    def note(phase: str, _: Any) -> None:
        begun.append(phase)

    gc.callbacks.append(note)
    try:
        gc.collect(0)  # does nothing then
    finally:
        gc.callbacks.remove(note)
    return not begun


def make_tokens(board: Board, window: Window, encoder: Encoder) -> None:
    """Tokenise a window of a board; what that raises ends the stream there."""
    try:
        tokenise(window, encoder, board.prompt, board.remembered, board.forgiving)
    except BaseException as error:
        board.fail(window, error)
    else:
        board.tokenised(window)


def tokenisers() -> int:
    """How many threads make tokens here."""
    return max(1, min(TOKENISERS, (os.cpu_count() or 1) // 2))


def ahead() -> int:
    """How many windows are read ahead of the block that is yielded."""
    return AHEAD + tokenisers()
