"""Query-time transforms: what the nearest records are once records are ruled out, and distances changed, by more than the filter.

The order is fixed. Constraints narrow the candidates, then the nearest are found under the boosted distance, and what is too far before
any boost is left out. The answer is that of scoring every candidate, unless an approximate index was asked: then its guard vouches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from chroma_gpu.engine.planner import Plan, Way
from chroma_gpu.engine.ranked import Reading
from chroma_gpu.engine.trace import Trace
from chroma_gpu.errors import UnknownID
from chroma_gpu.filter.expr import Expr
from chroma_gpu.index import answers, regions
from chroma_gpu.records import NO_ROW, Hits, Metric, Rows, Vectors
from chroma_gpu.rowset import RowSet

CLASSES: Final = 16
"""Sets of candidates with one boost each up to which every set is searched by itself, by whatever way is cheapest for it."""

BRACKET: Final = 7e-4
"""Microseconds a coordinate of the pass that scores every candidate."""

_MOST: Final = 1e300
"""Boosts add up to no more than this, and their factors multiply to no more, nor to less than one part of it: nothing is ever nan."""


@dataclass(frozen=True, slots=True, eq=False)
class Constraint:
    """Only records that are, or are not, near to something.

    to       [dim] float32, or the id of a record, whose vector it is then
    bound    a distance, which is still near; with ``similarity`` the number that 1 - distance is above where it is near
    outside  what is near is ruled out, instead of everything else
    """

    to: Vectors | str
    bound: float
    similarity: bool = False
    outside: bool = False

    def admits(self, distances: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        """[n] bool: which of some distances are allowed."""
        near = 1.0 - distances > self.bound if self.similarity else distances <= self.bound
        return ~near if self.outside else near

    def __str__(self) -> str:
        return f"{'not ' * self.outside}similar ({'above' if self.similarity else 'within'} {self.bound:g})"


@dataclass(frozen=True, slots=True)
class Boost:
    """The distance of records that satisfy a condition becomes distance * factor + add."""

    expr: Expr
    factor: float = 1.0
    add: float = 0.0


@dataclass(frozen=True, slots=True)
class FieldBoost:
    """The distance of every record becomes less by weight * value, the number in a metadata field; ``missing`` where there is none."""

    field: str
    weight: float
    missing: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Transforms:
    """What is to be done before and while the nearest are found. All factors are applied before anything is added.

    farthest  the distance, before any boost, above which records are left out
    """

    constraints: Sequence[Constraint] = ()
    farthest: float = math.inf
    boosts: Sequence[Boost] = ()
    fields: Sequence[FieldBoost] = ()


def search(
    transforms: Transforms, queries: Vectors, k: int, candidates: RowSet, reading: Reading, metric: Metric, trace: Trace
) -> tuple[Hits, Plan]:
    """The k nearest candidates of each query by (boosted distance, distance, row), and the plan that cost most.

    Raises   DimensionMismatch, UnknownID for a constraint by an id that no record has; KeyError if a record died: then read again
    Cost     a pass over the candidates for each constraint. With boosts by conditions, one evaluation of each and one search for each set
             of candidates that they treat alike; with more than CLASSES of these, or boosts by fields, a pass over the candidates for
             each query
    """
    for constraint in transforms.constraints:
        if not isinstance(constraint.to, str):
            reading.view.check_dim(len(constraint.to))
    for constraint in transforms.constraints:
        vector = _vector(constraint.to, reading)
        asked = len(candidates)
        candidates = regions.within(vector, reading.store.vectors, candidates, constraint.admits, metric)
        trace.transformed(str(constraint), asked, len(candidates))
    if candidates and (transforms.boosts or transforms.fields):
        return _boosted(transforms, queries, k, candidates, reading, metric, trace)
    hits, plan = reading.nearest(queries, k, candidates)
    trace.searched("#embedding", plan, hits)
    if transforms.farthest < math.inf:
        near = _cut(hits, transforms.farthest)
        trace.transformed("max_distance", int(hits.counts.sum()), int(near.counts.sum()))
        hits = near
    return hits, plan


def _vector(to: Vectors | str, reading: Reading) -> Vectors:
    if not isinstance(to, str):
        return to
    rows = reading.store.rows_of([to])
    if rows[0] == NO_ROW:
        raise UnknownID(f"No record has the id {to!r}, to whose vector others are to be compared.", hint="Ask `get` for it.")
    if rows[0] >= reading.view.live.size:
        raise KeyError("an id was written after the view was taken")
    vector: Vectors = reading.store.vectors.gather(rows)[0]
    return vector


class _Scored(NamedTuple):
    """Rows found for queries: whose they are, where, and how far before and after the boosts. [n] each."""

    owners: npt.NDArray[np.intp]
    rows: Rows
    distances: npt.NDArray[np.float32]
    boosted: npt.NDArray[np.float32]


def _boosted(
    transforms: Transforms, queries: Vectors, k: int, candidates: RowSet, reading: Reading, metric: Metric, trace: Trace
) -> tuple[Hits, Plan]:
    # Sums of floats depend on their order. In this one, the same boosts make the same distances however they were listed.
    boosts = sorted(transforms.boosts, key=lambda boost: (boost.factor, boost.add))
    passing = []
    for boost in boosts:
        satisfying, steps = reading.candidates(boost.expr, None)
        trace.filtered(boost.expr, satisfying, steps)
        passing.append(satisfying)
    classes = None if transforms.fields else _classes(boosts, passing, candidates)
    if classes is None:
        hits, plan = _scanned(transforms, boosts, passing, queries, k, candidates, reading, metric)
        trace.searched("#embedding", plan, hits)
    else:
        hits, plan = _searched(classes, transforms.farthest, queries, k, reading, trace)
    trace.transformed(
        "max_distance, boost" if transforms.farthest < math.inf else "boost", len(candidates), int(hits.counts.sum())
    )
    return hits, plan


def _classes(boosts: Sequence[Boost], passing: Sequence[RowSet], candidates: RowSet) -> dict[tuple[float, float], RowSet] | None:
    """The candidates by what their boosts make together: (factor, addend). None if there are more than CLASSES of them."""
    classes = {(1.0, 0.0): candidates}
    for boost, rows in zip(boosts, passing, strict=True):
        split: dict[tuple[float, float], RowSet] = {}
        for (factor, addend), within in classes.items():
            for key, part in (((factor * boost.factor, addend + boost.add), within & rows), ((factor, addend), within - rows)):
                if part:
                    split[key] = split[key] | part if key in split else part
        classes = split
        if len(classes) > CLASSES:
            return None
    return classes


def _searched(
    classes: dict[tuple[float, float], RowSet], farthest: float, queries: Vectors, k: int, reading: Reading, trace: Trace
) -> tuple[Hits, Plan]:
    """One search for each class. Inside a class boosts keep the order, so the k nearest of all are among the k nearest of each."""
    found, parts, plans = [], [], []
    for (factor, addend), rows in classes.items():
        hits, plan = reading.nearest(queries, k, rows)
        trace.searched("#embedding", plan, hits)
        near = _cut(hits, farthest)
        filled = near.rows != NO_ROW
        distances = near.distances[filled]
        changed = regions.boosted(distances, *_limited(np.array(factor), np.array(addend)))
        found.append(_Scored(np.nonzero(filled)[0], near.rows[filled], distances, changed))
        parts.append(hits)
        plans.append(plan)
    best = _best(found, len(queries), k)
    exact, guard = all(each.exact for each in parts), answers.worst_guard(parts)
    return Hits(best.rows, best.distances, best.counts, exact, guard), max(plans, key=lambda plan: plan.cost)


def _scanned(
    transforms: Transforms,
    boosts: Sequence[Boost],
    passing: Sequence[RowSet],
    queries: Vectors,
    k: int,
    candidates: RowSet,
    reading: Reading,
    metric: Metric,
) -> tuple[Hits, Plan]:
    """One pass over the candidates for each query."""
    rows = candidates.rows()
    factors, addends = np.ones(len(rows)), np.zeros(len(rows))
    with np.errstate(over="ignore", invalid="ignore"):
        for boost, satisfying in zip(boosts, passing, strict=True):
            inside = satisfying.flags()[rows]
            factors[inside] *= boost.factor
            addends[inside] += boost.add
        for weight, values in _numbers(transforms.fields, rows, reading):
            addends -= weight * values
    factors, addends = _limited(factors, addends)
    source = reading.store.vectors
    each = regions.nearest_boosted(queries, source, rows, k, metric, factors, addends, transforms.farthest)
    found = [_Scored(np.full(len(scored[0]), at, np.intp), *scored) for at, scored in enumerate(each)]
    hits = _best(found, len(queries), k)
    cost = BRACKET * source.dim * len(rows) * len(queries)
    return hits, Plan(Way.GATHER, None, len(rows), candidates.size, hits.rows.shape[1], cost)


def _numbers(fields: Sequence[FieldBoost], rows: Rows, reading: Reading) -> Iterator[tuple[float, npt.NDArray[np.float64]]]:
    """Each weight with the value of its field in every row, in an order that does not depend on how they were listed."""
    for boost in sorted(fields, key=astuple):
        values = reading.fields().columns.numbers(boost.field)[rows]
        yield boost.weight, np.where(np.isnan(values), boost.missing, values)


def _limited(
    factors: npt.NDArray[np.float64], addends: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Finite, whatever overflowed; a sum of both infinities is far away."""
    return np.clip(factors, 1 / _MOST, _MOST), np.nan_to_num(np.clip(addends, -_MOST, _MOST), nan=_MOST)


def _best(found: Sequence[_Scored], n_queries: int, k: int) -> Hits:
    """The first k rows of each query by (boosted distance, distance, row), with their boosted distances."""
    owners, rows, distances, changed = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.lexsort((rows, distances, changed, owners))
    sizes = np.bincount(owners, minlength=n_queries)
    k = min(k, int(sizes.max()))
    place = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    inside = place < k
    order, place = order[inside], place[inside]
    hits = Hits.empty(n_queries, k)
    hits.rows[owners[order], place] = rows[order]
    hits.distances[owners[order], place] = changed[order]
    hits.counts[:] = np.minimum(sizes, k)
    return hits


def _cut(hits: Hits, farthest: float) -> Hits:
    """Without what is farther."""
    near = (hits.distances.astype(np.float64) <= farthest) & (hits.rows != NO_ROW)
    counts = near.sum(axis=1).astype(np.int32)
    rows, distances = np.where(near, hits.rows, NO_ROW), np.where(near, hits.distances, np.float32(np.inf))
    return Hits(rows.astype(np.uint32), distances, counts, hits.exact, hits.guard)
