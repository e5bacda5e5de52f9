"""What the ways of searching on a GPU cost, from the bytes they move and the products they make. No card has measured these figures.

A way moves bytes over the bus and through the memory of the card while it multiplies, so that it takes the longer of the two, after
its launches. A list of rows is 4 bytes for each, a mask one bit for every row of the table, which is why lists pay below one row in 32;
a mask also makes the card multiply whole tiles of 32 rows in which only some pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

_TILE: Final = 32
"""Rows that are multiplied together where one of them passes."""

_RERANKED: Final = 60
"""Rows that 8-bit codes leave to be scored exactly, for each query."""

_SAMPLED: Final = 1 / 64
"""Share of the work that is done before, on a sample, to know which scores can be dropped at once."""


class Kernel(StrEnum):
    """How a GPU goes over the rows; every one leads to the exact answer.

    list     rows are listed and read where they lie
    masked   all rows are gone through, tiles without a candidate are skipped
    int8     the same over 8-bit codes with a certified bound, and a few rows scored exactly
    product  tiles of queries and rows are multiplied in 16 bit by tensor cores, and a few rows scored exactly
    """

    LIST = "list"
    MASKED = "masked"
    INT8 = "int8"
    PRODUCT = "product"


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU by its data sheet; simulated: none of this was measured.

    bandwidth  of its memory, bytes a µs; scattered: the share of it that scattered rows of 512 bytes get
    bus        bytes a µs from the host
    single, half, eight  products and sums a µs in float32, on 16-bit and on 8-bit tensor cores
    launch     µs of starting a search, fetching what it found and scoring it on the host
    """

    name: str
    bandwidth: float
    single: float
    half: float
    eight: float
    bus: float = 12e3
    scattered: float = 0.7
    launch: float = 150.0

    @classmethod
    def of(cls, model: str) -> Card:
        """The card whose name is part of a model's, as the driver gives it; else the unknown one."""
        return next((card for card in CARDS if card.name.lower() in model.lower().replace("-", " ").split()), cls.unknown())

    @classmethod
    def unknown(cls) -> Card:
        """The smallest card there is."""
        return CARDS[0]


CARDS: Final = (
    Card("T4", 300e3, 4.0e6, 32e6, 65e6),
    Card("L4", 270e3, 15e6, 60e6, 121e6),
    Card("A100", 1.7e6, 9.7e6, 156e6, 312e6),
    Card("H100", 3.0e6, 33e6, 395e6, 790e6, bus=25e3),
    Card("H200", 4.3e6, 33e6, 395e6, 790e6, bus=25e3),
)
"""Products a µs are half of the operations that data sheets count."""


@dataclass(frozen=True, slots=True)
class GpuWay:
    """One way: expected microseconds, and whether the index ``flat`` has it."""

    kernel: Kernel
    cost: float
    built: bool


def gpu_ways(card: Card, rows: int, passing: int, dim: int, queries: int) -> list[GpuWay]:
    """Every way to find the nearest of the passing rows, cheapest first."""
    share = passing / rows
    touched = rows * (1 - (1 - share) ** _TILE)  # rows of tiles with a candidate, if those are spread evenly
    mask = 0.0 if passing == rows else rows / 8 / card.bus
    read = card.bandwidth * (card.scattered + (1 - card.scattered) * share)  # the fuller the tiles, the more rows are in a row

    def takes(before: float, row_bytes: float, tiles: float, product: float, launches: int) -> float:
        moved = (rows / 8 + passing * row_bytes) / read
        multiplied = queries * tiles * dim / product
        return launches * card.launch + before + (1 + _SAMPLED) * max(moved, multiplied)

    listed = 4 * passing / card.bus
    reads = passing * (4 * dim + 12) / (card.bandwidth * card.scattered)
    multiplies = queries * passing * dim / card.single
    rerank = queries * _RERANKED * dim * (4 / (card.bandwidth * card.scattered) + 1 / card.single)
    ways = [
        GpuWay(Kernel.LIST, card.launch + listed + (1 + _SAMPLED) * max(reads, multiplies), True),
        GpuWay(Kernel.MASKED, takes(mask, 4 * dim + 8, touched, card.single, 1), True),
        GpuWay(Kernel.INT8, takes(mask, dim + 4, touched, card.eight, 2) + rerank, False),
        GpuWay(Kernel.PRODUCT, takes(mask, 2 * dim + 8, touched, card.half, 2) + rerank, False),
    ]
    return sorted(ways, key=lambda way: way.cost)
