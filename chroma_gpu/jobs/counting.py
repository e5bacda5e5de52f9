"""About how many rows there are, for a bar that shows how long it will take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from chroma_gpu.jobs.inputs import Input
from chroma_gpu.jobs.options import EmbedOptions

COUNTED: Final = 64 << 20
"""Bytes of a file whose lines are counted; those of a longer one are taken to be as long as in these."""

_PIECE: Final = 1 << 20
_LINES: Final = frozenset(("jsonl", "csv", "tsv", "txt"))
_DOCUMENTS: Final = frozenset(("md", "html"))


def about(inputs: Sequence[Input], options: EmbedOptions) -> int | None:
    """How many rows a job will read, within some percent for long files of lines; None where that is not known without reading.

    Raises  OSError
    Cost    up to ``COUNTED`` bytes of each file are read
    """
    counts = [_rows(each) for each in inputs]
    if None in counts:
        return None
    rows = max(0, sum(count for count in counts if count is not None) - options.offset)
    if options.limit is not None:
        rows = min(rows, options.limit)
    return rows if options.sample is None else round(rows * options.sample)


def _rows(source: Input) -> int | None:
    if source.path is None or source.packed:
        return None
    if source.format in _DOCUMENTS:
        return 1
    if source.format == "parquet":
        import pyarrow.parquet

        return int(pyarrow.parquet.read_metadata(source.path).num_rows)
    return _lines(source.path) - (source.format in ("csv", "tsv")) if source.format in _LINES else None


def _lines(path: Path) -> int:
    size, read, lines, last = path.stat().st_size, 0, 0, b"\n"
    with path.open("rb") as file:
        while read < COUNTED and (piece := file.read(_PIECE)):
            read += len(piece)
            lines += piece.count(b"\n")
            last = piece[-1:]
    if read < size:
        return round(lines * size / read)
    return lines + (last != b"\n")
