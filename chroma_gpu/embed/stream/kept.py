"""What of the vectors stays on the device that made them, for an index that has its rows there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from chroma_gpu import device as devices
from chroma_gpu.records import DeviceBlock, Rows

if TYPE_CHECKING:
    from torch import Tensor

MOST: Final = 256 << 20
"""Bytes that one call keeps: 170,000 vectors of 384 dimensions. It holds them beside the model until they are committed."""


@runtime_checkable
class Keeping(Protocol):
    """An encoder whose vectors are on a device when they are made."""

    def on_device(self, vectors: Any) -> Tensor | None:
        """Of what ``core`` gave: [m, dim] float32, bit for bit what ``post`` gives; None if it is on the host only."""
        ...


class Kept:
    """Collects, as texts are embedded, the vectors that are on one of some devices. For one call and one thread.

    Keeping is never a duty: what does not fit, and what is changed on the host afterwards, is left out.
    """

    def __init__(self, on: Sequence[str], most: int = MOST) -> None:
        self._on, self._room = tuple(on), most
        self._window: list[tuple[npt.NDArray[np.intp], Tensor]] = []
        self._blocks: list[DeviceBlock] = []

    @property
    def blocks(self) -> tuple[DeviceBlock, ...]:
        """What is kept; ``first`` is the place among the texts."""
        return tuple(self._blocks)

    def take(self, places: npt.NDArray[np.intp], vectors: Tensor | None) -> None:
        """The vectors of the texts at some places of the window that is embedded now."""
        if vectors is not None and self._wants(vectors):
            self._room -= vectors.nbytes
            self._window.append((places, vectors))

    def close_window(self, start: int, repeats: Rows) -> None:
        """The window is done: its texts are ``start`` and on, text i has vector ``repeats[i]``. Without all of them it is left out."""
        window, self._window = self._window, []
        places = np.concatenate([np.empty(0, np.intp), *(places for places, _ in window)])
        if not len(places) or len(places) <= repeats.max():
            self._room += sum(vectors.nbytes for _, vectors in window)
            return
        order = np.empty(len(places), np.int64)
        order[places] = np.arange(len(places))
        block = _joined(start, [vectors for _, vectors in window], order[repeats])
        if block is None:
            self.drop()
        else:
            self._blocks.append(block)

    def repeat(self, places: Rows, distinct: int) -> None:
        """Text i is what was text ``places[i]`` of ``distinct`` so far. Unless all of these are here, nothing is kept."""
        blocks, self._blocks = self._blocks, []
        if sum(map(len, blocks)) == distinct and blocks:
            block = _joined(0, [block.vectors for block in blocks], places.astype(np.int64))
            self._blocks = [] if block is None else [block]

    def hand_over(self, start: int, stop: int) -> tuple[DeviceBlock, ...]:
        """What is kept of the texts [start, stop), by its place among these, given away: there is room again for what comes next."""
        given = [block for block in self._blocks if start <= block.first < stop]
        self._blocks = [block for block in self._blocks if block.first >= stop]
        self._room += sum(block.vectors.nbytes for block in given)
        return tuple(replace(block, first=block.first - start) for block in given)

    def drop(self) -> None:
        """Let go of everything, and keep nothing from now on."""
        self._room = 0
        self._window, self._blocks = [], []

    def _wants(self, vectors: Tensor) -> bool:
        import torch

        if vectors.dtype != torch.float32 or vectors.nbytes > self._room:
            return False
        named = [torch.device(name) for name in self._on]
        return any(vectors.device.type == each.type and each.index in (None, vectors.device.index or 0) for each in named)


def _joined(first: int, parts: list[Tensor], order: npt.NDArray[np.int64]) -> DeviceBlock | None:
    """The rows of some tensors in an order; None if there is no memory for that."""
    import torch

    try:
        vectors = torch.cat(parts)
        vectors = vectors[torch.from_numpy(order).to(vectors.device)]
    except RuntimeError as error:
        if not devices.is_out_of_memory(error):
            raise
        return None
    ready = torch.cuda.current_stream(vectors.device).record_event() if vectors.is_cuda else None
    return DeviceBlock(first, vectors, ready)
