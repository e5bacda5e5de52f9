"""The tables of docs/embedding.md: what a run of ``embedding.py`` has measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from benchmarks.tables import NOTHING, Row, head, line, measured_on, number

_TITLES: Final = {"speed_short": "one-line descriptions", "speed_long": "abstracts"}


def tables(rows: Sequence[Row]) -> str:
    """Markdown of one run."""
    if not rows:
        return "Not measured yet: `python benchmarks/embedding.py`."
    lines = [f"{measured_on(rows[-1])}. {rows[-1]['version']}, {rows[-1]['model']}."]
    for case, title in _TITLES.items():
        found = [row for row in rows if row["case"] == case]
        if found:
            lines += ["", f"### {found[0]['texts']:,} {title}", "", *_speed(found)]
    if jobs := [row for row in rows if row["case"] == "job"]:
        lines += ["", "### From file to committed collection", "", *head(["", "texts/s", "of the pipeline alone"])]
        lines += [line([row["way"], number(row["texts_per_second"]), f"{row['of_pipeline']:.0%}"]) for row in jobs]
    if quality := [row for row in rows if row["case"] == "quality"]:
        lines += [
            "",
            "### Cranfield, nDCG@10",
            "",
            *head(["", "job and query", "brute force over sentence-transformers' vectors"]),
        ]
        lines += [line([row["way"], f"{row['ndcg']:.4f}", f"{row['exact_ndcg']:.4f}"]) for row in quality]
    for row in rows:
        if row["case"] == "flat":
            lines += ["", f"### {row['texts']:,} rows with the static model", "", *_flat(row)]
    return "\n".join(lines)


def on_gpu(rows: Sequence[Row]) -> str:
    """Markdown of one run on a card."""
    if not (rows := [row for row in rows if row["error"] is None]):
        return "### On a GPU\n\nNot measured yet: `make gpu-check` does it."
    last = rows[-1]
    lines = [f"### {last['card']}, torch {last['torch']}, {last['run'][:10]}, commit {last['commit']}", ""]
    lines += head(["", "tokens/s", "MFU", "padding", "busy", "sentence-transformers' default", "in fp16, its best batch"])
    for row in rows:
        cells = [f"{row['shape']}, {row['length']}", number(row["tokens_per_second"]), f"{row['mfu']:.0%}", f"{row['waste']:.1%}"]
        cells += [f"{row['busy']:.0%}", *(f"{row[f'st_{name}_ratio']:.2f}x" for name in ("default", "fp16"))]
        lines.append(line(cells))
    return "\n".join(lines)


def _speed(rows: Sequence[Row]) -> list[str]:
    lines = head(["", "texts/s", "chroma_gpu at this precision", "least cosine to sentence-transformers fp32"])
    for row in rows:
        ours = NOTHING if row["way"].startswith("chroma_gpu") else f"{row['ratio']:.2f}x"
        lines.append(line([row["way"], number(row["texts_per_second"]), ours, f"{row['least_cosine']:.5f}"]))
    return lines


def _flat(row: Row) -> list[str]:
    facts = {
        "texts/s, the whole job": number(row["texts_per_second"]),
        "second tenth, texts/s": number(row["second_tenth_per_second"]),
        "last fifth, texts/s": number(row["last_fifth_per_second"]),
        "memory of its own after a tenth, MB": number(row["memory_at_tenth"] / 1e6),
        "at the end": number(row["memory_at_end"] / 1e6),
    }
    return [*head(["", ""]), *(line(each) for each in facts.items())]
