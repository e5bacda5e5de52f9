"""Queries of a file to a file of hits, many at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import Any, Final, TypeAlias

import numpy as np

from chroma_gpu.api import validate
from chroma_gpu.api.models.Collection import Collection
from chroma_gpu.api.models.CollectionReads import expression
from chroma_gpu.api.types import QueryResult, Where, WhereDocument
from chroma_gpu.errors import ChromaError, EmbeddingFailed, InvalidArgumentError, ModelNotFound
from chroma_gpu.jobs import hits, inputs
from chroma_gpu.jobs.dead_letters import DeadLetters
from chroma_gpu.jobs.hits import Answer
from chroma_gpu.jobs.inputs import DEAD_LETTERS
from chroma_gpu.jobs.options import EmbedOptions, Format
from chroma_gpu.jobs.progress import Mode, Progressed, Tell, shown
from chroma_gpu.jobs.questions import Columns, Question, bad, read
from chroma_gpu.jobs.report import duration, save
from chroma_gpu.jobs.rows import BadRow, Stage
from chroma_gpu.records import Vectors

BATCH: Final = 4_096
"""Queries that are embedded at once."""

AT_ONCE: Final = 100_000
"""Hits of the queries that are searched for at once."""

HOPELESS: Final = 16
"""Texts in a row that the model fails on before it is taken to be broken."""

_Answered: TypeAlias = list[Answer | BadRow]


@dataclass(slots=True, kw_only=True)
class BulkReport:
    """What a ``bulk_query`` did.

    queries_in, answered, dead  queries that were read, were answered, were bad
    hits                        in all answers together
    embedding_seconds, searching_seconds  parts of ``seconds``
    dead_letter                 file of the bad queries, if there are any
    """

    collection: str
    out: str
    n_results: int
    queries_in: int = 0
    answered: int = 0
    dead: int = 0
    hits: int = 0
    seconds: float = 0.0
    embedding_seconds: float = 0.0
    searching_seconds: float = 0.0
    dead_letter: str | None = None

    @property
    def queries_per_second(self) -> float:
        """Of the whole time."""
        return self.queries_in / self.seconds if self.seconds else 0.0

    @property
    def exit_code(self) -> int:
        """What a command ends with: 0, 3 with bad queries."""
        return 3 if self.dead else 0

    def to_json(self) -> dict[str, Any]:
        """Every field, and the rate."""
        return asdict(self) | {"queries_per_second": round(self.queries_per_second, 3)}

    def write(self, path: str | os.PathLike[str]) -> None:
        """``to_json`` as a file, which is there whole or not at all. Raises OSError."""
        save(path, self.to_json())

    def lines(self) -> list[str]:
        """The report for people, the most important line first."""
        where = "standard output" if self.out == "-" else self.out
        lines = [f"{self.collection}: {self.answered:,} of {self.queries_in:,} queries answered, {self.hits:,} hits in {where}"]
        if self.dead:
            kept = f", kept in {self.dead_letter}" if self.dead_letter else ""
            lines.append(f"  {self.dead:,} bad {'query' if self.dead == 1 else 'queries'}{kept}")
        parts = f"{duration(self.embedding_seconds)} embedding, {duration(self.searching_seconds)} searching"
        lines.append(f"  {duration(self.seconds)}: {self.queries_per_second:,.0f} queries/s; {parts}")
        return lines


def bulk_query(
    collection: Collection,
    queries: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    k: int = 10,
    where: Where | None = None,
    where_document: WhereDocument | None = None,
    max_distance: float | None = None,
    include: Sequence[str] = ("distances",),
    text_column: str | None = None,
    id_column: str | None = None,
    vector_column: str | None = None,
    format: Format = "auto",
    encodings: Sequence[str] = ("utf-8",),
    batch: int = BATCH,
    dead_letter: str | os.PathLike[str] | None = None,
    progress: Mode | Tell = "auto",
) -> BulkReport:
    """The answers of every query in a file, as ``Collection.query`` gives them one by one, in the order of the queries.

    queries   .jsonl, .csv, .tsv, .parquet, .txt with a query a line, and what else ``embed`` reads; "-" is standard input. Of a row,
              the text is in ``text_column`` (else text, query or question), or a vector in ``vector_column`` (else vector or
              embedding), which then counts; the id in ``id_column`` (else query_id, id or _id; else the number of the row). where and
              where_document, objects or JSON, hold for that query, beside those of all queries
    out       .jsonl has an object for each query; .parquet, .csv and .tsv a row for each hit; "-" is standard output, as JSON lines
    include   of distances, documents, metadatas, uris
    batch     queries that are embedded at once
    dead_letter  file for bad queries; None is ``out`` with .bad.jsonl behind it, and nowhere for "-". It is made anew
    progress  as in ``progress.shown``
    Raises    InvalidArgumentError, ValueError, TypeError before anything is read; EngineError if the file breaks off; OSError
    Memory    some ``batch`` queries, and the hits of as many as have 100,000
    Crash     ``out`` is there whole, or what was there before
    """
    started, target = monotonic(), os.fspath(out)
    options = EmbedOptions(inputs=(os.fspath(queries),), collection=collection.name, format=format, encodings=tuple(encodings))
    sources = inputs.found(options)
    hits.check(target, include)
    validate.check_n_results(k)
    expression(where, where_document)
    validate.check_max_distance(max_distance)
    if batch < 1:
        raise ValueError(f"batch must be 1 or more, got {batch}")
    bad_file = _dead_letter(target, dead_letter, [source.path for source in sources])
    report = BulkReport(collection=collection.name, out=target, n_results=k)
    columns = Columns(id=id_column, text=text_column, vector=vector_column, dim=collection.describe()["dimension"])
    with ExitStack() as stack:
        dead = None
        if bad_file is not None:
            dead = DeadLetters(bad_file, None, ours=True)
            stack.callback(dead.close)
        file = stack.enter_context(hits.opened(target, include))
        tell = stack.enter_context(shown(progress, None, "querying"))
        rows = iter(read(sources, options, columns))
        search = _Search(collection, k, where, where_document, max_distance, list(include), report)
        while block := list(islice(rows, batch)):
            refused = []
            for row, answer in zip(block, search.answers(block), strict=True):
                report.queries_in += 1
                if isinstance(answer, BadRow) or isinstance(row, BadRow):
                    refused.append(answer)
                    continue
                file.add(row.id, answer)
                report.answered += 1
                report.hits += len(answer["ids"])
            report.dead += len(refused)
            if dead is not None:
                dead.append([each for each in refused if isinstance(each, BadRow)])
            report.seconds = monotonic() - started
            tell(Progressed(done=report.queries_in, dead=report.dead, seconds=report.seconds))
        if report.dead and bad_file is not None:
            report.dead_letter = str(bad_file)
    report.seconds = monotonic() - started
    return report


class _Search:
    """What is the same for all queries of a file."""

    def __init__(
        self,
        collection: Collection,
        k: int,
        where: Where | None,
        where_document: WhereDocument | None,
        max_distance: float | None,
        include: list[str],
        report: BulkReport,
    ) -> None:
        self._collection, self._k, self._report = collection, k, report
        self._where, self._where_document = where, where_document
        self._asked: dict[str, Any] = {"n_results": k, "max_distance": max_distance, "include": include}
        self._failed = 0

    def answers(self, block: Sequence[Question | BadRow]) -> _Answered:
        """The answer of each query, or what is wrong with it."""
        answers: _Answered = [each if isinstance(each, BadRow) else {"ids": []} for each in block]
        started = monotonic()
        vectors = self._vectors(block, answers)
        self._report.embedding_seconds += monotonic() - started
        started = monotonic()
        groups: dict[str, list[int]] = {}
        for at, each in enumerate(block):
            if isinstance(each, Question) and at in vectors:
                groups.setdefault(json.dumps([each.where, each.where_document], sort_keys=True), []).append(at)
        size = max(1, min(len(block), AT_ONCE // self._k))
        for group in groups.values():
            for start in range(0, len(group), size):
                part = group[start : start + size]
                self._search([(at, block[at], vectors[at]) for at in part], answers)
        self._report.searching_seconds += monotonic() - started
        return answers

    def _vectors(self, block: Sequence[Question | BadRow], answers: _Answered) -> dict[int, Vectors]:
        """The vector of each query that has one, by its place; the others become bad rows."""
        vectors = {at: each.vector for at, each in enumerate(block) if isinstance(each, Question) and each.vector is not None}
        texts = [(at, each) for at, each in enumerate(block) if isinstance(each, Question) and each.text is not None]
        pending = [texts] if texts else []
        while pending:
            part = pending.pop()
            try:
                embedded = self._collection.embed_queries([each.text for _, each in part])
            except ModelNotFound:
                raise
            except EmbeddingFailed as error:
                # One text that the model fails on fails all of them: halves, until it stands alone.
                if len(part) > 1:
                    pending += [part[len(part) // 2 :], part[: len(part) // 2]]
                    continue
                self._failed += 1
                if self._failed >= HOPELESS:
                    raise
                ((at, each),) = part
                answers[at] = bad(each.row, error, Stage.EMBED)
                continue
            self._failed = 0
            vectors.update(zip((at for at, _ in part), embedded, strict=True))
        return vectors

    def _search(self, part: Sequence[tuple[int, Any, Vectors]], answers: _Answered) -> None:
        """The answers of queries with the same filters."""
        question: Question = part[0][1]
        asked = self._asked | {
            "where": _both(self._where, question.where),
            "where_document": _both(self._where_document, question.where_document),
        }
        try:
            found = self._collection.query(query_embeddings=np.stack([vector for *_, vector in part]), **asked)
        except (ChromaError, ValueError, TypeError) as error:
            if question.where is None and question.where_document is None:
                raise
            # What is wrong is their filter: everything else was looked at before.
            for at, each, _ in part:
                answers[at] = bad(each.row, error)
            return
        for (at, *_), answer in zip(part, _by_query(found, asked["include"]), strict=True):
            answers[at] = answer


def _by_query(found: QueryResult, include: Sequence[str]) -> Iterable[Answer]:
    names = ["ids", *include]
    columns: list[Any] = [found[name] for name in names]
    return (dict(zip(names, each, strict=True)) for each in zip(*columns, strict=True))


def _both(one: Any, other: Any) -> Any:
    return one if other is None else other if one is None else {"$and": [one, other]}


def _dead_letter(out: str, given: str | os.PathLike[str] | None, read: Sequence[Path | None]) -> Path | None:
    """The file of bad queries. Raises InvalidArgumentError if a file that is read would be written."""
    path = Path(given) if given is not None else None if out == "-" else Path(f"{out}{DEAD_LETTERS}")
    written = [each.resolve() for each in (path, None if out == "-" else Path(out)) if each is not None]
    for each in read:
        if each is not None and each.resolve() in written:
            raise InvalidArgumentError(f"{each} is read, so it cannot be written.", hint="Name another file.")
    if len(set(written)) < len(written):
        raise InvalidArgumentError(f"{path} cannot have both hits and bad queries.", hint="Name another file.")
    return path
