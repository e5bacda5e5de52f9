"""The rows of one table on one device: chunks that grow at their end and never move, seen as snapshots."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from chroma_gpu import device as devices
from chroma_gpu.index.gpu.codes import Codes, Layout
from chroma_gpu.index.gpu.ledger import Ledger
from chroma_gpu.index.gpu.offered import NOTHING, Offer, Offered
from chroma_gpu.index.gpu.staging import staging_of
from chroma_gpu.records import Metric, Rows, Vectors

if TYPE_CHECKING:
    from torch import Tensor

    from chroma_gpu.kernels.buffer import Buffer, Chunk

FIRST: Final = 4096
"""Rows of a chunk that has just begun; it doubles until it is full."""


class Released(Exception):
    """The rows were let go of, for others."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What one device held of a table at one moment; it stays so while anybody has it.

    codes    of all rows of the part, as they are scanned
    vectors  the same rows as float32, or None
    ready    the moment of the uploads at which all of it is there; None for now
    """

    name: str
    codes: Buffer
    vectors: Buffer | None
    ready: Any = None
    _streams: set[int] = field(default_factory=set)

    def wait(self) -> None:
        """The current stream of the device goes on when the rows are there. What it reads is kept until it has read it."""
        import torch

        if self.ready is None:
            return
        stream = torch.cuda.current_stream(self.codes.device)
        stream.wait_event(self.ready)
        if stream.cuda_stream in self._streams:
            return
        self._streams.add(stream.cuda_stream)
        for buffer in (self.codes, self.vectors):
            if buffer is not None:
                buffer.places.record_stream(stream)
                for chunk in buffer.chunks:
                    for column in _columns(chunk):
                        if column is not None:
                            column.record_stream(stream)


@dataclass(slots=True)
class _Filling:
    """A chunk with room for more than its rows, and the vectors of the same rows."""

    codes: Chunk
    vectors: Chunk | None
    rows: int = 0

    def chunks(self) -> list[Chunk]:
        return [self.codes] if self.vectors is None else [self.codes, self.vectors]


class DeviceRows:
    """Chunks number, number + of, number + 2 of, ... of a table, on one device.

    One thread adds, any takes snapshots. Only the rows of the last chunk are ever copied on the device, when it doubles.
    freed    called when others need the memory
    Memory   ``layout.row_bytes`` a row, up to twice that in the last chunk unless it is known that it will be full
    Raises   RuntimeError of torch for a device that is not there
    """

    def __init__(
        self, device: str, dim: int, metric: Metric, layout: Layout, ledger: Ledger, budget: int, number: int = 0, of: int = 1,
        freed: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        import torch

        self.name, self.device, self.layout = device, torch.device(device), layout
        torch.empty(1, device=self.device)
        self._dim, self._metric = dim, metric
        self._ledger, self._budget = ledger, budget
        self._number, self._of = number, of
        self._staging = staging_of(self.device)
        self._chunks: list[_Filling] = []
        self._freed = freed
        self._lock = threading.Lock()
        self.released = False

    def mine(self, chunk: int) -> bool:
        """Whether a chunk of the table is kept here."""
        return chunk % self._of == self._number

    def add(
        self, first: int, vectors: Vectors, aside: npt.NDArray[np.bool_], expected: int, searched_before: int | None = None,
        offered: Offered = NOTHING,
    ) -> None:  # fmt: skip
        """Append rows [first, first + n) of the table, all of one of the chunks kept here, which has the rows before.

        aside     [n] bool: rows that no scan is to find
        expected  rows that the table will soon have: a chunk that these fill is allocated whole
        offered   what the device may have of these vectors already: that is not uploaded
        Raises    NoRoom, Released, torch.OutOfMemoryError
        """
        from chroma_gpu.kernels.buffer import CHUNK
        from chroma_gpu.kernels.quantise import quantise

        start = first // CHUNK * CHUNK
        stop = first - start + len(vectors)
        if first == start:
            self._grow(start, max(stop, min(CHUNK, expected - start)), searched_before)
        for begin, end, there in offered.pieces(first, first + len(vectors), self.name, self._staging.rows(self._dim)):
            filling = self._grow(start, end - start, searched_before)

            def put(few: npt.NDArray[np.intp], filling: _Filling = filling, there: Offer | None = there) -> None:
                begin, end = int(few[0]), int(few[-1]) + 1
                part, marks = vectors[begin - first : end - first], aside[begin - first : end - first]

                def written(moved: Tensor, aside: Tensor | None) -> None:
                    for chunk in filling.chunks():
                        quantise(moved, chunk, begin - start, self._metric, aside)

                # Asked for only now: making room may have cost what was offered.
                block = None if there is None else there.block(begin, end)
                if block is None:
                    self._staging.upload(part, marks, written)
                else:
                    self._staging.take(block, marks, written)

            # Tried for a single row once more, for the error of the device itself.
            for _ in devices.with_smaller_batches(put, np.arange(begin, end), put):
                pass
            filling.rows = end - start

    def set_aside(self, rows: Rows) -> None:
        """No scan finds these earlier rows any more, be it of an older snapshot; rows of other devices are skipped."""
        import torch

        for filling in self._chunks:
            start = filling.codes.start
            inside = rows[(rows >= start) & (rows < start + filling.rows)]
            if len(inside):
                with self._staging.queued():
                    at = torch.from_numpy(inside.astype(np.int64) - start).to(self.device)
                    for chunk in filling.chunks():
                        if chunk.bias is not None:
                            chunk.bias[at] = torch.inf

    def part(self, *, certified: bool = True) -> Part | None:
        """What is held now; None if that is nothing.

        certified  False leaves the errors of codes out: a scan then finds what is best by its codes
        Raises     Released
        """
        from chroma_gpu.kernels.buffer import Buffer

        with self._lock:
            if self.released:
                raise Released
            chunks = [(each.codes, each.vectors, each.rows) for each in self._chunks if each.rows]
        if not chunks:
            return None
        codes = [_first(chunk, rows) for chunk, _, rows in chunks]
        copies = [_first(chunk, rows) for _, chunk, rows in chunks if chunk is not None]
        with self._staging.queued():
            seen = Buffer.of(codes if certified else [replace(each, error=None) for each in codes])
            return Part(self.name, seen, Buffer.of(copies) if copies else None, self._staging.event())

    def release(self) -> None:
        """As ``Holder.release``; a search that is under way keeps what it needs until it is done."""
        self.let_go()
        self._freed()

    def let_go(self) -> None:
        """Give the memory back. Idempotent."""
        with self._lock:
            self.released, self._chunks = True, []
        self._ledger.give_back(self)

    def _grow(self, start: int, rows: int, searched_before: int | None) -> _Filling:
        """The chunk that begins at ``start``, which is the last one or a new one, with room for so many rows."""
        from chroma_gpu.kernels.buffer import CHUNK
        from chroma_gpu.kernels.quantise import allocate

        with self._lock:
            if self.released:
                raise Released
            last = self._chunks[-1] if self._chunks and self._chunks[-1].codes.start == start else None
        if last is not None and rows <= len(last.codes):
            return last
        size = FIRST
        while size < min(rows, CHUNK):
            size *= 2
        row_bytes = self.layout.row_bytes(self._dim, self._metric)
        self._ledger.reserve(self, self.name, size * row_bytes, self._budget, searched_before)
        try:
            types = [self.layout.codes, *([Codes.FLOAT32] if self.layout.rerank else [])]
            with self._staging.queued():
                new = [allocate(size, self._dim, each.dtype, self._metric, self.device, start) for each in types]
                if last is not None:
                    for old, target in zip(last.chunks(), new, strict=True):
                        _copy(old, target, last.rows)
            grown = _Filling(new[0], new[1] if self.layout.rerank else None, 0 if last is None else last.rows)
            with self._lock:
                if self.released:
                    raise Released
                self._chunks[len(self._chunks) - (last is not None) :] = [grown]
        except BaseException:
            self._ledger.give_back(self, size * row_bytes)
            raise
        if last is not None:
            self._ledger.give_back(self, len(last.codes) * row_bytes)
        return grown


def _columns(chunk: Chunk) -> tuple[Tensor | None, ...]:
    return chunk.vectors, chunk.gain, chunk.bias, chunk.error


def _first(chunk: Chunk, rows: int) -> Chunk:
    gain, bias, error = (None if column is None else column[:rows] for column in _columns(chunk)[1:])
    return replace(chunk, vectors=chunk.vectors[:rows], gain=gain, bias=bias, error=error)


def _copy(old: Chunk, new: Chunk, rows: int) -> None:
    for given, target in zip(_columns(old), _columns(new), strict=True):
        if given is not None and target is not None:
            target[:rows] = given[:rows]
