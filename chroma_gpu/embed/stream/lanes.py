"""The lane of a device: batch after batch through its encoder, the vectors of one fetched while the next ones run."""

from __future__ import annotations

from collections import deque
from time import perf_counter
from typing import Any, Final, cast

import numpy as np

from chroma_gpu import device as devices
from chroma_gpu.embed.stream.batches import padding
from chroma_gpu.embed.stream.board import Batch, Board
from chroma_gpu.embed.stream.budget import budget_of
from chroma_gpu.embed.stream.kept import Keeping
from chroma_gpu.embed.stream.windows import Window
from chroma_gpu.errors import ChromaError, DeviceError, EmbeddingFailed

LAUNCHED: Final = 2
"""Batches that are launched before the first of them is fetched, so that a GPU always has one more. A CPU is done when it returns."""


class Lane:
    """Runs batches of a board through one encoder.

    member  place of the encoder in the board's
    name    for threads and ``Stats.busy``
    """

    def __init__(self, board: Board, member: int, name: str) -> None:
        self.name = name
        self._board, self._member = board, member
        self._encoder = board.members[member]
        self._padded: bool = getattr(self._encoder, "padded", True)
        self._budget = budget_of(self._encoder)
        keeps = board.kept is not None and isinstance(self._encoder, Keeping)  # asked last, for it is slow
        self._on_device = cast(Keeping, self._encoder).on_device if keeps else None
        self._launched: deque[Batch] = deque()
        self._most = LAUNCHED if str(getattr(self._encoder, "device", "cpu")) != "cpu" else 0
        self._since: float | None = None

    def run(self) -> None:
        """Work until the stream ends: what a thread does."""
        try:
            while self.step(wait=True):
                pass
        except BaseException as error:
            self._board.fail(None, error)

    def step(self, *, wait: bool) -> bool:
        """Launch a batch, or fetch one if there is none to launch.  Returns False when there is nothing to do, or no more."""
        board = self._board
        window = board.next_window(self._member, wait and not self._launched)
        if window is not None:
            self._take(window)
            while len(self._launched) > self._most:
                self._fetch()
        elif self._launched and (board.remembered is not None or not board.closed):
            self._fetch()
        else:
            return False
        if not self._launched and self._since is not None:
            board.busy(self.name, perf_counter() - self._since)
            self._since = None
        return True

    def _take(self, window: Window) -> None:
        try:
            longest = self._board.longest(window)
            if self._board.threaded:
                self._budget.prepare(self._encoder, longest)
        except Exception as error:
            if not (devices.is_lost(error) and self._lose(error, [])):
                self._board.fail(window, _named(error))
            return
        batch = self._board.take(window, self._member, self._budget.tokens(self._encoder, longest), self._padded)
        if batch is None:
            return
        self._since = self._since or perf_counter()
        try:
            result = self._encoder.core(window.tokens, batch.places)
        except Exception as error:
            failure = error
        else:
            self._launched.append(Batch(window, batch.places, batch.tried, result))
            return
        self._failed(batch, failure)

    def _fetch(self) -> None:
        batch = self._launched.popleft()
        try:
            vectors = self._encoder.post(batch.result)
        except Exception as error:
            failure = error
        else:
            self._budget.succeeded(self._encoder)
            self._deliver(batch, vectors)
            return
        self._failed(Batch(batch.window, batch.places, batch.tried), failure)

    def _deliver(self, batch: Batch, vectors: Any, *, remember: bool = True) -> None:
        board, on_device = self._board, None
        try:
            found, finite = board.put(batch, vectors)
            if self._on_device is not None and board.kept is not None and batch.result is not None:
                on_device = self._on_device(batch.result)
        except Exception as error:
            board.fail(batch.window, _named(error, batch))
            return
        if not finite.any() and board.forgiving and (board.hopeless or not self._works()):
            board.fail(batch.window, EmbeddingFailed(f"the model returns NaN or infinity for every text. {_given(batch)}"))
            return
        try:
            if remember:
                board.remember(batch, found, finite)
        except Exception as error:
            board.fail(batch.window, error)
            return
        board.deliver(batch, self._member, finite, on_device, self._padded)

    def _failed(self, batch: Batch, error: Exception) -> None:
        """A batch failed. What memory is short for runs in halves; the rest is for other devices if there are any, else for halves."""
        board = self._board
        waiting: list[tuple[Batch, Exception | None]] = [(batch, error)]
        while waiting and not board.closed:
            part, failure = waiting.pop()
            if failure is None:
                failure = self._again(part)
            if failure is None:
                continue
            if devices.is_lost(failure):
                if not self._lose(failure, [part, *(other for other, _ in waiting)]):
                    board.fail(batch.window, _named(failure, part))
                return
            short = devices.is_out_of_memory(failure)
            if short:
                self._make_room(part, failure)
            elif board.others(self._member, part.tried):
                notice = f"{self.name} failed at a batch, which another device gets: {type(failure).__name__}: {failure}"
                board.give_back(Batch(part.window, part.places, part.tried | {self._member}), notice)
                continue
            if len(part.places) > 1 and (short or board.forgiving):
                half = len(part.places) // 2
                waiting += [(Batch(part.window, some, part.tried), None) for some in (part.places[half:], part.places[:half])]
                continue
            if short:
                failure = self._on_cpu(part)
            if failure is not None and not self._set_apart(part, failure):
                return

    def _again(self, batch: Batch) -> Exception | None:
        """Run a batch alone, to its end.  Returns why that failed."""
        self._board.retried()
        try:
            result = self._encoder.core(batch.window.tokens, batch.places)
            vectors = self._encoder.post(result)
        except Exception as error:
            return error
        # Others failed at a whole batch, of which this may be a part that they could have run.
        self._deliver(Batch(batch.window, batch.places, result=result), vectors)
        return None

    def _make_room(self, batch: Batch, error: Exception) -> None:
        # The frames of the failed attempt hold its tensors: nothing can be freed before they are let go.
        error.__traceback__ = None
        self._board.drop_kept()
        devices.free_cached_memory()
        if len(batch.places) > 1:
            self._budget.lower(self._encoder, padding(batch.window.tokens.lengths[batch.places], self._padded)[1])

    def _on_cpu(self, batch: Batch) -> Exception | None:
        """Embed a text that the device cannot hold.  Returns why that failed."""
        try:
            other = self._encoder.on_cpu()
            if other is None:
                return DeviceError(
                    "there is not enough memory to embed a single text.", hint="Shorten it, or close other programs."
                )
            self._board.notice("a text did not fit into the memory of the device and was embedded on the CPU")
            vectors = other.post(other.core(batch.window.tokens, batch.places))
        except Exception as error:
            return error
        self._deliver(batch, vectors, remember=False)  # the device would have made it a little different
        return None

    def _set_apart(self, batch: Batch, error: Exception) -> bool:
        """One text failed, or a batch where nobody takes failures: the stream ends here.  Returns whether it goes on."""
        board = self._board
        if not board.forgiving:
            board.fail(batch.window, _named(error, batch))
        elif board.hopeless or not self._works():
            error.add_note("Not only this text: the model fails at others too.")
            board.fail(batch.window, _named(error, batch))
        else:
            board.failed(batch, error)
            return True
        return False

    def _works(self) -> bool:
        """Whether the model makes anything of anything."""
        try:
            tokens = self._encoder.pre(["a"], self._board.prompt)
            return bool(np.isfinite(self._encoder.post(self._encoder.core(tokens, np.zeros(1, np.intp)))).all())
        except Exception:
            return False

    def _lose(self, error: Exception, batches: list[Batch]) -> bool:
        """Give up the device, and its batches to the others.  Returns False if there are none."""
        notice = f"{self.name} works no more, and others do its work: {type(error).__name__}: {error}"
        if not self._board.lose(self._member, notice):
            return False
        for batch in (*batches, *self._launched):
            self._board.give_back(Batch(batch.window, batch.places))
        self._launched.clear()
        return True


def lanes(board: Board) -> list[Lane]:
    """The lanes of all members of a board."""
    made = []
    for member, encoder in enumerate(board.members):
        device, several = str(getattr(encoder, "device", "cpu")), max(1, getattr(encoder, "lanes", 1))
        name = device if len(board.members) == 1 or device != "cpu" else f"{device}#{member}"
        made += [Lane(board, member, f"{name}/{number}" if several > 1 else name) for number in range(several)]
    return made


def _named(error: Exception, batch: Batch | None = None) -> Exception:
    """The error as the caller gets it, with the texts it came from."""
    given = "" if batch is None else _given(batch)
    if isinstance(error, ChromaError):
        if given:
            error.add_note(given)
        return error
    named = EmbeddingFailed(
        f"the model failed: {type(error).__name__}: {error}. {given}", hint="Nothing of this batch was written."
    )
    named.__cause__ = error
    return named


def _given(batch: Batch) -> str:
    return batch.window.named(batch.rows)
