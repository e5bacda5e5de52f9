"""Which way to answer a query: pure functions from counts to a plan.

The filter is evaluated before anything is planned, so the number of candidates is known exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from chroma_gpu.config import Settings
from chroma_gpu.index import IndexSpec, Traits, cost


class Way(StrEnum):
    """How the nearest rows are found.

    nothing  no row passes
    gather   the candidates' vectors are fetched and scored exactly
    scan     all vectors are read in order and the candidates scored exactly
    index    an index is asked, the rows it has not taken in yet are scored exactly
    """

    NOTHING = "nothing"
    GATHER = "gather"
    SCAN = "scan"
    INDEX = "index"


@dataclass(frozen=True, slots=True)
class Choice:
    """One index that could serve: what it is, and how many of the first rows it holds."""

    spec: IndexSpec
    traits: Traits
    rows: int


@dataclass(frozen=True, slots=True)
class Plan:
    """The way taken and the numbers behind it.

    way         what is done
    kind        which index, for Way.INDEX
    candidates  live rows that pass the filter
    rows        rows of the table, dead ones included
    k           neighbours looked for, at most the candidates
    cost        expected microseconds
    considered  every way that was weighed, with its expected microseconds, cheapest first
    """

    way: Way
    kind: str | None
    candidates: int
    rows: int
    k: int
    cost: float
    considered: tuple[tuple[str, float], ...] = ()

    def __str__(self) -> str:
        name = f"{self.way}({self.kind})" if self.kind else str(self.way)
        return f"{name}: {self.candidates:,} of {self.rows:,} rows, k={self.k}, about {self.cost / 1000:.2f} ms"


# Below this many rows a plain scan is as fast as any index.
INDEX_ROWS = 2_048
# Microseconds a coordinate of the pass that finds the norms of the rows. Indexes keep theirs, a scan without one has to find them.
NORM = 3.5e-4
# Microseconds of a search on a GPU, most of it launches and the way there and back. To be measured on a card.
DEVICE_CALL = 150.0


def plan(candidates: int, rows: int, k: int, queries: int, dim: int, indexes: Sequence[Choice]) -> Plan:
    """The cheapest way that keeps the answer right.

    candidates  live rows that pass the filter; rows: all rows of the table; queries: how many vectors are asked at once
    """
    k = min(k, candidates)
    if k == 0:
        return Plan(Way.NOTHING, None, candidates, rows, k, 0.0)
    ways: list[tuple[float, Way, str | None]] = [
        (cost.exact_rows(candidates, dim, queries), Way.GATHER, None),
        (cost.exact_block(rows, candidates, dim, queries) + NORM * dim * candidates, Way.SCAN, None),
    ]
    ways += [
        (_asked(each, candidates / rows, rows, k, queries, dim), Way.INDEX, each.spec.kind)
        for each in indexes
        if not (each.traits.exact and each.traits.device == "cpu")  # that is what gather and scan are
    ]
    ways.sort(key=lambda way: way[0])
    considered = tuple((f"{way}({kind})" if kind else str(way), each) for each, way, kind in ways)
    cheapest, way, kind = ways[0]
    return Plan(way, kind, candidates, rows, k, cheapest, considered)


def _asked(index: Choice, share: float, rows: int, k: int, queries: int, dim: int) -> float:
    """Microseconds of asking an index, and of scoring exactly what it does not hold yet."""
    held = min(index.rows, rows)
    passing = max(1, round(share * held))
    late = rows - held
    if index.spec.kind == "codes":
        fetch = cost.codes_fetch(k)
        each = min(cost.codes(held, passing, dim, fetch), cost.codes_skipping(held, passing, dim, fetch))
    elif index.spec.kind == "hnsw":
        fetch = cost.graph_fetch(int(index.spec.params.get("ef_search", 200)), k)
        each = cost.graph(-(-fetch * held // passing), dim, fetch)
    else:
        each = DEVICE_CALL / queries
    # An index on the CPU scans its rows exactly where that is cheaper, a large batch above all.
    asked = min(queries * each, cost.exact_block(held, passing, dim, queries))
    return asked + (cost.exact_block(late, round(share * late), dim, queries) + NORM * dim * share * late if late else 0.0)


def wanted(settings: Settings, rows: int, *, faiss: bool, gpu: bool) -> tuple[str, ...]:
    """Which kinds of index a table of so many rows keeps.

    faiss, gpu  whether FAISS is installed, and whether the device of the settings is a GPU
    """
    if settings.index == "flat" or (settings.index == "auto" and (gpu or not faiss)):
        return ("flat",)
    if rows < INDEX_ROWS:
        return ()
    graph = settings.index == "hnsw" or (settings.index == "auto" and rows >= settings.graph_rows)
    return ("codes", "hnsw") if graph else ("codes",)
