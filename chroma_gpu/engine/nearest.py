"""Nearest: the nearest rows of a table among those that pass, by the way that the planner takes."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Final

import numpy as np

from chroma_gpu.engine import planner
from chroma_gpu.engine.indexes import Indexes
from chroma_gpu.engine.planner import Plan, Way
from chroma_gpu.engine.probe import Probe
from chroma_gpu.index import answers, exact
from chroma_gpu.index.cost import Costs
from chroma_gpu.index.gpu.masks import MASKS
from chroma_gpu.records import Hits, Metric, Vectors, VectorSource
from chroma_gpu.rowset import RowSet

_LOG: Final = logging.getLogger("chroma_gpu.planner")

KEPT_RECALL: Final = 0.98
"""Recall that an answer must have for its plan to count as one that could have been taken."""

LOUD_REGRET: Final = 1.5
"""Regret from which a check is logged."""

CHECKS: Final = 1_000
"""Checks that are kept."""


@dataclass(frozen=True, slots=True)
class Check:
    """All plans of one question, run.

    microseconds  each way that was weighed, by its name, fastest of two runs
    recalls       the share of the true neighbours that each found
    regret        time of the plan that was taken as a multiple of the fastest with a recall of at least 0.98
    """

    plan: Plan
    microseconds: dict[str, float]
    recalls: dict[str, float]
    regret: float

    @property
    def recall(self) -> float:
        """Of the plan that was taken."""
        return self.recalls[self.plan.name]


class Nearest:
    """Plans and runs searches for nearest rows. Safe for many threads.

    force   the name of a way, as ``Considered`` prints it, that is taken wherever it can be; for measuring and tests
    checks  of the share of searches that ``Settings.plan_check`` names, latest last. A check runs after its answer was made, in the
            thread that asked, and changes nothing but the time it takes
    """

    def __init__(self, source: VectorSource, metric: Metric, indexes: Indexes) -> None:
        self._source = source
        self._metric = metric
        self._indexes = indexes
        self._probe = Probe(source, metric)
        self._last: Plan | None = None
        self._lock = threading.Lock()
        self._due = 0.0
        self.force: str | None = None
        self.checks: deque[Check] = deque(maxlen=CHECKS)

    def search(self, queries: Vectors, k: int, candidates: RowSet, count: int) -> tuple[Hits, Plan]:
        """The k nearest candidates of each query, and how they were found.  count: how many candidates there are"""
        plan = self.plan(queries, k, candidates, count)
        hits = self.run(plan, queries, candidates)
        self._last = plan
        if self._is_checked(plan):
            self._keep(check(self, plan, queries, candidates))
        return hits, plan

    def plan(self, queries: Vectors, k: int, candidates: RowSet, count: int) -> Plan:
        """What would be done with some queries."""
        plan = self._planned(queries, k, candidates.size, count)
        if plan.recall != 1.0 and count < candidates.size and self.force is None:
            missing = self._probe.missing(queries, candidates, count)
            return self._planned(queries, k, candidates.size, count, missing) if missing else plan
        return plan

    def run(self, plan: Plan, queries: Vectors, candidates: RowSet, costs: Costs | None = None) -> Hits:
        """The answer by a plan, which may be another than the planner's: ``Plan.taking``.

        costs  what an index goes by; by default those of the table. With ``call`` at 1e12 it never begins with an exact scan
        """
        source, metric, size = self._source, self._metric, candidates.size
        if plan.way is Way.NOTHING:
            return Hits.empty(len(queries))
        norms = self._indexes.norms(size)
        if plan.way is Way.GATHER:
            return exact.search_rows(queries, source, candidates.rows(), plan.k, metric, norms)
        whole = plan.candidates == size
        if plan.way is Way.SCAN:
            return exact.search_block(queries, source, 0, size, None if whole else candidates, plan.k, metric, norms)
        index, costs = self._indexes.get(plan.kind), costs or self._indexes.costs
        held = min(len(index), size)
        first = MASKS.cut(candidates, held) if index.traits.device != "cpu" else candidates.resized(held)
        # The index may grow while it is asked; without a mask it would then return rows that this view does not know.
        hits = index.search(queries, plan.k, None if whole and len(index) == size else first, costs)
        if whole and len(index) != size:
            hits = index.search(queries, plan.k, first, costs)
        if held < size:
            late = exact.search_block(queries, source, held, size, candidates, plan.k, metric, norms)
            hits = answers.merge(hits, late, plan.k)
        return hits

    def checked(self) -> dict[str, float] | None:
        """count of the checks kept, mean and worst regret, least recall of what was taken; None before the first."""
        with self._lock:
            checks = list(self.checks)
        if not checks:
            return None
        regrets = [each.regret for each in checks]
        return {
            "count": len(checks),
            "mean": sum(regrets) / len(regrets),
            "worst": max(regrets),
            "recall": min(each.recall for each in checks),
        }

    def _planned(self, queries: Vectors, k: int, rows: int, count: int, missing: float = 0.0) -> Plan:
        indexes, settings = self._indexes, self._indexes.settings
        plan = planner.plan(
            count,
            rows,
            k,
            len(queries),
            queries.shape[1],
            indexes.choices(),
            indexes.costs,
            norms=indexes.norms(rows) is not None,
            recall=settings.recall,
            missing=missing,
            last=self._last,
        )
        forced = next((each for each in plan.considered if str(each) == self.force), None)
        return plan if forced is None else plan.taking(forced)

    def _is_checked(self, plan: Plan) -> bool:
        share = self._indexes.settings.plan_check
        if not share or len(plan.considered) < 2:
            return False
        with self._lock:
            self._due += share
            if self._due < 1:
                return False
            self._due -= 1
            return True

    def _keep(self, made: Check) -> None:
        with self._lock:
            self.checks.append(made)
        if made.regret > LOUD_REGRET:
            each = ", ".join(f"{way} {spent:.0f} µs" for way, spent in made.microseconds.items())
            _LOG.info("regret %.2f, recall %.3f: %s; took %s", made.regret, made.recall, made.plan, each)


def check(nearest: Nearest, plan: Plan, queries: Vectors, candidates: RowSet) -> Check:
    """Run every plan that was weighed and compare them with the one taken."""
    spent: dict[str, float] = {}
    found: dict[str, Hits] = {}
    for _ in range(2):
        for each in plan.considered:
            before = time.perf_counter()
            found[str(each)] = nearest.run(plan.taking(each), queries, candidates)
            took = 1e6 * (time.perf_counter() - before)
            spent[str(each)] = min(took, spent.get(str(each), took))
    truth = found[str(Way.GATHER)]
    recalls = {name: recall(hits, truth) for name, hits in found.items()}
    fastest = min(spent[name] for name, reached in recalls.items() if reached >= KEPT_RECALL)
    return Check(plan, spent, recalls, max(1.0, spent[plan.name] / fastest))


def recall(hits: Hits, truth: Hits) -> float:
    """Share of the true neighbours that were found, all queries together."""
    common = 0
    for i, (count, true) in enumerate(zip(hits.counts, truth.counts, strict=True)):
        common += len(np.intersect1d(hits.rows[i, :count], truth.rows[i, :true]))
    return common / max(1, int(truth.counts.sum()))
