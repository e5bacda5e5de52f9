"""Between the host and a device, without waiting for either."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from chroma_gpu.records import Vectors

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, eq=False)
class Sent:
    """What a batch gave, on its way to the host.

    vectors  [m, dim] float32 on the device
    copy     the same where the host can have them: on CUDA in page-locked memory, there when ``arrived`` has come
    """

    vectors: torch.Tensor
    copy: torch.Tensor
    arrived: Any = None

    def received(self) -> Vectors:
        """The vectors on the host. Waits for them, and for nothing that the device was given later."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.copy.cpu().numpy()


def to_host(vectors: torch.Tensor) -> Sent:
    """Send vectors to the host, queued behind what makes them and before the next batch."""
    import torch

    if not vectors.is_cuda:
        return Sent(vectors, vectors)
    copy = torch.empty(vectors.shape, dtype=vectors.dtype, pin_memory=True)
    copy.copy_(vectors, non_blocking=True)
    return Sent(vectors, copy, torch.cuda.current_stream(vectors.device).record_event())


def to_device(array: npt.NDArray[Any], device: str) -> torch.Tensor:
    """An array as a tensor on a device; on a CPU it shares the array's memory."""
    import torch

    tensor = torch.from_numpy(array)
    if device.startswith("cuda"):
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
