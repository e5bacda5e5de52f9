"""Time on a device, and the two ceilings of it: how fast it copies and how fast it multiplies."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Final

import torch

_SECONDS: Final = 0.4
_LEAST, _MOST = 5, 100
_FLUSHED: Final = 256 << 20
"""Bytes written between two runs, more than any cache holds: what is timed finds its rows in memory."""


class Clock:
    """Runs things and says how long they took: by events of the device, on a CPU by the wall."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.cuda = device.startswith("cuda")
        self._flushed = torch.empty(_FLUSHED, dtype=torch.int8, device=device) if self.cuda else None

    def times(self, run: Callable[[], object], seconds: float = _SECONDS) -> list[float]:
        """Seconds of each run, in order; at least five after one that is not counted, caches emptied before each."""
        self.once(run)
        took: list[float] = []
        began = perf_counter()
        while len(took) < _LEAST or (perf_counter() - began < seconds and len(took) < _MOST):
            took.append(self.once(run))
        return took

    def median(self, run: Callable[[], object], seconds: float = _SECONDS) -> float:
        """The median of ``times``."""
        return median(self.times(run, seconds))

    def once(self, run: Callable[[], object]) -> float:
        """Seconds of one run."""
        if not self.cuda:
            began = perf_counter()
            run()
            return perf_counter() - began
        self._flushed.zero_()
        torch.cuda.synchronize()  # else launches would be queued behind it, and their cost hidden
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        run()
        ended.record()
        ended.synchronize()
        return began.elapsed_time(ended) / 1e3


def peaks(clock: Clock, *, tiny: bool = False) -> dict[str, float]:
    """GB/s of a copy within the device, bytes read and written; TFLOP/s of products of random square matrices; GB/s from pinned memory."""
    n, side = (1 << 20, 256) if tiny else (1 << 31, 8192)
    source = torch.empty(n, dtype=torch.int8, device=clock.device).random_(-128, 127)
    target = torch.empty_like(source)
    found = {"copy": 2 * n / clock.median(lambda source=source, target=target: target.copy_(source)) / 1e9}
    del source, target
    for dtype in (torch.float16, torch.float32):
        a, b = (torch.randn(side, side, device=clock.device, dtype=dtype) for _ in range(2))
        found[str(dtype).split(".")[1]] = 2 * side**3 / clock.median(lambda a=a, b=b: a @ b) / 1e12
        del a, b
    host = torch.zeros(n >> 3, dtype=torch.int8, pin_memory=clock.cuda)
    there = torch.empty(n >> 3, dtype=torch.int8, device=clock.device)
    found["bus"] = (n >> 3) / clock.median(lambda: there.copy_(host, non_blocking=True)) / 1e9
    return found
