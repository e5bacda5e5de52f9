"""The columns of a table's metadata that are on a device: those that filters ask for again, each as of one state of the index."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from chroma_gpu import roaring
from chroma_gpu.filter.device.cost import WIDTHS
from chroma_gpu.filter.device.translate import ColumnKey
from chroma_gpu.filter.view import KeptIndex
from chroma_gpu.roaring import CHUNK
from chroma_gpu.values import Kind, Scalar

if TYPE_CHECKING:
    from torch import Tensor

    from chroma_gpu.kernels.predicate import Column

HOT: Final = 2
"""The use of a column, by filters that are worth a launch, at which it goes to the device."""

FEW_VALUES: Final = 64
"""Rows for each different string of a chunk, from which a field of strings is made a column; with fewer, the index finds its rows fast."""

IDLE: Final = 100
"""Filters for which a column was not asked, after which it makes room for another one."""

_AT_ONCE: Final = 16
"""Chunks that are read from the index together."""


class Room(Protocol):
    """Memory of the device, which others want as well."""

    def take(self, nbytes: int) -> bool:
        """Whether there is so much more."""
        ...

    def give_back(self, nbytes: int | None = None) -> None:
        """So much is free again; without a number all that was taken."""
        ...


@dataclass(slots=True, eq=False)
class DeviceColumn:
    """The values of one field and type of the rows that an index answers for.

    values   [chunks * CHUNK] int64, float64 or int32 codes; present: [chunks * CHUNK / 32] int32
    codes    by what stands for a string or bool in the index
    changed  of each chunk, what the index said of it when it was read; counts: how many values it has
    """

    kind: Kind
    values: Tensor
    present: Tensor
    codes: dict[bytes, int] = field(default_factory=dict)
    changed: tuple[int, ...] = ()
    counts: list[int] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        """Of the device."""
        return column_bytes(self.kind, len(self.values))

    def put(self, chunk: int, values: npt.NDArray[Any], having: npt.NDArray[np.bool_]) -> None:
        """What the rows of a chunk have from now on.  values, having: [CHUNK]"""
        import torch

        self.values[chunk * CHUNK : (chunk + 1) * CHUNK] = torch.from_numpy(values)
        words = np.packbits(having, bitorder="little").view(np.int32)
        self.present[chunk * len(words) : (chunk + 1) * len(words)] = torch.from_numpy(words)
        self.counts[chunk] = int(having.sum())

    def first(self, rows: int) -> Column:
        """As ``kernels.predicate`` takes it."""
        from chroma_gpu.kernels import predicate

        return predicate.Column(self.values[:rows], None if sum(self.counts) == rows else self.present)


def column_bytes(kind: Kind, rows: int) -> int:
    """Bytes of the device that a column of so many rows takes."""
    return WIDTHS[kind] * rows + rows // 8


class DeviceColumns:
    """The columns of one table on one device. Whoever reads one holds ``lock`` until the device has read it.

    device  a name of torch
    room    where the memory is from; what ``drop`` gives back, at any time and in any thread
    """

    def __init__(self, device: str, room: Room) -> None:
        self.device = device
        self.lock = threading.Lock()
        self.uploaded = 0
        """Chunks that went to the device so far."""
        self._room = room
        self._held: dict[ColumnKey, DeviceColumn] = {}
        self._uses: Counter[ColumnKey] = Counter()
        self._last: dict[ColumnKey, int] = {}
        self._clock = 0
        self._unfit: dict[ColumnKey, int] = {}

    def current(
        self, index: KeptIndex, keys: Collection[ColumnKey], counted: Collection[ColumnKey]
    ) -> Mapping[ColumnKey, DeviceColumn] | None:
        """The columns as an index has them; None if one of them is not wanted on the device yet, or cannot be there. With ``lock``.

        counted  the columns of which this is a further use
        Raises   KeyError if the index has gone on; whatever torch raises when the device fails or its memory runs out
        Cost     of a new column 10 bytes a row read from the index, and 8 or 4 uploaded; later the chunks that have changed
        """
        self._clock += 1
        self._uses.update(counted)
        self._last.update(dict.fromkeys(keys, self._clock))
        if any(self._uses[key] < HOT or index.rows <= 2 * self._unfit.get(key, -1) for key in keys):
            return None
        held, found = self._held, {}
        try:
            for key in keys:
                column = held.pop(key, None)  # what fails half way is made anew
                if column is None or column.changed != index.changed:
                    column = self._brought(column, index, key, held)
                if column is None:
                    return None
                found[key] = held[key] = column
            return found
        finally:
            if held is not self._held:  # dropped meanwhile
                self._room.give_back()

    def drop(self) -> None:
        """Give the memory back; what is being read lives until it was read."""
        self._held = {}
        self._room.give_back()

    @property
    def nbytes(self) -> int:
        """Bytes of the device that are held."""
        return sum(column.nbytes for column in list(self._held.values()))

    def _brought(
        self, column: DeviceColumn | None, index: KeptIndex, key: ColumnKey, held: dict[ColumnKey, DeviceColumn]
    ) -> DeviceColumn | None:
        """A column with what has changed, or a new one; None if there is no room, or it has too many values."""
        taken = 0 if column is None else column.nbytes
        done = None
        try:
            if column is None or len(column.values) < CHUNK * len(index.changed):
                nbytes = column_bytes(key[1], CHUNK * len(index.changed))
                if not self._take(nbytes, held):
                    return None
                taken += nbytes
                column = _with_chunks(column, key[1], len(index.changed), self.device)
            if self._filled(column, index, key):
                done = column
            else:
                self._unfit[key] = index.rows
            return done
        finally:
            self._room.give_back(taken - (0 if done is None else done.nbytes))

    def _take(self, nbytes: int, held: dict[ColumnKey, DeviceColumn]) -> bool:
        """Memory for a column; those that were not asked for in a long time make room."""
        while not self._room.take(nbytes):
            idle = next((key for key in held if self._last[key] < self._clock - IDLE), None)
            if idle is None:
                return False
            self._room.give_back(held.pop(idle).nbytes)
        return True

    def _filled(self, column: DeviceColumn, index: KeptIndex, key: ColumnKey) -> bool:
        """Upload the chunks that have changed; whether the field has no more values than a column may have."""
        known = column.changed
        late = [chunk for chunk, now in enumerate(index.changed) if chunk >= len(known) or known[chunk] != now]
        column.counts = [*column.counts, *[0] * len(index.changed)][: len(index.changed)]
        for start in range(0, len(late), _AT_ONCE):
            some = late[start : start + _AT_ONCE]
            parts = _numbers(index, key, some) if key[1] in (Kind.INT, Kind.FLOAT) else _codes(index, key, some, column.codes)
            if parts is None:
                return False
            for chunk, values, having in parts:
                column.put(chunk, values, having)
                self.uploaded += 1
        column.changed = index.changed
        return True


def codes_of(index: KeptIndex, kind: Kind, column: DeviceColumn, values: Sequence[Scalar]) -> list[int]:
    """The codes that a column has of some values of its type."""
    of = str if kind is Kind.STR else bool
    keys = index.value_keys(kind, [value for value in values if isinstance(value, of)])
    return [column.codes[key] for key in keys if key in column.codes]


_Parts: TypeAlias = Iterable[tuple[int, npt.NDArray[Any], npt.NDArray[np.bool_]]]
"""Chunks: [CHUNK] values by place, and which places have one."""


def _numbers(index: KeptIndex, key: ColumnKey, chunks: Sequence[int]) -> _Parts:
    blocks = {block.chunk: block for block in index.blocks(*key, chunks)}
    for chunk in chunks:
        values, having = np.zeros(CHUNK, np.int64 if key[1] is Kind.INT else np.float64), np.zeros(CHUNK, np.bool_)
        if (block := blocks.get(chunk)) is not None:
            places = slice(len(block.ranks)) if block.places is None else block.places
            values[places] = block.values[block.ranks]
            having[places] = True
        yield chunk, values, having


def _codes(index: KeptIndex, key: ColumnKey, chunks: Sequence[int], codes: dict[bytes, int]) -> _Parts | None:
    """As codes, new ones for values that had none; None if the field has too many values."""
    found = index.values(*key, chunks, len(chunks) * CHUNK // FEW_VALUES)
    return None if found is None else _by_chunk(found, chunks, codes)


def _by_chunk(found: Sequence[tuple[int, bytes, bytes]], chunks: Sequence[int], codes: dict[bytes, int]) -> _Parts:
    at = 0
    for chunk in chunks:
        values, having = np.zeros(CHUNK, np.int32), np.zeros(CHUNK, np.bool_)
        while at < len(found) and found[at][0] == chunk:
            _, key, container = found[at]
            places = roaring.decoded(container)
            values[places] = codes.setdefault(key, len(codes))
            having[places] = True
            at += 1
        yield chunk, values, having


def _with_chunks(column: DeviceColumn | None, kind: Kind, chunks: int, device: str) -> DeviceColumn:
    """With room for so many chunks, and what was in it."""
    import torch

    dtype = {Kind.INT: torch.int64, Kind.FLOAT: torch.float64}.get(kind, torch.int32)
    values = torch.empty(chunks * CHUNK, dtype=dtype, device=device)
    present = torch.empty(chunks * CHUNK // 32, dtype=torch.int32, device=device)
    if column is None:
        return DeviceColumn(kind, values, present)
    values[: len(column.values)] = column.values
    present[: len(column.present)] = column.present
    return DeviceColumn(kind, values, present, column.codes, column.changed, column.counts)
