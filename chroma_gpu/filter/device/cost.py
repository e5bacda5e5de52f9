"""When a filter is worth a launch: what it costs on the host and on a device. No card has measured the figures of the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from chroma_gpu.roaring import CHUNK
from chroma_gpu.values import Kind

WIDTHS: Final = {Kind.INT: 8, Kind.FLOAT: 8, Kind.STR: 4, Kind.BOOL: 4}
"""Bytes of a value in a column on the device."""


@dataclass(frozen=True, slots=True)
class FilterCost:
    """Microseconds, and bytes a µs. The host's are those of ``filter.numbers`` and ``roaring.union``, measured on a core with AVX-512.

    launch     translating a filter, starting the kernel and waiting for it
    bandwidth  of the device's memory; bus: between host and device
    block      a chunk of rows under a condition on numbers; container: one under a condition on a string or bool
    memory     bytes of row sets that the host joins in a µs
    few        rows up to which the host looks at them one by one, which no launch beats
    """

    launch: float = 150.0
    bandwidth: float = 300e3
    bus: float = 12e3
    block: float = 8.0
    container: float = 3.0
    memory: float = 10e3
    few: int = 4096

    def pays(self, rows: int, asked: int, reads: Sequence[Kind]) -> bool:
        """Whether a filter over so many rows, of which some are asked about, is cheaper on the device.

        reads  for each condition the kinds of columns it looks at, those of all conditions together
        """
        return asked > self.few and self.on_device(rows, reads) < self.on_host(rows, reads)

    def on_device(self, rows: int, reads: Sequence[Kind]) -> float:
        """A mask of live rows goes there, every column is read once, a mask comes back."""
        return self.launch + rows * sum(WIDTHS[kind] for kind in reads) / self.bandwidth + 2 * rows / 8 / self.bus

    def on_host(self, rows: int, reads: Sequence[Kind]) -> float:
        """Every condition is a row set of the index, all of which are joined."""
        chunk = sum(self.block if kind in (Kind.INT, Kind.FLOAT) else self.container for kind in reads)
        return rows / CHUNK * chunk + len(reads) * rows / 8 / self.memory
