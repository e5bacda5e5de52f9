"""The grid: for every share of rows and every relation to the query, how long an engine takes, whether it is right, and by which plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Final

import numpy as np

from benchmarks import inside
from benchmarks.filter_data import CELLS, Cell, Judge, K, Relation, Rows
from benchmarks.libraries import Faiss
from benchmarks.peers import Engine
from benchmarks.workload import Workload

RECALL: Final = 0.98
"""What a plan must reach in a cell to count when the plan taken is held against the others."""
ROUNDS: Final = 3
"""How often each plan answers each query; the best time of a query counts."""

Row = dict[str, Any]


def grid(engine: Engine, rows: Rows, judge: Judge, relation: Relation, seconds: float) -> Iterator[Row]:
    """The cells of one relation: every query once, with a filter that the engine has seen before, up to so many seconds a cell."""
    for cell in CELLS:
        if cell.relation is not relation:
            continue
        filters = judge.filters[cell]
        for query in (0, len(rows.queries) - 1):
            engine.query(rows.queries[query][None], K, filters[rows.group(query)])
        times, recalls = [], []
        for query in _alternating(len(rows.queries)):
            began = perf_counter()
            (found,) = engine.query(rows.queries[query][None], K, filters[rows.group(query)])
            times.append(perf_counter() - began)
            recalls.append(judge.recall(cell, query, found))
            if sum(times) > seconds and len(times) >= 10:
                break
        p50, p95 = np.percentile(times, (50, 95)) * 1e3
        share = float(np.mean([judge.share[each] for each in filters]))
        yield {
            "case": cell.case,
            "value": float(p50),
            "unit": "ms",
            "n": len(times),
            "p95": float(p95),
            "recall": float(np.mean(recalls)),
            "share": share,
        }


def plans(collection: Any, rows: Rows, judge: Judge, cell: Cell, queries: int, seconds: float) -> Row:
    """The plan taken in a cell against every other one.

    Every plan answers every query, one plan after the other, ``ROUNDS`` times, so that all have the same luck with the machine.
    ``regret`` is the time of the searches by the plans taken over that by the best single plan, sums of the queries' best times; plans
    whose recall is below ``RECALL`` do not count. 1 is perfect, and less is where no single plan is best for all queries.
    """
    taken: Counter[str] = Counter()
    guards: Counter[str] = Counter()
    own: list[str] = []
    asked = list(_alternating(len(rows.queries)))[:queries]
    names: set[str] = set()
    for query in asked:
        found = inside.answer(collection, rows.queries[query], K, judge.filters[cell][rows.group(query)])
        taken[found.plan] += 1
        guards[str(found.guard)] += 1
        own.append(found.plan)
        names |= {found.plan, *found.considered}
    times: dict[str, list[float]] = {name: [] for name in names}
    recalls: dict[str, list[float]] = {name: [] for name in names}
    began = perf_counter()
    for query in asked:
        best = dict.fromkeys(names, float("inf"))
        for turn in range(ROUNDS):
            for name in sorted(names):
                with inside.forced(collection, name):
                    found = inside.answer(collection, rows.queries[query], K, judge.filters[cell][rows.group(query)])
                best[name] = min(best[name], found.seconds)
                if not turn:
                    recalls[name].append(judge.recall(cell, query, found.ids))
        for name in names:
            times[name].append(best[name])
        if perf_counter() - began > seconds and len(times[own[0]]) >= 5:
            break
    done = len(next(iter(times.values()), []))
    good = {name: sum(each) for name, each in times.items() if np.mean(recalls[name]) >= RECALL}
    went = sum(times[name][at] for at, name in enumerate(own[:done]))
    regret = went / min(good.values()) if good else None
    return {
        "case": cell.case.replace("grid", "regret", 1),
        "value": regret,
        "unit": "x",
        "n": done,
        "plan": dict(taken),
        "guard": dict(guards),
        "plans": {name: {"ms": median(each) * 1e3, "recall": float(np.mean(recalls[name]))} for name, each in times.items()},
    }


def faiss(engine: Faiss, rows: Rows, judge: Judge, file: Path | None) -> Iterator[Row]:
    """Fill a FAISS index with the rows, or take it from the file of an earlier time, and have all filters ready."""
    engine.load()
    n, dim = rows.vectors.shape
    engine.open(Path(), dim)
    ids = [f"r{row}" for row in range(n)]
    if file is not None and file.exists():
        engine.restore(file, ids)
    else:
        began = perf_counter()
        engine.add(Workload(ids, [], [], rows.vectors, rows.queries), 0, n)
        if file is not None:
            yield {"case": "indexed", "value": n / (perf_counter() - began), "unit": "rows/s", "n": n}
            engine.save(file)
    for each in {each for pair in judge.filters.values() for each in pair}:
        engine.prepare(each, rows.mask(each))


def _alternating(queries: int) -> Sequence[int]:
    """Both groups in turn, so that whoever stops early has seen both."""
    half = queries // 2
    return [query for pair in zip(range(half), range(half, 2 * half), strict=True) for query in pair]
