"""The steps of the filter benchmark besides the grid: adding, opening, evaluating filters, filters of documents, reading by filter."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np

from benchmarks import inside
from benchmarks.cases import BATCH_ROWS, disk, resident
from benchmarks.filter_data import K, Rows
from benchmarks.filter_grid import Row
from benchmarks.peers import Chroma, ChromaGpu, Store
from benchmarks.workload import Filter, Workload, WrongAnswerError

WINDOW: Final = 50_000
"""Rows over which the rate of adding is taken, at the beginning and at the end."""
WORDS: Final = 14
"""Different words of a kind; each is asked for once."""
DIM: Final = 8
"""Of the vectors beside the texts, which nobody searches."""
CONTAINS: Final = {"rare": 2e-4, "middling": 8e-3, "common": 1.0}
"""The share of the texts in which words of a kind are; those nearest to it are taken."""


def add(engine: Store, batches: Iterable[Workload], folder: Path) -> Iterator[Row]:
    """Durable adds of all rows, then the wait for the indexes."""
    engine.load()
    times, done = [0.0], [0]
    slowest = 0.0
    for at, batch in enumerate(batches):
        if not at:
            engine.open(folder, batch.vectors.shape[1])
        start = perf_counter()
        engine.add(batch, 0, len(batch.ids))
        took = perf_counter() - start
        slowest = max(slowest, took)
        times.append(times[-1] + took)
        done.append(done[-1] + len(batch.ids))
    n, window = done[-1], min(WINDOW, done[-1])
    yield {"case": "add", "value": n / times[-1], "unit": "rows/s", "n": n}
    yield {"case": "add_first", "value": window / np.interp(window, done, times), "unit": "rows/s", "n": window}
    last = times[-1] - np.interp(n - window, done, times)
    yield {"case": "add_last", "value": window / last, "unit": "rows/s", "n": window}
    yield {"case": "add_slowest", "value": slowest * 1e3, "unit": "ms", "n": len(done) - 1}
    started = perf_counter()
    engine.wait_indexed()
    yield {"case": "indexed", "value": n / (times[-1] + perf_counter() - started), "unit": "rows/s", "n": n}
    engine.close()
    yield {"case": "disk", "value": disk(folder) / 1e6, "unit": "MB"}


class Graphless(ChromaGpu):
    """Ours without the graph that is built beside the adds and takes its share of the cores."""

    settings = "graph_rows: never"

    def open(self, folder: Path, dim: int) -> None:
        client = self._module.PersistentClient(str(folder), self._module.Settings(graph_rows=1 << 31))
        self._client, self._folder, self._dim = client, folder, dim
        self._collection = client.get_or_create_collection(
            "packages", configuration={"hnsw": {"space": "cosine"}}, embedding_function=None
        )


def opening(engine: Store, rows: Rows, folder: Path) -> Iterator[Row]:
    """A new process: import, open, first filtered answer; its memory then, and after queries with all kinds of filters."""
    filters = [
        Filter("random", "shard", "$lt", 100),
        Filter("near", "near_a", "$gte", float(np.quantile(rows.near[0][:100_000], 0.99))),
        Filter("label", "label", "$eq", "label-3"),
    ]
    queries = np.array(rows.queries)
    dim = queries.shape[1]
    before = resident()
    began = perf_counter()
    engine.load()
    engine.open(folder, dim)
    engine.query(queries[:1], K, filters[0])
    yield {"case": "open", "value": perf_counter() - began, "unit": "s", "n": 1}
    yield {"case": "open_memory", "value": _grown(before), "unit": "MB"}
    for each in filters:
        for query in queries[:30]:
            engine.query(query[None], K, each)
    yield {"case": "open_memory_queries", "value": _grown(before), "unit": "MB"}
    engine.close()


def evaluation(engine: ChromaGpu, rows: Rows, folder: Path, operands: int) -> Iterator[Row]:
    """Filters of metadata, evaluated and nothing else, each time with an operand that was not there before.

    First touch: this process has not read the pages that an operand needs, they may be in the cache of the system. ``_warm``: it has
    read every page of the index of metadata. ``_cached``: the same operands once more.
    """
    engine.load()
    engine.open(folder, rows.vectors.shape[1])
    rng = np.random.default_rng(11)
    labels = [f"label-{each}" for each in np.unique(rows.label[:10_000])]
    rng.shuffle(labels)
    # A fifth for each of what asks for single labels, before and after.
    each_time = min(operands, len(labels) // 6)
    label = [{"label": {"$eq": each}} for each in labels]
    near = [{"near_a": {"$gte": float(each)}} for each in rng.choice(rows.near[0][:10_000], 2 * operands)]
    far = [{"near_b": {"$lt": float(each)}} for each in rng.choice(rows.near[1][:10_000], 2 * operands)]
    shard = [{"shard": {"$lt": int(each)}} for each in rng.integers(1, 10_000, 2 * operands)]
    kinds: dict[str, Sequence[dict[str, Any]]] = {
        # Labels of its own for each: what one has evaluated may serve another.
        "equality": label[: 2 * each_time],
        "range_int": [{"shard": {"$gte": int(each)}} for each in rng.permutation(9_999)[: 2 * operands] + 1],
        "range_float": near,
        "and": [{"$and": list(three)} for three in zip(label[2 * each_time : 4 * each_time], shard, far, strict=False)],
        "in_100": [
            {"label": {"$in": rng.choice(labels, min(100, len(labels) - 1), replace=False).tolist()}} for _ in range(2 * operands)
        ],
        "ne": [{"label": {"$ne": each}} for each in labels[4 * each_time : 6 * each_time]],
    }

    def timed(kind: str, wheres: Sequence[dict[str, Any]]) -> Row:
        found = [inside.evaluated(engine.collection, {"where": each}) for each in wheres]
        return _timed(kind, [seconds for seconds, _ in found], [matches for _, matches in found], len(rows.label))

    for kind, wheres in kinds.items():
        yield timed(f"evaluate_{kind}", wheres[::2])
    inside.touch(engine.collection)
    for kind, wheres in kinds.items():
        yield timed(f"evaluate_{kind}_warm", wheres[1::2])
        yield timed(f"evaluate_{kind}_cached", wheres[1::2])
    engine.close()


def records(found: Sequence[dict[str, Any]], size: int = BATCH_ROWS) -> Iterator[Workload]:
    """Texts with their metadata as records to add."""
    vectors = np.random.default_rng(3).standard_normal((len(found), DIM)).astype(np.float32)
    for start in range(0, len(found), size):
        part = found[start : start + size]
        metadatas = [{key: each[key] for key in ("year", "month", "rank", "major")} for each in part]
        own = vectors[start : start + size]
        yield Workload([each["id"] for each in part], [each["text"] for each in part], metadatas, own, own[:1])


def documents(engine: Chroma, found: Sequence[dict[str, Any]], folder: Path) -> Iterator[Row]:
    """Filters of documents and reading by metadata, through the public API; of ours the evaluation alone, too.

    Every operand is new to the engine; ``_cached`` is the second time. Raises WrongAnswerError if a count is not that of Python.
    """
    engine.load()
    engine.open(folder, DIM)
    texts = [each["text"] for each in found]
    for kind, conditions in document_filters(texts).items():
        # Half of them for each way of asking, so that none was asked before.
        counts = [_matching(texts, each) for each in conditions]
        given = [{"where_document": each} for each in conditions]
        # Once with a filter that is not timed, which loads what is loaded once.
        engine.collection.get(where_document={"$contains": "warm-up"}, include=[])
        times, ids = _clocked(lambda arguments: engine.collection.get(include=[], **arguments)["ids"], given[::2])
        _same([len(each) for each in ids], counts[::2], kind)
        yield _timed(f"ids_{kind}", times, counts[::2], len(texts))
        for cached in ("", "_cached") if isinstance(engine, ChromaGpu) else ():
            seen = [inside.evaluated(engine.collection, each) for each in given[1::2]]
            _same([matches for _, matches in seen], counts[1::2], kind)
            yield _timed(f"evaluate_{kind}{cached}", [seconds for seconds, _ in seen], counts[1::2], len(texts))
    for kind, wheres in metadata_filters(found).items():
        times, got = _clocked(lambda where: engine.collection.get(where=where, limit=100), wheres)
        if any(len(each["ids"]) != len(each["documents"]) or len(each["ids"]) > 100 for each in got):
            raise WrongAnswerError(f"{kind}: not the records that were asked for")
        yield _timed(f"get_100_{kind}", times, [len(each["ids"]) for each in got], len(texts))
    engine.close()


def document_filters(texts: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Words by how common they are, and regular expressions with and without a text that must be there."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(set(re.findall(r"[A-Za-z]{4,}", text)))
    kinds: dict[str, list[dict[str, Any]]] = {}
    for kind, share in CONTAINS.items():
        ranked = sorted(counts, key=lambda word: (abs(np.log(counts[word] / len(texts) / share)), word))
        kinds[f"contains_{kind}"] = [{"$contains": word} for word in ranked[:WORDS]]
    middling = [each["$contains"] for each in kinds["contains_middling"]]
    kinds["regex"] = [{"$regex": f"{word}(s|ing|ed)? [a-z]+"} for word in middling]
    kinds["regex_scan"] = [
        {"$regex": pattern} for pattern in (r"[0-9]{4}", r"[0-9]{4}-", r"[0-9]{3}\.", r"[A-Z]{5}", r"[A-Z]{6}", r"[a-z]{15}")
    ]
    return kinds


def metadata_filters(found: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Of the packages: many pass, few pass, one month."""
    months = sorted({each["month"] for each in found})
    return {
        "year": [{"year": {"$gte": year}} for year in range(2012, 2026)],
        "rank": [{"rank": {"$gt": rank}} for rank in range(0, 14_000, 1_000)],
        "month": [{"month": {"$eq": month}} for month in months[-14:]],
    }


def _grown(before: int | None) -> float | None:
    """Megabytes by which this process has grown; None where the system does not say."""
    now = resident()
    return None if before is None or now is None else (now - before) / 1e6


def _matching(texts: Sequence[str], condition: dict[str, Any]) -> int:
    ((op, operand),) = condition.items()
    if op == "$contains":
        return sum(operand in each for each in texts)
    pattern = re.compile(operand)
    return sum(pattern.search(each) is not None for each in texts)


def _same(counts: Sequence[int], expected: Sequence[int], kind: str) -> None:
    if list(counts) != list(expected):
        raise WrongAnswerError(f"{kind}: {list(counts)} records were found, not {list(expected)}")


def _clocked(work: Callable[[Any], Any], given: Iterable[Any]) -> tuple[list[float], list[Any]]:
    times, results = [], []
    for each in given:
        began = perf_counter()
        results.append(work(each))
        times.append(perf_counter() - began)
    return times, results


def _timed(case: str, times: Sequence[float], matches: Sequence[int], rows: int) -> Row:
    """Milliseconds; matches are those of the median filter, first is what the first one took."""
    p50, p95 = np.percentile(times, (50, 95)) * 1e3
    found = {"matches": float(np.median(matches)), "share": float(np.mean(matches)) / rows, "first": times[0] * 1e3}
    return {"case": case, "value": float(p50), "unit": "ms", "n": len(times), "p95": float(p95), **found}
