"""Which way to answer a query: pure functions from counts to a plan.

The filter is evaluated before anything is planned, so the number of candidates is known exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from chroma_gpu.config import Settings
from chroma_gpu.index import IndexSpec, Traits
from chroma_gpu.index.cost import SHIPPED, Costs, codes_fetch
from chroma_gpu.index.gpu.codes import search_of
from chroma_gpu.index.gpu_cost import Card, listed_pays, whole
from chroma_gpu.index.lists import groups_of, lists_for
from chroma_gpu.index.rotation import code_width


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
    """One index that could serve: what it is, and how many of the first rows it holds.

    card  the GPU it is on, for the cost of its ways
    """

    spec: IndexSpec
    traits: Traits
    rows: int
    card: Card | None = None


@dataclass(frozen=True, slots=True)
class Considered:
    """One way that was weighed.

    cost    expected microseconds
    recall  share of the true neighbours that it can promise: 1.0 where it is proved, for codes what their bound leaves, for a graph
            what it showed without a filter; None where nothing can be said
    on      of an index on a GPU: what is read there, and where
    """

    way: Way
    kind: str | None
    cost: float
    recall: float | None
    on: str | None = None

    def __str__(self) -> str:
        return _name(self.way, self.kind)


@dataclass(frozen=True, slots=True)
class Plan:
    """The way taken and the numbers behind it.

    way         what is done
    kind        which index, for Way.INDEX
    candidates  live rows that pass the filter
    rows        rows of the table, dead ones included
    k           neighbours looked for, at most the candidates
    cost        expected microseconds
    considered  every way that was weighed, cheapest first
    queries     how many were asked at once
    """

    way: Way
    kind: str | None
    candidates: int
    rows: int
    k: int
    cost: float
    considered: tuple[Considered, ...] = ()
    queries: int = 1

    @property
    def recall(self) -> float | None:
        """As ``Considered.recall`` of the way taken."""
        return next((each.recall for each in self.considered if (each.way, each.kind) == (self.way, self.kind)), 1.0)

    @property
    def on(self) -> str | None:
        """As ``Considered.on`` of the way taken."""
        return next((each.on for each in self.considered if (each.way, each.kind) == (self.way, self.kind)), None)

    @property
    def name(self) -> str:
        """Of the way taken, as ``Considered`` prints it."""
        return _name(self.way, self.kind)

    def taking(self, considered: Considered) -> Plan:
        """The same with another of the ways that were weighed."""
        return replace(self, way=considered.way, kind=considered.kind, cost=considered.cost)

    def __str__(self) -> str:
        return f"{self.name}: {self.candidates:,} of {self.rows:,} rows, k={self.k}, about {self.cost / 1000:.2f} ms"


INDEX_ROWS: Final = 2_048
"""Rows below which a plain scan is as fast as any index."""

STEADY: Final = 1.2
"""How much dearer the exact way of the last plan may look before another exact way replaces it."""

MISSING: Final = 0.6
"""Share of the candidates missing near the queries from which on a graph is not asked: up to there it still sees more than a hundred
candidates on its way to ten neighbours."""

TUNED: Final = ("ivf", "ivf_pq", "cagra")
"""Kinds that are kept only on request: tuned for a recall, which is seen without a mask and not promised under one."""

WIDER: Final = 0.3
"""Power of the number of neighbours by which they read more."""

CODES_RECALL: Final = 0.9999
"""What the guard of the codes leaves of each neighbour; see ``index/codes``."""


def plan(
    candidates: int,
    rows: int,
    k: int,
    queries: int,
    dim: int,
    indexes: Sequence[Choice],
    costs: Costs = SHIPPED,
    *,
    norms: bool = True,
    recall: float = 0.0,
    missing: float = 0.0,
    last: Plan | None = None,
) -> Plan:
    """The cheapest way that keeps the answer right.

    candidates  live rows that pass the filter; rows: all rows of the table; queries: how many vectors are asked at once
    norms       whether the lengths of all rows are known, as they are once an index has taken them in
    recall      least share of the neighbours that a way must promise; 0 takes those of which nothing can be said, too
    missing     share of the candidates that are missing near the queries (``Probe``): so often codes are asked in vain; a graph is not
    last        the plan before this one. If it was for nearly the same question, its way is kept while another is not clearly
                better, but only among exact ways, so that the answer does not depend on what was asked before
    """
    k = min(k, candidates)
    if k == 0:
        return Plan(Way.NOTHING, None, candidates, rows, k, 0.0, queries=queries)
    ways = [
        Considered(Way.GATHER, None, costs.exact_rows(candidates, dim, queries, norms=norms), 1.0),
        Considered(Way.SCAN, None, costs.exact_block(rows, candidates, dim, queries, norms=norms), 1.0),
    ]
    ways += [
        _asked(each, candidates / rows, rows, k, queries, dim, costs, norms, missing)
        for each in indexes
        if not (each.traits.exact and each.traits.device == "cpu")  # that is what gather and scan are
        # Where much is missing, a graph and lists give answers that are wrong in part, and no guard sees it.
        and not (each.spec.kind in ("hnsw", *TUNED) and missing > MISSING)
    ]
    ways = sorted((way for way in ways if recall == 0 or (way.recall or 0) >= recall), key=lambda way: way.cost)
    taken = _steady(ways, candidates, rows, k, queries, last)
    return Plan(taken.way, taken.kind, candidates, rows, k, taken.cost, tuple(ways), queries)


def _asked(
    index: Choice, share: float, rows: int, k: int, queries: int, dim: int, costs: Costs, norms: bool, missing: float
) -> Considered:
    """Asking an index, and scoring exactly what it does not hold yet."""
    held = min(index.rows, rows)
    passing = max(1, round(share * held))
    exactly = costs.exact_block(held, passing, dim, queries)
    recall: float | None = 1.0
    on = None
    if index.spec.kind == "codes":
        width, fetch = code_width(dim), codes_fetch(k, passing)
        all_rows, skipping = costs.codes(held, passing, width, fetch), costs.codes_skipping(held, passing, width, fetch)
        in_vain = max(costs.lost, missing) if all_rows < skipping else costs.lost
        asked = queries * ((1 + costs.widened) * min(all_rows, skipping) + in_vain * costs.exact_block(held, passing, dim))
        recall = CODES_RECALL
    elif index.spec.kind == "hnsw":
        masked = passing < held
        fetch, ef = costs.graph_ef(int(index.spec.params.get("ef_search", 200)), k, held, passing)
        asked = queries * costs.graph(ef, dim, fetch, masked=masked) + (costs.doubt * exactly if masked else 0.0)
        recall = None if masked else costs.found
    elif index.spec.kind in TUNED:
        traits, lists = index.traits, lists_for(held)
        probes = max(1, round(lists * min(1.0, traits.reads * max(1.0, k * held / passing / 10) ** WIDER)))
        code = groups_of(dim) if index.spec.kind == "ivf_pq" else None
        asked = queries * costs.lists(held, dim, code, lists, probes, 2 * k, traits.device)
        asked += costs.doubt * exactly if passing < held else 0.0
        recall = traits.recall if passing == held else None
    else:
        card = index.card or Card.unknown()
        search = search_of(held, dim, index.traits.codes, queries, passing)
        asked = whole(card, search)
        recall = 1.0 if index.traits.exact else None
        if index.traits.codes is not None:
            listed = listed_pays(card, search)
            on = f"{'a list' if listed else 'a mask' if passing < held else 'all'} of {index.traits.codes} on {index.traits.device}"
    if index.spec.kind not in ("flat", *TUNED) and exactly <= asked:
        asked, recall = exactly, 1.0  # an index on the CPU scans its rows exactly where that is cheaper
    if rows > held:
        asked += costs.exact_block(rows - held, round(share * (rows - held)), dim, queries, norms=norms)
    return Considered(Way.INDEX, index.spec.kind, asked, recall, on)


def _steady(ways: Sequence[Considered], candidates: int, rows: int, k: int, queries: int, last: Plan | None) -> Considered:
    """The cheapest, or the exact way of the last plan while the cheapest is exact too and hardly cheaper."""
    best = ways[0]
    if last is None or best.recall != 1.0 or (last.k, last.queries) != (k, queries):
        return best
    if not (_near(last.candidates, candidates) and _near(last.rows, rows)):
        return best
    kept = next((way for way in ways if (way.way, way.kind) == (last.way, last.kind) and way.recall == 1.0), best)
    return kept if kept.cost <= STEADY * best.cost else best


def _near(old: int, new: int) -> bool:
    return new <= STEADY * old and old <= STEADY * new


def _name(way: Way, kind: str | None) -> str:
    return f"{way}({kind})" if kind else str(way)


def wanted(settings: Settings, rows: int, *, faiss: bool, gpu: bool) -> tuple[str, ...]:
    """Which kinds of index a table of so many rows keeps.

    faiss, gpu  whether FAISS is installed, and whether the device of the settings is a GPU
    """
    if settings.index == "flat" or (settings.index == "auto" and (gpu or not faiss)):
        return ("flat",)
    if rows < INDEX_ROWS:
        return ()
    if settings.index in TUNED:
        return (settings.index,)
    graph = settings.index == "hnsw" or (settings.index == "auto" and rows >= settings.graph_rows)
    return ("codes", "hnsw") if graph else ("codes",)
