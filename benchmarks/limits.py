"""Write docs/limits.md and docs/roofline.svg: what six cards could do at most, what our kernels should take, what was measured of it.

``--check`` only says whether they are up to date.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path[0] = str(ROOT)

from benchmarks import gpu_report  # noqa: E402
from benchmarks.gpu_cases import gpu_rows  # noqa: E402
from benchmarks.tables import Row, head, line, number  # noqa: E402
from chroma_gpu.index.gpu_cost import CARDS, WIDTHS, Card, Search, limit, most_rows, predicted  # noqa: E402

PAGE: Final = ROOT / "docs" / "limits.md"
RESULTS: Final = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- limits:begin -->", "<!-- limits:end -->"
UNMEASURED: Final = "not measured"

MILLION: Final = 1_000_000
DIM: Final = 384
_SHAPES: Final = (
    *((codes, queries, 1.0, False) for codes in ("float32", "float16", "int8") for queries in (1, 32, 1024)),
    *((codes, 1, share, False) for codes in ("float16", "int8") for share in (0.5, 0.1)),
    *((codes, 1, share, True) for codes in ("float16", "int8") for share in (0.01, 0.001)),
)
"""(codes, queries, share that passes, whether candidates are a list)"""


def main(given: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether the page is up to date")
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--plot", type=Path, default=ROOT / gpu_report.PLOT)
    options = parser.parse_args(given)
    rows = gpu_rows(options.results)
    old = options.page.read_text()
    if old.count(BEGIN) != 1 or old.count(END) != 1:
        raise SystemExit(f"{options.page} must have {BEGIN} and {END} once each: the tables stand between them")
    before, rest = old.split(BEGIN)
    new = f"{before}{BEGIN}\n{tables(rows)}\n{END}{rest.split(END)[1]}"
    drawn = gpu_report.plot(rows)
    if options.check:
        same = old == new and options.plot.read_text() == drawn
        print("up to date" if same else "not what model and results give: python benchmarks/limits.py")
        return int(not same)
    options.page.write_text(new)
    options.plot.write_text(drawn)
    return 0


def tables(rows: Sequence[Row]) -> str:
    """Markdown: what the model goes by, a table for each card, what fits."""
    lines = ["### What is known of the cards", "", *_cards(), ""]
    for card in CARDS:
        lines += [
            f"### {card.name}",
            "",
            *_times(card, [row for row in rows if row["error"] is None and Card.of(row["card"]) is card]),
            "",
        ]
    return "\n".join([*lines, "### Rows that fit, in millions", "", *_memory()])


def _cards() -> Iterator[str]:
    yield from head(
        [
            "",
            "memory, GB",
            "bandwidth, GB/s",
            "float32, TFLOP/s",
            "16 bit, TFLOP/s",
            "8 bit, TOP/s",
            "shared memory",
            "capability",
        ]
    )
    from chroma_gpu.kernels.tuning import SHARED

    for card in CARDS:
        rates = [number(2 * each / 1e6) for each in (card.single, card.half, card.eight)]
        shared = f"{SHARED[card.capability] >> 10} KB"
        yield line(
            [card.name, number(card.memory / 1e9), number(card.bandwidth / 1e3), *rates, shared, f"{card.capability / 10:.1f}"]
        )


def _times(card: Card, rows: Sequence[Row]) -> Iterator[str]:
    """A line for every shape that fits on the card."""
    yield from head(
        ["rows, codes, queries, share that passes", "limit, ms", "predicted, ms", "predicted : limit", "measured, ms"]
    )
    for n in (MILLION, 10 * MILLION):
        for codes, queries, share, listed in _SHAPES:
            if n > most_rows(card, DIM, codes):
                continue
            search = Search(n, DIM, codes, queries, round(n * share), listed)
            least, most = limit(card, search), predicted(card, search)
            what = f"{n // MILLION}M x {DIM}, {codes}, {queries:,}, {share * 100:g} %{', listed' if listed else ''}"
            yield line([what, _ms(least), _ms(most), f"{most / least:.2g}", _measured(rows, search, share)])


def _measured(rows: Sequence[Row], search: Search, share: float) -> str:
    """The newest median of the ten nearest, in ms."""
    kind = "gather" if search.listed else "scan"
    wanted = (kind, search.rows, search.dim, search.codes, search.queries, share, 10)
    found = [r for r in rows if (r["kind"], r["rows"], r["dim"], r["dtype"], r["batch"], r["share"], r["k"]) == wanted]
    times = [row["ms"] for row in found if row["ms"] is not None]
    return number(times[-1]) if times else UNMEASURED


def _memory() -> Iterator[str]:
    dims = (128, 384, 768, 1024)
    yield from head(["", *(f"{codes}, d = {dim}" for dim in dims for codes in WIDTHS)])
    for card in CARDS:
        yield line([card.name, *(number(most_rows(card, dim, codes) / 1e6) for dim in dims for codes in WIDTHS)])


def _ms(microseconds: float) -> str:
    return number(microseconds / 1e3)


if __name__ == "__main__":
    sys.exit(main())
