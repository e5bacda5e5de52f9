"""Large batches without a mask by FAISS's brute force over the rows where they lie: only where a card was measured to be faster so."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Final

from chroma_gpu import device as devices
from chroma_gpu.errors import DeviceError
from chroma_gpu.records import Metric

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from chroma_gpu.kernels.buffer import Buffer
    from chroma_gpu.kernels.scan import Survivors

LEAST: Final = 64
"""Queries below which nobody needs to look: FAISS is worth its calls, one for every chunk, for large batches only."""

_IN_VAIN: Final = "faiss"
"""What ``Buffer.kept`` has where FAISS could not show that nothing was left out: then it is not asked again about these rows."""

_FAILED: Final[set[torch.device]] = set()
"""Where FAISS failed: not tried again."""


def pays(rows: Buffer, layout: str, metric: Metric, queries: int, k: int) -> bool:
    """Whether FAISS finds what is nearest among float32 rows faster than our kernels do, by what ``kernels.tuning`` has of this card.

    layout  of the part of the table, a ``Layout`` as text: what the usual way reads
    Cost    some 10 ns for a small batch, 3 µs else; imports FAISS where it pays
    """
    if queries < LEAST or metric is Metric.COSINE or rows.device in _FAILED or _IN_VAIN in rows.kept:
        return False
    from chroma_gpu.kernels import tuning

    vectors = rows.chunks[0].vectors
    if tuning.pays("faiss", _capability(rows.device), layout, vectors.shape[1], queries, len(rows), k) is None:
        return False
    from chroma_gpu.index.capabilities import capabilities

    return capabilities().gpus > (rows.device.index or 0)


def found(
    queries: Tensor, rows: Buffer, k: int, slack: Tensor, metric: Metric, *, lengths: Tensor | None = None
) -> Survivors | None:
    """As ``faiss_gpu.survivors``; None, after one warning, where FAISS fails on a device that goes on.

    Raises  what FAISS had from a device that is lost or whose memory ran out, so that whoever knows what to do then does it
    """
    from chroma_gpu.index.faiss_gpu import survivors

    try:
        survived = survivors(queries, rows, k, slack, metric, lengths=lengths)
    except DeviceError as error:
        cause = error.__cause__
        if cause is not None and (devices.is_out_of_memory(cause) or not devices.serves(rows.device)):
            raise cause from None
        _FAILED.add(rows.device)
        warnings.warn(f"{error} Our own kernels do its work from now on.", RuntimeWarning, stacklevel=2)
        return None
    if survived is None:
        rows.kept[_IN_VAIN] = True
    return survived


def _capability(device: torch.device) -> int:
    """75 for 7.5; 0 for none."""
    import torch

    if device.type != "cuda":
        return 0
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor
