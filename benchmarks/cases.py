"""What is measured: the table of cases, and the two processes in which an engine goes through them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np

from benchmarks.datasets import Vectors
from benchmarks.peers import Engine, Store, Unsupported
from benchmarks.workload import FILTERS, Answers, Filter, Truth, Workload, WrongAnswerError, unit

K: Final = 10
BATCH_ROWS, BATCH_QUERIES = 5_000, 100


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the report."""

    name: str
    title: str
    unit: str
    more_is_better: bool = False


CASES: Final = (
    Case("add", f"durable add, batches of {BATCH_ROWS:,} with documents and metadata", "rows/s", True),
    Case("first_query", "first query, right after the last add", "ms"),
    Case("indexed", "add until every row is indexed", "rows/s", True),
    Case("query", "query", "ms"),
    *(Case(f"query_{each.name}", f"query, filter on {each.key}", "ms") for each in FILTERS),
    Case("query_batch", f"batches of {BATCH_QUERIES} queries", "queries/s", True),
    Case("single_adds", "durable adds of one record", "rows/s", True),
    Case("get_embeddings", "get all embeddings", "s"),
    Case("disk", "disk", "MB"),
    Case("reopen", "new process: import, open, first answer", "s"),
    Case("memory", "memory of that process after its queries", "MB"),
    Case("delete", "delete all records", "rows/s", True),
    Case("disk_deleted", "disk after that, given back", "MB"),
)


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of each case is done: queries end with their number or their seconds, but not before the least."""

    seconds: float = 20.0
    queries: int = 1_000
    least: int = 30
    singles: int = 200


@dataclass(frozen=True, slots=True)
class Measured:
    """A value of a case. For times of single queries it is the median, p95 beside it; n counts what was timed."""

    case: str
    value: float
    n: int = 1
    p95: float | None = None
    recall: float | None = None
    share: float | None = None
    """Of the rows that pass the filter."""


def fill(engine: Engine, workload: Workload, folder: Path, limits: Limits) -> Iterator[Measured]:
    """The first process: add everything, search, add singly, read everything, close."""
    engine.load()
    engine.open(folder, workload.vectors.shape[1])
    rows, queries = len(workload.ids), workload.queries[: limits.queries]
    everything = Truth(workload, None, K)

    starts = [*range(0, rows, BATCH_ROWS), rows]
    began = perf_counter()
    for start, stop in pairwise(starts):
        engine.add(workload, start, stop)
    added = perf_counter()
    answers = engine.query(queries[:1], K, None)
    answered = perf_counter()
    engine.wait_indexed()
    indexed = perf_counter()
    if isinstance(engine, Store):
        yield Measured("add", rows / (added - began), n=rows)
    yield Measured("first_query", (answered - added) * 1e3, recall=everything.recall(answers))
    yield Measured("indexed", rows / (indexed - began), n=rows)

    yield _singly(engine, queries, None, everything, limits)
    for each in FILTERS:
        with suppress(Unsupported):
            yield _singly(engine, queries, each, Truth(workload, each, K), limits)
    yield _batches(engine, queries, everything, limits)

    if isinstance(engine, Store):
        grown = workload.grown(limits.singles)
        began = perf_counter()
        for row in range(rows, len(grown.ids)):
            engine.add(grown, row, row + 1)
        yield Measured("single_adds", limits.singles / (perf_counter() - began), n=limits.singles)
        seconds, (ids, vectors) = _timed(engine.embeddings)
        _check_embeddings(grown.ids, unit(grown.vectors) if engine.normalises else grown.vectors, ids, vectors)
        yield Measured("get_embeddings", seconds, n=len(ids))
        engine.close()
        yield Measured("disk", disk(folder) / 1e6)


def reopen(engine: Store, queries: Vectors, load: Callable[[], Workload], folder: Path, limits: Limits) -> Iterator[Measured]:
    """The second process: import, open, answer, delete everything.

    Import and opening are one time, since engines differ in what they import when; files are in the page cache, as when a program
    restarts. The records are loaded only after the memory was measured.
    """
    began = perf_counter()
    engine.load()
    engine.open(folder, queries.shape[1])
    answers = engine.query(queries[:1], K, None)
    seconds = perf_counter() - began
    for each in range(1, min(300, limits.queries)):
        engine.query(queries[each : each + 1], K, None)
    memory = resident()
    workload = load().grown(limits.singles)
    yield Measured("reopen", seconds, recall=Truth(workload, None, K).recall(answers))
    if memory is not None:
        yield Measured("memory", memory / 1e6)

    began = perf_counter()
    for start in range(0, len(workload.ids), BATCH_ROWS):
        engine.delete(workload.ids[start : start + BATCH_ROWS])
    yield Measured("delete", len(workload.ids) / (perf_counter() - began), n=len(workload.ids))
    left, _ = engine.embeddings()
    if len(left):
        raise WrongAnswerError(f"{len(left)} records are there after all were deleted")
    engine.give_back()
    engine.close()
    yield Measured("disk_deleted", disk(folder) / 1e6)


def disk(folder: Path) -> int:
    """Bytes that the folder's files take on the disk."""
    return sum(each.stat().st_blocks * 512 for each in folder.rglob("*") if each.is_file())


def resident() -> int | None:
    """Bytes of this process in memory, mapped files among them; None where the system does not say."""
    status = Path("/proc/self/status")
    found = re.search(r"VmRSS:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return None if found is None else int(found[1]) * 1024


def _singly(engine: Engine, queries: Vectors, filtered: Filter | None, truth: Truth, limits: Limits) -> Measured:
    for each in queries[-5:]:
        engine.query(each[None], K, filtered)
    answers: Answers = []
    times: list[float] = []
    while len(times) < len(queries) and (sum(times) < limits.seconds or len(times) < limits.least):
        seconds, found = _timed(engine.query, queries[len(times)][None], K, filtered)
        times.append(seconds)
        answers += found
    p50, p95 = np.percentile(times, (50, 95)) * 1e3
    case = "query" if filtered is None else f"query_{filtered.name}"
    return Measured(case, float(p50), len(times), float(p95), truth.recall(answers), truth.share)


def _batches(engine: Engine, queries: Vectors, truth: Truth, limits: Limits) -> Measured:
    engine.query(queries[-BATCH_QUERIES:], K, None)
    answers: Answers = []
    began = perf_counter()
    while len(answers) < len(queries) and perf_counter() - began < limits.seconds:
        answers += engine.query(queries[len(answers) : len(answers) + BATCH_QUERIES], K, None)
    return Measured("query_batch", len(answers) / (perf_counter() - began), len(answers), recall=truth.recall(answers))


def _check_embeddings(given: Sequence[str], expected: Vectors, ids: Sequence[str], vectors: Any) -> None:
    """Every record is there, with the vector it was given."""
    row = {each: row for row, each in enumerate(given)}
    if sorted(ids) != sorted(row) or not np.allclose(vectors, expected[[row[each] for each in ids]], atol=1e-6):
        raise WrongAnswerError("the embeddings that came back are not those that were added")


def _timed(work: Callable[..., Any], *given: Any) -> tuple[float, Any]:
    began = perf_counter()
    result = work(*given)
    return perf_counter() - began, result
