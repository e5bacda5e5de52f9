"""Trace: what answering a query took, written down as it happens."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import NamedTuple

from chroma_gpu.engine.planner import Plan
from chroma_gpu.engine.view import View
from chroma_gpu.filter.expr import Expr, Step
from chroma_gpu.records import Hits
from chroma_gpu.rowset import RowSet


class Searched(NamedTuple):
    """One search for the best rows, of one query or a batch.

    field    what was searched: "#embedding", or the metadata key of sparse vectors
    plan     the plan it was answered by; None where there is only one way
    seconds  planning included
    """

    field: str
    plan: Plan | None
    hits: Hits
    seconds: float


class Transformed(NamedTuple):
    """One step after the filter, other than a search: how many rows it was given, how many it left."""

    name: str
    asked: int
    left: int
    seconds: float


class Filtered(NamedTuple):
    """One evaluation of a filter; None is no filter."""

    expr: Expr | None
    candidates: RowSet
    steps: Sequence[Step]


class Trace:
    """The stages of one answer, their times, and what each did.  Cost: half a microsecond a stage."""

    __slots__ = ("_since", "filters", "searches", "seconds", "transforms", "view")

    def __init__(self) -> None:
        self.view: View | None = None
        self.filters: list[Filtered] = []
        self.searches: list[Searched] = []
        self.transforms: list[Transformed] = []
        self.seconds: dict[str, float] = {}
        self._since = perf_counter()

    def done(self, stage: str) -> None:
        """The time since the last call was of this stage."""
        now = perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._since
        self._since = now

    def seen(self, view: View) -> None:
        """The committed state that is read."""
        self.view = view
        self.done("state")

    def filtered(self, expr: Expr | None, candidates: RowSet, steps: Sequence[Step]) -> None:
        """A filter was evaluated."""
        self.filters.append(Filtered(expr, candidates, steps))
        self.done("filter")

    def searched(self, field: str, plan: Plan | None, hits: Hits) -> None:
        """A search was answered."""
        since = self._since
        self.done("search")
        self.searches.append(Searched(field, plan, hits, self._since - since))

    def transformed(self, name: str, asked: int, left: int) -> None:
        """A transform was applied."""
        since = self._since
        self.done("transforms")
        self.transforms.append(Transformed(name, asked, left, self._since - since))
