"""Masks on devices: uploaded once for each row set, forgotten with it."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from chroma_gpu.rowset import RowSet

if TYPE_CHECKING:
    from torch import Tensor

_BYTES: Final = 128 << 20
"""Of all devices together: a hundred masks of ten million rows."""

_CUTS: Final = 64
"""Sets of which a part is remembered."""


class MaskCache:
    """The words of row sets, or lists of their rows, on devices; the least recently used go first.  Safe for many threads.

    Row sets never change, and the same filter at the same state gives the same one. What is remembered is its array of words, by
    its identity and weakly: when nobody else has it any more, its copies go at the next use of the cache.
    """

    def __init__(self, capacity: int = _BYTES) -> None:
        self.capacity = capacity
        self._lock = threading.Lock()
        self._held: OrderedDict[tuple[int, str, str], tuple[weakref.ref[Any], Tensor]] = OrderedDict()
        self._cuts: OrderedDict[tuple[int, int], tuple[weakref.ref[Any], RowSet]] = OrderedDict()
        self.nbytes = 0
        self.uploads = 0
        """Masks and lists that were sent to devices so far."""

    def words(self, mask: RowSet, device: str) -> Tensor:
        """[2 * len(mask.words)] int32 or more on a device, as kernels take masks; bits past the size of the mask say nothing."""

        def sent() -> Tensor:
            import torch

            self.uploads += 1
            return torch.from_numpy(mask.words.view(np.int32).copy()).to(device)

        return self._kept(mask, device, "words", sent)

    def put(self, mask: RowSet, device: str, words: Tensor) -> None:
        """Remember the words of a row set that are on a device already."""
        self._kept(mask, device, "words", lambda: words)

    def cut(self, mask: RowSet, size: int) -> RowSet:
        """The rows of a set below ``size``, at most its own: the same set each time, which uses what devices have of the whole one."""
        if size == mask.size:
            return mask
        key = (id(mask.words), size)
        with self._lock:
            for gone in [each for each, (words, _) in self._cuts.items() if words() is None]:
                del self._cuts[gone]
            if key in self._cuts:
                return self._cuts[key][1]
        made = mask.resized(size)
        with self._lock:
            _, made = self._cuts.setdefault(key, (weakref.ref(mask.words), made))
            if len(self._cuts) > _CUTS:
                self._cuts.popitem(last=False)
            there = [(device, words) for (of, device, form), (_, words) in self._held.items() if (of, form) == (key[0], "words")]
        for device, words in there:
            self.put(made, device, words)
        return made

    def rows(self, mask: RowSet, device: str, chunk: int, number: int, of: int) -> Tensor:
        """[n] int64, ascending: the rows of every ``of``-th chunk of so many rows from chunk ``number`` on."""
        import torch

        def listed() -> Tensor:
            held = self._held.get((id(mask.words), device, "words"))
            if held is not None and held[0]() is mask.words:
                bits = (held[1][:, None] >> torch.arange(32, dtype=torch.int32, device=device)) & 1
                there = torch.nonzero(bits.flatten()[: mask.size]).flatten()
                return there if of == 1 else there[there // chunk % of == number]
            self.uploads += 1
            rows = mask.rows().astype(np.int64)
            return torch.from_numpy(rows if of == 1 else rows[rows // chunk % of == number]).to(device)

        return self._kept(mask, device, f"{number} of {of}", listed)

    def _kept(self, mask: RowSet, device: str, form: str, made: Callable[[], Tensor]) -> Tensor:
        key = (id(mask.words), device, form)
        with self._lock:
            for gone in [each for each, (words, _) in self._held.items() if words() is None]:
                self._drop(gone)
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key][1]
        tensor = made()
        with self._lock:
            if key not in self._held and _nbytes(tensor) <= self.capacity:
                self._held[key] = weakref.ref(mask.words), tensor
                self.nbytes += _nbytes(tensor)
                while self.nbytes > self.capacity:
                    self._drop(next(iter(self._held)))
        return tensor

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._held.clear()
            self._cuts.clear()
            self.nbytes = 0

    def _drop(self, key: tuple[int, str, str]) -> None:
        self.nbytes -= _nbytes(self._held.pop(key)[1])


def _nbytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


MASKS: Final = MaskCache()
"""The one of this process."""
