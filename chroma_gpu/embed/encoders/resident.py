"""The tokens of a window where the model is, sorted by length: sent once, so that a batch is a slice of them."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from chroma_gpu.embed.stream.protocol import Places
from chroma_gpu.embed.tokens.tokeniser import TokenIds

if TYPE_CHECKING:
    import torch

_STREAMS: Final[dict[str, Any]] = {}
_LOCK: Final = threading.Lock()


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """The tokens of m texts without padding, on a device.

    ids      [total] int32
    offsets  [m + 1] int64, from 0
    lengths  [m] int64 on the host
    """

    ids: torch.Tensor
    offsets: torch.Tensor
    lengths: npt.NDArray[np.int64]

    def even(self) -> bool:
        """Whether all texts have one length, so that no padding is needed."""
        return len(self.lengths) < 2 or bool((self.lengths == self.lengths[0]).all())

    def padded(self, pad: int, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """The texts as one rectangle: ids [m, width] int64, and which of them are tokens, [m, width] bool. Made on the device."""
        import torch

        width = max(1, int(self.lengths.max(initial=0)))
        lengths = self.offsets.diff()[:, None]
        column = torch.arange(width, device=self.ids.device)[None, :]
        if left:
            column = column - (width - lengths)
        mask = (column >= 0) & (column < lengths)
        if not len(self.ids):
            return torch.full(mask.shape, pad, dtype=torch.int64, device=self.ids.device), mask
        found = self.ids[(self.offsets[:-1, None] + column).clamp_(0, len(self.ids) - 1)]
        return found.long().masked_fill_(~mask, pad), mask


@dataclass(frozen=True, slots=True, eq=False)
class _Copy:
    """What a device has: ids and offsets by falling length, there for those who wait for ``arrived``."""

    ids: torch.Tensor
    offsets: torch.Tensor
    arrived: Any


class Resident:
    """The tokens of n texts on a device, by falling length.

    On CUDA they travel from page-locked memory on a stream of their own, while the device works on other windows; the stream that
    asks for a batch waits for them, the host does not. Another device that helps gets a copy with its first batch.

    tokens   on the host, in the order of the texts
    Cost     on a device 4 bytes a token and 8 a text, for as long as this lives
    Threads  any number may ask for batches
    """

    def __init__(self, tokens: TokenIds, device: str) -> None:
        self.tokens = tokens
        self.lengths = tokens.lengths
        self._order = np.argsort(-self.lengths, kind="stable")
        self._rank = np.empty_like(self._order)
        self._rank[self._order] = np.arange(len(self._order))
        self._ids, self._bounds = _taken(tokens, self._order)
        self._lock = threading.Lock()
        self._copies = {device: _sent(self._ids, self._bounds, device)}

    @property
    def truncated(self) -> int:
        """How many of the texts were cut to the model's length."""
        return int(getattr(self.tokens, "truncated", 0))

    @property
    def skipped(self) -> int:
        """Tokens at the beginning of each text that do not count in pooling."""
        return self.tokens.skipped

    def batch(self, places: Places, device: str) -> Batch:
        """The texts at ``places``, in this order. A run of texts by falling length costs no copy but the first on a device."""
        import torch

        lengths = self.lengths[places]
        start = int(self._rank[places[0]]) if len(places) else 0
        if not np.array_equal(self._order[start : start + len(places)], places):
            ids, bounds = _taken(self.tokens, places)
            return Batch(torch.from_numpy(ids).to(device), torch.from_numpy(bounds).to(device), lengths)
        with self._lock:
            if device not in self._copies:
                self._copies[device] = _sent(self._ids, self._bounds, device)
            copy = self._copies[device]
        if copy.arrived is not None:
            stream = torch.cuda.current_stream(device)
            stream.wait_event(copy.arrived)
            for each in (copy.ids, copy.offsets):
                each.record_stream(stream)  # its memory is not given away before this stream is done with it
        end = start + len(places)
        offsets = copy.offsets[start : end + 1]
        return Batch(
            copy.ids[int(self._bounds[start]) : int(self._bounds[end])], offsets - offsets[0] if start else offsets, lengths
        )


def _sent(ids: npt.NDArray[np.int32], bounds: npt.NDArray[np.int64], device: str) -> _Copy:
    import torch

    arrays = [torch.from_numpy(each) for each in (ids, bounds)]
    if not device.startswith("cuda"):
        return _Copy(arrays[0].to(device), arrays[1].to(device), None)
    pinned = [each.pin_memory() for each in arrays]
    stream = _stream(device)
    with torch.cuda.stream(stream):
        there = [each.to(device, non_blocking=True) for each in pinned]
        return _Copy(there[0], there[1], stream.record_event())


def _taken(tokens: TokenIds, places: Places) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """The ids of texts one after another, and where each begins and ends."""
    lengths = tokens.lengths[places]
    bounds = np.zeros(len(places) + 1, np.int64)
    np.cumsum(lengths, out=bounds[1:])
    if len(places) == 1:
        return tokens.ids[tokens.offsets[places[0]] :][: int(bounds[-1])], bounds
    return tokens.ids[np.repeat(tokens.offsets[places] - bounds[:-1], lengths) + np.arange(bounds[-1])], bounds


def _stream(device: str) -> Any:
    """The stream on which tokens travel to a device: one for all models and threads."""
    import torch

    with _LOCK:
        if device not in _STREAMS:
            _STREAMS[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        return _STREAMS[device]
