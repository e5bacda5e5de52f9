"""How far a job is, kept beside its records and committed with them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import msgspec

from chroma_gpu.api.models.Collection import Collection
from chroma_gpu.jobs.options import EmbedOptions
from chroma_gpu.jobs.rows import Cursor
from chroma_gpu.records import Note

VERSION: Final = 1

FREE: Final = frozenset(
    {"collection", "path", "model", "device", "dtype", "batch_tokens", "space", "on_error", "dead_letter", "max_errors", "resume"}
    | {"checkpoint_every", "checkpoint_seconds", "cache", "out"}
)
"""Options that another run of a job may have otherwise. The model is not among them: it counts as what the collection has of it."""


class Checkpoint(msgspec.Struct, frozen=True):
    """How far a job is.

    inputs       digest of what the inputs were; None where nobody can say whether they are still the same
    cursor       where reading goes on
    outcome      ``events.Outcome`` of the chunks of the row at the cursor that are done with; 0 without any
    counts       ``Report.counts``
    dead_letter  the file of bad rows, and its ``dead_bytes`` that belong to the rows before the cursor
    dead_tail    digest of the last of these, see ``DeadLetters.tail``; empty where it is not known
    finished     the end of the inputs was reached
    """

    inputs: str | None = None
    cursor: Cursor = Cursor()
    outcome: int = 0
    counts: dict[str, int] = {}
    dead_letter: str | None = None
    dead_bytes: int = 0
    dead_tail: str = ""
    finished: bool = False
    version: int = VERSION


def key(options: EmbedOptions, model: Mapping[str, Any] | None) -> str:
    """What makes a job the same job: 32 hex digits of its inputs, its model, and the options that change what is stored.

    model  the configuration that a collection keeps of an embedding function; its device and number format do not matter
    """
    named = {field.name: getattr(options, field.name) for field in fields(options) if field.name not in FREE}
    named["inputs"] = [_absolute(each) for each in options.inputs]
    named["database"] = options.database and _absolute(options.database)
    described = json.dumps([named, vectors_of(model)], sort_keys=True, default=str)
    return hashlib.sha256(described.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def vectors_of(model: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """What of a stored embedding function makes its vectors: the same for two that differ in where and how exactly they compute."""
    if model is None or model.get("type") != "known":
        return None
    if model["name"] == "default":
        config: dict[str, Any] = {"model_name": "all-MiniLM-L6-v2", "normalize_embeddings": False, "kwargs": {}}
        return {"name": "sentence_transformer", "config": config}
    config = {name: value for name, value in dict(model.get("config", {})).items() if name != "device"}
    if isinstance(config.get("kwargs"), dict):
        config["kwargs"] = {name: value for name, value in config["kwargs"].items() if name != "model_kwargs"}
    return {"name": model["name"], "config": config}


class Checkpoints:
    """The checkpoint of one job in one collection. Every one that is written expects the one before, so no two runs can be at it."""

    def __init__(self, collection: Collection, job: str) -> None:
        self._name = f"job/{job}"
        self._last = collection._note(self._name)

    def found(self) -> Checkpoint | None:
        """The last one; None without one, or with one that this version does not know."""
        if self._last is None:
            return None
        try:
            found = msgspec.json.decode(self._last, type=Checkpoint)
        except msgspec.ValidationError:
            return None
        return found if found.version == VERSION else None

    def note(self, checkpoint: Checkpoint) -> Note:
        """What is to be committed."""
        return Note(self._name, msgspec.json.encode(checkpoint), self._last)

    def committed(self, note: Note) -> None:
        """It is."""
        self._last = note.value


def _absolute(name: str) -> str:
    """A name that means the same in any working directory."""
    return name if name == "-" or "://" in name else str(Path(name).expanduser().absolute())
