"""Which way to answer a query: pure functions from counts to a plan.

The filter is evaluated before anything is planned, so the number of candidates is known exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from chroma_gpu.config import Settings


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
class Costs:
    """Microseconds on one CPU core at 384 dimensions; they grow with the dimension where vectors are touched.

    Measured with FAISS 1.15 on two AVX-512 machines (see docs/architecture.md, "Planner"); a plan needs their order, not their digits.
    """

    gather_row: float = 0.25
    scan_row: float = 0.09
    batch_row: float = 0.02
    codes_row: float = 0.008
    codes_query: float = 350.0
    graph_query: float = 500.0


@dataclass(frozen=True, slots=True)
class Choice:
    """One index that could serve: its kind and how many of the first rows it holds."""

    kind: str
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
# An approximate index is asked for at most this many neighbours: past it, its rerank costs more than reading every vector.
INDEX_K = 1_000


def plan(
    candidates: int, rows: int, k: int, queries: int, dim: int, indexes: Sequence[Choice], costs: Costs | None = None
) -> Plan:
    """The cheapest way that keeps the answer right.

    candidates  live rows that pass the filter; rows: all rows of the table; queries: how many vectors are asked at once
    """
    costs = costs or Costs()
    k = min(k, candidates)
    if k == 0:
        return Plan(Way.NOTHING, None, candidates, rows, k, 0.0)
    width = dim / 384
    share = candidates / rows
    # One pass over the vectors serves all queries; each further query costs its share of a matrix product.
    ways: list[tuple[float, Way, str | None]] = [
        (width * candidates * (costs.gather_row + costs.batch_row * (queries - 1)), Way.GATHER, None),
        (width * rows * (costs.scan_row + costs.batch_row * (queries - 1)), Way.SCAN, None),
    ]
    for each in indexes:
        if each.kind == "flat":
            ways.append((0.0, Way.INDEX, each.kind))
        elif k <= INDEX_K:
            late = width * (rows - each.rows) * costs.scan_row
            work = costs.codes_query + costs.codes_row * each.rows * width if each.kind == "codes" else costs.graph_query
            # A filter that few rows pass makes an index look at more than it returns.
            ways.append((late + queries * work * (1 + 0.1 * (1 / share - 1)) * (1 + k / 200), Way.INDEX, each.kind))
    ways.sort(key=lambda way: way[0])
    considered = tuple((f"{way}({kind})" if kind else str(way), cost) for cost, way, kind in ways)
    cost, way, kind = ways[0]
    return Plan(way, kind, candidates, rows, k, cost, considered)


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
