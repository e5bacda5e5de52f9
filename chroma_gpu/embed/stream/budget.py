"""How many tokens a batch may have: what saturates the device, less where its memory would not hold that, less after it ran out."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from chroma_gpu import device as devices

if TYPE_CHECKING:
    from chroma_gpu.embed.stream.protocol import Encoder

SHARE_OF_FREE: Final = 0.8
"""Of the memory that is free when it is asked."""

SMALL: Final = 4_096
LARGE: Final = 16_384
"""Tokens of the two forward passes that say what memory grows with."""

USUAL: Final = 128
"""Tokens per text in these."""

LOWERED: Final = 0.75
"""Of what did not fit."""

RAISED: Final = 1.05
CLEAN: Final = 200
"""After that many batches without a shortage the budget grows again."""


@dataclass(frozen=True, slots=True)
class Fit:
    """Bytes that a batch takes: fixed + tokens * (per_token + per_pair * length). The last term is padded attention's."""

    fixed: float
    per_token: float
    per_pair: float = 0.0

    def tokens(self, length: int, room: float) -> int:
        """How many tokens of texts of some length take ``room`` bytes; 0 if there is none to spare."""
        each = self.per_token + self.per_pair * length
        return max(0, int((room - self.fixed) / each)) if each > 0 else 1 << 62


def fit(small: tuple[int, int], large: tuple[int, int], length: int, long: tuple[int, int, int] | None = None) -> Fit:
    """The line through two measurements of (tokens, bytes) at texts of ``length``, bent by one of (tokens, bytes, length)."""
    slope = max(0.0, (large[1] - small[1]) / (large[0] - small[0])) if large[0] > small[0] else large[1] / max(1, large[0])
    fixed = max(0.0, large[1] - slope * large[0])
    if long is None or long[2] <= length:
        return Fit(fixed, slope)
    bend = max(0.0, ((long[1] - fixed) / long[0] - slope) / (long[2] - length))
    bend = min(bend, slope / length)  # nothing is gained by a longer text
    return Fit(fixed, slope - bend * length, bend)


def saturating(total: int) -> int:
    """Tokens per batch that keep a GPU with so many bytes of memory busy: from 24 and 80 GB on, more."""
    # Cards of 24 and 80 GB show a little less than that.
    return 131_072 if total >= 78 * 10**9 else 65_536 if total >= 23 * 10**9 else 16_384


class Budget:
    """The tokens that a batch of one encoder may have. Keeps ``encoder.budget``; who sets that from outside is obeyed.

    Thread-safe: all streams of an encoder share it, see ``budget_of``.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._lock = threading.Lock()
        self._probing = threading.Lock()
        self._most = self._last = encoder.budget
        self._clean = 0
        self._given = False
        self._fit: Fit | None = None
        self._room = 0.0
        self._probed = 0

    def tokens(self, encoder: Encoder, length: int) -> int:
        """The budget of a batch whose longest text has ``length`` tokens."""
        with self._lock:
            self._see(encoder)
            budget = encoder.budget
        return budget if self._fit is None else max(1, min(budget, self._fit.tokens(length, self._room)))

    def prepare(self, encoder: Encoder, length: int) -> None:
        """Find out what the device holds, for texts of up to ``length`` tokens, unless that is known.

        Cost  nothing on a CPU; elsewhere three forward passes of 16,384 tokens at most, once, and again for texts twice as long
        """
        if self._probed and (length <= 2 * self._probed or self._fit is None):
            return
        with self._probing:
            if self._probed and (length <= 2 * self._probed or self._fit is None):
                return
            with self._lock:
                self._see(encoder)
                given = self._given
            found = None if given else _probe(encoder, max(1, length))
            with self._lock:
                self._probed = max(1, length)
                if found is None:
                    return
                first = self._fit is None
                self._fit, self._room, most = found
                if first:
                    self._most = self._last = encoder.budget = most

    def lower(self, encoder: Encoder, tokens: int) -> None:
        """A batch of so many tokens did not fit."""
        with self._lock:
            self._see(encoder)
            self._clean = 0
            self._last = encoder.budget = min(encoder.budget, max(1, int(tokens * LOWERED)))

    def succeeded(self, encoder: Encoder) -> None:
        """A batch fitted."""
        with self._lock:
            self._see(encoder)
            self._clean += 1
            if self._clean >= CLEAN:
                self._clean = 0
                self._last = encoder.budget = min(self._most, max(encoder.budget + 1, int(encoder.budget * RAISED)))

    def _see(self, encoder: Encoder) -> None:
        if encoder.budget != self._last:
            self._most = self._last = encoder.budget
            self._given = True


def budget_of(encoder: Encoder) -> Budget:
    """The budget of an encoder, which lives as long as it does; ``budgeted`` of one that stands before another says which that is."""
    encoder = getattr(encoder, "budgeted", encoder)
    with _LOCK:
        found = _BUDGETS.get(encoder)
        if found is None:
            found = _BUDGETS[encoder] = Budget(encoder)
        return found


_BUDGETS: Final[WeakKeyDictionary[Encoder, Budget]] = WeakKeyDictionary()
_LOCK: Final = threading.Lock()


def _probe(encoder: Encoder, length: int) -> tuple[Fit, float, int] | None:
    """What a batch takes, the bytes there are for it, and the tokens that saturate; None where that cannot be known."""
    peak = getattr(encoder, "peak", None)
    if peak is None:
        return None
    try:
        usual = min(USUAL, length)
        measured: list[tuple[int, int, int]] = []
        for tokens, each in ((SMALL, usual), (LARGE, usual), (LARGE, length)):
            if each > usual or len(measured) < 2:
                batch = max(1, tokens // each)
                taken = peak(batch, each)
                if taken is None:
                    return None
                measured.append((batch * each, int(taken), each))
    except Exception as error:
        if not devices.is_out_of_memory(error):
            raise
        error.__traceback__ = None  # its frames hold the tensors
        devices.free_cached_memory()
        return None
    device: str = getattr(encoder, "device", "cpu")
    devices.free_cached_memory()
    free, total = devices.free_memory(device), devices.total_memory(device)
    if free is None or total is None:
        return None
    small, large, *long = measured
    return (
        fit((small[0], small[1]), (large[0], large[1]), usual, long[0] if long else None),
        free * SHARE_OF_FREE,
        saturating(total),
    )
