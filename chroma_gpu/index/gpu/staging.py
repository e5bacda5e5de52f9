"""From the vector file to a device: through page-locked buffers that are used again and again, on a stream of their own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from chroma_gpu.records import DeviceBlock, Vectors

if TYPE_CHECKING:
    import torch
    from torch import Tensor

BYTES: Final = 16 << 20
"""Of one buffer."""

_BUFFERS: Final = 2
"""One is filled while the other is read by the card."""


class Staging:
    """Uploads of a device, all its collections together.  Safe for many threads.

    On CUDA an upload returns when the vectors are in a page-locked buffer; the copy and what is done with it are queued on a stream,
    and ``event`` says when that will have happened. Elsewhere everything has happened when it returns.
    """

    def __init__(self, device: torch.device) -> None:
        import torch

        self._device, self._cuda = device, device.type == "cuda"
        self._lock = threading.Lock()
        cuda: Any = torch.cuda  # whose types are not annotated
        self._stream: Any = cuda.Stream(device) if self._cuda else None
        self._buffers: list[tuple[Tensor, Any]] = []
        self._turn = 0

    def rows(self, dim: int) -> int:
        """How many vectors go at once."""
        return max(1, BYTES // (4 * dim))

    def upload(self, vectors: Vectors, aside: npt.NDArray[np.bool_], into: Callable[[Tensor, Tensor | None], None]) -> None:
        """Hand vectors on the device to ``into``, with [n] bool of those set aside; None if none is."""
        import torch

        marks = torch.from_numpy(aside.copy()) if aside.any() else None
        if not self._cuda:
            into(torch.from_numpy(vectors.copy()).to(self._device), None if marks is None else marks.to(self._device))
            return
        with self._lock:
            buffer, read = self._next(vectors.size)
            part = buffer[: vectors.size].view(vectors.shape)
            np.copyto(part.numpy(), vectors)
            with self.queued():
                moved = part.to(self._device, non_blocking=True)
                read.record(self._stream)
                into(moved, None if marks is None else marks.to(self._device))

    def take(self, block: DeviceBlock, aside: npt.NDArray[np.bool_], into: Callable[[Tensor, Tensor | None], None]) -> None:
        """``upload`` of vectors that are on the device already: nothing is sent but what is set aside."""
        import torch

        marks = torch.from_numpy(aside.copy()) if aside.any() else None
        with self.queued():
            if self._cuda:
                if block.ready is not None:
                    self._stream.wait_event(block.ready)
                block.vectors.record_stream(self._stream)
            into(block.vectors, None if marks is None else marks.to(self._device))

    @contextmanager
    def queued(self) -> Iterator[None]:
        """What is done on the device inside is done on the stream of uploads, in order."""
        import torch

        with on(self._device), torch.cuda.stream(self._stream) if self._cuda else nullcontext():
            yield

    def event(self) -> Any:
        """A moment of the stream: what was queued until now. None where there is nothing to wait for."""
        return self._stream.record_event() if self._cuda else None

    def _next(self, size: int) -> tuple[Tensor, Any]:
        """The buffer that was used longest ago, when what was in it has arrived."""
        import torch

        cuda: Any = torch.cuda
        self._turn = (self._turn + 1) % _BUFFERS
        if len(self._buffers) < _BUFFERS:
            made = torch.empty(max(size, BYTES // 4), pin_memory=True), cuda.Event()
            self._buffers.insert(self._turn, made)
            return made
        buffer, read = self._buffers[self._turn]
        read.synchronize()
        if len(buffer) < size:
            buffer = torch.empty(size, pin_memory=True)
            self._buffers[self._turn] = buffer, read
        return buffer, read


@cache
def staging_of(device: torch.device) -> Staging:
    """The one of a device.  Memory: 32 MiB of the host, page-locked, from the first upload to CUDA on"""
    return Staging(device)


def on(device: torch.device) -> AbstractContextManager[Any]:
    """What is launched inside goes to this device, where there are several."""
    import torch

    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
