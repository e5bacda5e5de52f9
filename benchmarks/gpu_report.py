"""The plot and the table of what was measured on GPUs; the plot of what the model says where nothing was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from math import log10
from typing import Final

from benchmarks.tables import NOTHING, Row, head, line, number
from chroma_gpu.index.gpu_cost import Card, Search, predicted

PLOT: Final = "docs/roofline.svg"
_WIDTH, _HEIGHT, _EDGE = 760, 460, 60
_X, _Y = (-1.0, 4.0), (-2.0, 3.2)
_COLOURS: Final = {"float32": "#7a5195", "float16": "#1f77b4", "int8": "#d9822b"}
_MILLIONS: Final = 10_000_000


@dataclass(frozen=True, slots=True)
class Point:
    """One search: products and sums for each byte that it must read, and how many of them a second; in TFLOP/s."""

    codes: str
    intensity: float
    tflops: float
    says: str


def readme(rows: Sequence[Row]) -> str:
    """Markdown of the newest card that was measured; nothing where none was."""
    rows = [row for row in rows if row["error"] is None]
    if not rows:
        return ""
    mine = [row for row in rows if row["card"] == rows[-1]["card"]]
    said = f"GPU: {mine[-1]['card']}, torch {mine[-1]['torch']}, Triton {mine[-1]['triton']}, {mine[-1]['date'][:10]}, commit {mine[-1]['commit']}."
    return "\n".join([said, "", *_table(mine), "", f"![Roofline of the kernels]({PLOT})"])


def plot(rows: Sequence[Row]) -> str:
    """SVG: ceilings and cells of the newest card that was measured; of the model for an H200 where none was, and it says so."""
    measured = [row for row in rows if row["error"] is None and row.get("flops") and row["k"] == 10]
    if not measured:
        card = Card.of("H200")
        return _drawn(
            f"{card.name}, predicted by the model: nothing measured", card.bandwidth / 1e6, 2 * card.half / 1e6, _model(card)
        )
    last = measured[-1]
    newest = {row["case"]: row for row in measured if row["card"] == last["card"]}
    points = [
        Point(row["dtype"], row["flops"] / row["bytes"], row["tflops"], f"{row['case']}: {number(row['ms'])} ms")
        for row in newest.values()
    ]
    peaks = last["peaks"]
    return _drawn(f"{last['card']}, measured {last['date'][:10]}", peaks["copy"] / 1e3, peaks["float16"], points)


def _table(rows: Sequence[Row]) -> Iterator[str]:
    """A line for every cell of ten neighbours among ten million rows, and of whole queries."""
    newest = {row["case"]: row for row in rows}
    peers = [peer for peer in ("torch", "faiss", "cuvs") if any(f"{peer}_ratio" in row for row in rows)]
    yield from head(["", "ms", "of the copy rate", "recall", *(f"{peer} : ours" for peer in peers)])
    for row in newest.values():
        if row["ms"] is None or (row["rows"] != _MILLIONS and row["kind"] != "collection") or row["k"] != 10:
            continue
        share = f"{row['of_copy'] * 100:.0f} %" if "of_copy" in row else NOTHING
        recall = f"{row['recall']:.3f}" if "recall" in row else NOTHING
        ratios = [f"{number(row[f'{peer}_ratio'])}x" if f"{peer}_ratio" in row else NOTHING for peer in peers]
        yield line([row["case"], number(row["ms"]), share, recall, *ratios])


def _model(card: Card) -> list[Point]:
    """What the kernels should do with ten million rows."""
    found = []
    for codes in _COLOURS:
        for queries in (1, 8, 32, 256, 1024):
            search = Search(_MILLIONS, 384, codes, queries)
            took = predicted(card, search)
            says = f"10M x 384 {codes}, {queries} queries: {number(took / 1e3)} ms predicted"
            found.append(Point(codes, 2 * search.products / search.bytes, 2 * search.products / took / 1e6, says))
    return found


def _drawn(title: str, terabytes: float, teraflops: float, points: Sequence[Point]) -> str:
    """The plot: both axes are logarithms; the roof is bandwidth times intensity, then the rate of 16-bit products."""
    predicted_only = "predicted" in title
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        f'<text x="{_EDGE}" y="28" font-size="15">{escape(title)}</text>',
    ]
    for power in range(int(_X[0]), int(_X[1]) + 1):
        x = _x(10.0**power)
        parts.append(f'<line x1="{x:.1f}" y1="{_y(10 ** _Y[1]):.1f}" x2="{x:.1f}" y2="{_y(10 ** _Y[0]):.1f}" stroke="#e4e4e4"/>')
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - 34}" text-anchor="middle">{10.0**power:g}</text>')
    for power in range(int(_Y[0]), int(_Y[1]) + 1):
        y = _y(10.0**power)
        parts.append(f'<line x1="{_x(10 ** _X[0]):.1f}" y1="{y:.1f}" x2="{_x(10 ** _X[1]):.1f}" y2="{y:.1f}" stroke="#e4e4e4"/>')
        parts.append(f'<text x="{_EDGE - 8}" y="{y + 4:.1f}" text-anchor="end">{10.0**power:g}</text>')
    ridge = teraflops / terabytes
    roof = [(10 ** _X[0], terabytes * 10 ** _X[0]), (ridge, teraflops), (10 ** _X[1], teraflops)]
    line_points = " ".join(f"{_x(x):.1f},{_y(y):.1f}" for x, y in roof)
    parts.append(f'<polyline points="{line_points}" fill="none" stroke="#333333" stroke-width="2"/>')
    parts.append(f'<text x="{_x(10 ** _X[0]) + 6:.1f}" y="{_y(terabytes * 10 ** _X[0]) - 14:.1f}">{terabytes:.2f} TB/s</text>')
    parts.append(
        f'<text x="{_x(10 ** _X[1]):.1f}" y="{_y(teraflops) - 8:.1f}" text-anchor="end">{teraflops:.0f} TFLOP/s in 16 bit</text>'
    )
    for point in points:
        fill = "none" if predicted_only else _COLOURS[point.codes]
        at = f'cx="{_x(point.intensity):.1f}" cy="{_y(point.tflops):.1f}"'
        parts.append(
            f'<circle {at} r="5" fill="{fill}" stroke="{_COLOURS[point.codes]}" stroke-width="2"><title>{escape(point.says)}</title></circle>'
        )
    for number_of, (codes, colour) in enumerate(_COLOURS.items()):
        y = _HEIGHT - 130 + 20 * number_of
        parts.append(
            f'<circle cx="{_WIDTH - 150}" cy="{y}" r="5" fill="{"none" if predicted_only else colour}" stroke="{colour}" stroke-width="2"/>'
        )
        parts.append(f'<text x="{_WIDTH - 138}" y="{y + 4}">{codes}{", predicted" if predicted_only else ""}</text>')
    parts.append(
        f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 12}" text-anchor="middle">operations for each byte that must be read</text>'
    )
    parts.append(f'<text x="16" y="{_HEIGHT / 2}" text-anchor="middle" transform="rotate(-90 16 {_HEIGHT / 2})">TFLOP/s</text>')
    return "\n".join([*parts, "</svg>", ""])


def _x(intensity: float) -> float:
    share = (min(max(log10(intensity), _X[0]), _X[1]) - _X[0]) / (_X[1] - _X[0])
    return _EDGE + share * (_WIDTH - _EDGE - 30)


def _y(tflops: float) -> float:
    share = (min(max(log10(tflops), _Y[0]), _Y[1]) - _Y[0]) / (_Y[1] - _Y[0])
    return _HEIGHT - 50 - share * (_HEIGHT - 100)
