"""What is to be done and what is done, between the thread that reads and yields, the tokenisers, and the lanes of the devices."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from chroma_gpu.embed.memory.protocol import Remembered
from chroma_gpu.embed.stream.batches import padding
from chroma_gpu.embed.stream.kept import Kept
from chroma_gpu.embed.stream.protocol import Encoder, Places, Prompt
from chroma_gpu.embed.stream.stats import Stats
from chroma_gpu.embed.stream.windows import Window
from chroma_gpu.errors import EmbeddingFailed
from chroma_gpu.records import Vectors

OPEN: Final = 3
"""Windows that lanes work at: so many may be finished and wait for the caller, besides the one it was given."""

PATIENCE: Final = 1.0
"""Seconds after which a waiting thread looks whether anybody is left to work for."""

STRIKES: Final = 3
"""Batches in a row that a device fails at and others do not, after which it gets no more."""

HOPELESS: Final = 256
"""When so many texts fail one after another, it is not the texts."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Texts that go through the model together.

    places  among the window's tokens
    tried   members of a team that failed at them
    result  what ``core`` gave
    """

    window: Window
    places: Places
    tried: frozenset[int] = frozenset()
    result: Any = None

    @property
    def rows(self) -> Places:
        """Which of the window's distinct texts."""
        return self.window.asked[self.places]


@dataclass(eq=False)
class Board:
    """Windows in flight, in order, for one stream. All methods may be called from any thread.

    forgiving  whether texts that fail are set apart
    lost       told of members that work no more
    threaded   whether other threads than the caller's work at this stream
    """

    members: tuple[Encoder, ...]
    prompt: Prompt
    forgiving: bool
    remembered: Remembered | None
    kept: Kept | None
    stats: Stats
    lost: Callable[[int], object] = lambda member: None
    threaded: bool = False
    flight: deque[Window] = field(default_factory=deque)
    closed: bool = False
    delivered: int = 0
    counted: int = 0
    notices: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.alive = set(range(len(self.members)))
        self.owner = threading.current_thread()
        self.abandoned = False
        self._raw: deque[Window] = deque()
        self._dead = 0
        self._broken: BaseException | None = None
        self._strikes: Counter[int] = Counter()
        self._lock = threading.Lock()
        self._tokenise, self._work = (threading.Condition(self._lock) for _ in range(2))
        # No condition: Ctrl-C in the middle of waiting for one can leave it without the lock that it gives back.
        self._told = threading.Lock()
        self._told.acquire()

    def add(self, window: Window) -> None:
        """A window was read."""
        with self._lock:
            window.error = self._broken
            self.flight.append(window)
            self._raw.append(window)
            self._tokenise.notify()

    def next_raw(self) -> Window | None:
        """The next window to be tokenised, when there is one; None at the end of the stream."""
        with self._lock:
            while not self._ended():
                if self._raw:
                    return self._raw.popleft()
                self._tokenise.wait(PATIENCE)
            return None

    def tokenised(self, window: Window) -> None:
        """A window has its tokens."""
        with self._lock:
            window.left = len(window.asked)
            self.stats.remembered += len(window.texts) - len(window.asked) - len(window.failed)
            self.stats.failed += len(window.failed)
            self.stats.truncated += int(getattr(window.tokens, "truncated", 0) or 0)
            self._wake()

    def next_window(self, member: int, wait: bool) -> Window | None:
        """The first window that has a batch for a member; None if there is none now, or, having waited, at the end."""
        with self._lock:
            while not self._ended():
                found = self._window(member)
                if found is not None or not wait:
                    return found
                self._work.wait(PATIENCE)
            return None

    def _window(self, member: int) -> Window | None:
        for window in islice(self.flight, OPEN):
            if window.error is not None or member not in self.alive:
                return None
            if (
                window.left > 0
                and window.sorted is not None
                and (window.next < len(window.sorted) or self._returned(window, member))
            ):
                return window
        return None

    def _returned(self, window: Window, member: int) -> list[int]:
        """Which of a window's returned batches a member may try: those it did not fail at, and where all failed any."""
        return [i for i, (_, tried) in enumerate(window.returned) if member not in tried or not self.alive - tried]

    def take(self, window: Window, member: int, budget: int, padded: bool) -> Batch | None:
        """A batch of a window for a member; None if others took what was left."""
        with self._lock:
            if window.error is not None or window.sorted is None:
                return None
            for i in self._returned(window, member):
                return Batch(window, *window.returned.pop(i))
            start = window.next
            if start >= len(window.sorted):
                return None
            window.next = window.sorted.end(start, budget, padded)
            return Batch(window, window.sorted.order[start : window.next])

    def longest(self, window: Window) -> int:
        """Tokens of the longest text of the next batch of a window."""
        with self._lock:
            if window.sorted is None or not len(window.sorted):
                return 1
            return int(window.sorted.lengths[min(window.next, len(window.sorted) - 1)])

    def put(self, batch: Batch, found: Any) -> tuple[Vectors, npt.NDArray[np.bool_]]:
        """Write the vectors of a batch, [m, dim], where they belong.  Returns them, and which are finite, [m] bool."""
        batch.window.vectors[batch.rows] = found
        vectors = np.asarray(found, np.float32)
        return vectors, np.asarray(np.isfinite(vectors).all(axis=1))

    def remember(self, batch: Batch, vectors: Vectors, finite: npt.NDArray[np.bool_]) -> None:
        """Keep the vectors of a batch for other streams.  Raises what the memory raises."""
        if self.remembered is not None and finite.any():
            self.remembered.keep([batch.window.texts[row] for row in batch.rows[finite]], vectors[finite])

    def deliver(self, batch: Batch, member: int, finite: npt.NDArray[np.bool_], on_device: Any, padded: bool) -> None:
        """The vectors of a batch are where they belong; those that are not finite count as failures."""
        window, rows = batch.window, batch.rows
        tokens, with_padding = padding(window.tokens.lengths[batch.places], padded)
        bad = rows[~finite]
        with self._lock:
            if self.kept is not None and on_device is not None:
                window.on_device.append((rows, on_device))
            for row in bad:
                window.failed[int(row)] = EmbeddingFailed("the model returned NaN or infinity for this text.")
            self.stats.batches += 1
            self.stats.tokens += tokens
            self.stats.padded += with_padding
            self.stats.failed += len(bad)
            self._dead = 0 if len(bad) < len(rows) else self._dead + len(rows)
            self._strikes[member] = 0
            for other in batch.tried - {member}:
                self._strikes[other] += 1
                if self._strikes[other] >= STRIKES:
                    self._lose(other, f"device {other} of {len(self.members)} fails at what others do, and gets no more of it")
            self._less(window, len(rows))

    def failed(self, batch: Batch, error: Exception) -> None:
        """A batch of one text has no vector."""
        with self._lock:
            batch.window.failed[int(batch.rows[0])] = error.with_traceback(None)
            self.stats.failed += 1
            self._dead += 1
            self._less(batch.window, 1)

    @property
    def hopeless(self) -> bool:
        """Whether nothing but failures has come for long."""
        return self._dead >= HOPELESS

    def fail(self, window: Window | None, error: BaseException) -> None:
        """The stream ends before a window; None: before the next."""
        with self._lock:
            window = window or next(iter(self.flight), None)
            if window is None:
                self._broken = error
            else:
                window.error = window.error or error
            self._wake()

    def give_back(self, batch: Batch, notice: str = "") -> None:
        """Another lane is to try a batch."""
        with self._lock:
            batch.window.returned.append((batch.places, batch.tried))
            self.stats.retries += 1
            self.notices += [notice] if notice else []
            self._wake()

    def others(self, member: int, tried: frozenset[int] = frozenset()) -> bool:
        """Whether other members work that have not tried."""
        return bool(self.alive - tried - {member})

    def lose(self, member: int, notice: str) -> bool:
        """A member works no more.  Returns False if it is the last: then it stays."""
        with self._lock:
            return self._lose(member, notice)

    def _lose(self, member: int, notice: str) -> bool:
        if not self.alive - {member}:
            return False
        if member in self.alive:
            self.alive.remove(member)
            self.notices.append(notice)
            self.lost(member)
        self._wake()
        return True

    def notice(self, text: str) -> None:
        """Warn the caller, in its own thread."""
        with self._lock:
            self.notices.append(text)

    def drop_kept(self) -> None:
        """Memory of the device is short: let go of what was kept there."""
        if self.kept is None:
            return
        with self._lock:
            for window in self.flight:
                window.on_device.clear()
            self.kept.drop()
            self.kept = None

    def busy(self, lane: str, seconds: float) -> None:
        """A lane had work for so long."""
        with self._lock:
            self.stats.busy[lane] = self.stats.busy.get(lane, 0.0) + seconds

    def retried(self) -> None:
        """A batch is run again."""
        with self._lock:
            self.stats.retries += 1

    def news(self, seen: int, member: int | None = None) -> tuple[int, list[str], Window | None]:
        """Wait for something to tell: texts delivered beyond those seen, warnings, and the first window once it is done.

        That window leaves the board with it. Who works for a member does not wait while there is a batch for that.
        """
        while True:
            with self._lock:
                first = self.flight[0] if self.flight[0].done else None
                here = member is not None and self._window(member) is not None
                if first is not None or self.delivered > seen or self.notices or here:
                    notices, self.notices = self.notices, []
                    if first is not None:
                        self.flight.popleft()
                        self._work.notify_all()  # another window is open
                    return self.delivered, notices, first
            self._told.acquire(timeout=PATIENCE)

    def close_kept(self, window: Window) -> None:
        """Hand on what is on one device of a window that is done."""
        with self._lock:
            if self.kept is None:
                return
            parts, window.on_device = window.on_device, []
            devices = {str(getattr(vectors, "device", "")) for _, vectors in parts}
            if len(devices) == 1 and not window.failed and window.error is None:
                for rows, vectors in parts:
                    self.kept.take(rows, vectors)
            self.kept.close_window(window.start, window.repeats)

    def room(self, windows: int, characters: int, tokens: int) -> bool:
        """Whether fewer than so many windows are in flight, with less in them; two always may be."""
        with self._lock:
            held = len(self.flight)
            return held < min(2, windows) or (
                held < windows
                and sum(window.characters for window in self.flight) < characters
                and sum(window.total for window in self.flight) < tokens
            )

    def resume(self) -> bool:
        """The caller is here, in its present thread.  Returns whether threads end, or have, because nobody was left."""
        with self._lock:
            self.owner = threading.current_thread()
            if self.abandoned:
                self._wake()
            return self.abandoned

    def begin(self) -> None:
        """Threads are about to start."""
        self.threaded, self.abandoned = True, False

    def ended(self) -> bool:
        """Whether nobody is left to work for."""
        with self._lock:
            return self._ended()

    def close(self) -> None:
        """Nothing more is wanted."""
        with self._lock:
            self.closed = True
            self._wake()

    def _ended(self) -> bool:
        # A generator that nobody closes must not keep the interpreter from ending. Who asks whether itself is alive, and is
        # interrupted by Ctrl-C meanwhile, is dead to ``threading`` from then on.
        if not self.closed and self.threaded and self.owner is not threading.current_thread() and not self.owner.is_alive():
            self.abandoned = True
        return self.closed or self.abandoned

    def _less(self, window: Window, rows: int) -> None:
        self.delivered += rows
        window.left -= rows
        self._tell()

    def _wake(self) -> None:
        for waiting in (self._tokenise, self._work):
            waiting.notify_all()
        self._tell()

    def _tell(self) -> None:
        if self._told.locked():
            self._told.release()
