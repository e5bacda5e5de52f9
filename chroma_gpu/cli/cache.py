"""``chroma-gpu cache``: what is remembered of embeddings, and giving its disk back."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from rich.table import Table

from chroma_gpu.cli.console import console, require
from chroma_gpu.cli.info import size_text
from chroma_gpu.config import Settings, memory
from chroma_gpu.embed.memory.cache import EmbeddingCache


def run(options: argparse.Namespace) -> int:
    """Prune if that is asked for, then show what is there."""
    require(options.path)
    limit = 0 if options.clear else None if options.max_size is None else memory(options.max_size)
    if isinstance(limit, float):
        raise ValueError(f"--max-size is a number of bytes such as 100MB, got {options.max_size!r}")
    cache = EmbeddingCache(Path(options.path).resolve() / "embeddings", Settings().embedding_cache)
    freed = None if limit is None else cache.prune(limit)
    models = cache.models()
    if options.json:
        said = [asdict(each) | {"last_used": datetime.fromtimestamp(each.last_used).astimezone().isoformat()} for each in models]
        print(json.dumps({"limit": cache.limit, "freed": freed, "models": said}, indent=1))
        return 0
    out = console()
    if freed is not None:
        out.print(f"{size_text(freed)} given back")
    used = sum(each.bytes for each in models)
    table = Table(title=f"{cache.directory}: {size_text(used)} of {size_text(cache.limit)}", title_justify="left")
    for name in ("model", "dimension", "vectors", "size", "last used"):
        table.add_column(name, justify="left" if name in ("model", "last used") else "right", overflow="fold")
    for each in models:
        when = f"{datetime.fromtimestamp(each.last_used):%Y-%m-%d %H:%M}"
        table.add_row(each.name, str(each.dim), f"{each.entries:,}", size_text(each.bytes), when)
    out.print(table)
    return 0
