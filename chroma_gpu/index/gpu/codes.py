"""What rows are kept as on a device: the types there are, what they take, and which of them a budget allows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from chroma_gpu.index.gpu_cost import Search
from chroma_gpu.records import Metric

if TYPE_CHECKING:
    import torch


class Codes(StrEnum):
    """The type of a row's coordinates on a device. Whatever it is, the rows that are found are scored by their true vectors."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"

    @property
    def dtype(self) -> torch.dtype:
        """The same for torch."""
        import torch

        return {Codes.FLOAT32: torch.float32, Codes.FLOAT16: torch.float16, Codes.INT8: torch.int8}[self]

    def growth(self, dim: int) -> float:
        """How many times as long as its vector a code can be: 1 and the largest share that rounding its coordinates adds."""
        return {Codes.FLOAT32: 1.0, Codes.FLOAT16: 1 + 2.0**-10, Codes.INT8: 1 + math.sqrt(dim) / 254}[self]


LADDERS: Final = {
    "auto": (Codes.FLOAT16, Codes.INT8),
    "float32": (Codes.FLOAT32, Codes.FLOAT16, Codes.INT8),
    "float16": (Codes.FLOAT16, Codes.INT8),
    "int8": (Codes.INT8,),
}
"""What is tried, in this order, for each ``codes`` that can be asked for."""

AMPLE: Final = 4
"""How many times the budget must hold codes and vectors together for a copy of the vectors to be kept beside the codes."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What is kept of each row.

    rerank  the float32 vectors are there too, so that the device narrows what the codes leave
    """

    codes: Codes
    rerank: bool = False

    def __str__(self) -> str:
        return f"{self.codes}+float32" if self.rerank else str(self.codes)

    def row_bytes(self, dim: int, metric: Metric) -> int:
        """Bytes of device memory for one row."""
        from chroma_gpu.kernels.quantise import row_bytes

        copy = row_bytes(dim, Codes.FLOAT32.dtype, metric) if self.rerank else 0
        return row_bytes(dim, self.codes.dtype, metric) + copy


def search_of(rows: int, dim: int, codes: str | None, queries: int, passing: int) -> Search:
    """What a device is asked for.  codes: a ``Layout`` as text, of which what is scanned comes first; None while nothing is there"""
    return Search(rows, dim, (codes or Codes.FLOAT32).partition("+")[0], queries, passing)


def chosen(
    ladder: tuple[Codes, ...], rows: int, dim: int, metric: Metric, free: int, budget: int, rerank: bool | None = None
) -> Layout | None:
    """The first codes of a ladder that fit into what is free; if none do, into the whole budget, from which others then have to go.

    rows    that one device will hold
    free    bytes of the budget that nobody holds
    rerank  whether vectors are kept too: by default where codes and vectors together are a small part of what is free
    Returns None if nothing fits even alone
    """
    for room in (free, budget):
        for codes in ladder:
            wide = Layout(codes, rerank=codes is not Codes.FLOAT32)
            wanted = rows * wide.row_bytes(dim, metric)
            kept = wanted * AMPLE <= free if rerank is None else rerank
            layout = wide if kept else Layout(codes)
            if rows * layout.row_bytes(dim, metric) <= room:
                return layout
    return None
