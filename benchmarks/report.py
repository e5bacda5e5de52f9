"""Make the README's table of the newest run and print how we compare with chromadb; ``--check`` only says whether it is up to date."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path[0] = str(ROOT)

from benchmarks.cases import CASES, Case  # noqa: E402

README: Final = ROOT / "README.md"
RESULTS: Final = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"
NOTHING: Final = "-"
OURS, REFERENCE = "chroma_gpu", "chromadb"

Row = dict[str, Any]


def main(given: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether the README's table is that of the newest run")
    parser.add_argument("--readme", type=Path, default=README)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(given)
    rows = newest_run(options.results)
    old = options.readme.read_text()
    new = with_table(old, table(rows))
    if options.check:
        print("the table is up to date" if old == new else "the table is not that of the newest run: python benchmarks/report.py")
        return int(old != new)
    options.readme.write_text(new)
    for case in CASES:
        print(f"{_title(case, rows):80}{_ratio(case, rows):>10}")
    return 0


def newest_run(results: Path) -> list[Row]:
    """The rows of the run that was started last, from all files. Raises ValueError if there is none."""
    rows = [json.loads(line) for file in sorted(results.glob("*.jsonl")) for line in file.read_text().splitlines()]
    if not rows:
        raise ValueError(f"no results in {results}: python benchmarks/run.py makes some")
    newest = max(row["run"] for row in rows)
    return [row for row in rows if row["run"] == newest]


def table(rows: Sequence[Row]) -> str:
    """Markdown: what was run on what, a line for every case, a column for every engine, what each engine was told."""
    first, engines = rows[0], list(dict.fromkeys(row["engine"] for row in rows))
    versions = {row["engine"]: f"{row['engine']} {row['version']}" for row in rows}
    machine = first["machine"]
    gpu = f", {machine['gpu'][0]}" if machine["gpu"] else ", no GPU"
    compared = REFERENCE in engines and OURS in engines
    heads = ["", *(versions[engine] for engine in engines), *([f"{OURS} : {REFERENCE}"] if compared else [])]
    lines = [
        f"{first['rows']:,} x {first['dim']} ({first['data']}), {machine['cores']} cores of {machine['cpu']}{gpu}, {machine['file_system']},"
        f" Python {machine['python']}, {first['run'][:10]}, commit {first['commit']}.",
        "",
        _line(heads),
        _line(["---", *["---:"] * (len(heads) - 1)]),
    ]
    for case in CASES:
        cells = [_cell(_row(rows, engine, case)) for engine in engines]
        lines.append(_line([_title(case, rows), *cells, *([_ratio(case, rows)] if compared else [])]))
    settings = {row["engine"]: row["settings"] for row in rows}
    return "\n".join([*lines, "", *(f"- {engine}: {settings[engine]}." for engine in engines)])


def with_table(readme: str, made: str) -> str:
    """The README's text with this table between its markers. Raises ValueError if they are not there, once each and in order."""
    if readme.count(BEGIN) != 1 or readme.count(END) != 1 or readme.index(BEGIN) > readme.index(END):
        raise ValueError(f"the README must have {BEGIN} and, below it, {END} once each: the table stands between them")
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n{made}\n{END}{rest.split(END)[1]}"


def _row(rows: Iterable[Row], engine: str, case: Case) -> Row | None:
    return next((row for row in rows if row["engine"] == engine and row["case"] == case.name), None)


def _title(case: Case, rows: Sequence[Row]) -> str:
    """With the unit, and the true share of a filter."""
    share = next((row["share"] for row in rows if row["case"] == case.name and row.get("share") not in {None, 1.0}), None)
    passing = "" if share is None else f" ({share * 100:.3g} % pass)"
    return f"{case.title}{passing}, {case.unit}"


def _cell(row: Row | None) -> str:
    """The value; for queries the median, the 95th percentile behind a slash, and recall@10."""
    if row is None:
        return "failed"
    if row["value"] is None:
        return NOTHING
    p95 = "" if row["p95"] is None else f" / {_number(row['p95'])}"
    recall = "" if row["recall"] is None else f" ({row['recall']:.3f})"
    return f"{_number(row['value'])}{p95}{recall}"


def _ratio(case: Case, rows: Sequence[Row]) -> str:
    """How many times better ours is than chromadb; below 1 it is worse."""
    pair = [_row(rows, engine, case) for engine in (OURS, REFERENCE)]
    values = [row["value"] for row in pair if row is not None and row["value"] is not None]
    if len(values) < 2 or 0 in values:
        return NOTHING
    ours, theirs = values
    return f"{_number(ours / theirs if case.more_is_better else theirs / ours)}x"


def _number(value: float) -> str:
    """Three digits that count."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
