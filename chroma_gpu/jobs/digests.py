"""A counted set of 16-byte digests in two arrays, for as many as a Python set has no room for."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.uint64]
"""[n, 2] uint64."""
Slots = npt.NDArray[np.int64]

LOAD: Final = 0.8
"""The share of slots that are taken before there are more of them."""
GROWTH: Final = 1.4
FEWEST: Final = 1_021


class Digests:
    """How often each of some digests was added.  Open addressing, double hashing over a prime number of slots (Knuth 6.4 D).

    Memory  20 bytes a slot: 25 to 35 for a digest, those that count 0 again included; twice that while there are made more slots
    Cost    some hundred nanoseconds for a digest, thousands at a time
    """

    def __init__(self) -> None:
        self._clear(FEWEST)

    def __len__(self) -> int:
        """How many digests there are, those that count 0 again included."""
        return self._taken

    @property
    def nbytes(self) -> int:
        """Memory."""
        return self._keys.nbytes + self._counts.nbytes

    def counts(self, keys: Keys) -> npt.NDArray[np.int32]:
        """[n] int32: the count of each; 0 for what was never added."""
        slots, there = self._slots(_never_zero(keys))
        return np.where(there, self._counts[slots], np.int32(0))

    def add(self, keys: Keys, counts: npt.NDArray[np.int32]) -> None:
        """Add to the counts of digests, which may be several times among them."""
        if not len(keys):
            return
        keys = _never_zero(keys)
        order = np.lexsort(keys.T)
        keys = keys[order]
        starts = np.flatnonzero(np.r_[True, (keys[1:] != keys[:-1]).any(axis=1)])
        self._grow(self._taken + len(starts))
        self._counts[self._placed(keys[starts])] += np.add.reduceat(counts[order], starts)

    def _clear(self, size: int) -> None:
        self._keys = np.zeros((size, 2), np.uint64)
        self._counts = np.zeros(size, np.int32)
        self._taken = 0

    def _grow(self, wanted: int) -> None:
        """Room for so many digests."""
        size = len(self._keys)
        if wanted <= LOAD * size:
            return
        keys, counts = self._keys, self._counts
        self._clear(_prime(int(max(size * GROWTH, wanted / LOAD)) + 1))
        for start in range(0, size, 1 << 16):
            there = np.flatnonzero(keys[start : start + (1 << 16), 0]) + start
            self._counts[self._placed(keys[there])] = counts[there]

    def _placed(self, keys: Keys) -> Slots:
        """The slots of distinct digests, those that are new put there."""
        slots, there = self._slots(keys)
        left = np.flatnonzero(~there)
        step = self._step(keys)
        while len(left):
            free = self._keys[slots[left], 0] == 0
            trying = left[free]
            # Of several that found the same free slot, the last one takes it: whoever finds itself there afterwards.
            for half in (0, 1):
                self._keys[slots[trying], half] = keys[trying, half]
                trying = trying[self._keys[slots[trying], half] == keys[trying, half]]
            self._taken += len(trying)
            there[trying] = True
            left = left[~there[left]]
            slots[left] = (slots[left] + step[left]) % len(self._keys)
        return slots

    def _slots(self, keys: Keys) -> tuple[Slots, npt.NDArray[np.bool_]]:
        """For each digest its slot and True, or the free slot where the search for it ended and False."""
        slots = (keys[:, 0] % np.uint64(len(self._keys))).astype(np.int64)
        step = self._step(keys)
        there = np.zeros(len(keys), np.bool_)
        left = np.arange(len(keys))
        while len(left):
            found = self._keys[slots[left]]
            same = (found == keys[left]).all(axis=1)
            there[left[same]] = True
            left = left[~same & (found[:, 0] != 0)]
            slots[left] = (slots[left] + step[left]) % len(self._keys)
        return slots, there

    def _step(self, keys: Keys) -> Slots:
        return (keys[:, 1] % np.uint64(len(self._keys) - 1)).astype(np.int64) + 1


def _never_zero(keys: Keys) -> Keys:
    """A first half of 0 is a free slot."""
    return np.column_stack([keys[:, 0] | np.uint64(1), keys[:, 1]])


def _prime(least: int) -> int:
    """The smallest odd prime from ``least`` on."""
    number = max(3, least | 1)
    while not (number % np.arange(3, int(number**0.5) + 1, 2)).all():
        number += 2
    return number
