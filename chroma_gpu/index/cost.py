"""What each way of searching costs, in µs on the machine the shipped figures were fitted on; for choosing, only ratios matter.

Fitted at 50,000 x 384 and 1,000,000 x 128 on two cores with AVX-512: exact ways use both, codes and graph one. A calibration
scales the figures to a machine and a table (``engine/calibration``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from chroma_gpu.index.exact import DENSE, FEW, IN_PLACE, SPARSE

AHEAD: Final = 10
"""Of so many codes one passes a mask where codes begin to be read ahead, so that more of them hardly cost more."""

LONG: Final = 20_000
"""Length of a graph's list of candidates at which keeping it costs as much as visiting its nodes."""


CODED: Final = 4
"""A byte of a code in a list, looked up by one core, as a multiple of a coordinate that two read in order."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Microseconds of the steps that searches consist of, and how often some are done again. A coordinate is one of a row's floats.

    call        an exact search, whatever its size
    query       a query of a batch, beside its products
    listed      a row that is found in a mask, and ranked by its product
    gathered    a coordinate of a scattered row that is read where it lies, by one query
    copied      a coordinate of a scattered row that is copied: for several queries, without FAISS, without norms
    read        a coordinate of a row that is read in order, by one query
    packed      a coordinate of a row that goes into a product of matrices, which pays from five queries on, and ...
    multiplied  ... what each query adds there
    scored      a row and query of a product of matrices
    norm        a coordinate of a row whose norm has to be found first
    rerank      what comes after codes or a graph: scoring what they found, and the guard
    fetched     a row that codes or a graph keep in order
    bit         a bit of a code in the scan of all codes
    skipped     a code that the mask leaves out, in the scan that can skip
    lone        a code that the mask lets through, in the scan that can skip, as long as few enough are that each is waited for
    lone_bit    a bit of a code that the mask lets through
    widened     share of the searches of codes that are done again because the guard did not pass, and ...
    lost        ... of those that the exact way answers in the end
    hop, visit  a node that a graph keeps in its list of ef, and a coordinate of it
    drawn       sampling a mask for the guard of a graph
    doubt       share of the searches of a graph under a mask whose guard fails, so that the exact way answers after it
    breadth     what ef is multiplied by, so that the graph of this table finds what graphs should
    found       recall that the graph of this table showed without a filter; None if nobody has looked
    """

    call: float = 80.0
    query: float = 15.0
    listed: float = 8e-3
    gathered: float = 4e-4
    copied: float = 8e-4
    read: float = 1.5e-4
    packed: float = 4e-4
    multiplied: float = 1.2e-5
    scored: float = 4e-3
    norm: float = 3.5e-4
    rerank: float = 350.0
    fetched: float = 0.36
    bit: float = 2.5e-5
    skipped: float = 2e-3
    lone: float = 0.1
    lone_bit: float = 3e-5
    widened: float = 0.15
    lost: float = 0.01
    hop: float = 1.6
    visit: float = 7e-3
    drawn: float = 250.0
    doubt: float = 0.05
    breadth: float = 1.5
    found: float | None = None

    def scaled(self, **factors: float) -> Costs:
        """The same with some figures multiplied."""
        return replace(self, **{name: getattr(self, name) * factor for name, factor in factors.items()})

    def without_faiss(self) -> Costs:
        """Where rows cannot be read in place."""
        return replace(self, gathered=self.copied)

    def exact_rows(self, rows: int, dim: int, queries: int = 1, *, norms: bool = True) -> float:
        """``exact.search_rows``.  norms: whether they are known."""
        if not norms:
            coordinate = self.copied + self.norm + self._products(queries - 1)
        elif queries < FEW and rows * dim >= IN_PLACE:
            coordinate = queries * self.gathered
        else:
            coordinate = self.copied + self._products(queries - 1)
        return self._calls(queries) + rows * (dim * coordinate + self._ranked(queries))

    def exact_block(self, rows: int, passing: int, dim: int, queries: int = 1, *, norms: bool = True) -> float:
        """``exact.search_block`` over rows of which some pass the mask."""
        if passing < (DENSE if norms and queries < FEW else SPARSE) * rows:
            return self.exact_rows(passing, dim, queries, norms=norms)
        finding = 0.0 if norms else self.norm * passing
        # Of a product of matrices the scores that pass are copied together.
        ranked = self._ranked(queries) / 2 + (queries * self.scored if queries > FEW and passing < rows else 0.0)
        return self._calls(queries) + dim * (rows * self._products(queries) + finding) + passing * ranked

    def codes(self, rows: int, passing: int, width: int, fetch: int) -> float:
        """One query over all codes, fetching more by the share that the mask lets through.  width: bits of a code"""
        return self.rerank + rows * width * self.bit + fetch * rows / passing * self.fetched

    def codes_skipping(self, rows: int, passing: int, width: int, fetch: int) -> float:
        """One query over the codes that pass the mask."""
        waited = min(passing, rows / AHEAD)
        return self.rerank + rows * self.skipped + waited * self.lone + passing * width * self.lone_bit + fetch * self.fetched

    def graph(self, ef: int, dim: int, fetch: int, *, masked: bool = False) -> float:
        """One query through a graph."""
        walk = ef * (self.hop + dim * self.visit) * (1 + ef / LONG)
        return self.rerank + walk + fetch * self.fetched + (self.drawn if masked else 0.0)

    def lists(self, rows: int, dim: int, code: int | None, centres: int, probes: int, fetch: int, device: str = "cpu") -> float:
        """One query through inverted lists.  code: bytes of a row's code, None for its vector

        On a card only what the host does afterwards counts, and one call: reading lists takes it less, which no card has confirmed.
        """
        after = self.rerank + fetch * self.fetched
        if device != "cpu":
            return self.call + after
        read = dim * 2 * self.read if code is None else code * CODED * self.read
        return after + centres * dim * 2 * self.read + rows * probes / centres * read

    def graph_ef(self, ef_search: int, k: int, rows: int, passing: int) -> tuple[int, int]:
        """(fetch, ef): how many rows a graph is asked for, and how long its list of candidates is, longer by what the mask leaves out."""
        fetch = max(math.ceil(self.breadth * ef_search), k + k // 2)
        return fetch, -(-fetch * rows // max(1, passing))

    def _calls(self, queries: int) -> float:
        return self.call + queries * self.query

    def _ranked(self, queries: int) -> float:
        return self.listed + (queries * self.scored if queries > FEW else 0.0)

    def _products(self, queries: int) -> float:
        """A coordinate of a row for so many queries."""
        return min(queries * self.read, self.packed + queries * self.multiplied)


SHIPPED: Final = Costs()


def codes_fetch(k: int, rows: int) -> int:
    """How many estimates the codes fetch first for k neighbours among so many rows.

    Measured with 1,000 real queries of k = 10 at 50,000 rows: the mean time is within 2 % from half to 1.6 times as many; fewer make
    half of the queries faster, by 3 %, and more the slowest twentieth, which widen.
    """
    return 30 * k + round(2.0 * math.sqrt(rows))
