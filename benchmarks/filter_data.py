"""What filtered searches are measured on: generated rows whose metadata passes any share of them, near the query, far from it, anywhere.

Vectors are ``datasets.folded``. Every row has four metadata keys and a document:

    shard   int, uniform in [0, 10,000), independent of the vector: ``shard < 100`` passes 1 % anywhere
    near_a  float, the row's cosine with the centre of the first group of queries: ``near_a >= x`` passes the rows around these
            queries, ``near_a < x`` those farthest from them
    near_b  the same for the second group
    label   str, one of 2,000, unequally common

A group of queries are those of 4,096 held back rows that are nearest to its centre, which is one of them; the second centre is the one
least like the first. So a correlated filter passes rows among which the query's neighbours are, and an anti-correlated
one passes rows that a search for its neighbours meets last.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from benchmarks.datasets import Vectors, folded
from benchmarks.workload import RECORDS, Filter, Mask, Workload, WrongAnswerError, generated, unit

DIM, LABELS, SHARDS = 128, 2_000, 10_000
SHARES: Final = (0.9, 0.5, 0.1, 0.02, 0.01, 0.003, 0.0001)
K: Final = 10
_HELD_BACK: Final = 4_096
_AT_ONCE: Final = 1 << 17


class Relation(StrEnum):
    """Of the rows that pass a filter to the query."""

    RANDOM = "random"
    NEAR = "correlated"
    FAR = "anti-correlated"


@dataclass(frozen=True, slots=True)
class Cell:
    """A column of answers: which rows pass, and how many."""

    relation: Relation
    share: float

    @property
    def case(self) -> str:
        """Its name in the results."""
        return f"grid_{self.relation}_{self.share * 100:g}"


CELLS: Final = tuple(Cell(relation, share) for relation in Relation for share in SHARES)


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """The first n rows as columns; queries [q, dim], of which the first half is the group a, the second b."""

    vectors: Vectors
    queries: Vectors
    shard: npt.NDArray[np.int64]
    near: npt.NDArray[np.float64]
    """[2, n]"""
    label: npt.NDArray[np.int64]

    @classmethod
    def load(cls, folder: Path, n: int | None = None) -> Rows:
        """What ``prepare`` left there; the vectors stay on the disk."""
        columns = {
            name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("vectors", "queries", "shard", "near", "label")
        }
        n = len(columns["vectors"]) if n is None else n
        near = columns["near"][:, :n]
        return cls(columns["vectors"][:n], np.array(columns["queries"]), columns["shard"][:n], near, columns["label"][:n])

    def filters(self, cell: Cell) -> list[Filter]:
        """The cell's filter for each group of queries."""
        if cell.relation is Relation.RANDOM:
            return [Filter(cell.case, "shard", "$lt", round(cell.share * SHARDS))] * 2
        passing = max(1, round(cell.share * len(self.label)))
        place = -passing if cell.relation is Relation.NEAR else passing
        sign = "$gte" if cell.relation is Relation.NEAR else "$lt"
        bounds = [np.partition(column, place)[place] for column in self.near]
        return [Filter(cell.case, key, sign, float(bound)) for key, bound in zip(("near_a", "near_b"), bounds, strict=True)]

    def mask(self, filtered: Filter) -> Mask:
        """[n] bool."""
        column = {"shard": self.shard, "near_a": self.near[0], "near_b": self.near[1]}[filtered.key]
        if filtered.op == "$gte":
            return np.asarray(column >= filtered.value)
        return np.asarray(column < filtered.value)

    def group(self, query: int) -> int:
        """0 for the group a, 1 for b."""
        return query * 2 // len(self.queries)

    def batches(self, texts: Sequence[str], size: int) -> Iterator[Workload]:
        """All rows as records, some at a time; the texts are repeated until there are enough."""
        for start in range(0, len(self.label), size):
            stop = min(start + size, len(self.label))
            part = slice(start, stop)
            columns = zip(self.shard[part].tolist(), *self.near[:, part].tolist(), self.label[part].tolist(), strict=True)
            yield Workload(
                [f"r{row}" for row in range(start, stop)],
                [texts[row % len(texts)] for row in range(start, stop)],
                [{"shard": shard, "near_a": a, "near_b": b, "label": f"label-{label}"} for shard, a, b, label in columns],
                np.array(self.vectors[part]),
                self.queries,
            )


def prepare(folder: Path, n: int, queries: int) -> None:
    """Make the columns of n rows and save them."""
    vectors = folded(n + _HELD_BACK, DIM)
    vectors, held_back = vectors[:n], unit(vectors[n:])
    centres = held_back[[0, int((held_back @ held_back[0]).argmin())]]
    groups = [np.argsort(-(held_back @ centre))[: queries // 2] for centre in centres]
    rng = np.random.default_rng(5)
    np.save(folder / "vectors.npy", vectors)
    np.save(folder / "queries.npy", held_back[np.concatenate(groups)])
    np.save(folder / "shard.npy", rng.integers(0, SHARDS, n))
    np.save(folder / "label.npy", np.minimum(rng.zipf(1.2, n), LABELS) - 1)
    np.save(folder / "near.npy", np.concatenate([(part @ centres.T).T for part in _units(vectors)], axis=1).astype(np.float64))


def texts(data: Path) -> tuple[str, list[dict[str, Any]]]:
    """What documents and their metadata are made of: the package descriptions, or generated ones where their file is not there."""
    if (data / RECORDS).exists():
        with gzip.open(data / RECORDS, "rt") as lines:
            return "packages", [json.loads(line) for line in lines]
    made = generated(20_000, dim=2)
    columns = zip(made.ids, made.documents, made.metadatas, strict=True)
    return "generated", [{"id": name, "text": text, **metadata} for name, text, metadata in columns]


class Judge:
    """The exact answers of every cell for a number of rows.  Equal distances are one group, as in ``workload.Truth``."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self.filters = {cell: rows.filters(cell) for cell in CELLS}
        masks = {each: rows.mask(each) for pair in self.filters.values() for each in pair}
        self._wanted = {each: min(K, int(mask.sum())) for each, mask in masks.items()}
        self.share = {each: float(mask.mean()) for each, mask in masks.items()}
        self._bound = {cell: np.empty(len(rows.queries)) for cell in CELLS}
        for start in range(0, len(rows.queries), 10):
            part = rows.queries[start : start + 10]
            scores = np.concatenate([part @ block.T for block in _units(rows.vectors)], axis=1)
            for cell, bound in self._bound.items():
                for at in range(len(part)):
                    filtered = self.filters[cell][rows.group(start + at)]
                    passing = scores[at, masks[filtered]]
                    place = len(passing) - self._wanted[filtered]
                    bound[start + at] = np.partition(passing, place)[place] if self._wanted[filtered] else np.inf

    def save(self, file: Path) -> None:
        """Keep what took long."""
        np.save(file, np.stack([self._bound[cell] for cell in CELLS]))

    @classmethod
    def load(cls, file: Path, rows: Rows) -> Judge:
        """The one that was saved for these rows."""
        judge = cls.__new__(cls)
        judge._rows, judge.filters = rows, {cell: rows.filters(cell) for cell in CELLS}
        counts = {each: int(rows.mask(each).sum()) for pair in judge.filters.values() for each in pair}
        judge._wanted = {each: min(K, count) for each, count in counts.items()}
        judge.share = {each: count / len(rows.label) for each, count in counts.items()}
        judge._bound = dict(zip(CELLS, np.load(file), strict=True))
        return judge

    def recall(self, cell: Cell, query: int, answer: Sequence[str]) -> float:
        """The share of the true neighbours of one query that is in an answer. Raises WrongAnswerError."""
        filtered = self.filters[cell][self._rows.group(query)]
        rows = np.array([int(each[1:]) for each in answer], dtype=np.intp)
        if len(np.unique(rows)) < len(rows) or len(rows) > self._wanted[filtered]:
            raise WrongAnswerError(f"{cell.case}, query {query}: a record twice, or too many: {answer}")
        values = {"shard": self._rows.shard, "near_a": self._rows.near[0], "near_b": self._rows.near[1]}[filtered.key][rows]
        if not (values >= filtered.value if filtered.op == "$gte" else values < filtered.value).all():
            raise WrongAnswerError(f"{cell.case}, query {query}: a record that does not pass the filter: {answer}")
        if not self._wanted[filtered]:
            return 1.0
        scores = unit(self._rows.vectors[rows]) @ self._rows.queries[query] if len(rows) else np.empty(0)
        return int((scores >= self._bound[cell][query] - 1e-6).sum()) / self._wanted[filtered]


def _units(vectors: Vectors) -> Iterator[Vectors]:
    for start in range(0, len(vectors), _AT_ONCE):
        yield unit(vectors[start : start + _AT_ONCE])
