"""Transforms: what ``query(transforms=[...])`` does beside finding the nearest records.

    collection.query(query_texts=["..."], transforms=[NotSimilarTo("fiction", above=0.5), Boost({"lang": "en"}, factor=0.9), Diversify()])

They may be listed in any order; they are always applied in this one, and each may be there several times but Rerank and Diversify:

1. SimilarTo, NotSimilarTo  rule out records; what is left is searched exactly as if a filter had left it
2. MaxDistance              rules out records by their distance to the query, before any boost
3. Boost, Boost.field       change distances; the nearest are then found under the changed distance
4. Rerank                   orders the first ``fetch`` of these anew
5. Diversify                chooses from the first ``fetch`` of these

Every one of them is checked when it is made. Raises TypeError, ValueError, InvalidArgumentError, InvalidFilter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike, fspath
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np

from chroma_gpu.api import validate
from chroma_gpu.api.where import parse_where, parse_where_document
from chroma_gpu.embed.cross_encoder import CrossEncoder
from chroma_gpu.engine import transforms as engine
from chroma_gpu.filter import And, Expr
from chroma_gpu.records import Vectors
from chroma_gpu.values import nearest_float

Scorer: TypeAlias = Callable[[Any, list[Any]], Sequence[float]]
"""What ``Rerank`` takes: (query, documents or records) -> a score for each, larger for better ones."""


@dataclass(frozen=True, slots=True)
class MaxDistance:
    """Leave out records that are farther from the query, in the collection's distance and before any boost; ``limit`` itself is in.

    Of several the least counts, and ``query(max_distance=...)`` is one of them.
    """

    limit: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "limit", _number("limit", self.limit, infinite=True))


@dataclass(frozen=True, slots=True, init=False, eq=False)
class SimilarTo:
    """Only records that are near to something else than the query: on the near side of a half-space, or inside a ball.

    to      a vector; or a text, which is embedded as a query is; or give ``id``, the id of a record whose stored vector is meant
    above   the similarity must be larger than this; it is 1 - distance, so cosine similarity or inner product. Not for l2
    within  or: the distance must not be larger than this. For every metric
    The distances compared are those that a query for the same vector would report.
    """

    to: Vectors | str | None
    id: str | None
    above: float | None
    within: float | None
    outside: ClassVar[bool] = False

    def __init__(self, to: Any = None, *, id: str | None = None, above: float | None = None, within: float | None = None) -> None:
        name = type(self).__name__
        if (to is None) == (id is None):
            raise ValueError(f"{name} takes either a vector or a text, or id=")
        if (above is None) == (within is None):
            raise ValueError(f"{name} takes either above= or within=")
        if id is not None:
            validate.check_ids([id])
        if isinstance(to, str):
            validate.check_documents([to], nullable=False)
        elif to is not None:
            vectors = validate.as_vectors(validate.as_arrays(to))
            if len(vectors) != 1:
                raise ValueError(f"{name} takes one vector, got {len(vectors)}")
            to = vectors[0]
        for key, value in (("to", to), ("id", id)):
            object.__setattr__(self, key, value)
        for key, value in (("above", above), ("within", within)):
            object.__setattr__(self, key, None if value is None else _number(key, value, infinite=True))

    def meant(self, to: Vectors | str) -> engine.Constraint:
        """As the engine knows it; ``to`` is the vector or the id."""
        if self.within is not None:
            return engine.Constraint(to, self.within, outside=self.outside)
        return engine.Constraint(to, self.above or 0.0, similarity=True, outside=self.outside)


@dataclass(frozen=True, slots=True, init=False, eq=False)
class NotSimilarTo(SimilarTo):
    """Only records for which ``SimilarTo`` with the same arguments does not hold."""

    outside: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, init=False, eq=False)
class Boost:
    """Change the distance of records that satisfy a filter to distance * factor + add. Smaller is nearer.

    where, where_document  as in ``query``; both must hold if both are given
    factor  above 0; below 1 brings records nearer. Distances of ip may be negative: a factor below 1 then moves them away, so use add
    add     any number; below 0 brings records nearer
    Of several that hold for a record, all factors are applied, and then everything is added. Records with equal changed distances come
    in the order of their distances before.
    """

    expr: Expr
    factor: float
    add: float

    def __init__(
        self,
        where: Mapping[str, Any] | None = None,
        *,
        where_document: Mapping[str, Any] | None = None,
        factor: float | None = None,
        add: float | None = None,
    ) -> None:
        if where is None and where_document is None:
            raise ValueError("Boost takes where, where_document, or both")
        if factor is None and add is None:
            raise ValueError("Boost takes factor, add, or both")
        parts = [] if where is None else [parse_where(where)]
        parts += [] if where_document is None else [parse_where_document(where_document)]
        object.__setattr__(self, "expr", parts[0] if len(parts) == 1 else And(tuple(parts)))
        object.__setattr__(self, "factor", 1.0 if factor is None else _number("factor", factor))
        object.__setattr__(self, "add", 0.0 if add is None else _number("add", add))
        if self.factor <= 0:
            raise ValueError(f"Expected factor to be above 0, got {factor}")

    @staticmethod
    def field(name: str, weight: float, *, missing: float = 0.0) -> FieldBoost:
        """A boost by a number in metadata; see ``FieldBoost``."""
        return FieldBoost(name, weight, missing)

    def meant(self) -> engine.Boost:
        """As the engine knows it."""
        return engine.Boost(self.expr, self.factor, self.add)


@dataclass(frozen=True, slots=True)
class FieldBoost:
    """Change the distance of every record to distance - weight * value, where value is the int or float in a metadata field.

    name     the field
    weight   above 0 brings records with large values nearer, below 0 those with small ones
    missing  the value of records that have no number there
    Costs    a pass over all candidates for each query
    """

    name: str
    weight: float
    missing: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"Expected the name of a metadata field to be a str, got {self.name!r}")
        for key in ("weight", "missing"):
            object.__setattr__(self, key, _number(key, getattr(self, key)))

    def meant(self) -> engine.FieldBoost:
        """As the engine knows it."""
        return engine.FieldBoost(self.name, self.weight, self.missing)


@dataclass(frozen=True, slots=True)
class Rerank:
    """Order the nearest records anew by a score, largest first; equal scores in the order of their distances.

    scorer  called once for each query, as scorer(query, items), and returns one finite number for each item. Or the directory or name of
            a cross-encoder of sentence-transformers, which is loaded at its first use, from safetensors and without running code of it
    fetch   how many of the nearest it sees; at least n_results. No other record can be in the answer
    takes   "documents": items are texts and the query is one, so ``query_texts`` must be given. Records without a document come last,
            with the score -inf. "records": items are dicts with id, document, metadata, uri and distance, and the query is what was
            given for it: the text, the image, or the vector
    device  of a cross-encoder
    The answer has the scores under the key "scores"; its distances are no longer in order.
    """

    scorer: Scorer | str | PathLike[str]
    fetch: int = 50
    takes: Literal["documents", "records"] = "documents"
    device: str = field(default="auto", kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.scorer, str | PathLike):
            if self.takes != "documents":
                raise ValueError("A cross-encoder takes documents")
            object.__setattr__(self, "scorer", CrossEncoder(fspath(self.scorer), self.device))
        elif not callable(self.scorer):
            raise TypeError(f"Expected a function, or the directory or name of a cross-encoder, got {self.scorer!r}")
        if self.takes not in ("documents", "records"):
            raise ValueError(f'Expected takes to be "documents" or "records", got {self.takes!r}')
        _check_fetch(self.fetch)


@dataclass(frozen=True, slots=True)
class Diversify:
    """Choose from the nearest records those that are near to the query and far from each other: maximal marginal relevance.

    The first is the first there is. Each further one has the largest (1 - balance) * distance to the nearest of those chosen
    - balance * distance to the query, in the collection's distance, as boosted. After ``Rerank`` the scores count instead, put on the
    scale of the distances: the best score is worth the least of them, the worst the largest.

    balance  from 0, as different as can be, to 1, nearness alone
    fetch    how many of the nearest are chosen from, at least n_results; None is 4 * n_results, and at least 20
    """

    balance: float = 0.5
    fetch: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "balance", _number("balance", self.balance))
        if not 0 <= self.balance <= 1:
            raise ValueError(f"Expected balance to be from 0 to 1, got {self.balance}")
        if self.fetch is not None:
            _check_fetch(self.fetch)


Transform: TypeAlias = MaxDistance | SimilarTo | Boost | FieldBoost | Rerank | Diversify


def _number(name: str, value: Any, *, infinite: bool = False) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"Expected {name} to be a number, got {value!r}")
    number = nearest_float(value.item() if isinstance(value, np.generic) else value)
    if math.isnan(number) or (math.isinf(number) and not infinite):
        raise ValueError(f"Expected {name} to be a {'number' if infinite else 'finite number'}, got {value!r}")
    return number


def _check_fetch(fetch: Any) -> None:
    if not isinstance(fetch, int) or isinstance(fetch, bool):
        raise TypeError(f"Expected fetch to be an int, got {fetch!r}")
    if fetch < 1:
        raise ValueError(f"Expected fetch to be 1 or more, got {fetch}")
