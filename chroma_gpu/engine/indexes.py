"""The indexes of one table: which there are, how far they have come, how they catch up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from chroma_gpu import device
from chroma_gpu.config import Settings
from chroma_gpu.engine import calibration, checkpoint, planner
from chroma_gpu.engine.background import Background
from chroma_gpu.engine.calibration import Calibration
from chroma_gpu.engine.planner import Choice
from chroma_gpu.index import Index, IndexSpec, capabilities, close, create, has_faiss, offer, scoring
from chroma_gpu.index.cost import Costs
from chroma_gpu.index.gpu_cost import Card
from chroma_gpu.index.growing import Growing
from chroma_gpu.records import DeviceBlock, Metric, VectorSource

Progress: TypeAlias = Callable[[int, int], object]
"""Called with (done, total) as an index takes rows in."""

# Rows an index takes in at a time: some 50 ms for codes, 300 ms for a graph. Between slices a build can be stopped.
SLICES = {"hnsw": 2_048}
SLICE = 16_384
# Recall that indexes which are tuned for one reach where the settings name none.
RECALL = 0.99
# Seconds a build in the background goes on before other tables have their turn.
TURN = 2.0
# Fewer new rows than this are left to the exact scan of the next query: it costs less than waking a thread.
LATE_ROWS = 1_024
# Bytes of a checkpoint that is read at once when a table is opened; larger ones are read in the background.
SMALL_CHECKPOINT = 32 << 20


def devices_of(settings: Settings) -> tuple[str, ...]:
    """The devices that the index kind flat works on.  Raises DeviceError"""
    if settings.devices:
        return device.several(settings.devices)
    return (device.pick(settings.device) if device.is_gpu(settings.device) else "cpu",)


class Indexes:
    """Builds and keeps the indexes that the settings want for a table of its size.

    Indexes catch up in the background; a query scores the rows that an index has not taken in yet exactly, so nothing waits
    for them. An index that failed to build is left out, and its error is raised by ``build``.
    Raises   MissingDependency, DeviceError if the settings name an index that cannot be made here
    """

    def __init__(
        self,
        source: VectorSource,
        metric: Metric,
        params: Mapping[str, Any],
        settings: Settings,
        background: Background,
        folder: Path | None,
    ) -> None:
        if settings.index in planner.TUNED:  # nothing else takes the place of what was asked for
            capabilities.require(settings.index, devices_of(settings)[0] if settings.index == capabilities.CAGRA else "cpu")
        self._source = source
        self._metric = metric
        self._params = params
        self.settings = settings
        self._background = background
        self._folder = folder
        self._kept: dict[str, Index] = {}
        self._saved: dict[str, int] = {}
        self._failed: dict[str, Exception] = {}
        self._building = threading.Lock()
        self._norms = Growing()
        self._measuring = threading.Lock()
        self._card: Card | None = None
        self.calibration = Calibration() if has_faiss() else Calibration(Calibration().costs.without_faiss())
        self._opened = False
        self._closed = False

    def choices(self) -> list[Choice]:
        """What the planner may choose from."""
        return [Choice(index.spec, index.traits, len(index), self._card) for index in list(self._kept.values()) if len(index)]

    @property
    def costs(self) -> Costs:
        """What the planner and the indexes go by."""
        return self.calibration.costs

    def norms(self, rows: int) -> npt.NDArray[np.float32] | None:
        """[rows] lengths of the first rows, a view; None while no index has found nearly all of them."""
        if len(self._norms) < rows:
            with self._measuring:
                for index in list(self._kept.values()):
                    held = len(index)
                    more = index.lengths(held) if len(self._norms) < held else None
                    if more is not None:
                        self._norms.append(more[len(self._norms) :])
                late = rows - len(self._norms)
                if not len(self._norms) or late > LATE_ROWS:
                    return None
                if late > 0:
                    self._norms.append(scoring.norms(self._source.block(rows - late, rows)))
        return self._norms.view(rows)

    def get(self, kind: str | None) -> Index:
        """A kept index. Raises KeyError."""
        return self._kept[kind or ""]

    def follow(self, rows: int, dim: int | None) -> None:
        """See that the indexes catch up with so many rows: soon, in the background."""
        if dim is None or self._closed:
            return
        if not self._opened:
            self._opened = True
            self._restore_small(rows, dim)
            self._recall_calibration(rows, dim)
        for kind in self._wanted(rows):
            index = self._kept.get(kind)
            if kind not in self._failed and rows - (0 if index is None else len(index)) >= (1 if index is None else LATE_ROWS):
                self._background.ask(id(self), lambda: self._take_turn(rows, dim))
                return

    def offer(self, blocks: Sequence[DeviceBlock], rows: int, dim: int) -> None:
        """Tell the index on a device of vectors that it may have there already; ``rows`` are committed. Before ``follow`` hears of them.

        Cost     the first time that of making an empty index
        """
        if self._closed or "flat" not in self._wanted(rows) or "flat" in self._failed:
            return
        if "flat" not in self._kept and self._building.acquire(blocking=False):
            try:
                if not self._closed:
                    self._made("flat", dim)
            except Exception as error:
                self._failed["flat"] = error  # the rows are committed: whoever waits for the index gets the error
            finally:
                self._building.release()
        index = self._kept.get("flat")
        if index is not None:
            for block in blocks:
                offer(index, block)

    def late(self, rows: int) -> int:
        """How many of so many rows are still to be taken in. The few that are left to the exact scan on purpose do not count."""
        most = 0
        for kind in self._wanted(rows):
            index = self._kept.get(kind)
            behind = rows - (0 if index is None else len(index))
            if kind not in self._failed and behind >= (1 if index is None else LATE_ROWS):
                most = max(most, behind)
        return most

    def build(self, rows: int, dim: int | None, progress: Progress | None = None) -> None:
        """Catch up now, in this thread. Raises what a build raised, or ``progress``."""
        if dim is not None:
            self._failed.clear()
            self._catch_up(rows, dim, until=float("inf"), progress=progress)
            for error in self._failed.values():
                raise error
            self._calibrate(rows, dim)

    def close(self) -> None:
        """Stop building and let go. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._background.drain(id(self))
        with self._building:
            for index in self._kept.values():
                close(index)
            self._kept.clear()

    def _wanted(self, rows: int) -> tuple[str, ...]:
        return planner.wanted(self.settings, rows, faiss=has_faiss(), gpu=device.is_gpu(self.settings.device))

    def _take_turn(self, rows: int, dim: int) -> None:
        self._catch_up(rows, dim, until=time.monotonic() + TURN)
        late = (len(self._kept.get(kind, ())) < rows for kind in self._wanted(rows) if kind not in self._failed)
        if not self._closed and any(late):
            self._background.ask(id(self), lambda: self._take_turn(rows, dim))
        else:
            self._calibrate(rows, dim)

    def _recall_calibration(self, rows: int, dim: int) -> None:
        """The calibration of an earlier process, if it still holds."""
        if self._folder is not None and self.settings.calibrate and rows >= calibration.CALIBRATED_ROWS:
            self.calibration = calibration.load(self._folder, dim, self._wanted(rows), rows) or self.calibration

    def _calibrate(self, rows: int, dim: int) -> None:
        """Measure the costs, if that was not done, or long ago."""
        with self._building:
            indexes, wanted = dict(self._kept), self._wanted(rows)
            made_at = self.calibration.rows
            due = rows >= calibration.CALIBRATED_ROWS and (not made_at or rows > calibration.GROWTH * made_at)
            whole = set(indexes) == set(wanted) and "flat" not in indexes
            if self._closed or not self.settings.calibrate or not due or not whole:
                return
            self.calibration = calibration.calibrate(self._source, self._metric, indexes)
            if self._folder is not None:
                calibration.save(self.calibration, self._folder, dim, wanted)

    def _catch_up(self, rows: int, dim: int, *, until: float, progress: Progress | None = None) -> None:
        with self._building:
            for kind in self._wanted(rows):
                if self._closed:
                    return
                try:
                    self._take_in(kind, rows, dim, until, progress)
                except Exception as error:
                    # The answer stays right without the index; whoever waits for it gets the error.
                    broken = self._kept.pop(kind, None)
                    if broken is not None:
                        close(broken)
                    self._failed[kind] = error

    def _restore_small(self, rows: int, dim: int) -> None:
        """Checkpoints that are read faster than a query is answered without them are read before the first one."""
        with self._building:
            for kind in self._wanted(rows):
                if self._folder is not None and 0 < checkpoint.size(self._folder, kind) <= SMALL_CHECKPOINT:
                    self._restored(kind, self._spec(kind, dim))

    def _take_in(self, kind: str, rows: int, dim: int, until: float, progress: Progress | None) -> None:
        index = self._made(kind, dim)
        size = SLICES.get(kind, SLICE)
        while len(index) < rows and time.monotonic() < until:
            if self._closed:
                return
            index.add(min(len(index) + size, rows))
            if progress is not None:
                progress(len(index), rows)
        self._save(kind)

    def _made(self, kind: str, dim: int) -> Index:
        index = self._kept.get(kind)
        if index is None:
            spec = self._spec(kind, dim)
            index = self._restored(kind, spec) or create(spec, self._source)
            self._kept[kind] = index
        return index

    def _restored(self, kind: str, spec: IndexSpec) -> Index | None:
        index = checkpoint.restore(self._folder, spec, self._source) if self._folder else None
        self._saved[kind] = 0 if index is None else len(index)
        if index is not None:
            self._kept[kind] = index
        return index

    def _spec(self, kind: str, dim: int) -> IndexSpec:
        return IndexSpec(kind, self._metric, dim, self._params_of(kind))

    def _params_of(self, kind: str) -> dict[str, Any]:
        if kind == "flat":
            picked = self._devices()
            self._card = None if picked == ("cpu",) else Card.of(device.model(picked[0]))
            return {"device": ",".join(picked), "precision": self.settings.precision, "limit": self.settings.vram_limit}
        if kind in planner.TUNED:
            place = capabilities.device_for(kind, devices_of(self.settings)[0])
            return {"device": place, "recall": self.settings.recall or RECALL, "limit": self.settings.vram_limit}
        return dict(self._params) if kind == "hnsw" else {}

    def _devices(self) -> tuple[str, ...]:
        return devices_of(self.settings)

    def _save(self, kind: str) -> None:
        """A checkpoint, if a quarter or more of the index would have to be built anew without it."""
        index = self._kept[kind]
        if self._folder is not None and kind != "flat" and len(index) - self._saved[kind] > len(index) // 4:
            checkpoint.save(index, self._folder)
            self._saved[kind] = len(index)
