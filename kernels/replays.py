"""Searches of one snapshot that are recorded once and started again as a whole: when, by whom, and what happens where that fails.

Only what ``tuning.pays`` says has been measured to be worth it on this architecture; nothing else is ever recorded.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import torch
from torch import Tensor

from chroma_gpu import device as devices
from chroma_gpu.kernels import launch
from chroma_gpu.kernels.buffer import Buffer
from chroma_gpu.kernels.tuning import pays

MOST: Final = 8
"""Kinds of searches of one snapshot that are counted or recorded; the one that was asked for longest ago gives way."""

QUERIES: Final = 8
"""Queries of a recorded search at most."""

ROOM: Final = 1 << 16
"""Entries of all lists of a recorded search at most: 2.3 MiB that stay taken as long as it."""

_BOOKS: Final = threading.Lock()
"""Held around ``Buffer.kept``."""

_RECORDING: Final = threading.Lock()
"""Held by the one thread that records: torch waits for the whole device before it begins, which no recording of another stands."""

_FAILED: Final[set[torch.device]] = set()
"""Where a recording failed: not tried again."""


def worth(capability: int, dtype: str, dim: int, queries: int, rows: int, k: int, capacity: int) -> int | None:
    """After how many searches alike of one snapshot the next is recorded; None for never.  capacity: of the list of a query"""
    if queries > QUERIES or queries * capacity > ROOM:
        return None
    return pays("replay", capability, dtype, dim, queries, rows, k)


@contextmanager
def replayed(
    buffer: Buffer, key: Hashable, after: int | None, work: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor]
) -> Iterator[Sequence[Tensor] | None]:
    """The outputs of recorded work for these inputs, to be read or copied within; None where the caller has to start the work itself:
    it is not recorded yet, another thread reads the outputs or records, or recording failed.

    key     of all that the launches depend on, besides the buffer and the values of the inputs
    after   as ``worth`` says
    Raises  what the work raises of a device that is lost or whose memory ran out; for other failures of a recording there is one
            RuntimeWarning, and none is tried again on that device
    Cost    of a recording three times the work and one wait for the whole device
    """
    recorded = None if after is None else _recorded(buffer, key, after, work, inputs)
    if recorded is None or not recorded.lock.acquire(blocking=False):
        yield None
        return
    try:
        yield recorded(*inputs)
    finally:
        recorded.lock.release()


def _recorded(
    buffer: Buffer, key: Hashable, after: int, work: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor]
) -> launch.Replay | None:
    """What is recorded by now; records what has been asked for often enough."""
    if buffer.device in _FAILED:
        return None
    held = _noted(buffer, key, 1)
    if not isinstance(held, int):
        return held
    if held <= after or not _RECORDING.acquire(blocking=False):
        return None
    try:
        made = _noted(buffer, key, 0)  # another thread may have been quicker
        if isinstance(made, int):
            made = launch.Replay(work, inputs)
            _noted(buffer, key, made)
        return made
    except Exception as error:  # torch and Triton raise what they like where a launch cannot be recorded
        if devices.is_out_of_memory(error) or not devices.serves(buffer.device):
            raise
        _FAILED.add(buffer.device)
        warnings.warn(
            f"searches cannot be recorded on {buffer.device}: {error}. They are started launch by launch, as without a recording.",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    finally:
        _RECORDING.release()


def _noted(buffer: Buffer, key: Hashable, more: int | launch.Replay) -> int | launch.Replay:
    """How often a search was asked for, with so many times more, or its recording; kept as the one asked for last."""
    with _BOOKS:
        held: int | launch.Replay = buffer.kept.pop(key, 0)
        if isinstance(held, int):
            held = held + more if isinstance(more, int) else more
        buffer.kept[key] = held
        while len(buffer.kept) > MOST:
            del buffer.kept[next(iter(buffer.kept))]
        return held
