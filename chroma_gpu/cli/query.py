"""``chroma-gpu query``: the nearest records of texts, as a table or as JSON, with the time of each step."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.table import Table

from chroma_gpu.api.open import PersistentClient
from chroma_gpu.api.types import QueryResult
from chroma_gpu.cli.console import console


def run(options: argparse.Namespace) -> int:
    """Open, embed, search, print."""
    steps: dict[str, float] = {}
    with _timed(steps, "open"):
        client = PersistentClient(options.path)
    with client:
        collection = client.get_collection(options.collection)
        with _timed(steps, "load model"):
            collection.embed_queries(["warm up"])
        with _timed(steps, "embed"):
            vectors = collection.embed_queries(options.texts)
        asked = {"n_results": options.n_results, "where": options.where, "where_document": options.where_document}
        with _timed(steps, "first search"):
            result = collection.query(query_embeddings=vectors, **asked)
        with _timed(steps, "search again"):
            result = collection.query(query_embeddings=vectors, **asked)
    if options.json:
        print(json.dumps({key: value for key, value in result.items() if value is not None}, ensure_ascii=False, indent=1))
        return 0
    out = console()
    for at, text in enumerate(options.texts):
        out.print(_table(text, result, at, options))
    out.print("  ".join(f"{name} {seconds * 1000:.1f} ms" for name, seconds in steps.items()), style="dim")
    return 0


def _table(text: str, result: QueryResult, at: int, options: argparse.Namespace) -> Table:
    conditions = [json.dumps(each) for each in (options.where, options.where_document) if each is not None]
    title = f"“{text}”" + (f"  where {' and '.join(conditions)}" if conditions else "")
    table = Table(title=title, title_justify="left", title_style="bold", expand=False)
    for name in ("distance", "id", "text", "metadata"):
        table.add_column(name, justify="right" if name == "distance" else "left", overflow="fold")
    for distance, record, document, metadata in zip(
        (result["distances"] or [])[at], result["ids"][at], (result["documents"] or [])[at], (result["metadatas"] or [])[at],
        strict=True,
    ):  # fmt: skip
        facts = ", ".join(f"{key}={value}" for key, value in (metadata or {}).items())
        table.add_row(f"{distance:.4f}", record, document or "", facts)
    return table


@contextmanager
def _timed(steps: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    steps[name] = time.perf_counter() - started
