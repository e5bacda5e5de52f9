"""Filters on the GPU where a table's vectors are: the metadata that is asked for again goes there too, masks come back and stay there."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from chroma_gpu import device as devices
from chroma_gpu.engine.indexes import Indexes
from chroma_gpu.filter.device.columns import DeviceColumns
from chroma_gpu.filter.device.cost import FilterCost
from chroma_gpu.filter.device.evaluation import OnDevice
from chroma_gpu.filter.view import IndexedView
from chroma_gpu.index.gpu.ledger import LEDGER, Ledger, NoRoom
from chroma_gpu.index.gpu.masks import MASKS, MaskCache
from chroma_gpu.index.gpu_cost import Card
from chroma_gpu.rowset import RowSet

if TYPE_CHECKING:
    from torch import Tensor


class DeviceFilters:
    """Of one table, as long as an index of it is on a GPU.  Safe for many threads.

    Columns take what ``Settings.vram_limit`` leaves: no vectors go for them, and they go before vectors that were searched since they
    came. When the device fails or its memory runs out, filters are evaluated by the host from then on, with a warning; answers stay
    as they are.
    """

    def __init__(self, indexes: Indexes, *, ledger: Ledger = LEDGER, masks: MaskCache = MASKS) -> None:
        self._indexes, self._ledger, self._masks = indexes, ledger, masks
        self._lock = threading.Lock()
        self._columns: DeviceColumns | None = None
        self._cost = FilterCost()
        self._off = not indexes.settings.device_filters

    def asking(self, view: IndexedView, live: RowSet) -> OnDevice | None:
        """What an evaluation may ask; None where there is no device. Cost: some µs"""
        try:
            columns = None if self._off or not view.indexed else self._on_device()
        except Exception as error:
            if not self._failed(error):
                raise
            return None
        if columns is None:
            return None
        name, masks = columns.device, self._masks

        def words(rows: RowSet) -> Tensor:
            return masks.words(rows, name)

        def keep(rows: RowSet, held: Tensor) -> None:
            masks.put(rows, name, held)

        return OnDevice(columns, view, live, words, keep, self._failed, self._cost)

    def close(self) -> None:
        """Give the memory back; filters are evaluated by the host from now on. Idempotent."""
        with self._lock:
            self._off, columns, self._columns = True, self._columns, None
        if columns is not None:
            columns.drop()

    def _on_device(self) -> DeviceColumns | None:
        """The columns on the first of the devices that have the vectors; none while the host has to search them."""
        on = next((each for each in self._indexes.choices() if each.spec.kind == "flat"), None)
        if on is None or on.traits.device in ("cpu", "mps"):  # mps has no float64
            return None
        with self._lock:
            if self._columns is None and not self._off:
                name = _known(on.traits.device.split(",")[0])
                room = _Room(name, self._ledger, self._ledger.budget(name, self._indexes.settings.vram_limit))
                self._columns = DeviceColumns(name, room)
                room.drop = self._columns.drop
                card = on.card or Card.unknown()
                self._cost = FilterCost(bandwidth=card.bandwidth, bus=card.bus)
            return self._columns

    def _failed(self, error: Exception) -> bool:
        """Whether the host goes on without the device, after what torch raised."""
        short = devices.is_out_of_memory(error)
        if not short and not devices.is_lost(error):
            return False
        error.__traceback__ = None  # its frames hold tensors
        first = not self._off
        self.close()
        if short:
            devices.free_cached_memory()
        if first:
            what = "the memory of the device ran out" if short else f"the device failed: {error}"
            warnings.warn(
                f"{what}. Filters are evaluated by the CPU from now on, with the same answers; Settings.device_filters=False does so "
                "from the start.",
                RuntimeWarning,
                stacklevel=2,
            )
        return True


class _Room:
    """The part of a device's memory that the columns of one table hold; see ``filter.device.columns.Room`` and ``ledger.Holder``."""

    def __init__(self, device: str, ledger: Ledger, budget: int) -> None:
        self._device, self._ledger, self._budget = device, ledger, budget
        self.drop: Callable[[], None] = self.give_back

    def take(self, nbytes: int) -> bool:
        try:
            self._ledger.reserve(self, self._device, nbytes, self._budget, searched_before=0)  # nobody has to let go
        except NoRoom:
            return False
        return True

    def give_back(self, nbytes: int | None = None) -> None:
        self._ledger.give_back(self, nbytes)

    def release(self) -> None:
        self.drop()


def _known(name: str) -> str:
    """A device by the name that books and masks have for it."""
    import torch

    found = torch.empty(1, device=torch.device(name)).device
    return str(found) if found.type == "cuda" else name
