"""The tables of docs/benchmarks.md: what a run of ``filters.py`` has measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from benchmarks.filter_data import CELLS, Cell
from benchmarks.tables import NOTHING, OURS, REFERENCE, Row, cell, found, head, line, measured_on, number, ratio

_EVALUATED: Final = {
    "equality": "equality of a string",
    "range_int": "range of an int of 10,000 values",
    "range_float": "range of a float, all different",
    "and": "AND of equality and two ranges",
    "in_100": "`$in` of 100 strings",
    "ne": "`$ne` of a string",
}
_DOCUMENTS: Final = {
    "contains_rare": "`$contains`, a rare word",
    "contains_middling": "`$contains`, a middling word",
    "contains_common": "`$contains`, a common word",
    "regex": "`$regex` with a word that must be there",
    "regex_scan": "`$regex` without one",
}
_GOT: Final = {"year": "`$gte` on year", "rank": "`$gt` on rank", "month": "`$eq` on month"}
_ADDED: Final = {
    "add": "durable adds, rows/s",
    "add_first": "the first 50,000, rows/s",
    "add_last": "the last 50,000, rows/s",
    "add_slowest": "slowest batch of 5,000, ms",
    "indexed": "until every row is indexed, rows/s",
    "disk": "disk, MB",
}
_OPENED: Final = {
    "open": "import, open, first filtered answer, s",
    "open_memory": "memory after it, beside Python and NumPy, MB",
    "open_memory_queries": "memory after 90 queries with three filters, MB",
}


def tables(rows: Sequence[Row]) -> str:
    """Markdown of one run."""
    if not rows:
        return "Not measured yet: `python benchmarks/filters.py`."
    size = max(row["rows"] for row in rows)
    versions = ", ".join(f"{engine} {version}" for engine, version in {row["engine"]: row["version"] for row in rows}.items())
    large = [row for row in rows if row["rows"] == size]
    small = [row for row in rows if row["rows"] < size and row["data"] == large[0]["data"]]
    texts = [row for row in rows if row["data"] != large[0]["data"]]
    lines = [f"{measured_on(rows[-1])}. {versions}."]
    lines += ["", f"### Queries with filters, {_shape(large)}", "", *_grid(large)]
    if small:
        lines += ["", f"### The same, {_shape(small)}, beside chromadb", "", *_compared(small)]
    lines += ["", f"### Evaluating a filter of metadata, {_shape(large)}, ms", "", *_evaluated(large)]
    if texts:
        lines += [
            "",
            f"### Filters of documents, and reading, {texts[0]['rows']:,} texts ({texts[0]['data']})",
            "",
            *_documents(texts),
        ]
    lines += ["", f"### Adding and opening, {_shape(large)}", "", *_added(large, small)]
    return "\n".join(lines)


def _grid(rows: Sequence[Row]) -> Iterator[str]:
    """A line for every cell; the plans say how many of the queries went by each."""
    engines = [
        engine for engine in dict.fromkeys(row["engine"] for row in rows) if any(found(rows, engine, c.case) for c in CELLS)
    ]
    yield from head(["filter", *engines, "plan", "guard", "regret"])
    regrets = []
    for each in CELLS:
        plans = found(rows, OURS, each.case.replace("grid", "regret", 1))
        if plans is not None and plans["value"] is not None:
            regrets.append(plans["value"])
        cells = [cell(found(rows, engine, each.case)) for engine in engines]
        said = ["failed"] * 3 if plans is None else [_counts(plans["plan"]), _counts(plans["guard"]), _regret(plans)]
        yield line([_title(each), *cells, *said])
    if regrets:
        yield ""
        yield f"Regret: mean {sum(regrets) / len(regrets):.3f}, worst {max(regrets):.3f}."


def _compared(rows: Sequence[Row]) -> Iterator[str]:
    yield from head(["filter", OURS, REFERENCE, f"{OURS} : {REFERENCE}"])
    for each in CELLS:
        pair = [found(rows, engine, each.case) for engine in (OURS, REFERENCE)]
        yield line([_title(each), *map(cell, pair), ratio(*pair, more_is_better=False)])


def _evaluated(rows: Sequence[Row]) -> Iterator[str]:
    yield from head(
        ["filter", "matches", "the very first", "new operand, first touch of its pages", "new operand", "asked before"]
    )
    for kind, title in _EVALUATED.items():
        new, warm, cached = (found(rows, OURS, f"evaluate_{kind}{suffix}") for suffix in ("", "_warm", "_cached"))
        # Earlier runs measured first touches only.
        cells = [cell(new), NOTHING if warm is None and new is not None else cell(warm), cell(cached)]
        yield line([title, _more(new, "matches"), _more(new, "first"), *cells])


def _documents(rows: Sequence[Row]) -> Iterator[str]:
    heads = ["evaluated alone, ms", "asked before, ms", f"{OURS}, ms", f"{REFERENCE}, ms", f"{OURS} : {REFERENCE}"]
    yield from head(["", "matches", *heads])
    for kind, title in _DOCUMENTS.items():
        pair = [found(rows, engine, f"ids_{kind}") for engine in (OURS, REFERENCE)]
        alone = [found(rows, OURS, f"evaluate_{kind}{suffix}") for suffix in ("", "_cached")]
        cells = [*map(cell, alone), *map(cell, pair), ratio(*pair, more_is_better=False)]
        yield line([f"all ids, {title}", _more(pair[0], "matches"), *cells])
    for kind, title in _GOT.items():
        pair = [found(rows, engine, f"get_100_{kind}") for engine in (OURS, REFERENCE)]
        cells = [NOTHING, NOTHING, *map(cell, pair), ratio(*pair, more_is_better=False)]
        yield line([f"100 records, {title}", _more(pair[0], "matches"), *cells])


def _added(large: Sequence[Row], small: Sequence[Row]) -> Iterator[str]:
    sizes = [f"{OURS}, {large[0]['rows']:,}", "the same without a graph"]
    sizes += [f"{engine}, {small[0]['rows']:,}" for engine in (OURS, REFERENCE)] if small else []
    yield from head(["", *sizes])
    for case, title in _ADDED.items():
        cells = [found(large, OURS, case), found(large, OURS, f"graphless_{case}")]
        cells += [found(small, engine, case) for engine in (OURS, REFERENCE)] if small else []
        yield line([title, *map(cell, cells)])
    for case, title in _OPENED.items():
        yield line([title, cell(found(large, OURS, case)), *[NOTHING] * (len(sizes) - 1)])
    yield ""
    first, last = (found(large, OURS, f"graphless_{case}") for case in ("add_first", "add_last"))
    beside = [found(small, engine, "add") for engine in (OURS, REFERENCE)] if small else [None, None]
    yield (
        f"Without a graph the last 50,000 rows are added at {ratio(last, first, more_is_better=True)} the rate of the first;"
        f" {ratio(*beside, more_is_better=True)} chromadb's rate."
    )


def _title(each: Cell) -> str:
    return f"{each.share * 100:g} % pass, {each.relation}"


def _shape(rows: Sequence[Row]) -> str:
    return f"{rows[0]['rows']:,} x {rows[0]['dim']} ({rows[0]['data']})"


def _counts(counted: dict[str, int]) -> str:
    """What was seen; how often, where it was not the same for all."""
    seen = {name: count for name, count in counted.items() if name != "None"}
    if not seen:
        return NOTHING
    return next(iter(seen)) if len(counted) == 1 else ", ".join(f"{name} {count}" for name, count in seen.items())


def _regret(row: Row) -> str:
    return NOTHING if row["value"] is None else f"{row['value']:.3f}"


def _more(row: Row | None, name: str) -> str:
    return NOTHING if row is None or row.get(name) is None else number(row[name])
