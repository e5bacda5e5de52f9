"""CollectionReads: what a collection is asked."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any, cast

import numpy as np

from chroma_gpu.api import results, validate, where
from chroma_gpu.api.backend import Answer
from chroma_gpu.api.models.CollectionCommon import CollectionCommon
from chroma_gpu.api.schema.checks import check_filter
from chroma_gpu.api.search import answer
from chroma_gpu.api.search.plan import Search
from chroma_gpu.api.transformed import Chain
from chroma_gpu.api.transforms import Transform
from chroma_gpu.api.types import (
    GetResult,
    Include,
    IndexingStatus,
    QueryResult,
    ReadLevel,
    SearchResult,
    Where,
    WhereDocument,
)
from chroma_gpu.embed.progress import Progress, listener
from chroma_gpu.engine.explain import Explanation
from chroma_gpu.engine.table import Found
from chroma_gpu.filter.expr import And, Expr
from chroma_gpu.records import Vectors


class CollectionReads(CollectionCommon):
    """The calls of a collection that change nothing."""

    def get(
        self,
        ids: Any = None,
        where: Where | None = None,
        limit: int | None = None,
        offset: int | None = None,
        where_document: WhereDocument | None = None,
        include: Include = ["metadatas", "documents"],  # noqa: B006  Chroma's default; never changed here
    ) -> GetResult:
        """Records by ids, by filters, or all, in insertion order."""
        with validate.within("get"):
            wanted = validate.as_list(ids)
            if wanted is not None:
                validate.check_ids(wanted)
            expr = expression(where, where_document)
            validate.check_include(include, refused=("distances",))
            self._check_loader(include)
        limit, offset = validate.check_page("limit", limit), validate.check_page("offset", offset)
        check_filter(self._entry.schema, expr)
        with self._engine.table(self.id) as table:
            records = table.fetch(expr, results.columns(include), ids=wanted, limit=limit, offset=offset or 0)
        return results.get_result(records, include, self._data_loader)

    def peek(self, limit: int = 10) -> GetResult:
        """The first records, with their embeddings."""
        return self.get(limit=limit, include=["metadatas", "documents", "embeddings"])

    def query(
        self,
        query_embeddings: Any = None,
        query_texts: Any = None,
        query_images: Any = None,
        query_uris: Any = None,
        ids: Any = None,
        n_results: int = 10,
        where: Where | None = None,
        where_document: WhereDocument | None = None,
        include: Include = ["metadatas", "documents", "distances"],  # noqa: B006  Chroma's default; never changed here
        *,
        max_distance: float | None = None,
        transforms: Sequence[Transform] | None = None,
    ) -> QueryResult:
        """The nearest records of each query among those that pass the filters; equal distances in the order in which the
        vectors were written.

        n_results     any number; more than there are gives all of them
        ids           look only among these; one that does not exist raises InternalError
        include       with "plan", the result has a key ``plan``: what ``explain`` says of this call, as a dictionary
        max_distance  leave out records that are farther, in the collection's distance; one that is exactly as far is in
        transforms    objects of ``chroma_gpu.transforms``, applied in the order that is said there. There may be fewer than n_results then.
                      With Rerank the result has a key ``scores``
        """
        asked = query_embeddings, query_texts, query_images, query_uris
        result, plan = self._query("query", asked, ids, n_results, where, where_document, include, max_distance, transforms)
        if plan is not None:
            result["plan"] = plan.to_dict()
        return result

    def explain(
        self,
        search: Search | None = None,
        /,
        *,
        query_embeddings: Any = None,
        query_texts: Any = None,
        query_images: Any = None,
        query_uris: Any = None,
        ids: Any = None,
        n_results: int = 10,
        where: Where | None = None,
        where_document: WhereDocument | None = None,
        max_distance: float | None = None,
        transforms: Sequence[Transform] | None = None,
    ) -> Explanation:
        """How one call of ``query`` with these parameters, or of ``search``, is answered: it is run, and what it took is told.

        What is read of the records is what ``query`` and ``search`` read if nothing else is asked for.
        Raises   what they raise; ValueError for both at once; NotImplementedError for a server's collection
        """
        if search is None:
            asked = query_embeddings, query_texts, query_images, query_uris
            include: Include = ["metadatas", "documents", "distances", "plan"]
            _, plan = self._query("explain", asked, ids, n_results, where, where_document, include, max_distance, transforms)
            return cast(Explanation, plan)
        given = query_embeddings, query_texts, query_images, query_uris, ids, where, where_document, max_distance, transforms
        if n_results != 10 or any(each is not None for each in given):
            raise ValueError("explain takes a Search, or what query takes, not both")

        def ask(rebuilt: int) -> Explanation:
            embedded = self._embed_search_string_queries(search)
            check_filter(self._entry.schema, answer.condition(embedded))
            given = embedded == search
            with self._explained(given):
                return self._engine.explain(self.id, embedded, self._sparse_settings, rebuilt=None if given else rebuilt)

        self._engine.require_plans()
        return self._current(ask)

    def search(self, searches: Any, read_level: ReadLevel = ReadLevel.INDEX_AND_WAL) -> SearchResult:
        """The answers of one ``Search`` or a list of them: filtered, ranked by an expression, grouped, cut to a page. Best first.

        Scores are smaller for better records. Texts in ``Knn`` are embedded, one after the other.
        read_level  what a server may miss; not needed here, where every search sees all that was committed before it
        Raises      TypeError, ValueError, InvalidArgumentError; no search has been run then
        """
        level = ReadLevel(read_level)

        def ask(rebuilt: int) -> SearchResult:
            asked = validate.as_list(searches) or []
            embedded = [self._embed_search_string_queries(each) for each in asked]
            for each in embedded:
                check_filter(self._entry.schema, answer.condition(each))
            given = embedded == asked
            with self._explained(given):
                return self._engine.search(self.id, embedded, self._sparse_settings, level, rebuilt=None if given else rebuilt)

        return self._current(ask)

    def count(self, read_level: ReadLevel = ReadLevel.INDEX_AND_WAL) -> int:
        """How many records there are.

        read_level  what a server may miss; not needed here, where every count sees all that was committed before it. Raises ValueError for another value
        """
        return self._engine.count(self.id, ReadLevel(read_level))

    def embed_queries(self, texts: Any) -> Vectors:
        """The vectors [q, dim] that ``query(query_texts=texts)`` would search for."""
        with validate.within("embed_queries"):
            wanted = validate.as_list(texts)
            validate.check_documents(wanted, nullable=False)

        def embed(rebuilt: int) -> Vectors:
            with validate.within("embed_queries"):
                vectors = self._embed(wanted, is_query=True)
            with self._engine.table(self.id, rebuilt=rebuilt):
                return vectors

        return self._current(embed)

    def wait_indexed(self, *, progress: Progress = None) -> None:
        """Return when every committed record is in every index. Queries find all records before that too, only slower.

        progress  as in ``add``, of records
        Raises what building an index raised.
        """
        with listener(progress, desc="indexing") as tell, self._engine.table(self.id) as table:
            table.wait_indexed(tell)

    def get_indexing_status(self) -> IndexingStatus:
        """How far the indexes have come. Queries find every record before that too, only slower. Raises NotFoundError."""
        with self._engine.table(self.id) as table:
            return IndexingStatus(**table.indexing_status())

    def _query(
        self,
        method: str,
        asked: tuple[Any, Any, Any, Any],
        ids: Any,
        n_results: int,
        where: Where | None,
        where_document: WhereDocument | None,
        include: Include,
        max_distance: float | None,
        transforms: Sequence[Transform] | None,
    ) -> tuple[QueryResult, Explanation | None]:
        """The answer of a query, and how it was come by if the plan is included."""
        with validate.within(method):
            queries = self._queries(*asked)
            wanted = validate.as_list(ids)
            expr = expression(where, where_document)
            validate.check_include(include, ours=("plan",))
            validate.check_n_results(n_results)
            farthest = validate.check_max_distance(max_distance)
            chain = Chain.of(transforms, self._entry.metric, queries, asked[1], farthest)
            self._check_loader(include)
        for each in (expr,) if chain is None else (expr, *chain.conditions):
            check_filter(self._entry.schema, each)
        if chain is not None:
            self._engine.require_transforms()
        if "plan" in include:
            self._engine.require_plans()

        def ask(rebuilt: int) -> tuple[Answer, Explanation | None, list[list[float]] | None]:
            given, started = isinstance(queries, np.ndarray) and not (chain and chain.texts), perf_counter()
            with validate.within(method):
                vectors = queries if isinstance(queries, np.ndarray) else self._embed(queries, is_query=True)
                meant = None if chain is None else chain.meant(lambda texts: self._embed(texts, is_query=True))
            embedding = 0.0 if given else perf_counter() - started
            columns, k, scores = results.columns(include), int(n_results), None
            with self._explained(given), self._engine.table(self.id, rebuilt=None if given else rebuilt) as table:
                if chain is None:
                    found = table.search(vectors, k, expr, columns, ids=wanted)
                else:
                    found = table.search(vectors, chain.fetch(k), expr, columns | chain.columns, ids=wanted, transformed=meant)
                    found, scores = chain.finished(cast(Found, found), k)
                return found, table.explained(found, embedding) if "plan" in include else None, scores

        found, plan, scores = self._current(ask)
        result = results.query_result(found, include, self._data_loader, farthest if chain is None else None)
        if scores is not None:
            result["scores"] = scores
        return result, plan


def expression(where_filter: Where | None, where_document: WhereDocument | None) -> Expr | None:
    """Both filters as one expression; None if there is none."""
    parts = []
    if where_filter is not None:
        parts.append(where.parse_where(where_filter))
    if where_document is not None:
        parts.append(where.parse_where_document(where_document))
    return None if not parts else parts[0] if len(parts) == 1 else And(tuple(parts))
