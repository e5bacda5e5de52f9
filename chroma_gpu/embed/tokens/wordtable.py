"""Words and the tokens each is made of, looked up by the hundred thousand at once.

Method: a hash table of arrays with linear probing (Knuth, The Art of Computer Programming 3, 6.4, algorithm L) and multiplicative
hashing. A word of up to 16 bytes is its own key, as two numbers of 64 bits: two words are never taken for one another.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

Keys: TypeAlias = npt.NDArray[np.uint64]
Values: TypeAlias = npt.NDArray[np.int64]

KEY_BYTES: Final = 16
"""Longer words are kept one by one."""

COUNT_BITS: Final = 16
"""A value is where the tokens of a word begin in ``WordTable.ids``, and in its lowest bits how many they are."""

WORDS: Final = 1 << 17
"""A table is full with so many words, or with four times as many tokens: some 15 MB in all."""

_MIX: Final = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F))
_PUBLISHED: Final = 1_024
"""At least so many new words are put into the arrays at once."""


@dataclass(frozen=True, slots=True, eq=False)
class Slots:
    """The table itself, never changed once it is made. A free slot has low 0, which no word has.

    low, high, value  [2 ** bits]
    used              words in it, at most half of the slots
    """

    low: Keys
    high: Keys
    value: Values
    bits: int
    used: int

    @classmethod
    def empty(cls, bits: int) -> Slots:
        """2 ** bits free slots."""
        return cls(np.zeros(1 << bits, np.uint64), np.zeros(1 << bits, np.uint64), np.zeros(1 << bits, np.int64), bits, 0)

    def find(self, low: Keys, high: Keys) -> Values:
        """[n] the values of words, -1 for those that are not here."""
        slot = _home(low, high, self.bits)
        value = self.value.take(slot)
        rest = np.flatnonzero((self.low.take(slot) != low) | (self.high.take(slot) != high))
        if not len(rest):
            return value
        value[rest] = -1
        slot, low, high = slot[rest], low[rest], high[rest]
        while len(rest):
            taken = self.low.take(slot) != 0  # a free slot ends the search
            rest, low, high = rest[taken], low[taken], high[taken]
            slot = (slot[taken] + 1) & (len(self.low) - 1)
            same = (self.low.take(slot) == low) & (self.high.take(slot) == high)
            value[rest[same]] = self.value.take(slot[same])
            other = ~same
            rest, slot, low, high = rest[other], slot[other], low[other], high[other]
        return value

    def adding(self, low: Keys, high: Keys, value: Values) -> Slots:
        """A table with these words too, which must differ from each other and from those that are here."""
        used, bits = self.used + len(low), self.bits
        while used * 2 > 1 << bits:
            bits += 1
        if bits == self.bits:
            grown = Slots(self.low.copy(), self.high.copy(), self.value.copy(), bits, used)
        else:
            empty, here = Slots.empty(bits), np.flatnonzero(self.low)
            grown = Slots(empty.low, empty.high, empty.value, bits, used)
            grown._put(self.low[here], self.high[here], self.value[here])
        grown._put(low, high, value)
        return grown

    def _put(self, low: Keys, high: Keys, value: Values) -> None:
        slot = _home(low, high, self.bits)
        while len(low):
            free = np.flatnonzero(self.low.take(slot) == 0)
            placed = free[np.unique(slot[free], return_index=True)[1]]  # one word a slot
            where = slot[placed]
            self.low[where], self.high[where], self.value[where] = low[placed], high[placed], value[placed]
            rest = np.ones(len(low), np.bool_)
            rest[placed] = False
            low, high, value, slot = low[rest], high[rest], value[rest], (slot[rest] + 1) & (len(self.low) - 1)


class WordTable:
    """The tokens of the words seen so far. It only grows; whoever finds it full begins a new one.

    tokens_of  the tokens of a word, asked once
    first      what ``ids`` begins with
    Threads: readers take no lock. Arrays in use are never written where a value points to that a reader can hold: ``Slots`` are
    replaced whole, and tokens are appended behind all values given out before. Writers take turns.
    """

    def __init__(self, tokens_of: Callable[[bytes], Sequence[int]], first: Sequence[int] = ()) -> None:
        self._tokens_of = tokens_of
        self._lock = threading.Lock()
        self._slots = Slots.empty(12)
        self._new: dict[bytes, int] = {}
        self._long: dict[bytes, int] = {}
        self._ids = np.zeros(1 << 14, np.int32)
        self._made = 0
        self._append(first)

    def __len__(self) -> int:
        return self._slots.used + len(self._new) + len(self._long)

    @property
    def full(self) -> bool:
        """Whether it has as many words as it should hold, or as many tokens."""
        return len(self) >= WORDS or self._made >= 4 * WORDS

    @property
    def ids(self) -> npt.NDArray[np.int32]:
        """Tokens: a value that was got before points into it."""
        return self._ids

    def find(self, low: Keys, high: Keys) -> Values:
        """[n] the values of words of up to ``KEY_BYTES`` bytes, -1 for those to be asked for by ``values``."""
        return self._slots.find(low, high)

    def values(self, low: Keys, high: Keys) -> Values:
        """[n] the values of words that ``find`` did not know, which are tokenised and kept."""
        keys = np.empty((len(low), 2), "<u8")
        keys[:, 0], keys[:, 1] = low, high
        distinct, places = np.unique(keys.view(f"S{KEY_BYTES}").ravel(), return_inverse=True)
        found = np.fromiter((self._value(word, self._new) for word in distinct.tolist()), np.int64, len(distinct))
        if len(self._new) >= max(_PUBLISHED, self._slots.used // 4):
            self._publish()
        return found[places]

    def long_value(self, word: bytes) -> int:
        """The value of a word of more than ``KEY_BYTES`` bytes."""
        return self._value(word, self._long)

    def _value(self, word: bytes, kept: dict[bytes, int]) -> int:
        value = kept.get(word)
        if value is None:
            tokens = self._tokens_of(word)
            with self._lock:
                value = kept.get(word)
                if value is None:
                    kept[word] = value = self._append(tokens)
        return value

    def _append(self, tokens: Sequence[int]) -> int:
        start, made = self._made, self._made + len(tokens)
        if made > len(self._ids):
            longer = np.zeros(max(2 * len(self._ids), made), np.int32)
            longer[:start] = self._ids[:start]
            self._ids = longer
        self._ids[start:made] = tokens
        self._made = made  # last, for want of memory may end this anywhere
        return start << COUNT_BITS | len(tokens)

    def _publish(self) -> None:
        with self._lock:
            words, values = list(self._new), np.fromiter(self._new.values(), np.int64, len(self._new))
            keys = np.array(words, f"S{KEY_BYTES}").view("<u8").astype(np.uint64).reshape(-1, 2)
            low, high = keys[:, 0].copy(), keys[:, 1].copy()
            # Another thread may have published a word between a reader's search in the slots and its own entry here.
            absent = self._slots.find(low, high) < 0
            self._slots = self._slots.adding(low[absent], high[absent], values[absent])
            self._new = {}


def _home(low: Keys, high: Keys, bits: int) -> npt.NDArray[np.intp]:
    mixed: npt.NDArray[Any] = ((low ^ (high * _MIX[1])) * _MIX[0]) >> np.uint64(64 - bits)
    return mixed.astype(np.intp)
