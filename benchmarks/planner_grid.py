"""What the planner takes under filters of every width and kind, beside what every other way would have cost.

    python -m benchmarks.planner_grid [--rows 1000000] [--dim 128] [--vectors FILE.npy --metric cosine] [--batches 1,8,32,100] [--folder DIR]

The queries of a batch share one filter, which is for or against the first of them. For each cell every way answers the same queries, in turns, the fastest of several runs counting; to each belongs the time of planning. Regret is the median time of the way
the planner took as a multiple of the fastest way whose recall in the cell is at least 0.98. With --folder the indexes are kept there.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import numpy.typing as npt

from benchmarks.datasets import Vectors, folded
from chroma_gpu.config import Settings
from chroma_gpu.engine import planner
from chroma_gpu.engine.background import Background
from chroma_gpu.engine.indexes import Indexes
from chroma_gpu.engine.nearest import KEPT_RECALL, Nearest, recall
from chroma_gpu.engine.planner import Plan
from chroma_gpu.index.cost import Costs
from chroma_gpu.records import Hits, Metric
from chroma_gpu.rowset import RowSet
from chroma_gpu.store.vectors import VectorFile

SHARES = (0.9, 0.5, 0.1, 0.02, 0.01, 0.003, 0.0001)
KINDS = ("random", "correlated", "anti-correlated")
LEAST_BATCHES = 3


@dataclass(frozen=True, slots=True)
class Cell:
    """One share and kind of filter, asked with so many queries at once.

    taken      the ways the planner took, most often first; predicted: the cost it expected
    times      median microseconds of each way that was asked; recalls: theirs
    """

    share: float
    kind: str
    batch: int
    taken: str
    predicted: dict[str, float]
    times: dict[str, float]
    recalls: dict[str, float]

    @property
    def regret(self) -> float:
        """Of the planner's choices in this cell."""
        best = min(self.times[way] for way, reached in self.recalls.items() if reached >= KEPT_RECALL)
        return self.times["planner"] / best

    def __str__(self) -> str:
        ways = " ".join(
            f"{way} {spent / 1000:.2f}"
            + (f"({self.predicted[way] / 1000:.2f})" if way in self.predicted else "")
            + f" r{self.recalls[way]:.3f}"
            for way, spent in self.times.items()
        )
        return f"{100 * self.share:6g} % {self.kind:16} x{self.batch:<4}{self.taken:14} regret {self.regret:5.2f}  {ways}"


def cell(
    nearest: Nearest,
    indexes: Indexes,
    vectors: Vectors,
    queries: Vectors,
    metric: Metric,
    share: float,
    kind: str,
    batch: int,
    runs: int,
    k: int = 10,
) -> Cell:
    """Measure all ways on these queries, each batch with a filter of its own.

    Ways that are expected to take more than eight times as long as the one that is taken are not asked.
    """
    times: dict[str, list[float]] = defaultdict(list)
    recalls: dict[str, list[float]] = defaultdict(list)
    predicted: dict[str, float] = {}
    taken: dict[str, int] = defaultdict(int)
    for number in range(len(queries) // batch):
        asking = queries[number * batch : (number + 1) * batch]
        mask = RowSet.where(passing(vectors, asking[0], metric, share, kind, number))
        plan = nearest.plan(asking, k, mask, len(mask))
        taken[plan.name] += 1
        # By these costs no index begins with an exact scan, so that each shows what it is.
        keen = replace(indexes.costs, call=1e12, doubt=0.0, lost=0.0)
        shown = planner.plan(len(mask), mask.size, k, batch, asking.shape[1], indexes.choices(), keen)
        costs = {str(each): each.cost if each.kind else each.cost - 1e12 for each in shown.considered}
        predicted = {name: cost for name, cost in costs.items() if cost <= 8 * plan.cost or name == "gather"}
        asked = {str(each): plan.taking(each) for each in shown.considered if str(each) in predicted}
        spent, found = _in_turns(nearest, asked, plan, keen, asking, mask, runs)
        for name, hits in found.items():
            times[name].append(spent[name])
            recalls[name].append(recall(hits, found["gather"]))
    means = {name: float(np.mean(each)) for name, each in recalls.items()}
    most = max(taken, key=lambda name: taken[name])
    return Cell(share, kind, batch, most, predicted, {name: median(each) for name, each in times.items()}, means)


def passing(
    vectors: Vectors, query: npt.NDArray[np.float32], metric: Metric, share: float, kind: str, seed: int
) -> npt.NDArray[np.bool_]:
    """[n] bool: a filter that passes a share of the rows: any, rather those near the query, or those farthest from it."""
    count = max(1, round(share * len(vectors)))
    rng = np.random.default_rng(seed)
    flags = np.zeros(len(vectors), np.bool_)
    if kind == "random":
        flags[rng.choice(len(vectors), count, replace=False)] = True
        return flags
    nearness = vectors @ query
    if metric is Metric.L2:
        nearness -= np.einsum("ij,ij->i", vectors, vectors) / 2
    if kind == "correlated":
        nearness += 0.25 * nearness.std() * rng.standard_normal(len(vectors), np.float32)
        flags[np.argpartition(-nearness, count - 1)[:count]] = True
    else:
        flags[np.argpartition(nearness, count - 1)[:count]] = True
    return flags


def _in_turns(
    nearest: Nearest, asked: dict[str, Plan], plan: Plan, keen: Costs, queries: Vectors, mask: RowSet, runs: int
) -> tuple[dict[str, float], dict[str, Hits]]:
    """(microseconds, answers) of each way and of the planner's choice."""
    spent: dict[str, float] = {}
    found: dict[str, Hits] = {}
    for _ in range(runs):
        for name, way in [*asked.items(), ("planner", plan)]:
            costs = None if name == "planner" else keen
            nearest.run(way, queries, mask, costs)  # a way that reads all vectors leaves the caches of the next one empty
            before = perf_counter()
            nearest.plan(queries, plan.k, mask, plan.candidates)
            found[name] = nearest.run(way, queries, mask, costs)
            took = 1e6 * (perf_counter() - before)
            spent[name] = min(took, spent.get(name, took))
    return spent, found


def grid(
    nearest: Nearest,
    indexes: Indexes,
    vectors: Vectors,
    queries: Vectors,
    metric: Metric,
    shares: Sequence[float],
    batches: Sequence[int],
    runs: int,
    each: int,
) -> Iterator[Cell]:
    """Every share, kind and size of batch.  each: queries of a cell, more where these are fewer than ``LEAST_BATCHES`` batches"""
    for batch in batches:
        asked = queries[: max(LEAST_BATCHES, each // batch) * batch]
        for share in shares:
            for kind in KINDS:
                yield cell(nearest, indexes, vectors, asked, metric, share, kind, batch, runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--vectors", type=Path, help="[n, dim] .npy; the last of them are the queries; instead of synthetic ones")
    parser.add_argument("--metric", type=Metric, default=Metric.L2)
    parser.add_argument("--folder", type=Path, help="where vectors and indexes are kept for the next time")
    parser.add_argument("--shares", type=lambda text: [float(each) for each in text.split(",")], default=list(SHARES))
    parser.add_argument("--batches", type=lambda text: [int(each) for each in text.split(",")], default=[1])
    parser.add_argument("--queries", type=int, default=24)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--shipped", action="store_true", help="go by the shipped figures instead of a calibration")
    given = parser.parse_args()
    held_out = max(given.queries, LEAST_BATCHES * max(given.batches))
    both = folded(given.rows + held_out, given.dim) if given.vectors is None else np.load(given.vectors).astype(np.float32)
    vectors, queries = both[:-held_out], both[-held_out:]
    with TemporaryDirectory() as temporary:
        folder: Path = given.folder or Path(temporary)
        folder.mkdir(exist_ok=True)
        log = VectorFile(folder / "vectors.f32")
        if (folder / "vectors.f32").stat().st_size != vectors.nbytes:
            log.append(0, vectors)
        log.commit(*vectors.shape)
        background = Background()
        indexes = Indexes(
            log, given.metric, {}, Settings(device="cpu", calibrate=not given.shipped), background, folder / "index"
        )
        indexes.build(*vectors.shape)
        print(indexes.calibration, flush=True)
        cells = []
        for each in grid(
            Nearest(log, given.metric, indexes),
            indexes,
            log.block(0, len(vectors)),
            queries,
            given.metric,
            given.shares,
            given.batches,
            given.runs,
            given.queries,
        ):
            print(each, flush=True)
            cells.append(each)
        regrets = [each.regret for each in cells]
        least = min(each.recalls["planner"] for each in cells)
        print(f"regret: mean {np.mean(regrets):.3f}, worst {max(regrets):.2f}; least recall {least:.3f}")
        indexes.close()
        background.close()


if __name__ == "__main__":
    main()
