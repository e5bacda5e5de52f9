"""Dense and sparse search together, texts as queries, and what is fused of both: against a plain computation over all records."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import chroma_gpu
from chroma_gpu import EmbeddingFunction
from chroma_gpu.api.types import Schema, SparseEmbeddingFunction, SparseVectorIndexConfig, VectorIndexConfig
from chroma_gpu.errors import InvalidArgumentError
from chroma_gpu.execution.expression import K, Knn, Rrf, Search
from chroma_gpu.records import SparseVector
from chroma_gpu.utils.embedding_functions import register_embedding_function, register_sparse_embedding_function

N = 30
LETTERS = "abcde"
RNG = np.random.default_rng(4)
TEXTS = ["".join(RNG.choice(list(LETTERS), RNG.integers(1, 6))) for _ in range(N)]
IDS = [f"id{at}" for at in range(N)]


@register_embedding_function
class Counts(EmbeddingFunction):
    """How often each letter occurs; queries weigh ten times."""

    def __init__(self):
        self.asked = []

    def __call__(self, input):
        return [[float(text.count(letter)) for letter in LETTERS] for text in input]

    def embed_query(self, input):
        self.asked.append(input)
        return [[10.0 * text.count(letter) for letter in LETTERS] for text in input]

    @staticmethod
    def name():
        return "hybrid-counts"

    def get_config(self):
        return {}

    @staticmethod
    def build_from_config(config):
        return Counts()


@register_sparse_embedding_function
class Sparse(SparseEmbeddingFunction):
    """The letters that occur, with their numbers; queries weigh half."""

    def __init__(self):
        pass

    def __call__(self, input):
        return [sparse(text, 1.0) for text in input]

    def embed_query(self, input):
        return [sparse(text, 0.5) for text in input]

    @staticmethod
    def name():
        return "hybrid-sparse"

    def get_config(self):
        return {}

    @staticmethod
    def build_from_config(config):
        return Sparse()


def sparse(text, scale):
    there = [at for at, letter in enumerate(LETTERS) if letter in text]
    return SparseVector(there, [scale * text.count(LETTERS[at]) for at in there])


def coordinates(vector):
    return dict(zip(vector.indices, vector.values, strict=True))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    with chroma_gpu.PersistentClient(tmp_path_factory.mktemp("hybrid")) as client:
        yield client


def made(home, name, **config):
    schema = Schema().create_index(VectorIndexConfig(space="l2", embedding_function=Counts()))
    schema.create_index(SparseVectorIndexConfig(**config), key="letters")
    collection = home.create_collection(name, schema=schema)
    collection.add(
        ids=IDS,
        documents=TEXTS,
        # Every fifth record has no sparse vector.
        metadatas=[{"n": at} if at % 5 == 0 else {"n": at, "letters": sparse(text, 1.0)} for at, text in enumerate(TEXTS)],
    )
    return collection


@pytest.fixture(scope="module")
def collection(home):
    return made(home, "plain", embedding_function=Sparse())


@pytest.fixture(scope="module")
def weighed(home):
    return made(home, "weighed", bm25=True)


def dense_distances(text):
    query = np.array([10.0 * text.count(letter) for letter in LETTERS])
    return {at: float(((np.array(Counts()([each])[0]) - query) ** 2).sum()) for at, each in enumerate(TEXTS)}


def sparse_distances(query, rows):
    found = {}
    for row in rows:
        vector = coordinates(sparse(TEXTS[row], 1.0))
        shared = set(vector) & set(query)
        if row % 5 and shared:
            found[row] = 1 - sum(vector[index] * query[index] for index in shared)
    return found


def nearest(distances, limit):
    return sorted(distances, key=lambda row: (np.float32(distances[row]), row))[:limit]


WORDS = st.text(alphabet=LETTERS, min_size=1, max_size=4)


@given(text=WORDS, limit=st.integers(1, 40), least=st.integers(0, N))
def test_sparse_search_orders_by_inner_product(collection, text, limit, least):
    found = collection.search(Search(where=K("n") >= least, rank=Knn(text, key="letters", limit=limit)).select(K.SCORE))
    expected = sparse_distances(coordinates(sparse(text, 0.5)), range(least, N))
    rows = nearest(expected, limit)
    assert found["ids"] == [[IDS[row] for row in rows]]
    assert found["scores"][0] == pytest.approx([expected[row] for row in rows])


@given(text=WORDS)
def test_bm25_weighs_by_how_rare_an_index_is(weighed, text):
    found = weighed.search(Search(rank=Knn(sparse(text, 1.0), key="letters", limit=N)).select(K.SCORE))
    query = {}
    for index, value in coordinates(sparse(text, 1.0)).items():
        with_index = sum(LETTERS[index] in each for at, each in enumerate(TEXTS) if at % 5)
        query[index] = value * math.log((N - with_index + 0.5) / (with_index + 0.5) + 1)
    expected = sparse_distances(query, range(N))
    assert set(found["ids"][0]) == {IDS[row] for row in expected}
    for id, score in zip(found["ids"][0], found["scores"][0], strict=True):
        assert score == pytest.approx(expected[IDS.index(id)], rel=1e-5, abs=1e-6)
    assert found["scores"][0] == sorted(found["scores"][0])


@given(
    text=WORDS,
    other=WORDS,
    weights=st.tuples(st.floats(0.1, 5), st.floats(0.1, 5)),
    k=st.integers(1, 80),
    limits=st.tuples(st.integers(1, N), st.integers(1, N)),
    absent=st.none() | st.just(100.0),
    normalize=st.booleans(),
)
def test_fusion_of_dense_and_sparse(collection, text, other, weights, k, limits, absent, normalize):
    ranks = [
        Knn(text, limit=limits[0], return_rank=True, default=absent),
        Knn(other, key="letters", limit=limits[1], return_rank=True, default=absent),
    ]
    found = collection.search(Search(rank=Rrf(ranks, k, list(weights), normalize)).select(K.SCORE))
    sparse_found = sparse_distances(coordinates(sparse(other, 0.5)), range(N))
    places = [
        {row: place for place, row in enumerate(nearest(distances, limit))}
        for distances, limit in ((dense_distances(text), limits[0]), (sparse_found, limits[1]))
    ]
    rows = set(places[0]) & set(places[1]) if absent is None else set(places[0]) | set(places[1])
    whole = sum(weights) if normalize else 1.0
    expected = {
        IDS[row]: -sum(weight / whole / (k + place.get(row, absent)) for weight, place in zip(weights, places, strict=True))
        for row in rows
    }
    assert dict(zip(found["ids"][0], found["scores"][0], strict=True)) == pytest.approx(expected, rel=1e-5)
    assert found["scores"][0] == sorted(found["scores"][0])


def test_texts_are_embedded_as_queries_and_the_search_keeps_them(home):
    function = Counts()
    collection = home.create_collection("texts", embedding_function=function)
    collection.add(ids=["a", "b"], documents=["a", "aaaaaaaaaa"])
    search = Search(rank=Knn("a") * 1 + Knn(query="a", key=K.EMBEDDING).max(0.0)).select(K.SCORE)
    assert collection.search(search)["ids"] == [["b", "a"]]
    assert function.asked == [["a"], ["a"]]
    assert search.to_dict()["rank"]["$sum"][0]["$mul"][0]["$knn"]["query"] == "a"


def test_a_text_needs_a_function(collection, weighed):
    with pytest.raises(ValueError, match="Cannot embed string query for key 'n': no embedding function"):
        collection.search(Search(rank=Knn("a", key="n")))
    with pytest.raises(ValueError, match="Cannot embed string query for key 'letters': no embedding function"):
        weighed.search(Search(rank=Knn("a", key="letters")))


def test_only_a_key_with_a_sparse_index_is_searched(collection):
    with pytest.raises(InvalidArgumentError, match="'n' with type 'SparseVector' because indexing is disabled"):
        collection.search(Search(rank=Knn(SparseVector([1], [1.0]), key="n")))


def test_sparse_vectors_come_back_as_they_were(collection):
    found = collection.search(Search(where=K.ID == "id1").select("letters"))
    assert found["metadatas"] == [[{"letters": sparse(TEXTS[1], 1.0)}]]
