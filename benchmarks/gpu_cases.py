"""What is measured on a GPU: the cells, in the order in which they are worth most, and what was measured before."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Final

from benchmarks.tables import Row

MILLION: Final = 1_000_000
PRESETS: Final = ("quick", "full")


@dataclass(frozen=True, slots=True)
class Case:
    """One cell.

    kind   "peaks": what the card copies and multiplies. "scan": all rows, under a mask where not all pass. "gather": the same filter
           as a list of rows. "lists": another list for each query. "add": rows into a full table. "predicate": a filter to a mask.
           "join": all pairs as near as a threshold. "collection": whole queries from Python. "replay", "faiss": a search of all rows
           in another way than the usual one, and the usual way; its rows are those of ``gpu_ways``
    dtype  of the codes on the device
    share  of the rows that pass the filter
    """

    kind: str
    rows: int = 0
    dim: int = 384
    dtype: str = "float16"
    batch: int = 1
    share: float = 1.0
    k: int = 10

    @property
    def key(self) -> str:
        """Its name in results."""
        return f"{self.kind} {self.rows}x{self.dim} {self.dtype} b{self.batch} {self.share * 100:g}% k{self.k}"

    @property
    def data(self) -> tuple[int, int, str]:
        """Cells that agree in this use the same rows."""
        return self.rows, self.dim, self.dtype

    def tiny(self) -> Case:
        """The same for a machine that only has to show that everything runs."""
        return replace(self, rows=min(self.rows, 1_500), dim=min(self.dim, 16), batch=min(self.batch, 4), k=min(self.k, 20))


def cases(preset: str) -> list[Case]:
    """The cells of a preset; each once."""
    return list(dict.fromkeys(quick() if preset == "quick" else (*quick(), *full())))


def quick() -> Iterator[Case]:
    """What says most: ten million rows of 384 dimensions, then smaller tables, other widths, longer answers."""
    yield Case("peaks")
    for dtype in ("float16", "int8"):
        yield from (Case("scan", 10 * MILLION, dtype=dtype, batch=batch) for batch in (1, 32, 1024))
        yield from (Case("scan", 10 * MILLION, dtype=dtype, share=share) for share in (0.5, 0.1, 0.01))
        yield from (Case("gather", 10 * MILLION, dtype=dtype, share=share) for share in (0.1, 0.01, 0.001))
        yield Case("lists", 10 * MILLION, dtype=dtype, batch=64, share=0.01)
        yield Case("add", 10 * MILLION, dtype=dtype)
    yield Case("predicate", 10 * MILLION)
    yield from (Case("scan", MILLION, dtype=dtype, batch=batch) for dtype in ("float32", "float16") for batch in (1, 32, 1024))
    yield from (Case("scan", MILLION, k=k) for k in (100, 1000, 5000))
    yield from (Case("scan", MILLION // 10, batch=batch) for batch in (1, 32))
    yield from (Case("collection", MILLION, share=share) for share in (1.0, 0.1, 0.01))
    yield from other_ways()
    yield Case("join", MILLION // 10)
    yield from (Case("scan", MILLION, dim=dim, batch=batch) for dim in (128, 768, 1024) for batch in (1, 1024))


def other_ways() -> Iterator[Case]:
    """What is tried in another way than the usual one; these are what tuning decides by."""
    for dtype in ("float16", "int8"):
        yield from (Case("replay", rows, dtype=dtype, batch=batch) for rows in (1 << 12, 1 << 16, 1 << 20) for batch in (1, 8))
    for dtype in ("float32", "float16+float32"):
        cells = product((1 << 20, 1 << 22), (256, 1024), (10, 100))
        yield from (Case("faiss", rows, dtype=dtype, batch=batch, k=k) for rows, batch, k in cells)


def full() -> Iterator[Case]:
    """Every combination, table by table; narrow filters as a list, too."""
    yield from (Case("scan", 100 * MILLION, dim, "int8", batch) for dim in (384, 128) for batch in (1, 32, 1024))
    yield Case("join", MILLION)
    tables = product((MILLION, 10 * MILLION, MILLION // 10), (384, 768, 128, 1024), ("float16", "int8", "float32"))
    for rows, dim, dtype in tables:
        for k, batch, share in product((10, 100, 1000, 5000), (1, 8, 32, 256, 1024), (1.0, 0.5, 0.1, 0.01, 0.001)):
            yield Case("scan", rows, dim, dtype, batch, share, k)
            if share <= 0.1:
                yield Case("gather", rows, dim, dtype, batch, share, k)


def gpu_rows(results: Path) -> list[Row]:
    """All rows that were measured on GPUs, oldest first; those of rehearsals on a CPU are left out."""
    rows = [json.loads(line) for file in sorted(results.glob("gpu-*.jsonl")) for line in file.read_text().splitlines()]
    return sorted((row for row in rows if not row["tiny"]), key=lambda row: row["date"])


def left(wanted: Sequence[Case], files: Sequence[Path], commit: str) -> list[Case]:
    """The cells that no file has for this commit, those that use the same rows behind each other; those that have failed come last."""
    done, failed = set(), set()
    for file in files:
        for text in file.read_text().splitlines() if file.exists() else ():
            row = json.loads(text)
            if row["commit"] == commit:
                (done if row["error"] is None else failed).add(row["case"])
    waiting = [each for each in wanted if each.key not in done]
    tables = list(dict.fromkeys(each.data for each in waiting))
    return sorted(waiting, key=lambda each: (each.key in failed, tables.index(each.data)))
