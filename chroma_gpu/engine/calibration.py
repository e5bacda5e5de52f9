"""Calibration: the costs of this machine and table, measured in a fraction of a second on the table's own vectors.

Each way is timed at two or more sizes, the fastest of several runs counting, and the shipped figures are scaled to what was seen: the
slope gives what a row costs, the rest what a call costs. No figure moves by more than a factor of 8, so that a busy moment cannot
turn the planner round. The graph is also asked what it finds, and its lists are lengthened if that is too little; the codes, how often
their guard fails.

Kept as ``calibration.json`` beside the checkpoints, for one machine, one version of the libraries and about one size of the table.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np

from chroma_gpu.index import Index, exact, scoring
from chroma_gpu.index.cost import SHIPPED, Costs, codes_fetch
from chroma_gpu.index.rotation import code_width
from chroma_gpu.records import Metric, Rows, Vectors, VectorSource

Clock: TypeAlias = Callable[[], float]

CALIBRATED_ROWS: Final = 20_000
"""Rows below which a table goes by the shipped figures: every way takes well under a millisecond there."""

GROWTH: Final = 4
"""Growth of a table after which it is calibrated anew."""

MOST: Final = 8.0
"""Most that a figure is scaled by, up or down."""

GRAPH_RECALL: Final = 0.992
"""What a graph is to find without a filter; its lists grow by one of ``BREADTHS`` to get there. Below the
first of them one query in a hundred was lost as a whole at 1,000,000 rows, where no sample can see it."""

BREADTHS: Final = (1.5, 2.0, 3.0)

_K: Final = 10
_RUNS: Final = 5
_PATIENCE: Final = 0.02
"""Seconds after which something that was done three times, the first of them for pages that nobody has read, is not done once more."""
_EXACT: Final = 0.35
"""Seconds after which of the exact ways nothing is done twice, and products of matrices are taken to be as shipped."""
_IN_ORDER: Final = 1 << 25
"""Coordinates that are read in order, at most."""
_NEVER: Final = 1e12
"""Microseconds of an exact search that no index begins with."""
_COPY: Final = 0.75
"""Part of the cost of a copied row that is the copy; the rest is its score."""
_BATCH: Final = 16
"""Queries of a product of matrices, and ..."""
_PRODUCTS: Final = (1 << 21, 1 << 23)
"""... the coordinates of the rows in it."""
_TRUTH: Final = 0.2
_GUARDS: Final = 0.12
"""Seconds that finding the truth for the graph, and trying the codes, may take, but for ..."""
_LEAST: Final = 6
"""... so many queries."""
_BELIEF: Final = 4
"""Queries that the shipped shares of failing guards stand for."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Costs, and where they are from.

    rows     of the table when they were measured; 0 for the shipped ones
    seconds  that measuring took
    factors  what the shipped figures were multiplied by
    """

    costs: Costs = SHIPPED
    rows: int = 0
    seconds: float = 0.0
    factors: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        if not self.rows:
            return "shipped defaults"
        figures = ", ".join(f"{name} x{factor:.2f}" for name, factor in self.factors.items())
        graph = "" if self.costs.found is None else f"; graph found {self.costs.found:.3f} at breadth {self.costs.breadth:g}"
        return f"calibrated at {self.rows:,} rows in {self.seconds:.2f} s: {figures}{graph}"


def calibrate(
    source: VectorSource, metric: Metric, indexes: Mapping[str, Index], clock: Clock = time.perf_counter
) -> Calibration:
    """Measure the ways there are.

    source   at least 64 rows, which are in the indexes
    indexes  by kind; those on other devices are left as they are
    Cost     0.5 s at 50,000 x 384 and 1.2 s at 1,000,000 x 128, while others kept both cores busy; it grows with the table only by the
             truth for the graph, six searches at least, and as many that look at the guard of the codes
    """
    started = clock()
    measure = _Measure(source, metric, indexes, clock)
    factors = measure.exact_ways()
    if "hnsw" in indexes:
        factors |= measure.graph(indexes["hnsw"], SHIPPED.scaled(**factors), indexes.get("codes"))
    found, breadth = factors.pop("found", None), factors.pop("breadth", SHIPPED.breadth)
    if "codes" in indexes:
        factors |= measure.codes(indexes["codes"], SHIPPED.scaled(**factors))
    widened, lost = factors.pop("widened", SHIPPED.widened), factors.pop("lost", SHIPPED.lost)
    costs = replace(SHIPPED.scaled(**factors), found=found, breadth=breadth, widened=widened, lost=lost)
    return Calibration(costs, measure.rows, clock() - started, factors)


def load(folder: Path, dim: int, kinds: tuple[str, ...], rows: int) -> Calibration | None:
    """What was saved for this machine, these indexes and about so many rows; else None."""
    try:
        said = json.loads((folder / "calibration.json").read_text())
        if (
            said["made on"] != fingerprint(dim, kinds)
            or not 0 < rows <= GROWTH * int(said["rows"])
            or said["sha256"] != _digest(said)
        ):
            return None
        figures: dict[str, Any] = {name: None if value is None else float(value) for name, value in said["costs"].items()}
        costs = Costs(**figures)
        return Calibration(costs, int(said["rows"]), float(said["seconds"]), dict(said["factors"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # missing, damaged, or of another version: all mean that it has to be made


def save(made: Calibration, folder: Path, dim: int, kinds: tuple[str, ...]) -> None:
    """Keep it. A crash on the way leaves the older one, or none."""
    folder.mkdir(mode=0o700, exist_ok=True)
    costs = {name: getattr(made.costs, name) for name in Costs.__dataclass_fields__}
    said = {
        "made on": fingerprint(dim, kinds),
        "rows": made.rows,
        "seconds": made.seconds,
        "factors": dict(made.factors),
        "costs": costs,
    }
    said["sha256"] = _digest(said)
    temporary = folder / f"calibration.{os.getpid()}.{threading.get_ident()}.tmp"
    try:
        temporary.write_text(json.dumps(said, indent=1))
        os.replace(temporary, folder / "calibration.json")
    finally:
        temporary.unlink(missing_ok=True)


def fingerprint(dim: int, kinds: tuple[str, ...]) -> dict[str, Any]:
    """What a calibration holds for: processor, cores, versions, length of the vectors, kinds of indexes."""
    libraries = {name: _version(name) for name in ("chroma-gpu", "numpy", "faiss-cpu", "torch")}
    return {"cpu": _processor(), "cores": os.cpu_count(), "libraries": libraries, "dim": dim, "kinds": list(kinds)}


class _Measure:
    """Timings of one table."""

    def __init__(self, source: VectorSource, metric: Metric, indexes: Mapping[str, Index], clock: Clock) -> None:
        self.source, self.metric, self.clock, self.dim = source, metric, clock, source.dim
        self.rows = min([len(source), *(len(index) for index in indexes.values())])
        known = (index.lengths(self.rows) for index in indexes.values())
        self.norms = next((each for each in known if each is not None), None)
        if self.norms is None:
            self.norms = scoring.norms(source.block(0, self.rows))
        self.until = clock() + _EXACT
        self.rng = np.random.default_rng(self.rows)
        self.stored = source.gather(self._some(24))
        # By a graph stored points are found too easily. Half a deviation away it found what it finds for points held out.
        away = self.rng.standard_normal(self.stored.shape, np.float32) * (0.5 * self.stored.std(axis=0))
        self.queries: Vectors = self.stored + away

    def exact_ways(self) -> dict[str, float]:
        """Factors of the figures of calls, of scattered rows and of rows in order."""
        call = self._scattered(32) / SHIPPED.exact_rows(32, self.dim)
        first = exact.IN_PLACE // self.dim + 1
        sizes = [32, *(min(self.rows // 2, first * step) for step in (2, 8, 24))]
        scattered = _slope([self._scattered(m) for m in sizes], [SHIPPED.exact_rows(m, self.dim) for m in sizes])
        few = self._some(min(4_096, self.rows))
        copied = self._fastest(lambda: self.source.gather(few)) / (_COPY * SHIPPED.copied * len(few) * self.dim)
        blocks = [min(self.rows, _IN_ORDER // self.dim) // part for part in (8, 2, 1, 1)]
        read = _slope(
            [self._fastest(partial(self._in_order, m)) for m in blocks], [SHIPPED.exact_block(m, m, self.dim) for m in blocks]
        )
        several = [min(self.rows, coordinates // self.dim) for coordinates in _PRODUCTS]
        product = 1.0
        if self.clock() < self.until:
            product = _slope(
                [self._fastest(partial(self._in_order, m, _BATCH)) for m in several],
                [SHIPPED.exact_block(m, m, self.dim, _BATCH) for m in several],
            )
        return {
            "call": _clamped(call),
            "gathered": scattered,
            "listed": scattered,
            "lone": scattered,
            # Measured over and over, rows lie in caches where they do not lie when a query comes; a scan is never believed to be so fast.
            "read": max(1.0, read),
            "copied": _clamped(copied),
            "packed": product,
            "multiplied": product,
            "scored": product,
        }

    def graph(self, index: Index, costs: Costs, truth: Index | None) -> dict[str, float]:
        """Factors of the figures of a graph, the breadth at which it finds enough, and what it found there.

        truth  an index that misses next to nothing; without one everything is scanned
        """
        true: list[Rows] = []
        until = self.clock() + _TRUTH
        for query in self.queries:
            if truth is not None:
                true.append(truth.search(query[None], _K, None, costs).rows[0])
            else:
                scanned = exact.search_block(query[None], self.source, 0, self.rows, None, _K, self.metric, self.norms)
                true.append(scanned.rows[0])
            if self.clock() > until and len(true) >= _LEAST:
                break
        ratios: list[float] = []
        for breadth in BREADTHS:
            broad = replace(costs, breadth=breadth, call=_NEVER)
            spent, common = [], 0
            for query, rows in zip(self.queries, true, strict=False):
                before = self.clock()
                common += len(np.intersect1d(index.search(query[None], _K, None, broad).rows[0], rows))
                spent.append(1e6 * (self.clock() - before))
            fetch, ef = broad.graph_ef(int(index.spec.params.get("ef_search", 200)), _K, 1, 1)
            ratios.append(_usual(spent) / costs.graph(ef, self.dim, fetch))
            found = common / (_K * len(true))
            if found >= GRAPH_RECALL:
                break
        factor = _clamped(min(ratios))
        return {"rerank": factor, "hop": factor, "visit": factor, "fetched": factor, "breadth": breadth, "found": found}

    def codes(self, index: Index, costs: Costs) -> dict[str, float]:
        """Factors of the figures of codes, and the shares of searches whose guard fails.

        Stored points are asked: their guards fail as often as those of points held out, and those half a deviation away more often.
        """
        fetch, never = codes_fetch(_K, self.rows), replace(costs, call=_NEVER)
        spent: list[float] = []
        guards: list[str | None] = []
        until = self.clock() + _GUARDS
        for query in self.stored:
            search = partial(index.search, query[None], _K, None, never)
            guards.append(search().guard)
            if guards[-1] == "passed":
                spent.append(self._fastest(search, 2))
            if self.clock() > until and len(guards) >= _LEAST:
                break
        fixed = costs.rerank + fetch * costs.fetched
        scan = costs.codes(self.rows, self.rows, code_width(self.dim), fetch) - fixed
        if not spent:  # then each of them was scanned twice, or once and all vectors after it
            spent.append(self._fastest(search, 2) / 2)
        widened, lost = (
            (guards.count(guard) + _BELIEF * usual) / (len(guards) + _BELIEF)
            for guard, usual in (("widened", SHIPPED.widened), ("exact", SHIPPED.lost))
        )
        return {"bit": _clamped((_usual(spent) - fixed) / scan), "widened": widened, "lost": lost}

    def _scattered(self, rows: int) -> float:
        """Microseconds of so many scattered rows; the same in each run, as the rows of a filter are when it is asked again."""
        some, query = self._some(rows), self.queries[:1]
        return self._fastest(lambda: exact.search_rows(query, self.source, some, _K, self.metric, self.norms))

    def _in_order(self, rows: int, queries: int = 1) -> object:
        return exact.search_block(self.queries[:queries], self.source, 0, rows, None, _K, self.metric, self.norms)

    def _some(self, rows: int) -> Rows:
        """So many rows, ascending, others each time."""
        return np.unique(self.rng.integers(0, self.rows, rows)).astype(np.uint32)

    def _fastest(self, work: Callable[[], object], runs: int = _RUNS) -> float:
        """Microseconds."""
        spent: list[float] = []
        while len(spent) < min(runs, 3) or (len(spent) < runs and sum(spent[1:]) < _PATIENCE):
            before = self.clock()
            work()
            spent.append(self.clock() - before)
            if self.clock() > self.until:
                break
        return 1e6 * min(spent)


def _slope(seen: list[float], expected: list[float]) -> float:
    """How much faster what was seen grows than what was expected, by ascending sizes.

    The middle one of the lines from the first size to each other counts, so that no single size decides.
    """
    slopes = [(seen[i] - seen[0]) / (expected[i] - expected[0]) for i in range(1, len(seen)) if expected[i] > expected[0]]
    return _clamped(float(np.median(slopes))) if slopes else 1.0


def _usual(spent: Sequence[float]) -> float:
    """What most queries take while nothing else is done: some are searched again, some are held up."""
    return float(np.quantile(spent, 0.25))


def _clamped(factor: float) -> float:
    return min(max(factor, 1 / MOST), MOST)


def _digest(said: Mapping[str, Any]) -> str:
    content = {name: value for name, value in said.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _processor() -> str:
    """The model of the processor, where the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
