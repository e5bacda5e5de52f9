"""``chroma-gpu info`` and ``chroma-gpu compact``: what a data directory holds, and giving its disk back."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rich.table import Table

from chroma_gpu.api.open import PersistentClient
from chroma_gpu.cli.console import console, require


def run(options: argparse.Namespace) -> int:
    """Collections with their sizes."""
    require(options.path)
    with PersistentClient(options.path) as client:
        facts = [collection.describe() for collection in client.list_collections()]
    if options.json:
        print(json.dumps(facts, indent=1))
        return 0
    table = Table(title=f"{options.path}: {_size(Path(options.path))}", title_justify="left")
    for name in ("collection", "records", "deleted rows", "dimension", "distance", "embedding function"):
        table.add_column(name, justify="right" if name in ("records", "deleted rows", "dimension") else "left")
    for each in facts:
        table.add_row(*_row(each))
    console().print(table)
    return 0


def compact(options: argparse.Namespace) -> int:
    """Compact one collection and say what it gave back."""
    require(options.path)
    before = _size(Path(options.path))
    with PersistentClient(options.path) as client:
        client.get_collection(options.collection).compact()
    console().print(f"{options.collection}: {before} before, {_size(Path(options.path))} now")
    return 0


def _row(facts: dict[str, Any]) -> list[str]:
    dimension = str(facts["dimension"] or "-")
    return [
        facts["name"], f"{facts['records']:,}", f"{facts['dead']:,}", dimension, facts["distance"],
        facts["embedding_function"] or "-",
    ]  # fmt: skip


def _size(path: Path) -> str:
    return size_text(sum(each.stat().st_blocks * 512 for each in path.rglob("*") if each.is_file()))


def size_text(size: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
