"""What is done for each kind of cell: the kernels timed, their answers held against brute force, the same by others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

import torch
from torch import Tensor

from benchmarks.gpu_cases import Case
from benchmarks.gpu_data import CHECKED, Filter, Questions, Table, cosines, nearest
from benchmarks.gpu_peers import halves, peers, worst
from benchmarks.gpu_timing import Clock
from chroma_gpu.kernels.gather import gather
from chroma_gpu.kernels.scan import Survivors, scan

ADDED: Final = 100_000
"""Rows that are added at once."""

_SAME: Final = 1e-9
"""Cosines that differ by less are one: float64 sums of rows in another order."""


@dataclass(frozen=True, slots=True)
class Place:
    """What a cell is measured with."""

    clock: Clock
    peaks: dict[str, float]
    tiny: bool = False


def search(case: Case, table: Table, place: Place) -> dict[str, Any]:
    """One filter for all queries, as a mask (``scan``) or as a list (``gather``)."""
    asked = Questions.of(table, case.batch)
    filtered = None if case.share == 1 else Filter.of(table, case.share)
    passing = table.rows if filtered is None else int(filtered.flags.sum())
    if case.kind == "gather":
        rows = filtered.listed

        def run() -> Survivors:
            return gather(asked.units, table.buffer, rows, case.k, asked.slack, lengths=asked.lengths)

        known = 8 * passing
    else:
        words = None if filtered is None else filtered.words

        def run() -> Survivors:
            return scan(asked.units, table.buffer, case.k, asked.slack, words, lengths=asked.lengths, passing=passing)

        known = 0 if words is None else table.rows / 8
    made = _timed(run, place, known + passing * table.row_bytes, 2.0 * case.batch * passing * table.dim, table.dtype)
    best = nearest(table, asked.plain[:CHECKED], None if filtered is None else filtered.flags, case.k)
    made |= judged(table, asked, run(), best, case.k) | {"passing": passing}
    return made | _against(table, asked, filtered, case, best, made["ms"], place)


def lists(case: Case, table: Table, place: Place) -> dict[str, Any]:
    """Another filter for every query, in one call."""
    asked = Questions.of(table, case.batch)
    filters = [Filter.of(table, case.share, seed=100 + query).listed for query in range(case.batch)]
    rows, offsets = torch.cat(filters), [0]
    for each in filters:
        offsets.append(offsets[-1] + len(each))

    def run() -> Survivors:
        return gather(asked.units, table.buffer, rows, case.k, asked.slack, offsets, lengths=asked.lengths)

    made = _timed(run, place, len(rows) * (8 + table.row_bytes), 2.0 * len(rows) * table.dim, table.dtype)
    best = torch.full((min(CHECKED, case.batch), case.k), -torch.inf, dtype=torch.float64, device=table.device)
    for query, each in enumerate(filters[:CHECKED]):
        flags = torch.zeros(table.rows, dtype=torch.bool, device=table.device)
        flags[each] = True
        found = nearest(table, asked.plain[query : query + 1], flags, case.k)[0]
        best[query, : len(found)] = found
    return made | judged(table, asked, run(), best, case.k) | {"passing": len(rows)}


def add(case: Case, table: Table, place: Place) -> dict[str, Any]:
    """Rows from pinned memory into the last chunks of a full table, quantised there; against their copy alone."""
    from chroma_gpu.kernels.quantise import quantise
    from chroma_gpu.records import Metric

    n = min(ADDED, table.rows // 2)
    host = torch.empty(n, table.dim, pin_memory=place.clock.cuda)
    host.copy_(table.take(torch.arange(n, device=table.device)))
    there = torch.empty(n, table.dim, device=table.device)
    chunks = [each for each in table.buffer.chunks if each.start + len(each) > table.rows - n]

    def run() -> None:
        taken = 0
        for chunk in chunks:
            first = max(0, table.rows - n - chunk.start)
            part = slice(taken, taken + len(chunk) - first)
            there[part].copy_(host[part], non_blocking=True)
            quantise(there[part], chunk, first, Metric.COSINE)
            taken = part.stop

    kept = [(each.vectors.clone(), each.gain.clone(), each.bias.clone(), each.error.clone()) for each in chunks]
    made = _timed(run, place, n * (8 * table.dim + table.row_bytes), 0.0, table.dtype)
    copy = place.clock.median(lambda: there.copy_(host, non_blocking=True)) * 1e3
    for chunk, saved in zip(chunks, kept, strict=True):
        for to, back in zip((chunk.vectors, chunk.gain, chunk.bias, chunk.error), saved, strict=True):
            to.copy_(back)
    return made | {"added": n, "copy_ms": copy, "copy_ratio": made["ms"] / copy}


def judged(table: Table, asked: Questions, found: Survivors, best: Tensor, k: int) -> dict[str, Any]:
    """Survivors for each query; recall and share of exact answers of the checked ones, once their survivors are scored by their vectors."""
    recalls, exact = [], 0
    for query, padded in enumerate(best):
        rows = found.rows[found.owners == query]
        ours = cosines(table, asked.plain[query], rows).sort(descending=True).values[:k]
        true = padded[padded > -torch.inf]
        recalls.append(float((ours >= true.min() - _SAME).sum() / len(true)) if len(true) else 1.0)
        exact += len(ours) == len(true) and bool(((ours - true).abs() <= _SAME).all())
    return {
        "survivors": len(found.rows) / len(asked.plain),
        "recall": min(recalls),
        "exact": exact / len(best),
        "checked": len(best),
    }


def _timed(run: Callable[[], object], place: Place, moved: float, made: float, dtype: str) -> dict[str, Any]:
    """Median and best time, and what share of the card's own ceilings that is."""
    times = place.clock.times(run)
    middle = median(times)
    rate = place.peaks["float32" if dtype == "float32" else "float16"]
    return {
        "ms": middle * 1e3,
        "best_ms": min(times) * 1e3,
        "n": len(times),
        "bytes": moved,
        "flops": made,
        "gbs": moved / middle / 1e9,
        "tflops": made / middle / 1e12,
        "of_copy": moved / middle / 1e9 / place.peaks["copy"],
        "of_product": made / middle / 1e12 / rate,
    }


def _against(
    table: Table, asked: Questions, filtered: Filter | None, case: Case, best: Tensor, ms: float, place: Place
) -> dict[str, Any]:
    """The times of others, how many times ours they are, and their least recall."""
    made: dict[str, Any] = {}
    for peer in peers(table, asked, filtered, case.k):
        try:
            theirs = place.clock.median(peer.search) * 1e3
            found = peer.search()[: len(best)]
        except (RuntimeError, ValueError, TypeError, AssertionError) as error:  # of libraries whose versions differ
            if place.clock.cuda:
                torch.cuda.empty_cache()
            made |= {f"{peer.name}_error": str(error)[:200]}
            continue
        made |= {f"{peer.name}_ms": theirs, f"{peer.name}_ratio": theirs / ms, f"{peer.name}_version": peer.version}
        made |= {f"{peer.name}_recall": worst(table, asked, found, best)}
    return made


def predicate(case: Case, device: str, place: Place) -> dict[str, Any]:
    """A range of an int64 column and a dictionary code of an int32 one, both must hold, to mask words; against torch's comparisons."""
    from chroma_gpu.kernels.predicate import All, Among, Column, Range
    from chroma_gpu.kernels.predicate import predicate as passing

    generator = torch.Generator(device=device).manual_seed(6)
    numbers = torch.randint(0, 1_000, (case.rows,), generator=generator, device=device)
    codes = torch.randint(0, 20, (case.rows,), generator=generator, device=device, dtype=torch.int32)
    columns, test = [Column(numbers), Column(codes)], All((Range(0, 100, 600), Among(1, (3,))))

    def run() -> Tensor:
        return passing(test, columns, case.rows)

    def by_torch() -> Tensor:
        return (numbers >= 100) & (numbers < 600) & (codes == 3)

    made = _timed(run, place, case.rows * (8 + 4 + 1 / 8), 0.0, "float16")
    same = Filter(case.share, by_torch()).words == run()
    theirs = place.clock.median(by_torch) * 1e3
    exact = float(same.all())
    return made | {"exact": exact, "checked": 1, "torch_ms": theirs, "torch_ratio": theirs / made["ms"]}


def join(case: Case, table: Table, place: Place) -> dict[str, Any]:
    """All pairs that are as near as the tenth nearest of the first 2,000 rows; against torch's products, tile by tile.

    What is checked is that no pair of these 2,000 rows is missing. GB/s are of one reading of the rows: it is products that take long.
    """
    from chroma_gpu.kernels.join import join as pairs

    few = torch.nn.functional.normalize(table.take(torch.arange(min(2_000, table.rows), device=table.device)).double())
    near = (few @ few.T).triu_(diagonal=1)
    threshold = float(near.flatten().topk(10).values[-1])
    operations = 2.0 * table.dim * table.rows * (table.rows - 1) / 2
    made = _timed(lambda: pairs(table.buffer, threshold), place, table.rows * table.row_bytes, operations, table.dtype)
    found = pairs(table.buffer, threshold)
    mine = set((found.left * table.rows + found.right).tolist())
    true = torch.nonzero(near >= threshold + _SAME)
    missing = sum(left * table.rows + right not in mine for left, right in true.tolist())
    matrix = halves(table)
    step = 1 << 13

    def by_torch() -> list[Tensor]:
        parts = matrix.split(step)
        return [torch.nonzero(left @ right.T >= threshold) for i, left in enumerate(parts) for right in parts[i:]]

    theirs = place.clock.median(by_torch) * 1e3
    exact = float(missing == 0)
    return made | {
        "exact": exact,
        "checked": 1,
        "found": len(found.left),
        "torch_ms": theirs,
        "torch_ratio": theirs / made["ms"],
    }
