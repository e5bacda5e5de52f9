"""Transforms in their order: what of them the engine is asked, and what is done with its answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, Final, Self, get_args

import numpy as np
import numpy.typing as npt

from chroma_gpu.api.transforms import Boost, Diversify, FieldBoost, MaxDistance, Rerank, SimilarTo, Transform
from chroma_gpu.embed.cross_encoder import CrossEncoder
from chroma_gpu.engine.diversity import diversified
from chroma_gpu.engine.table import Found
from chroma_gpu.engine.transforms import Transforms
from chroma_gpu.errors import InvalidArgumentError
from chroma_gpu.filter import Expr
from chroma_gpu.records import Column, Hits, Metric, RecordBatch, Vectors

Scores = npt.NDArray[np.float64]

_RECORD: Final = {"document": Column.DOCUMENT, "metadata": Column.METADATA, "uri": Column.URI}


@dataclass(frozen=True, slots=True, eq=False)
class Chain:
    """The transforms of one call, sorted by what they do.

    queries  what each query was: its text if there is one, else what was given for it
    """

    metric: Metric
    queries: Sequence[Any]
    constraints: Sequence[SimilarTo]
    farthest: float
    boosts: Sequence[Boost]
    fields: Sequence[FieldBoost]
    rerank: Rerank | None
    diversify: Diversify | None

    @classmethod
    def of(cls, transforms: Any, metric: Metric, queries: Sequence[Any], texts: Any, max_distance: float | None) -> Self | None:
        """The transforms as they were given; None where there are none.

        queries  what is searched for; texts: what was given as query_texts
        Raises   TypeError, ValueError, InvalidArgumentError
        """
        if transforms is None or (isinstance(transforms, list | tuple) and not transforms):
            return None
        if not isinstance(transforms, list | tuple):
            raise TypeError(f"Expected transforms to be a list, got {type(transforms).__name__}")
        for each in transforms:
            if not isinstance(each, get_args(Transform)):
                raise TypeError(f"Expected transforms to be objects of chroma_gpu.transforms, got {each!r}")
        said = None if texts is None else texts if isinstance(texts, list) else [texts]
        limits = [each.limit for each in transforms if isinstance(each, MaxDistance)]
        chain = cls(
            metric=metric,
            queries=queries if said is None else said,
            constraints=[each for each in transforms if isinstance(each, SimilarTo)],
            farthest=min([*limits, *(() if max_distance is None else (max_distance,))], default=math.inf),
            boosts=[each for each in transforms if isinstance(each, Boost)],
            fields=[each for each in transforms if isinstance(each, FieldBoost)],
            rerank=_only(transforms, Rerank),
            diversify=_only(transforms, Diversify),
        )
        if metric is Metric.L2 and any(each.above is not None for each in chain.constraints):
            raise InvalidArgumentError(
                "The distance l2 has no similarity that above= could mean.", hint="Give a distance as within=."
            )
        if chain.rerank is not None:
            if chain.rerank.takes == "documents" and said is None:
                raise ValueError("Rerank compares documents with the text of a query: give query_texts too")
            if None in (said or ()):
                raise ValueError("Rerank needs one text for each query, got None for one of them")
            if len(chain.queries) != len(queries):
                raise ValueError(f"Rerank needs one text for each query, got {len(chain.queries)} for {len(queries)}")
        return chain

    @property
    def conditions(self) -> list[Expr]:
        """The filters of the boosts."""
        return [boost.expr for boost in self.boosts]

    @property
    def texts(self) -> list[str]:
        """The texts that records are compared with."""
        return [each.to for each in self.constraints if isinstance(each.to, str)]

    @property
    def columns(self) -> frozenset[Column]:
        """What must be read of the records that are found."""
        asked = set() if self.diversify is None else {Column.VECTOR}
        if self.rerank is not None:
            asked |= {Column.DOCUMENT} if self.rerank.takes == "documents" else set(_RECORD.values())
        return frozenset(asked)

    def fetch(self, n_results: int) -> int:
        """How many of the nearest must be found."""
        if self.rerank is not None:
            return max(self.rerank.fetch, n_results)
        return n_results if self.diversify is None else self._chosen_from(n_results)

    def meant(self, embed: Callable[[list[str]], Vectors]) -> Transforms:
        """What the engine is asked."""
        texts = self.texts
        vectors = iter(embed(texts) if texts else ())
        constraints = [
            each.meant(next(vectors) if isinstance(each.to, str) else each.to if each.to is not None else str(each.id))
            for each in self.constraints
        ]
        return Transforms(
            constraints, self.farthest, [each.meant() for each in self.boosts], [each.meant() for each in self.fields]
        )

    def finished(self, found: Found, n_results: int) -> tuple[Found, list[list[float]] | None]:
        """The answer in its last order, n_results of each query, and the scores if there are any."""
        hits, trace = found.hits, found.trace
        orders = [np.arange(count) for count in hits.counts]
        scored: list[Scores | None] = [None] * len(orders)
        if self.rerank is not None:
            for i, scores in enumerate(_scores(self.rerank, self.queries[: len(orders)], found)):
                scored[i] = scores
                orders[i] = orders[i][np.argsort(-scores, kind="stable")]
            trace.transformed("rerank", sum(map(len, orders)), sum(map(len, orders)))
        if self.diversify is not None:
            asked = sum(map(len, orders))
            fetch, balance = self._chosen_from(n_results), self.diversify.balance
            for i, order in enumerate(orders):
                places, relevance, vectors = _seen(found, i, order[:fetch], scored[i])
                orders[i] = places[diversified(relevance, vectors, balance, n_results, self.metric)]
            trace.transformed("diversify", asked, sum(map(len, orders)))
        orders = [order[:n_results] for order in orders]
        answer = replace(found, hits=_reordered(hits, orders))
        if self.rerank is None:
            return answer, None
        return answer, [[] if each is None else each[order].tolist() for each, order in zip(scored, orders, strict=True)]

    def _chosen_from(self, n_results: int) -> int:
        fetch = self.diversify.fetch if self.diversify is not None else None
        return max(20, 4 * n_results) if fetch is None else max(fetch, n_results)


def _only(transforms: Sequence[Any], kind: type[Any]) -> Any:
    found = [each for each in transforms if isinstance(each, kind)]
    if len(found) > 1:
        raise ValueError(f"Expected {kind.__name__} once, got it {len(found)} times")
    return found[0] if found else None


def _scores(rerank: Rerank, queries: Sequence[Any], found: Found) -> Iterator[Scores]:
    """[count] of what was found for each query. A cross-encoder reads the pairs of all queries at once."""
    at_once: Scores | None = None
    if isinstance(rerank.scorer, CrossEncoder) and rerank.takes == "documents":
        pairs = [(query, item) for i, query in enumerate(queries) for item in _items(rerank, found, i) if item is not None]
        at_once = _called(rerank.scorer.scores, (pairs,), len(pairs))
    done = 0
    for i, query in enumerate(queries):
        items = _items(rerank, found, i)
        given = np.array([item is not None for item in items], np.bool_)
        scores = np.full(len(items), -math.inf)
        shown = [item for item in items if item is not None]
        if at_once is not None:
            scores[given] = at_once[done : done + len(shown)]
        elif shown:
            scores[given] = _called(rerank.scorer, (query, shown), int(given.sum()))
        done += len(shown)
        yield scores


def _items(rerank: Rerank, found: Found, i: int) -> list[Any]:
    """What is scored for query i; None for what has no document."""
    places = _places(found, i)
    if rerank.takes == "records":
        return [_record(found.records, at, distance) for at, distance in places]
    return [(found.records.documents or ())[at] for at, _ in places]


def _seen(
    found: Found, i: int, order: npt.NDArray[np.intp], scores: Scores | None
) -> tuple[npt.NDArray[np.intp], Scores, Vectors]:
    """Some places of query i, how far each is, by its score if there are any, and their vectors."""
    relevance = found.hits.distances[i, order].astype(np.float64)
    if scores is not None and len(order):
        relevance = _as_distances(scores[order], relevance)
    places = _places(found, i)
    return order, relevance, np.asarray(found.records.vectors)[[places[at][0] for at in order.tolist()]]


def _places(found: Found, i: int) -> list[tuple[int, float]]:
    """The place among the records, and the distance, of each hit of query i."""
    n = int(found.hits.counts[i])
    return [
        (found.position[row], distance)
        for row, distance in zip(found.hits.rows[i, :n].tolist(), found.hits.distances[i, :n].tolist(), strict=True)
    ]


def _record(records: RecordBatch, at: int, distance: float) -> dict[str, Any]:
    columns = {"document": records.documents, "metadata": records.metadatas, "uri": records.uris}
    # Other queries may have found the record too, and the answer has it: a scorer may change its own.
    record = {name: None if column is None else deepcopy(column[at]) for name, column in columns.items()}
    return {"id": records.ids[at], **record, "distance": distance}


def _called(scorer: Any, given: tuple[Any, ...], n: int) -> Scores:
    """n scores of a caller's function, or a model. Raises InvalidArgumentError for what are no scores, and what the function raises."""
    said = scorer(*given)
    try:
        scores = np.asarray(said, np.float64)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:  # the last are torch's
        raise InvalidArgumentError(f"The function given to Rerank returned no list of numbers: {error}") from error
    if scores.shape != (n,):
        raise InvalidArgumentError(f"The function given to Rerank returned {scores.shape} scores for {n} items.")
    if not np.isfinite(scores).all():
        raise InvalidArgumentError("The function given to Rerank returned a score that is NaN or infinite.")
    return scores


def _as_distances(scores: Scores, distances: Scores) -> Scores:
    """Scores on the scale of distances: the best becomes the least of them, the worst the largest."""
    real = scores[np.isfinite(scores)]
    most = float(np.finfo(np.float32).max)
    # Infinite ones have no scale.
    near, far = (float(np.clip(each, -most, most)) for each in (distances.min(), distances.max()))
    if not len(real):
        return np.full(len(scores), far)
    best, worst = float(real.max()), float(real.min())
    share = (best - scores) / (best - worst) if best > worst else np.where(np.isfinite(scores), 0.0, 1.0)
    return near + np.minimum(share, 1.0) * (far - near)


def _reordered(hits: Hits, orders: Sequence[npt.NDArray[np.intp]]) -> Hits:
    """The given places of each query's hits, in the given order."""
    changed = Hits.empty(len(orders), max(map(len, orders), default=0))
    for i, order in enumerate(orders):
        changed.rows[i, : len(order)] = hits.rows[i, order]
        changed.distances[i, : len(order)] = hits.distances[i, order]
        changed.counts[i] = len(order)
    return replace(changed, exact=hits.exact, guard=hits.guard)
