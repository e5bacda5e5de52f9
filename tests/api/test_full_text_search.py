"""Records ranked by the words of their documents, alone and together with vectors."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plain_words import bm25

import chroma_gpu
from chroma_gpu.errors import InvalidArgumentError
from chroma_gpu.execution.expression import K, Knn, Rank, Rrf, Search, Val

VOCABULARY = ["red", "green", "blue", "Fox", "naïve", "東京", "x"]
RNG = np.random.default_rng(11)
N = 60
TEXTS = [" ".join(RNG.choice(VOCABULARY, RNG.integers(1, 9))) if at % 7 else None for at in range(N)]
VECTORS = RNG.standard_normal((N, 3)).astype(np.float32)
IDS = [f"id{at}" for at in range(N)]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    with chroma_gpu.PersistentClient(tmp_path_factory.mktemp("full_text")) as client:
        yield client


@pytest.fixture(scope="module")
def collection(home):
    made = home.create_collection("full_text", embedding_function=None)
    made.add(ids=IDS, embeddings=VECTORS, documents=TEXTS, metadatas=[{"n": at} for at in range(N)])
    return made


QUERIES = st.lists(st.sampled_from([*VOCABULARY, "RED", "naive", "京", "-"]), max_size=4).map(" ".join)


def plain(query, passing=range(N), k=N):
    return bm25(dict(enumerate(TEXTS)), query, set(passing), k)


@given(query=QUERIES, limit=st.integers(1, 20), least=st.integers(0, N))
def test_documents_are_ranked_by_bm25_whatever_the_filter(collection, query, limit, least):
    found = collection.search(
        Search(where=K("n") >= least, rank=Knn(query, key=K.DOCUMENT, limit=limit), limit=limit).select(K.SCORE)
    )
    expected = plain(query, range(least, N), limit)
    assert found["scores"][0] == pytest.approx([score for _, score in expected], rel=1e-5, abs=1e-5)
    known = dict(plain(query, range(least, N)))
    for id, score in zip(found["ids"][0], found["scores"][0], strict=True):
        assert score == pytest.approx(known[IDS.index(id)], rel=1e-5, abs=1e-5)


@given(query=QUERIES, at=st.integers(0, N - 1), k=st.integers(1, 80), absent=st.none() | st.just(500.0))
def test_fusion_with_dense_vectors(collection, query, at, k, absent):
    ranks = [
        Knn(VECTORS[at], return_rank=True, limit=25, default=absent),
        Knn(query, key=K.DOCUMENT, return_rank=True, limit=N, default=absent),
    ]
    found = collection.search(Search(rank=Rrf(ranks, k), limit=N).select(K.SCORE))
    dense = np.argsort(((VECTORS - VECTORS[at]) ** 2).sum(axis=1), kind="stable")[:25].tolist()
    single = collection.search(Search(rank=Knn(query, key="#document", limit=N), limit=N))["ids"][0]
    places = [{IDS[row]: place for place, row in enumerate(dense)}, {id: place for place, id in enumerate(single)}]
    ids = set(places[0]) & set(places[1]) if absent is None else set(places[0]) | set(places[1])
    expected = {id: -sum(1 / (k + place.get(id, absent)) for place in places) for id in ids}
    assert dict(zip(found["ids"][0], found["scores"][0], strict=True)) == pytest.approx(expected, rel=1e-5)


def test_the_text_is_not_embedded(home, monkeypatch):
    made = home.create_collection("unembedded", embedding_function=None)
    monkeypatch.setattr(made, "_embed", lambda *given, **named: pytest.fail("asked for a vector"))
    made.add(ids=["a", "b", "c"], embeddings=[[1.0], [2.0], [3.0]], documents=["one two", "two", None])
    search = Search(rank=Knn("Two", key=K.DOCUMENT)).select(K.DOCUMENT, K.SCORE)
    found = made.search(search)
    assert found["ids"] == [["b", "a"]]
    assert found["documents"] == [["two", "one two"]]
    idf = math.log(1 + 0.5 / 2.5)
    assert found["scores"][0][0] == pytest.approx(1 - idf * 2.2 / (1 + 1.2 * (0.25 + 0.75 / 1.5)))
    assert search.to_dict()["rank"]["$knn"]["query"] == "Two"
    assert Rank.from_dict(search.to_dict()["rank"]).to_dict() == search.to_dict()["rank"]


def test_changes_are_seen_at_once(home):
    made = home.create_collection("changing", embedding_function=None)

    def found(query):
        return made.search(Search(rank=Knn(query, key=K.DOCUMENT, limit=100), limit=100))["ids"][0]

    assert found("anything") == []
    made.add(ids=["a", "b"], embeddings=[[1.0], [2.0]], documents=["first text", "second text"])
    assert sorted(found("text")) == ["a", "b"]
    made.update(ids=["a"], embeddings=[[1.0]], documents=["changed"])
    assert found("text") == ["b"]
    assert found("changed") == ["a"]
    made.upsert(ids=["b", "c"], embeddings=[[5.0], [6.0]], documents=["moved", "new text"])
    assert found("text") == ["c"]
    assert found("moved") == ["b"]
    made.delete(ids=["b"])
    assert found("moved") == []
    made.add(ids=[f"n{n}" for n in range(5_000)], embeddings=np.ones((5_000, 1)), documents=[f"text w{n}" for n in range(5_000)])
    assert found("w4321") == ["n4321"]
    assert found("changed") == ["a"]
    made.update(ids=["n4321"], embeddings=[[1.0]], documents=["rewritten"])
    assert found("w4321") == []
    assert found("rewritten") == ["n4321"]


def test_scores_compute_with_others(collection):
    found = collection.search(Search(rank=Knn("fox", key=K.DOCUMENT, limit=N) * 2 + Val(1), limit=N).select(K.SCORE))
    assert found["scores"][0] == pytest.approx([2 * score + 1 for _, score in plain("fox")], rel=1e-5, abs=1e-5)


def test_only_texts_are_looked_for_in_documents(collection):
    with pytest.raises(InvalidArgumentError, match="dense query for the key '#document'"):
        collection.search(Search(rank=Knn([1.0, 2.0, 3.0], key=K.DOCUMENT)))
    with pytest.raises(TypeError, match=r"\$knn query must be a list"):
        Rank.from_dict({"$knn": {"query": "text", "key": "#embedding"}})
    with pytest.raises(ValueError, match="no embedding function"):
        collection.search(Search(rank=Knn("text", key="n")))


@pytest.mark.parametrize("indexed", ["full", "grams", "none"])
def test_what_is_indexed_changes_no_answer(tmp_path, indexed):
    texts = [f"common w{n % 700} {'rare' * (n % 999 == 0)}" for n in range(4_200)]
    with chroma_gpu.PersistentClient(tmp_path, chroma_gpu.Settings(document_index=indexed)) as client:
        made = client.create_collection("some", embedding_function=None)
        made.add(ids=[str(n) for n in range(4_100)], embeddings=np.ones((4_100, 1)), documents=texts[:4_100])
        made.add(ids=[str(n) for n in range(4_100, 4_200)], embeddings=np.ones((100, 1)), documents=texts[4_100:])
        made.update(ids=["7"], embeddings=[[1.0]], documents=["rare changed"])
        texts[7] = "rare changed"
        assert sorted(map(int, made.get(where_document={"$contains": "rare"})["ids"])) == [
            n for n in range(4_200) if "rare" in texts[n]
        ]
        assert made.get(where_document={"$regex": "w(69|70)9 r"})["ids"] == [str(n) for n in range(4_200) if "w699 r" in texts[n]]
        found = made.search(Search(rank=Knn("rare w69", key=K.DOCUMENT, limit=9), limit=9).select(K.SCORE))
        expected = bm25(dict(enumerate(texts)), "rare w69", set(range(4_200)), 9)
        assert found["scores"][0] == pytest.approx([score for _, score in expected], rel=1e-5)


def test_an_unknown_index_of_documents_is_refused():
    with pytest.raises(ValueError, match="document_index must be one of full, grams, none"):
        chroma_gpu.Settings(document_index="words")
