"""``chroma-gpu embed``: the texts of a file into a collection, resumable."""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import json
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any

from tqdm.auto import tqdm

from chroma_gpu.api.models.Collection import Collection
from chroma_gpu.api.open import PersistentClient
from chroma_gpu.cli.console import console
from chroma_gpu.embed import EmbeddingFunction, known_embedding_functions
from chroma_gpu.utils.embedding_functions import SentenceTransformerEmbeddingFunction


def run(options: argparse.Namespace) -> int:
    """Read, embed and commit ``--batch`` records at a time. Records whose id is there with the same text are not embedded again."""
    out = console()
    path = Path(options.file)
    total = sum(1 for _ in _records(path))
    model = _function(options.model)
    started = time.perf_counter()
    embedded = 0
    with PersistentClient(options.path) as client:
        collection = client.get_or_create_collection(
            options.collection, configuration={"hnsw": {"space": options.space}}, embedding_function=model
        )
        before = collection.count()
        records = (_shaped(record, at, options) for at, record in enumerate(_records(path)))
        with tqdm(total=total, unit="text", desc=f"embed {path.name}") as bar:
            while batch := list(islice(records, options.batch)):
                embedded += _take_in(collection, batch)
                bar.update(len(batch))
        seconds = time.perf_counter() - started
        out.print(
            f"{collection.name}: {collection.count():,} records ({collection.count() - before:,} new), "
            f"{embedded:,} of {total:,} texts embedded in {seconds:.1f} s, kept in {options.path}"
        )
    return 0


def _function(name: str | None) -> EmbeddingFunction[Any]:
    """The embedding function that ``--model`` names: one of ours by its stored name, else a sentence-transformers model."""
    if name in (None, "default", "hashing", "static"):
        return known_embedding_functions[name or "default"].build_from_config({})
    return SentenceTransformerEmbeddingFunction(name)


def _take_in(collection: Collection, batch: list[tuple[str, str, dict[str, Any] | None]]) -> int:
    """Embed and commit what is new or changed; returns how many."""
    # The last of several records with one id wins, as it would one by one.
    latest = {record[0]: record for record in batch}
    there = collection.get(ids=list(latest), include=["documents"])
    same = dict(zip(there["ids"], there["documents"] or (), strict=True))
    fresh = [record for record in latest.values() if same.get(record[0]) != record[1]]
    if fresh:
        ids, texts, metadatas = zip(*fresh, strict=True)
        collection.upsert(ids=list(ids), documents=list(texts), metadatas=list(metadatas))
    return len(fresh)


def _shaped(record: dict[str, Any], at: int, options: argparse.Namespace) -> tuple[str, str, dict[str, Any] | None]:
    """(id, text, metadata) of one record. Raises ValueError that names the line."""
    text = record.get(options.text)
    if not isinstance(text, str):
        raise ValueError(f"record {at + 1} has no text in field {options.text!r}; name the field with --text")
    given = record.get(options.id)
    name = str(given) if given not in (None, "") else hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    kept = options.metadata.split(",") if options.metadata else [key for key in record if key not in (options.id, options.text)]
    return name, text, {key: record[key] for key in kept if record.get(key) is not None} or None


def _records(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a file, one by one. Raises ValueError for a format that is not known or a line that is not one."""
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    with _opened(path) as file:
        if suffix == ".csv":
            yield from csv.DictReader(file)
        elif suffix == ".txt":
            yield from ({"text": line.rstrip("\n")} for line in file if line.strip())
        elif suffix in (".jsonl", ".ndjson"):
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _parsed(line, path, number)
        else:
            raise ValueError(f"{path.name}: known are .jsonl, .csv and .txt, also with .gz")


def _parsed(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{path.name}, line {number}: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{path.name}, line {number}: a record is a JSON object")
    return record


def _opened(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")
