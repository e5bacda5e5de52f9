"""Vectors that were made on a device, kept there until the index has taken the rows they became: so they are not sent a second time."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from chroma_gpu.index.gpu.ledger import LEDGER, Ledger, NoRoom
from chroma_gpu.records import DeviceBlock

if TYPE_CHECKING:
    import torch

LEAST: Final = 64
"""Rows below which a block is not kept: uploading many such blocks at once takes less than launching a kernel for each of them."""


@dataclass(slots=True, eq=False, weakref_slot=True)
class Offer:
    """The vectors of rows [first, stop) on one device, while nobody else needs the memory."""

    first: int
    stop: int
    device: str
    held: DeviceBlock | None

    def block(self, begin: int, end: int) -> DeviceBlock | None:
        """Rows [begin, end) of them; None if they are gone."""
        held = self.held
        return None if held is None else replace(held, first=begin, vectors=held.vectors[begin - self.first : end - self.first])

    def release(self) -> None:
        """As ``Holder.release``."""
        self.held = None


class Offered:
    """What one table was offered, in the books as what can be done without.  Safe for many threads.

    budgets  bytes by device, named as the books have them; blocks on other devices are not kept
    """

    def __init__(self, ledger: Ledger, budgets: Mapping[str, int]) -> None:
        self._ledger, self._budgets = ledger, budgets
        self._lock = threading.Lock()
        self._offers: list[Offer] = []
        self._passed = 0

    def __len__(self) -> int:
        return sum(offer.held is not None for offer in list(self._offers))

    def put(self, block: DeviceBlock) -> None:
        """Keep a block whose ``first`` is a row, if there is room and its rows have not been passed; else forget it."""
        device = next((name for name in self._budgets if _is(name, block.vectors.device)), None)
        stop = block.first + len(block)
        if len(block) < LEAST or device is None or stop <= self._passed:
            return
        offer = Offer(block.first, stop, device, block)
        try:
            self._ledger.reserve(offer, device, block.vectors.nbytes, self._budgets[device], spare=True)
        except NoRoom:
            return
        with self._lock:
            late = stop <= self._passed
            if not late:
                self._offers = sorted(
                    [each for each in self._offers if each.held is not None] + [offer], key=lambda each: each.first
                )
        if late:
            self._forget([offer])

    def pieces(self, first: int, stop: int, device: str, most: int) -> Iterator[tuple[int, int, Offer | None]]:
        """Rows [first, stop) cut into pieces of at most ``most`` rows: (begin, end, the offer that has all of them or None)."""
        with self._lock:
            offers = [each for each in self._offers if each.device == device and each.first < stop and first < each.stop]
        for offer in offers:
            begin, end = max(first, offer.first), min(stop, offer.stop)
            yield from _cut(first, begin, most, None)
            yield from _cut(begin, end, most, offer)
            first = max(first, end)
        yield from _cut(first, stop, most, None)

    def passed(self, stop: int) -> None:
        """The index has taken, or will not take, rows below ``stop`` from here: what was offered of them is forgotten."""
        with self._lock:
            self._passed = max(self._passed, stop)
            gone = [each for each in self._offers if each.stop <= self._passed]
            if gone:
                self._offers = [each for each in self._offers if each.stop > self._passed]
        self._forget(gone)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            gone, self._offers = self._offers, []
        self._forget(gone)

    def _forget(self, offers: list[Offer]) -> None:
        for offer in offers:
            offer.release()
            self._ledger.give_back(offer)


NOTHING: Final = Offered(LEDGER, {})
"""Where nothing can be offered."""


def _cut(first: int, stop: int, most: int, offer: Offer | None) -> Iterator[tuple[int, int, Offer | None]]:
    for begin in range(first, stop, most):
        yield begin, min(begin + most, stop), offer


def _is(name: str, device: torch.device) -> bool:
    """Whether the books have this name for a device."""
    import torch

    named = torch.device(name)
    return (named.type, named.index or 0) == (device.type, device.index or 0)
