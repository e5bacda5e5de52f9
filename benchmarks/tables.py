"""Results as lines and cells of Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeAlias

Row: TypeAlias = dict[str, Any]

NOTHING: Final = "-"
OURS, REFERENCE = "chroma_gpu", "chromadb"


def found(rows: Sequence[Row], engine: str, case: str) -> Row | None:
    """The last row of this case: an engine that failed was measured again."""
    return next((row for row in reversed(rows) if row["engine"] == engine and row["case"] == case), None)


def measured_on(row: Row) -> str:
    """The machine, the day and the commit."""
    machine = row["machine"]
    gpu = f", {machine['gpu'][0]}" if machine["gpu"] else ", no GPU"
    return (
        f"{machine['cores']} cores of {machine['cpu']}{gpu}, {machine['file_system']}, Python {machine['python']}, {row['run'][:10]},"
        f" commit {row['commit']}"
    )


def cell(row: Row | None) -> str:
    """The value; for queries the median, the 95th percentile behind a slash, and recall@10."""
    if row is None:
        return "failed"
    if row["value"] is None:
        return NOTHING
    p95 = "" if row["p95"] is None else f" / {number(row['p95'])}"
    recall = "" if row["recall"] is None else f" ({row['recall']:.3f})"
    return f"{number(row['value'])}{p95}{recall}"


def ratio(ours: Row | None, theirs: Row | None, *, more_is_better: bool) -> str:
    """How many times better ours is; below 1 it is worse."""
    values = [row["value"] for row in (ours, theirs) if row is not None and row["value"] is not None]
    if len(values) < 2 or 0 in values:
        return NOTHING
    return f"{number(values[0] / values[1] if more_is_better else values[1] / values[0])}x"


def number(value: float) -> str:
    """Three digits that count."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def head(cells: Sequence[str]) -> list[str]:
    """The first two lines of a table."""
    return [line(cells), line(["---", *["---:"] * (len(cells) - 1)])]


def line(cells: Iterable[str]) -> str:
    """One line of a table."""
    return f"| {' | '.join(cells)} |"
