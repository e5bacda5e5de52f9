"""``explain`` and ``include=["plan"]``: what they say, in the shape that docs/explain.md shows, of what really was done."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import numpy as np
import pytest

import chroma_gpu
from chroma_gpu import Explanation, K, Knn, Search
from chroma_gpu.api.remote.server import Server
from chroma_gpu.api.remote.table import RemoteTable
from chroma_gpu.errors import DimensionMismatch
from chroma_gpu.utils.embedding_functions import HashingEmbeddingFunction
from chroma_gpu.utils.results import query_result_to_dfs

ROWS, DIM = 6_000, 16
RNG = np.random.default_rng(11)
WHERE = {"$and": [{"year": {"$gte": 2020}}, {"$or": [{"lang": "de"}, {"year": 2021}]}]}


@pytest.fixture(scope="module")
def collection():
    with chroma_gpu.EphemeralClient(chroma_gpu.Settings(allow_reset=True)) as client:
        made = client.create_collection("explained", embedding_function=HashingEmbeddingFunction())
        made.add(
            ids=[f"{at}" for at in range(ROWS)],
            documents=[f"word{at % 7} text {at}" for at in range(ROWS)],
            metadatas=[{"year": 2000 + at % 30, "lang": "en" if at % 3 else "de"} for at in range(ROWS)],
        )
        made.wait_indexed()
        made.delete(ids=["0", "1"])
        yield made
        client.reset()


def test_what_is_said_is_what_was_done(collection):
    told = collection.explain(query_texts=["text 7", "text 8"], n_results=5, where=WHERE, where_document={"$contains": "word3"})
    asked = collection.get(where=WHERE, where_document={"$contains": "word3"}, include=[])
    assert isinstance(told, Explanation)
    assert (told.rows, told.live, told.candidates) == (ROWS, ROWS - 2, len(asked["ids"]))
    assert (told.filter.asked, told.filter.passed) == (ROWS - 2, told.candidates)
    (search,) = told.searches
    assert (search.field, search.queries, search.k) == ("#embedding", 2, 5)
    assert [each.way for each in search.considered if each.taken] == [search.way]
    assert all(bool(each.why) != each.taken for each in search.considered)
    assert list(told.microseconds) == ["embed", "state", "filter", "search", "records", "total"]
    assert all(value >= 0 for value in told.microseconds.values())


def leaves(part):
    return [each for inner in part.parts for each in leaves(inner)] if part.parts else [part]


def test_every_condition_is_in_the_tree(collection):
    told = collection.explain(query_embeddings=collection.embed_queries(["a"]), where=WHERE)
    said = [part.condition for part in leaves(told.filter)]
    assert sorted(map(str, said)) == sorted(
        map(str, [{"year": {"$gte": 2020}}, {"lang": {"$eq": "de"}}, {"year": {"$eq": 2021}}])
    )
    assert "embed" not in told.microseconds


def test_the_report_is_short_and_names_what_counts(collection):
    told = collection.explain(query_texts=["text 7"], where=WHERE, where_document={"$contains": "word3"})
    text = str(told)
    assert 8 <= len(text.splitlines()) <= 24
    for fact in ('{"$gte": 2020}', '{"$contains": "word3"}', f"{told.candidates:,}", told.searches[0].way, "total"):
        assert fact in text


def test_a_query_may_include_its_plan(collection):
    plain = collection.query(query_texts=["text 7"], where=WHERE)
    result = collection.query(query_texts=["text 7"], where=WHERE, include=["documents", "distances", "metadatas", "plan"])
    plan = result.pop("plan")
    assert "plan" not in plain
    assert {**result, "included": None} == {**plain, "included": None}
    assert plan.keys() == collection.explain(query_texts=["text 7"], where=WHERE).to_dict().keys()
    assert json.loads(json.dumps(plan)) == plan
    assert result.to_pandas().shape == (10, 5)


def test_a_plan_is_no_column():
    with chroma_gpu.EphemeralClient(chroma_gpu.Settings(allow_reset=True)) as client:
        made = client.create_collection("frames", embedding_function=None)
        made.add(ids=["a"], embeddings=[[1.0, 2.0]])
        result = made.query(query_embeddings=[[1.0, 2.0]], include=["distances", "plan"])
    (frame,) = query_result_to_dfs(result)
    assert frame.columns.tolist() == ["distance"]


def test_a_search_is_explained_leaf_by_leaf(collection):
    near = Knn("text 7", limit=20) + Knn("text 9", limit=20) + Knn("text 8", limit=10)
    told = collection.explain(Search().where(K("lang") == "de").rank(near).limit(5))
    assert [(search.field, search.queries, search.k) for search in told.searches] == [
        ("#embedding", 2, 20), ("#embedding", 1, 10),
    ]  # fmt: skip
    assert told.filter.condition == {"lang": {"$eq": "de"}}
    assert told.candidates == told.filter.passed == len(collection.get(where={"lang": "de"}, include=[])["ids"])
    assert collection.explain(Search().limit(3)).searches == ()


def test_what_query_refuses_is_refused(collection):
    with pytest.raises(ValueError, match=r"must be provided in explain\."):
        collection.explain()
    with pytest.raises(ValueError, match="Expected where"):
        collection.explain(query_texts=["a"], where={"$and": []})
    with pytest.raises(DimensionMismatch):
        collection.explain(query_embeddings=[[1.0, 2.0]])
    with pytest.raises(TypeError, match="Search"):
        collection.explain({"where": {}})
    for more in ({"n_results": 3}, {"where": WHERE}, {"query_texts": "a"}):
        with pytest.raises(ValueError, match="not both"):
            collection.explain(Search(), **more)


@pytest.mark.parametrize("include", [["plan"], ["documents", "plan"]])
def test_get_has_no_plan(collection, include):
    with pytest.raises(ValueError, match=r"Expected include item to be one of documents, .* got plan"):
        collection.get(include=include)


def test_an_empty_collection_can_be_explained():
    with chroma_gpu.EphemeralClient(chroma_gpu.Settings(allow_reset=True)) as client:
        made = client.create_collection("empty", embedding_function=None)
        told = made.explain(query_embeddings=[[1.0, 2.0]], where={"a": 1})
    assert (told.rows, told.live, told.candidates, told.filter.how) == (0, 0, 0, "not asked")
    assert told.searches[0].way == "nothing"
    assert str(told)


def test_it_can_be_awaited():
    async def work():
        async with await chroma_gpu.AsyncEphemeralClient(chroma_gpu.Settings(allow_reset=True)) as client:
            made = await client.create_collection("awaited", embedding_function=None)
            await made.add(ids=["a"], embeddings=[[1.0, 2.0]])
            return await made.explain(query_embeddings=[[1.0, 2.0]]), (await made.repair(check=True)).sound

    told, sound = asyncio.run(work())
    assert told.candidates == 1
    assert sound


def test_a_server_explains_nothing():
    """Refused before anything is sent: nobody answers at this address."""
    server = Server.__new__(Server)
    for refused in (
        server.require_plans,
        lambda: server.explain(None, Search(), None),
        lambda: RemoteTable(None, ()).explained(None),
    ):
        with pytest.raises(NotImplementedError, match="local client"):
            refused()
    with pytest.raises(NotImplementedError, match="chroma-gpu repair"):
        server.repair(None)


def test_the_document_shows_the_shape_there_is(collection):
    text = (Path(__file__).parents[2] / "docs" / "explain.md").read_text()
    shown = json.loads(re.search(r"```json\n(.*?)```", text, re.DOTALL)[1])
    told = collection.explain(query_texts=["text 7"], where=WHERE, where_document={"$contains": "word3"})

    def keys(value):
        return {key: keys(each) for key, each in value.items()} if isinstance(value, dict) else type(value).__name__

    assert shown.keys() == told.to_dict().keys()
    for name in ("filter", "searches"):
        first, second = (each[name][0] if name == "searches" else each[name] for each in (shown, told.to_dict()))
        assert first.keys() == second.keys()
        inner = "parts" if name == "filter" else "considered"
        assert first[inner][0].keys() == second[inner][0].keys()
    report = re.search(r"```text\n(.*?)```", text, re.DOTALL)[1].splitlines()
    words = {line.split()[0] for line in report if not line.startswith(" ")}
    assert {line.split()[0] for line in str(told).splitlines()[1:] if not line.startswith(" ")} <= words
