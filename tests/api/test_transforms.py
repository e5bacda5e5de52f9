"""Transforms as callers use them: what they refuse, what the answer is like, and that the documentation is so."""

from __future__ import annotations

import asyncio
import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest
from embed import tiny_models

import chroma_gpu
from chroma_gpu import EmbeddingFunction
from chroma_gpu.errors import DimensionMismatch, EmbeddingFailed, InvalidArgumentError, ModelNotFound, UnknownID
from chroma_gpu.transforms import Boost, Diversify, FieldBoost, MaxDistance, NotSimilarTo, Rerank, SimilarTo

DOCS = Path(__file__).parent.parent.parent / "docs" / "transforms.md"


class Numbers(EmbeddingFunction):
    """A text is its numbers."""

    def __init__(self):
        self.seen = []

    def __call__(self, input):
        self.seen += list(input)
        return [[float(number) for number in text.split()] for text in input]

    @staticmethod
    def name():
        return "numbers"

    def get_config(self):
        return {}

    @staticmethod
    def build_from_config(config):
        return Numbers()


def ids(found):
    return found["ids"]


@pytest.fixture
def function():
    return Numbers()


@pytest.fixture(params=["memory", "disk"])
def points(request, client, open_client, function):
    """Ten points on a line, p0 to p9, and p5 gone; every other one has a document."""
    opened = client if request.param == "memory" else open_client()
    made = opened.create_collection("points", embedding_function=function, metadata={"hnsw:space": "l2"})
    made.add(
        ids=[f"p{n}" for n in range(10)],
        embeddings=[[float(n), 0.0] for n in range(10)],
        documents=[f"{n} 0" if n % 2 == 0 else None for n in range(10)],
        metadatas=[{"n": n, "odd": bool(n % 2)} for n in range(10)],
    )
    made.delete(ids=["p5"])
    return made


def test_the_examples_of_the_documentation_are_so(capsys):
    scope = {}
    checked = 0
    for block in re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL):
        exec(compile(re.sub(r"^(films\.query.*|found\[.*)$", "", block, flags=re.MULTILINE), str(DOCS), "exec"), scope)
        for line in re.findall(r"^(?:films\.query|found\[).*$", block, re.MULTILINE):
            said, _, wanted = line.partition("  # ")
            assert eval(said, scope) == eval(wanted), line
            checked += 1
    assert checked == 7
    assert "not similar (above 0.5), 4 -> 3" in capsys.readouterr().out
    scope["client"].close()


# ---- each by itself


def test_nothing_to_do_is_no_transform(points):
    plain = points.query([0.0, 0.0])
    assert points.query([0.0, 0.0], transforms=[]) == plain
    assert points.query([0.0, 0.0], transforms=None) == plain


def test_max_distance_is_inclusive_and_the_least_counts(points):
    assert ids(points.query([0.0, 0.0], transforms=[MaxDistance(4.0), MaxDistance(9.0)])) == [["p0", "p1", "p2"]]
    assert ids(points.query([0.0, 0.0], transforms=[MaxDistance(9)], max_distance=1.0)) == [["p0", "p1"]]
    assert ids(points.query([0.0, 0.0], transforms=[MaxDistance(-1)])) == [[]]
    found = points.query([[0.0, 0.0], [9.0, 0.0]], transforms=[MaxDistance(1.0)], where={"odd": True}, include=["distances"])
    assert (ids(found), found["distances"]) == ([["p1"], ["p9"]], [[1.0], [0.0]])


def test_constraints_by_vector_text_and_id(points, function):
    near = {"p1", "p2", "p3"}
    for what in (SimilarTo([2, 0], within=1.0), SimilarTo("2 0", within=1.0), SimilarTo(id="p2", within=1.0)):
        assert set(ids(points.query([9.0, 0.0], transforms=[what]))[0]) == near
    assert function.seen[-1] == "2 0"
    others = ids(points.query([9.0, 0.0], transforms=[NotSimilarTo(np.array([2.0, 0.0]), within=1.0)]))
    assert others == [["p9", "p8", "p7", "p6", "p4", "p0"]]
    both = [SimilarTo("2 0", within=4.0), NotSimilarTo(id="p2", within=0.0), NotSimilarTo("0 0", within=0.0)]
    for order in itertools.permutations(both):
        assert ids(points.query(query_texts=["9 0"], transforms=list(order))) == [["p4", "p3", "p1"]]


@pytest.mark.parametrize("space", ["cosine", "ip"])
def test_similarity_is_one_minus_distance(client, space):
    made = client.create_collection("similar", configuration={"hnsw": {"space": space}}, embedding_function=None)
    made.add(ids=["a", "b", "c"], embeddings=[[1, 0], [0, 1], [-1, 0]])
    assert ids(made.query([1, 1], transforms=[SimilarTo([1, 0], above=0.0)])) == [["a"]]
    assert ids(made.query([1, 1], transforms=[NotSimilarTo([1, 0], above=0.0)])) == [["b", "c"]]
    assert ids(made.query([1, 1], transforms=[SimilarTo([1, 0], above=-0.5)])) == [["a", "b"]]
    assert ids(made.query([1, 1], transforms=[SimilarTo([1, 0], above=1.0)])) == [[]]  # larger, not as large


def test_boosts_change_distances_and_what_is_found(points):
    found = points.query([0.0, 0.0], n_results=3, transforms=[Boost({"n": {"$gte": 8}}, factor=0.01)])
    assert (ids(found), found["distances"]) == ([["p0", "p8", "p9"]], [[0.0, pytest.approx(0.64), pytest.approx(0.81)]])
    found = points.query([0.0, 0.0], n_results=2, transforms=[Boost({"n": 9}, add=-161), Boost({"odd": True}, factor=2.0, add=1)])
    assert (ids(found), found["distances"]) == ([["p0", "p9"]], [[0.0, 2.0]])
    found = points.query([0.0, 0.0], n_results=2, transforms=[Boost(where_document={"$contains": "8"}, add=-64.5)])
    assert (ids(found), found["distances"]) == ([["p8", "p0"]], [[-0.5, 0.0]])
    found = points.query([0.0, 0.0], n_results=2, transforms=[Boost.field("n", 10.0)])
    assert (ids(found), found["distances"]) == ([["p4", "p6"]], [[-24.0, -24.0]])
    found = points.query([0.0, 0.0], n_results=1, transforms=[Boost.field("m", 1.0, missing=3.0)])
    assert (ids(found), found["distances"]) == ([["p0"]], [[-3.0]])


def test_max_distance_is_before_the_boosts(points):
    found = points.query([0.0, 0.0], transforms=[Boost({"n": {"$gte": 2}}, add=-50.0), MaxDistance(4.0)])
    assert (ids(found), found["distances"]) == ([["p2", "p0", "p1"]], [[-46.0, 0.0, 1.0]])
    found = points.query([0.0, 0.0], transforms=[Boost.field("n", 10.0), MaxDistance(4.0)])
    assert ids(found) == [["p2", "p1", "p0"]]


def test_rerank_orders_what_was_fetched(points):
    asked = []

    def longest(query, documents):
        asked.append((query, documents))
        return [float(document.split()[0]) for document in documents]

    found = points.query(query_texts=["0 0", "9 0"], n_results=3, transforms=[Rerank(longest, fetch=4)])
    assert ids(found) == [["p2", "p0", "p1"], ["p8", "p6", "p9"]]
    assert found["scores"] == [[2.0, 0.0, -math.inf], [8.0, 6.0, -math.inf]]
    assert found["distances"][0] == [4.0, 0.0, 1.0]
    assert asked == [("0 0", ["0 0", "2 0"]), ("9 0", ["8 0", "6 0"])]
    assert "scores" not in points.query(query_texts=["0 0"])
    table = found.to_pandas()
    assert table["score"].tolist()[:2] == [2.0, 0.0]
    # Embeddings win over texts, which are still what documents are compared with.
    found = points.query([9.0, 0.0], query_texts=["zero"], n_results=1, transforms=[Rerank(longest, fetch=1)])
    assert (ids(found), asked[-1:]) == ([["p9"]], asked[-1:])


def test_rerank_sees_at_least_what_is_asked_for(points):
    found = points.query([0.0, 0.0], n_results=5, transforms=[Rerank(lambda query, records: [0] * len(records), 1, "records")])
    assert ids(found) == [["p0", "p1", "p2", "p3", "p4"]]  # equal scores: by distance
    assert found["scores"] == [[0.0] * 5]


def test_rerank_by_records(points):
    seen = []

    def score(query, records):
        seen.append((query, records))
        return [-record["metadata"]["n"] for record in records]

    found = points.query([9.0, 0.0], n_results=2, include=[], transforms=[Rerank(score, fetch=2, takes="records")])
    assert (ids(found), found["scores"], found["metadatas"]) == ([["p8", "p9"]], [[-8.0, -9.0]], None)
    query, records = seen[0]
    np.testing.assert_array_equal(query, [9.0, 0.0])
    assert records[1] == {"id": "p8", "document": "8 0", "metadata": {"n": 8, "odd": False}, "uri": None, "distance": 1.0}


def test_a_scorer_may_change_what_it_is_given(points):
    def score(query, records):
        scores = [record["metadata"].pop("n") for record in records]
        records.clear()
        return scores

    found = points.query([[0.0, 0.0]] * 2, n_results=2, transforms=[Rerank(score, fetch=2, takes="records")])
    assert (ids(found), found["scores"]) == ([["p1", "p0"]] * 2, [[1.0, 0.0]] * 2)
    assert [[metadata["n"] for metadata in each] for each in found["metadatas"]] == [[1, 0]] * 2


def test_a_scorer_may_return_a_tensor_that_cannot_be_read(points):
    import torch

    with pytest.raises(InvalidArgumentError, match=r"no list of numbers: .*detach"):
        points.query(
            [0.0, 0.0], transforms=[Rerank(lambda _, items: torch.ones(len(items), requires_grad=True), takes="records")]
        )


def test_any_number_may_be_asked_for(points):
    found = points.query([0.0, 0.0], n_results=10**20, transforms=[Boost({"odd": True}, add=100.0), Diversify(1.0, fetch=10**30)])
    assert ids(found) == [["p0", "p2", "p4", "p6", "p8", "p1", "p3", "p7", "p9"]]


def test_nothing_found_is_not_scored(points):
    never = Rerank(lambda *_: pytest.fail("nothing to score"), takes="records")
    found = points.query([0.0, 0.0], where={"n": 99}, transforms=[never, Diversify(), Boost({"n": 1}, add=1), MaxDistance(1)])
    assert (ids(found), found["scores"], found["distances"]) == ([[]], [[]], [[]])


def test_diversify_keeps_the_nearest_and_spreads(points):
    assert ids(points.query([0.0, 0.0], n_results=3, transforms=[Diversify(0.0)])) == [["p0", "p9", "p4"]]
    assert ids(points.query([0.0, 0.0], n_results=3, transforms=[Diversify(1.0)])) == [["p0", "p1", "p2"]]
    assert ids(points.query([0.0, 0.0], n_results=2, transforms=[Diversify(0.0, fetch=4)])) == [["p0", "p3"]]
    found = points.query([0.0, 0.0], n_results=99, include=["documents"], transforms=[Diversify()])
    assert sorted(ids(found)[0]) == [f"p{n}" for n in range(10) if n != 5]
    assert (found["embeddings"], found["distances"]) == (None, None)


def test_an_empty_collection_has_nothing(client):
    made = client.create_collection("empty", embedding_function=None)
    every = [SimilarTo([1.0], within=1.0), MaxDistance(1), Boost({"a": 1}, add=1), Boost.field("a", 1), Diversify()]
    found = made.query([[0.0], [1.0]], transforms=[*every, Rerank(len, takes="records")])
    assert (ids(found), found["scores"]) == ([[], []], [[], []])


# ---- together


def test_any_order_is_the_same_order(points):
    chain = [
        NotSimilarTo(id="p0", within=0.0),
        MaxDistance(50.0),
        Boost({"odd": True}, add=3.0),
        Rerank(lambda query, records: [record["distance"] for record in records], 4, "records"),
        Diversify(1.0, fetch=3),
    ]
    wanted = {"ids": [["p4", "p3"]], "distances": [[16.0, 12.0]], "scores": [[16.0, 12.0]]}
    explained = [("not similar (within 0)", 9, 8), ("max_distance, boost", 8, 4), ("rerank", 4, 4), ("diversify", 4, 2)]
    for order in itertools.islice(itertools.permutations(chain), 0, None, 17):
        found = points.query([0.0, 0.0], n_results=2, include=["distances"], transforms=list(order))
        assert {key: found[key] for key in wanted} == wanted
        plan = points.explain(query_embeddings=[0.0, 0.0], n_results=2, transforms=list(order))
        assert [(each.name, each.asked, each.left) for each in plan.transforms] == explained


def test_diversify_after_rerank_goes_by_scores(points):
    backwards = Rerank(lambda query, records: [record["metadata"]["n"] for record in records], 9, "records")
    assert ids(points.query([0.0, 0.0], n_results=3, transforms=[backwards, Diversify(1.0)])) == [["p9", "p8", "p7"]]
    assert ids(points.query([0.0, 0.0], n_results=2, transforms=[backwards, Diversify(0.0)])) == [["p9", "p0"]]
    same = Rerank(lambda query, documents: [1.0] * len(documents), 9)
    found = points.query(query_texts=["0 0"], n_results=9, transforms=[same, Diversify(1.0)])
    assert [score for score in found["scores"][0] if score == 1.0] == [1.0] * 5
    assert set(ids(found)[0][:5]) == {"p0", "p2", "p4", "p6", "p8"}


def test_scores_have_a_scale_where_distances_have_none(client):
    made = client.create_collection("far", embedding_function=None)
    made.add(ids=["a", "b", "c"], embeddings=[[0.0], [3e38], [-3e38]])
    chain = [Rerank(lambda query, records: [ord(record["id"]) for record in records], takes="records"), Diversify(1.0)]
    found = made.query([0.0], transforms=chain)
    assert (ids(found), found["scores"]) == ([["c", "b", "a"]], [[99.0, 98.0, 97.0]])


def test_the_asynchronous_collection_takes_them_too():
    async def run():
        async with await chroma_gpu.AsyncEphemeralClient() as client:
            made = await client.create_collection("awaited", embedding_function=None)
            await made.add(ids=["a", "b"], embeddings=[[0.0], [1.0]])
            found = await made.query([0.0], transforms=[NotSimilarTo(id="a", within=0.0)])
            await client.delete_collection("awaited")
            return found["ids"]

    assert asyncio.run(run()) == [["b"]]


# ---- refused


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: MaxDistance(None), TypeError, "limit to be a number"),
        (lambda: MaxDistance(math.nan), ValueError, "NaN|nan"),
        (lambda: MaxDistance(True), TypeError, "limit"),
        (lambda: SimilarTo([1.0]), ValueError, "either above= or within="),
        (lambda: SimilarTo([1.0], above=0.1, within=0.1), ValueError, "either above= or within="),
        (lambda: NotSimilarTo(above=0.1), ValueError, "NotSimilarTo takes either a vector or a text, or id="),
        (lambda: SimilarTo("a", id="b", above=0.1), ValueError, "either a vector"),
        (lambda: SimilarTo([[1.0], [2.0]], above=0.1), ValueError, "one vector, got 2"),
        (lambda: SimilarTo([math.nan], above=0.1), InvalidArgumentError, "NaN"),
        (lambda: SimilarTo([1.0], above="0.1"), TypeError, "above"),
        (lambda: SimilarTo(id=3, above=0.1), ValueError, "ID to be a str"),
        (lambda: Boost(factor=2), ValueError, "where, where_document"),
        (lambda: Boost({"a": 1}), ValueError, "factor, add, or both"),
        (lambda: Boost({"a": 1}, factor=-1), ValueError, "above 0"),
        (lambda: Boost({"a": 1}, factor=0), ValueError, "above 0"),
        (lambda: Boost({"a": 1}, add=math.inf), ValueError, "finite"),
        (lambda: Boost({"a": {"$in": []}}, factor=2), ValueError, "non-empty list"),
        (lambda: Boost.field(1, 1.0), TypeError, "name of a metadata field"),
        (lambda: FieldBoost("a", math.nan), ValueError, "weight"),
        (lambda: Rerank(3), TypeError, "cross-encoder"),
        (lambda: Rerank(len, fetch=0), ValueError, "1 or more"),
        (lambda: Rerank(len, fetch=2.5), TypeError, "fetch"),
        (lambda: Rerank(len, takes="words"), ValueError, "takes"),
        (lambda: Rerank("model", takes="records"), ValueError, "documents"),
        (lambda: Diversify(1.5), ValueError, "from 0 to 1"),
        (lambda: Diversify(fetch=True), TypeError, "fetch"),
    ],
)
def test_wrong_values_are_refused_where_they_are_made(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_wrong_combinations_are_refused_before_anything_runs(points, function):
    function.seen.clear()
    for transforms, error, match in [
        (MaxDistance(1), TypeError, "to be a list, got MaxDistance"),
        ([1], TypeError, "objects of chroma_gpu.transforms"),
        ([MaxDistance], TypeError, "objects of chroma_gpu.transforms"),
        ([Diversify(), Diversify()], ValueError, "Diversify once"),
        ([SimilarTo("1 0", above=0.5)], InvalidArgumentError, "l2 has no similarity"),
        ([Rerank(len), Rerank(len)], ValueError, "Rerank once"),
    ]:
        with pytest.raises(error, match=match):
            points.query(query_texts=["0 0"], transforms=transforms)
    with pytest.raises(ValueError, match="give query_texts too"):
        points.query([0.0, 0.0], transforms=[Rerank(len)])
    with pytest.raises(ValueError, match="one text for each query, got 2 for 1"):
        points.query([0.0, 0.0], query_texts=["a", "b"], transforms=[Rerank(len)])
    with pytest.raises(ValueError, match="one text for each query, got None"):
        points.query([0.0, 0.0], query_texts=[None], transforms=[Rerank(len)])
    assert function.seen == []


def test_what_is_not_there_or_does_not_fit(points):
    with pytest.raises(UnknownID, match="'p5'"):
        points.query([0.0, 0.0], transforms=[SimilarTo(id="p5", within=1.0)])
    with pytest.raises(DimensionMismatch, match="dimension of 2, got 3"):
        points.query([0.0, 0.0], transforms=[SimilarTo([1.0, 2.0, 3.0], within=1.0)])


@pytest.mark.parametrize(
    ("scores", "match"),
    [
        ([1.0], "1,"),
        ([[1.0, 2.0]], "scores for 2"),
        ("ab", "no list of numbers"),
        ([1.0, math.nan], "NaN"),
        ([1.0, math.inf], "inf"),
        ([1.0, 10**400], "too large"),
    ],
)
def test_scores_that_are_none(points, scores, match):
    with pytest.raises(InvalidArgumentError, match=match):
        points.query([0.0, 0.0], n_results=2, transforms=[Rerank(lambda *_: scores, 2, "records")])


def test_what_a_scorer_raises_reaches_the_caller(points):
    def broken(query, items):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        points.query([0.0, 0.0], transforms=[Rerank(broken, takes="records")])


# ---- cross-encoders


@pytest.fixture(scope="module")
def cross_encoders(tmp_path_factory):
    """Random models that give one score, or three, to a pair of texts."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    made = {}
    for labels in (1, 3):
        directory = made[labels] = tmp_path_factory.mktemp(f"cross{labels}")
        with torch.random.fork_rng():
            torch.manual_seed(labels)
            config = BertConfig(vocab_size=len(tiny_models.WORDS) + 6, max_position_embeddings=64, num_labels=labels, **size)
            BertForSequenceClassification(config).save_pretrained(directory)
        tiny_models.tokenizer(special=True).save_pretrained(directory)
    return made


@pytest.fixture
def texts(client):
    made = client.create_collection("texts", embedding_function=None)
    documents = ["a cat sits on the mat", "the dog rests", "steel company revenue fell", "red green blue"]
    made.add(ids=["a", "b", "c", "d"], embeddings=[[0.0], [1.0], [2.0], [3.0]], documents=documents)
    return made


def test_a_cross_encoder_scores_as_its_library_does(texts, cross_encoders):
    from sentence_transformers import CrossEncoder

    documents = texts.get()["documents"]
    model = CrossEncoder(str(cross_encoders[1]), device="cpu")
    scores = model.predict([("a kitten", each) for each in documents], show_progress_bar=False)
    order = np.argsort(-scores)
    for name in (str(cross_encoders[1]), cross_encoders[1]):
        found = texts.query([0.0], query_texts=["a kitten"], transforms=[Rerank(name, device="cpu")])
        assert ids(found) == [["abcd"[at] for at in order]]
        np.testing.assert_allclose(found["scores"][0], scores[order], rtol=1e-5)


def test_a_cross_encoder_reads_all_queries_at_once(texts, cross_encoders, monkeypatch):
    from chroma_gpu.embed.cross_encoder import CrossEncoder

    asked, scores = [], CrossEncoder.scores

    def counting(self, pairs):
        asked.append(len(pairs))
        return scores(self, pairs)

    queries = ["a kitten", "steel", "red dog"]
    rerank = Rerank(cross_encoders[1], fetch=3, device="cpu")
    texts.add(ids=["e"], embeddings=[[0.5]])  # without a document
    monkeypatch.setattr(CrossEncoder, "scores", counting)
    found = texts.query([[0.0], [2.0], [1.0]], query_texts=queries, n_results=3, transforms=[rerank])
    assert asked == [7]
    for i, query in enumerate(queries):
        alone = texts.query([[[0.0], [2.0], [1.0]][i]], query_texts=[query], n_results=3, transforms=[rerank])
        assert alone["ids"][0] == found["ids"][i]
        np.testing.assert_allclose(alone["scores"][0], found["scores"][i], rtol=1e-5)


def test_what_a_cross_encoder_raises_is_ours(texts, cross_encoders, monkeypatch):
    from chroma_gpu.embed.encoders.pairs import PairEncoder

    def broken(*arguments, **options):
        raise RuntimeError("out of order")

    monkeypatch.setattr(PairEncoder, "said", broken)
    with pytest.raises(EmbeddingFailed, match="failed: RuntimeError: out of order"):
        texts.query([0.0], query_texts=["a kitten"], transforms=[Rerank(cross_encoders[1], device="cpu")])


def test_cross_encoders_that_cannot_be_used(texts, cross_encoders, tmp_path):
    ask = {"query_embeddings": [0.0], "query_texts": ["a"]}
    with pytest.raises(EmbeddingFailed, match="3 scores for a pair"):
        texts.query(**ask, transforms=[Rerank(cross_encoders[3])])
    with pytest.raises(ModelNotFound, match="no directory"):
        texts.query(**ask, transforms=[Rerank(tmp_path / "nowhere")])
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(ModelNotFound, match="no weights as safetensors"):
        texts.query(**ask, transforms=[Rerank(tmp_path)])
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(EmbeddingFailed, match="cannot be loaded"):
        texts.query(**ask, transforms=[Rerank(tmp_path, device="cpu")])
