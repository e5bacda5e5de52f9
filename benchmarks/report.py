"""Make the tables of the README, docs/benchmarks.md and docs/embedding.md of the newest runs and print how we compare with chromadb.

``--check`` only says whether they are up to date.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path[0] = str(ROOT)

from benchmarks import embedding_report, filter_report, gpu_report  # noqa: E402
from benchmarks.cases import CASES, Case  # noqa: E402
from benchmarks.gpu_cases import gpu_rows  # noqa: E402
from benchmarks.tables import OURS, REFERENCE, Row, cell, found, head, line, measured_on, ratio  # noqa: E402

README: Final = ROOT / "README.md"
FILTERS: Final = ROOT / "docs" / "benchmarks.md"
EMBEDDING: Final = ROOT / "docs" / "embedding.md"
RESULTS: Final = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"


def main(given: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether the tables are those of the newest runs")
    parser.add_argument("--readme", type=Path, default=README)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--filters", type=Path, default=FILTERS, help="the page with the tables of filtered search")
    parser.add_argument("--embedding", type=Path, default=EMBEDDING, help="the page with the tables of embedding")
    options = parser.parse_args(given)
    rows = newest_run(options.results)
    gpu = gpu_report.readme(gpu_rows(options.results))
    pages = {options.readme: table(rows) + (f"\n\n{gpu}" if gpu else ""), options.filters: filter_tables(options.results)}
    pages[options.embedding] = embedding_tables(options.results)
    old = {page: page.read_text() for page in pages}
    new = {page: with_table(old[page], made) for page, made in pages.items()}
    if options.check:
        print("the tables are up to date" if old == new else "a table is not that of the newest run: python benchmarks/report.py")
        return int(old != new)
    for page, text in new.items():
        page.write_text(text)
    for case in CASES:
        print(f"{_title(case, rows):80}{_ratio(case, rows):>10}")
    return 0


def newest_run(results: Path, script: str = "run.py") -> list[Row]:
    """The rows of the run of a script that was started last, from all its files. Raises ValueError if there is none."""
    files = [file for file in sorted(results.glob("*.jsonl")) if _script(file) == script]
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    if not rows:
        raise ValueError(f"no results in {results}: python benchmarks/{script} makes some")
    newest = max(row["run"] for row in rows)
    return [row for row in rows if row["run"] == newest]


def _script(file: Path) -> str:
    """Which script has written a file."""
    if file.name.startswith("embedding-gpu"):
        return "gpu_embedding.py"
    return {"filters": "filters.py", "gpu": "gpu.py", "embedding": "embedding.py"}.get(file.name.split("-")[0], "run.py")


def newest_if_any(results: Path, script: str) -> list[Row]:
    """As ``newest_run``; nothing if there was none."""
    return newest_run(results, script) if any(_script(file) == script for file in results.glob("*.jsonl")) else []


def filter_tables(results: Path) -> str:
    """Of the newest run of ``filters.py``, if there was one."""
    return filter_report.tables(newest_if_any(results, "filters.py"))


def embedding_tables(results: Path) -> str:
    """Of the newest runs of ``embedding.py`` and ``gpu_embedding.py``."""
    gpu = embedding_report.on_gpu(newest_if_any(results, "gpu_embedding.py"))
    return "\n\n".join([embedding_report.tables(newest_if_any(results, "embedding.py")), gpu])


def table(rows: Sequence[Row]) -> str:
    """Markdown: what was run on what, a line for every case, a column for every engine, what each engine was told."""
    first, engines = rows[0], list(dict.fromkeys(row["engine"] for row in rows))
    versions = {row["engine"]: f"{row['engine']} {row['version']}" for row in rows}
    compared = REFERENCE in engines and OURS in engines
    heads = ["", *(versions[engine] for engine in engines), *([f"{OURS} : {REFERENCE}"] if compared else [])]
    lines = [f"{first['rows']:,} x {first['dim']} ({first['data']}), {measured_on(first)}.", "", *head(heads)]
    measured = {row["case"] for row in rows}
    for case in CASES:
        if case.name not in measured:
            continue  # the run was before there was this case
        cells = [cell(found(rows, engine, case.name)) for engine in engines]
        lines.append(line([_title(case, rows), *cells, *([_ratio(case, rows)] if compared else [])]))
    settings = {row["engine"]: row["settings"] for row in rows}
    return "\n".join([*lines, "", *(f"- {engine}: {settings[engine]}." for engine in engines)])


def with_table(readme: str, made: str) -> str:
    """A page's text with this between its markers. Raises ValueError if they are not there, once each and in order."""
    if readme.count(BEGIN) != 1 or readme.count(END) != 1 or readme.index(BEGIN) > readme.index(END):
        raise ValueError(f"the page must have {BEGIN} and, below it, {END} once each: the table stands between them")
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n{made}\n{END}{rest.split(END)[1]}"


def _title(case: Case, rows: Sequence[Row]) -> str:
    """With the unit, and the true share of a filter."""
    share = next((row["share"] for row in rows if row["case"] == case.name and row.get("share") not in {None, 1.0}), None)
    passing = "" if share is None else f" ({share * 100:.3g} % pass)"
    return f"{case.title}{passing}, {case.unit}"


def _ratio(case: Case, rows: Sequence[Row]) -> str:
    """How many times better ours is than chromadb."""
    pair = [found(rows, engine, case.name) for engine in (OURS, REFERENCE)]
    return ratio(*pair, more_is_better=case.more_is_better)


if __name__ == "__main__":
    sys.exit(main())
