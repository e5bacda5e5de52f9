"""The server's JSON and our values: each the other way round once, and nowhere else."""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar
from uuid import UUID

import numpy as np

from chroma_gpu.api.collection_model import Collection
from chroma_gpu.api.types import Database, UserIdentity
from chroma_gpu.engine.catalog import Entry
from chroma_gpu.errors import ChromaError
from chroma_gpu.filter import And, DocumentOperator, Eq, Expr, InRows, Or, to_dict
from chroma_gpu.records import TYPE_KEY, Column, Hits, Metadata, Metric, RecordBatch, SparseVector, Vectors

P = ParamSpec("P")
T = TypeVar("T")

_NAMES = {
    Column.METADATA: "metadatas",
    Column.DOCUMENT: "documents",
    Column.VECTOR: "embeddings",
    Column.URI: "uris",
}


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What a query found: the fields of the engine's answer that results are made of, see ``backend.Answer``."""

    hits: Hits
    records: RecordBatch
    position: dict[int, int]


@dataclass(frozen=True, slots=True)
class Deleted:
    """How many records the server says it removed; it counts the ids that were asked for, unknown ones too."""

    removed: int


def reads(form: Callable[P, T]) -> Callable[P, T]:
    """Around what makes values of an answer. Raises ChromaError for JSON of another form, as some other service may give."""

    @functools.wraps(form)
    def reading(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return form(*args, **kwargs)
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ChromaError(
                "The server's answer has another form than Chroma's.", hint="Is it the address of a Chroma server?"
            ) from error

    return reading


@reads
def number(said: Any, name: str | None = None) -> int:
    """A whole number, or the one of this name."""
    return int(said if name is None else said[name])


@reads
def identity(said: Mapping[str, Any]) -> UserIdentity:
    """Whom the server takes the client for."""
    return UserIdentity(said["user_id"], said.get("tenant"), said.get("databases"), said.get("attributes"))


@reads
def tenant(said: Mapping[str, Any]) -> str:
    """A tenant's name."""
    return str(said["name"])


@reads
def database(said: Mapping[str, Any]) -> Database:
    """A database as the server describes it."""
    return Database(id=UUID(said["id"]), name=said["name"], tenant=said["tenant"])


@reads
def entry(said: Mapping[str, Any]) -> Entry:
    """A collection as the server describes it. Where it keeps the records is its own business."""
    configuration = said.get("configuration_json") or {}
    index = configuration.get("hnsw") or configuration.get("spann") or {}
    return Entry(
        id=UUID(said["id"]),
        tenant=said["tenant"],
        database=said["database"],
        name=said["name"],
        folder="",
        created=0,
        metric=Metric(index.get("space") or Metric.L2),
        metadata=said.get("metadata"),
        configuration=configuration,
        schema=said.get("schema"),
    )


@reads
def model(said: Mapping[str, Any]) -> Collection:
    """A collection as the server describes it, in full."""
    shown = entry(said)
    return Collection(
        shown.id,
        shown.name,
        shown.configuration,
        shown.schema,
        shown.metadata,
        said.get("dimension"),
        shown.tenant,
        shown.database,
        said.get("version") or 0,
        said.get("log_position") or 0,
    )


def created(given: Mapping[str, Any] | None, stored: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration that a new collection asks for: what was given, with the distance and the embedding function worked out.

    The server fills in the rest, so that its defaults are not overruled by ours.
    """
    asked: dict[str, Any] = {"hnsw": None, "spann": None, "embedding_function": stored["embedding_function"]}
    kind = "spann" if given and given.get("spann") is not None else "hnsw"
    own = {name: value for name, value in ((given or {}).get(kind) or {}).items() if value is not None}
    return {**asked, kind: {**own, "space": (stored["hnsw"] or stored["spann"])["space"]}}


def changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """What ``new`` changes in a configuration."""
    change: dict[str, Any] = {"hnsw": None, "spann": None, "embedding_function": None}
    for kind in ("hnsw", "spann"):
        before = old.get(kind) or {}
        fields = {name: value for name, value in (new.get(kind) or {}).items() if before.get(name) != value}
        change[kind] = fields or None
    if new.get("embedding_function") != old.get("embedding_function"):
        change["embedding_function"] = new.get("embedding_function")
    return change


def filters(expr: Expr | None) -> dict[str, Any]:
    """``where`` and ``where_document``: conditions on documents that stand beside others go into the latter, as callers give them."""
    parts = [] if expr is None else list(expr.children) if isinstance(expr, And) else [expr]
    documents = [part for part in parts if _only_documents(part)]
    others = [part for part in parts if not _only_documents(part)]
    return {"where": _joined(others, _condition), "where_document": _joined(documents, _document)}


def include(columns: frozenset[Column], *, distances: bool = False) -> list[str]:
    """The names of columns, in one order."""
    names = [name for column, name in _NAMES.items() if column in columns]
    return [*names, "distances"] if distances else names


def batch(given: RecordBatch, *, base64_vectors: bool) -> dict[str, Any]:
    """The body of an add, update or upsert. Vectors travel as base64 of little-endian float32 where the server takes that."""
    return {
        "ids": given.ids,
        "embeddings": None if given.vectors is None else vectors(given.vectors, base64_vectors=base64_vectors),
        "metadatas": given.metadatas,
        "documents": given.documents,
        "uris": given.uris,
    }


def vectors(given: Vectors, *, base64_vectors: bool) -> list[Any]:
    """One text or one list of numbers for each vector."""
    if not base64_vectors:
        return list(given.tolist())
    little = np.ascontiguousarray(given, dtype="<f4")
    return [base64.b64encode(row).decode("ascii") for row in little]


@reads
def records(said: Mapping[str, Any], columns: frozenset[Column]) -> RecordBatch:
    """The records of a ``get``."""
    return _batch(said["ids"], {name: said.get(name) for name in _NAMES.values()}, columns)


@reads
def answer(said: Mapping[str, Any], columns: frozenset[Column]) -> Answer:
    """The hits of a ``query``; each hit is a record of its own, numbered through all queries."""
    counts = np.array([len(ids) for ids in said["ids"]], np.int32)
    flat = {name: None if said.get(name) is None else _chained(said[name]) for name in _NAMES.values()}
    hits = Hits.empty(len(counts), int(counts.max(initial=0)))
    distances = said.get("distances") or [[0.0] * count for count in counts]
    first = 0
    for query, (count, row) in enumerate(zip(counts, distances, strict=True)):
        hits.rows[query, :count] = np.arange(first, first + count)
        hits.distances[query, :count] = np.array(row, np.float32).reshape(count)
        first += count
    hits.counts[:] = counts
    return Answer(hits, _batch(_chained(said["ids"]), flat, columns), {row: row for row in range(first)})


def metadata(said: Mapping[str, Any] | None) -> Metadata | None:
    """Metadata with sparse vectors as such."""
    if said is None:
        return None
    return {
        key: SparseVector.from_dict(value) if isinstance(value, dict) and TYPE_KEY in value else value
        for key, value in said.items()
    }


def _batch(ids: list[str], said: Mapping[str, Any], columns: frozenset[Column]) -> RecordBatch:
    def column(which: Column) -> Any:
        values = said.get(_NAMES[which])
        if values is not None and len(values) != len(ids):
            raise ValueError(f"{len(values)} {_NAMES[which]} for {len(ids)} ids")
        return None if which not in columns else values if values is not None else [None] * len(ids)

    metadatas = column(Column.METADATA)
    found = column(Column.VECTOR)
    dense = None if found is None else np.array(found, np.float32) if ids else np.empty((0, 0), np.float32)
    return RecordBatch(
        ids,
        dense,
        column(Column.DOCUMENT),
        None if metadatas is None else [metadata(each) for each in metadatas],
        column(Column.URI),
    )


def _chained(lists: Sequence[Sequence[Any] | None]) -> list[Any]:
    return [each for part in lists for each in part or ()]


def _only_documents(expr: Expr) -> bool:
    if isinstance(expr, And | Or):
        return bool(expr.children) and all(map(_only_documents, expr.children))
    return isinstance(expr, DocumentOperator)


def _joined(parts: list[Expr], form: Any) -> dict[str, Any] | None:
    if not parts:
        return None
    return form(parts[0]) if len(parts) == 1 else {"$and": [form(part) for part in parts]}


def _condition(expr: Expr) -> dict[str, Any]:
    """A condition as ``where`` has it; equality in its short form."""
    if isinstance(expr, And | Or):
        return {"$and" if isinstance(expr, And) else "$or": [_condition(child) for child in expr.children]}
    if isinstance(expr, InRows):
        raise TypeError("a set of rows means nothing to a server")
    condition = to_dict(expr)
    return {expr.field: expr.operand} if type(expr) is Eq else condition


def _document(expr: Expr) -> dict[str, Any]:
    """A condition as ``where_document`` has it."""
    if isinstance(expr, And | Or):
        return {"$and" if isinstance(expr, And) else "$or": [_document(child) for child in expr.children]}
    if not isinstance(expr, DocumentOperator):
        raise TypeError(f"{type(expr).__name__} is no condition on documents")
    return {expr.token: expr.operand}
