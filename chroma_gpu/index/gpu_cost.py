"""What the ways of searching on a GPU cost, from the bytes they move and the products they make. No card has measured these figures.

``whole`` is for the planner: a search from the host and back. ``limit`` and ``predicted`` are the kernels alone, on rows that lie on
the card, as docs/limits.md tables them and benchmarks/gpu.py measures them.

A kernel moves bytes while it multiplies, so that it takes the longer of the two, after its launches.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

_SAMPLED: Final = 1 / 64
"""Share of the work that is done before, on a sample, to know which scores can be dropped at once."""


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU by its data sheet; simulated: none of this was measured.

    bandwidth  of its memory, bytes a µs; scattered: the share of it that scattered rows of 512 bytes get
    bus        bytes a µs from the host
    single, half, eight  products and sums a µs in float32, on 16-bit and on 8-bit tensor cores
    launch     µs of starting a search, fetching what it found and scoring it on the host
    starts     µs of starting the kernels of one search, some five of them, and of reading how much they found
    memory     bytes
    capability  75 for 7.5; tensor cores are used by our kernels from 80 on, below by a library's product in large batches
    """

    name: str
    bandwidth: float
    single: float
    half: float
    eight: float
    memory: float
    capability: int
    bus: float = 12e3
    scattered: float = 0.7
    launch: float = 150.0
    starts: float = 30.0

    @classmethod
    def of(cls, model: str) -> Card:
        """The card whose name is part of a model's, as the driver gives it; else the unknown one."""
        words = model.lower().replace("-", " ").split()
        return next((card for card in CARDS if set(card.name.lower().split()) <= set(words)), cls.unknown())

    @classmethod
    def unknown(cls) -> Card:
        """The smallest card there is."""
        return CARDS[0]


CARDS: Final = (
    Card("T4", 300e3, 4.0e6, 32e6, 65e6, 16e9, 75),
    Card("L4", 270e3, 15e6, 60e6, 121e6, 24e9, 89),
    Card("A100", 1.7e6, 9.7e6, 156e6, 312e6, 80e9, 80),
    Card("H100", 3.0e6, 33e6, 395e6, 790e6, 80e9, 90, bus=25e3),
    Card("H200", 4.3e6, 33e6, 395e6, 790e6, 141e9, 90, bus=25e3),
    Card("RTX 4090", 0.94e6, 41e6, 82e6, 330e6, 24e9, 89, bus=25e3),
)
"""Products a µs are half of the operations that data sheets count."""


WIDTHS: Final = {"float32": 4, "float16": 2, "int8": 1}
"""Bytes of a dimension, by the codes that are kept of the vectors."""

_TENSOR_SHARE: Final = 0.6
"""Share of the tensor cores' rate that a kernel gets which also compares and keeps; a guess."""

_VECTOR_QUERIES: Final = 8
"""Queries up to which vector units keep up where Triton has no tensor cores; more go through a library's product."""


@dataclass(frozen=True, slots=True)
class Search:
    """What the kernels are asked for: the nearest of the passing rows, for some queries at once.

    listed  whether candidates come as a list of rows; else as a mask, or as nothing where all rows pass
    """

    rows: int
    dim: int
    codes: str
    queries: int = 1
    passing: int | None = None
    listed: bool = False

    @property
    def bytes(self) -> float:
        """What must be read from the card's memory, each byte once."""
        passing = self.rows if self.passing is None else self.passing
        known = 8 * passing if self.listed else 0 if passing == self.rows else self.rows / 8
        return known + passing * row_bytes(self.dim, self.codes)

    @property
    def products(self) -> float:
        """How many products must be made and summed."""
        return float(self.queries * (self.rows if self.passing is None else self.passing) * self.dim)


def limit(card: Card, search: Search) -> float:
    """Microseconds that no kernel goes below: every byte read once at full bandwidth, every product made at the full rate."""
    rate = card.single if search.codes == "float32" else card.half
    return max(search.bytes / card.bandwidth, search.products / rate)


def predicted(card: Card, search: Search) -> float:
    """Microseconds that our kernels should take, launches and sample with them; rows whose neighbours do not pass are read slower."""
    vectors = search.codes == "float32" or (card.capability < 80 and search.queries <= _VECTOR_QUERIES)
    rate = card.single if vectors else _TENSOR_SHARE * card.half
    share = 1.0 if search.passing is None else search.passing / search.rows
    read = card.bandwidth * (card.scattered + (1 - card.scattered) * share)
    return card.starts + (1 + _SAMPLED) * max(search.bytes / read, search.products / rate)


def listed_pays(card: Card, search: Search) -> bool:
    """Whether the rows that pass are read one by one, rather than all of them gone over under a mask."""
    passing = search.rows if search.passing is None else search.passing
    if passing == search.rows:
        return False
    return predicted(card, replace(search, listed=True)) < predicted(card, replace(search, listed=False))


def whole(card: Card, search: Search) -> float:
    """Microseconds from queries and a mask on the host to an answer there, rows listed if that pays: the mask's way to the card, the
    kernels, and reading and scoring the few rows that they leave."""
    passing = search.rows if search.passing is None else search.passing
    mask = 0.0 if passing == search.rows else search.rows / 8 / card.bus
    return card.launch - card.starts + mask + predicted(card, replace(search, listed=listed_pays(card, search)))


def row_bytes(dim: int, codes: str) -> int:
    """Bytes that a row takes on the card: its codes, gain and bias, and for codes that are not the vector itself the error."""
    return WIDTHS[codes] * dim + (8 if codes == "float32" else 12)


def most_rows(card: Card, dim: int, codes: str) -> int:
    """How many rows fit on a card of which a tenth is left for everything else."""
    return int(0.9 * card.memory / row_bytes(dim, codes))
