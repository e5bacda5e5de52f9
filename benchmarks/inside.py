"""What a benchmark sees of our engine from inside: how an answer was come by, what its filter cost, and answers by another plan.

Timings of answers are taken through the public API; this says why they are what they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.datasets import Vectors
from benchmarks.workload import Filter


@dataclass(frozen=True, slots=True)
class Answer:
    """How one query was answered.

    plan        by its name, as "gather" or "index(codes)"; considered: the names of all that were weighed
    guard       what it said, or None
    seconds     of the search alone, planning included: without the filter and without reading the records found
    """

    ids: list[str]
    plan: str
    considered: list[str]
    guard: str | None
    seconds: float


def answer(collection: Any, vector: Vectors, k: int, filtered: Filter) -> Answer:
    """One query [dim] of the table that stands behind a collection."""
    with collection._engine.table(collection.id) as table:
        found = table.search(vector[None], k, _expr(filtered.arguments()), frozenset())
    ids = [found.records.ids[found.position[int(row)]] for row in found.hits.rows[0, : found.hits.counts[0]]]
    return Answer(
        ids, found.plan.name, [str(each) for each in found.plan.considered], found.hits.guard, found.trace.seconds["search"]
    )


@contextmanager
def forced(collection: Any, plan: str) -> Iterator[None]:
    """Within it, every search of this collection goes by the plan of this name, if it is among those that are weighed."""
    with collection._engine.table(collection.id) as table:
        table.nearest.force = plan
        try:
            yield
        finally:
            table.nearest.force = None


def evaluated(collection: Any, arguments: dict[str, Any]) -> tuple[float, int]:
    """Seconds of evaluating a filter alone, and how many records pass."""
    expr = _expr(arguments)
    with collection._engine.table(collection.id) as table:
        # No neighbour is asked for: nothing follows the filter.
        found = table.search(np.zeros((1, table.dim()), np.float32), 0, expr, frozenset())
    return found.trace.seconds["filter"], found.plan.candidates


def touch(collection: Any) -> None:
    """Read every page of the index of metadata, as a process that has answered many filters has."""
    from chroma_gpu.store.encoding import FIELDS, NUMBERS, POSTINGS

    with collection._engine.table(collection.id) as table, table._store._keyvalue.read() as txn:
        for each in (FIELDS, NUMBERS, POSTINGS):
            for _ in txn.scan(each):
                pass


def _expr(arguments: dict[str, Any]) -> Any:
    from chroma_gpu.api.where import parse_where, parse_where_document

    ((kind, condition),) = arguments.items()
    return {"where": parse_where, "where_document": parse_where_document}[kind](condition)
