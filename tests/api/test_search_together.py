"""Several searches in one call: each is answered as if it were alone, and what they have in common is done once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import chroma_gpu
from chroma_gpu import K, Knn, Search
from chroma_gpu.engine.table import Table
from chroma_gpu.errors import DimensionMismatch
from chroma_gpu.execution.expression.operator import GroupBy, MinK, Val

ROWS, DIM = 3_000, 12
RNG = np.random.default_rng(5)
VECTORS = RNG.standard_normal((ROWS, DIM), dtype=np.float32)
QUERIES = RNG.standard_normal((4, DIM), dtype=np.float32)


@pytest.fixture(scope="module")
def collection():
    with chroma_gpu.EphemeralClient(chroma_gpu.Settings(allow_reset=True)) as client:
        made = client.create_collection("together", embedding_function=None)
        metadatas = [{"n": at, "g": at % 5} for at in range(ROWS)]
        made.add(ids=[f"{at}" for at in range(ROWS)], embeddings=VECTORS, metadatas=metadatas)
        made.wait_indexed()
        yield made
        client.reset()


FILTERS = [None, K("n") < 1_000, K("n") < 1_000.0, K("g") == 2, (K("g") == 2) & (K("n") >= 40), K("n") < 0]
leaves = st.builds(
    lambda at, limit, ranked, default: Knn(QUERIES[at], limit=limit, return_rank=ranked, default=default),
    st.integers(0, 3), st.sampled_from([3, 20]), st.booleans(), st.sampled_from([None, 9.0]),
)  # fmt: skip
ranks = st.one_of(
    st.none(),
    leaves,
    st.builds(lambda a, b: a + b, leaves, leaves),
    st.builds(lambda leaf: leaf * Val(2.0) - leaf, leaves),
)
groups = st.sampled_from([None, GroupBy(keys=K("g"), aggregate=MinK(keys=K.SCORE, k=2))])


@st.composite
def searches(draw):
    search = Search().limit(draw(st.integers(1, 30)), draw(st.sampled_from([0, 2]))).select(K.SCORE, "n")
    where, rank, group = draw(st.sampled_from(FILTERS)), draw(ranks), draw(groups)
    search = search if where is None else search.where(where)
    search = search if rank is None else search.rank(rank)
    return search if group is None else search.group_by(group)


@given(st.lists(searches(), min_size=1, max_size=5))
def test_searches_together_give_what_each_gives_alone(collection, asked):
    together = collection.search(asked)
    for at, search in enumerate(asked):
        alone = collection.search(search)
        assert {key: value and value[at] for key, value in together.items()} == {
            key: value and value[0] for key, value in alone.items()
        }


@pytest.fixture
def calls(monkeypatch):
    """Counts the evaluations of filters, and keeps how many queries each batch of nearest neighbours had."""
    made = {"filters": 0, "batches": []}
    candidates, nearest = Table._candidates, Table._nearest

    def counted(self, *given, **named):
        made["filters"] += 1
        return candidates(self, *given, **named)

    def kept(self, view, queries, *rest):
        made["batches"].append(len(queries))
        return nearest(self, view, queries, *rest)

    monkeypatch.setattr(Table, "_candidates", counted)
    monkeypatch.setattr(Table, "_nearest", kept)
    return made


def test_equal_filters_are_evaluated_once_and_equal_leaves_are_one_batch(collection, calls):
    asked = [Search().where((K("g") == 2) & (K("n") >= 40)).rank(Knn(query, limit=10)) for query in QUERIES]
    collection.search(asked)
    assert calls == {"filters": 1, "batches": [4]}


def test_what_differs_is_not_thrown_together(collection, calls):
    one, other = K("g") == 2, K("g") == 2.0
    collection.search([
        Search().where(one).rank(Knn(QUERIES[0], limit=10)),
        Search().where(other).rank(Knn(QUERIES[1], limit=10)),
        Search().where(one).rank(Knn(QUERIES[2], limit=11)),
        Search().where(one).rank(Knn(QUERIES[3], limit=10) + Knn(QUERIES[0], limit=11, default=1.0)),
    ])  # fmt: skip
    assert calls["filters"] == 2
    assert sorted(calls["batches"]) == [1, 2, 2]


def test_nothing_is_run_if_one_vector_has_another_dimension(collection, calls):
    with pytest.raises(DimensionMismatch):
        collection.search([Search().rank(Knn(QUERIES[0])), Search().rank(Knn([1.0, 2.0]))])
    assert calls == {"filters": 0, "batches": []}


def test_no_search_is_no_answer(collection):
    assert collection.search([])["ids"] == []
