"""What every engine is given: records, queries, filters; and the exact answers that its answers are held against."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from benchmarks.datasets import Vectors, folded

Answers: TypeAlias = list[list[str]]
Mask: TypeAlias = npt.NDArray[np.bool_]

VECTORS, QUERIES, RECORDS = "packages-minilm-50k.npy", "packages-minilm-queries-1k.npy", "packages.jsonl.gz"
KEYS: Final = ("year", "month", "rank", "major")


class WrongAnswerError(Exception):
    """An engine returned what it must not: its timings would mean nothing."""


@dataclass(frozen=True, slots=True)
class Filter:
    """One condition on one metadata key, or on the document, in the words of each engine."""

    name: str
    key: str
    op: str
    value: int | float | str

    def arguments(self) -> dict[str, Any]:
        """As Chroma says it: ``where`` or ``where_document``."""
        if self.op == "$contains":
            return {"where_document": {self.op: self.value}}
        return {"where": {self.key: {self.op: self.value}}}

    def sql(self) -> str:
        """As SQL says it."""
        if self.op == "$contains":
            return f"{self.key} LIKE '%{self.value}%'"
        sign = {"$gte": ">=", "$gt": ">", "$lt": "<", "$eq": "="}[self.op]
        return f"{self.key} {sign} {self.value!r}"

    def mask(self, metadatas: Sequence[Mapping[str, Any]], documents: Sequence[str]) -> Mask:
        """[n] bool: which records pass."""
        if self.op == "$contains":
            return np.array([str(self.value) in each for each in documents])
        column = np.array([each[self.key] for each in metadatas])
        compare = {"$gte": np.greater_equal, "$gt": np.greater, "$lt": np.less, "$eq": np.equal}[self.op]
        return np.asarray(compare(column, self.value))


FILTERS: Final = (
    Filter("61", "year", "$gte", 2024),
    Filter("1.8", "rank", "$gt", 0),
    Filter("0.8", "month", "$eq", "2025-02"),
    Filter("word", "document", "$contains", "async"),
)
"""Named by the percentage of the 50,000 packages that pass, or by what is looked for: the word is in 1 % of them. Another data set
has other shares, which every row states."""


@dataclass(frozen=True, slots=True, eq=False)
class Workload:
    """Records as columns. vectors [n, dim] and queries [q, dim] float32; metadatas hold year, month, rank, major."""

    ids: list[str]
    documents: list[str]
    metadatas: list[dict[str, Any]]
    vectors: Vectors
    queries: Vectors

    def grown(self, more: int) -> Workload:
        """This one and, behind its records, copies of the first under new ids."""
        return Workload(
            self.ids + ["single-" + each for each in self.ids[:more]],
            self.documents + self.documents[:more],
            self.metadatas + self.metadatas[:more],
            np.concatenate([self.vectors, self.vectors[:more]]),
            self.queries,
        )

    def save(self, folder: Path) -> None:
        """Put it where the processes of the engines find it."""
        np.save(folder / "vectors.npy", self.vectors)
        np.save(folder / "queries.npy", self.queries)
        (folder / "records.json").write_text(json.dumps([self.ids, self.documents, self.metadatas]))

    @classmethod
    def load(cls, folder: Path) -> Workload:
        """What ``save`` left there."""
        ids, documents, metadatas = json.loads((folder / "records.json").read_text())
        return cls(ids, documents, metadatas, np.load(folder / "vectors.npy"), load_queries(folder))


def load_queries(folder: Path) -> Vectors:
    """The queries alone: a process whose memory is measured holds nothing else."""
    return np.asarray(np.load(folder / "queries.npy"))


class Truth:
    """The exact answers for one filter, by brute force over the same float32 rows.

    Equal distances are one group: a returned row is right if its true distance is no more than that of the k-th true neighbour.
    """

    def __init__(self, workload: Workload, filtered: Filter | None, k: int) -> None:
        self._queries, self._vectors = unit(workload.queries), unit(workload.vectors)
        self._row = {each: row for row, each in enumerate(workload.ids)}
        self._passes = np.ones(len(workload.ids), bool)
        if filtered is not None:
            self._passes = filtered.mask(workload.metadatas, workload.documents)
        self.share = float(self._passes.mean())
        self._wanted = min(k, int(self._passes.sum()))
        candidates = self._vectors[self._passes]
        kth = len(candidates) - self._wanted
        scores = (self._queries[at : at + 100] @ candidates.T for at in range(0, len(self._queries), 100))
        self._bound = np.concatenate([np.partition(block, kth, axis=1)[:, kth] for block in scores])

    def recall(self, answers: Sequence[Sequence[str]]) -> float:
        """The mean share of true neighbours in the answers to the first queries. Raises WrongAnswerError."""
        return float(np.mean([self._share_found(query, answer) for query, answer in enumerate(answers)]))

    def _share_found(self, query: int, answer: Sequence[str]) -> float:
        rows = np.array([self._row[each] for each in answer], dtype=np.intp)
        if len(np.unique(rows)) < len(rows) or len(rows) > self._wanted:
            raise WrongAnswerError(f"query {query} returned a record twice, or more than {self._wanted} records: {answer}")
        if not self._passes[rows].all():
            raise WrongAnswerError(f"query {query} returned a record that does not pass the filter: {answer}")
        right = self._vectors[rows] @ self._queries[query] >= self._bound[query] - 1e-6
        return int(right.sum()) / self._wanted


def packages(folder: Path, rows: int) -> Workload:
    """Descriptions of Python packages, embedded by all-MiniLM-L6-v2 (384 dimensions). Raises ValueError if there are fewer rows."""
    vectors = np.load(folder / VECTORS)[:rows].astype(np.float32)
    if len(vectors) < rows:
        raise ValueError(f"{folder / VECTORS} has {len(vectors)} rows, {rows} were asked for")
    with gzip.open(folder / RECORDS, "rt") as lines:
        records = [json.loads(line) for line in islice(lines, rows)]
    return Workload(
        [each["id"] for each in records],
        [each["text"] for each in records],
        [{key: each[key] for key in KEYS} for each in records],
        vectors,
        np.load(folder / QUERIES).astype(np.float32),
    )


def generated(rows: int, dim: int = 384) -> Workload:
    """Records for machines without the files: folded vectors, and metadata with the shares of the packages."""
    rng = np.random.default_rng(0)
    vectors = folded(rows + 1_000, dim)
    words = np.array([f"word{each}" for each in range(2_000)])
    words[64] = FILTERS[-1].value  # in 1 % of the texts
    texts = words[np.minimum(rng.zipf(1.3, (rows, 9)), len(words)) - 1]
    years = np.where(rng.random(rows) < 0.614, rng.integers(2024, 2027, rows), rng.integers(2005, 2024, rows))
    months = rng.choice(np.arange(1, 13), rows)
    # A twelfth of the packages of 2025 would be 1.7 %; half of them makes 0.8 %.
    months[(years == 2025) & (months == 2) & (rng.random(rows) < 0.5)] = 3
    ranks = np.where(rng.random(rows) < 0.018, rng.integers(1, 15_001, rows), 0)
    majors = rng.geometric(0.66, rows) - 1
    metadatas = [
        {"year": int(year), "month": f"{year}-{month:02}", "rank": int(rank), "major": str(major)}
        for year, month, rank, major in zip(years, months, ranks, majors, strict=True)
    ]
    ids = [f"package-{each}" for each in range(rows)]
    return Workload(ids, [" ".join(each) for each in texts], metadatas, vectors[:rows], vectors[rows:])


def unit(vectors: Vectors) -> Vectors:
    """Each vector with length 1."""
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
