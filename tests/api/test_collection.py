"""What a collection promises beyond Chroma."""

from __future__ import annotations

import contextlib
import sys
import types
import warnings

import numpy as np
import pytest

import chroma_gpu
import chroma_gpu.errors
from chroma_gpu import EmbeddingFunction
from chroma_gpu.api.types import is_image
from chroma_gpu.errors import ClosedError, DimensionMismatch, EmbeddingFailed, InternalError, InvalidArgumentError
from chroma_gpu.utils.batch_utils import create_batches
from chroma_gpu.utils.data_loaders import ImageLoader
from chroma_gpu.utils.embedding_functions import HashingEmbeddingFunction, register_embedding_function


@register_embedding_function
class Letters(EmbeddingFunction):
    """Counts a, b and c; tells queries by a fourth value."""

    def __init__(self, scale=1.0):
        self.scale = scale

    def __call__(self, input):
        return [[self.scale * text.count(letter) for letter in "abc"] + [0.0] for text in input]

    def embed_query(self, input):
        return [np.array([self.scale * text.count(letter) for letter in "abc"] + [1.0]) for text in input]

    @staticmethod
    def name():
        return "letters"

    def get_config(self):
        return {"scale": self.scale}

    @staticmethod
    def build_from_config(config):
        return Letters(**config)

    def default_space(self):
        return "ip"


def test_one_add_of_100_000_rows(open_client):
    n, dim = 100_000, 16
    vectors = np.random.default_rng(1).standard_normal((n, dim), dtype=np.float32)
    with open_client() as client:
        collection = client.create_collection("large", embedding_function=None)
        collection.add(ids=[str(at) for at in range(n)], embeddings=vectors)
        assert collection.count() == n
        hit = collection.query(query_embeddings=vectors[77_777], n_results=1)
        assert (hit["ids"], hit["distances"]) == ([["77777"]], [[0.0]])


@pytest.mark.parametrize("space", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("index", ["flat", "codes", "hnsw"])
def test_every_row_is_found_at_once_and_in_exact_order(open_client, space, index):
    """Whatever index there is, built or not."""
    rng = np.random.default_rng(2)
    vectors = rng.standard_normal((5_000, 24), dtype=np.float32)
    vectors[100:120] = vectors[100]  # ties
    with open_client(index=index) as client:
        collection = client.create_collection("c-1", configuration={"hnsw": {"space": space}}, embedding_function=None)
        for start in range(0, 5_000, 1_000):
            collection.add(ids=[str(at) for at in range(start, start + 1_000)], embeddings=vectors[start : start + 1_000])
            if start == 2_000:
                collection.wait_indexed()
            got = collection.query(query_embeddings=vectors[start + 999], n_results=100)
            assert space == "ip" or got["ids"][0][0] == str(start + 999)
            assert collection.query(query_embeddings=vectors[start + 999], n_results=10)["ids"][0] == got["ids"][0][:10]
        collection.wait_indexed()
        got = collection.query(query_embeddings=vectors[100], n_results=20)
        if space != "ip":
            assert got["ids"][0] == [str(at) for at in range(100, 120)]


def test_any_number_of_results(client):
    collection = client.create_collection("c-1", embedding_function=None)
    vectors = np.random.default_rng(3).standard_normal((3_000, 8), dtype=np.float32)
    collection.add(ids=[str(at) for at in range(3_000)], embeddings=vectors)
    collection.wait_indexed()
    got = collection.query(query_embeddings=vectors[0], n_results=3_000, include=["distances"])
    assert len(set(got["ids"][0])) == 3_000
    assert got["distances"][0] == sorted(got["distances"][0])
    few = collection.query(query_embeddings=vectors[0], n_results=7, include=["distances"])
    assert few["ids"][0] == got["ids"][0][:7]


def test_a_failed_call_writes_nothing(client):
    collection = client.create_collection("c-1", embedding_function=None)
    collection.add(ids=["a"], embeddings=[[1.0, 2.0]])
    for given, error in (
        ({"ids": ["b", "c"], "embeddings": [[1.0, 2.0], [1.0, np.nan]]}, InvalidArgumentError),
        ({"ids": ["b", "c"], "embeddings": [[1.0, 2.0], [1.0, 2.0]], "metadatas": [{"k": 1}, {"k": {}}]}, ValueError),
        (
            {"ids": ["b", "c"], "embeddings": [[1.0, 2.0], [1.0, 2.0]], "metadatas": [{"k": 1}, {"k": float("nan")}]},
            InvalidArgumentError,
        ),
        ({"ids": ["b"], "embeddings": [[1.0]]}, DimensionMismatch),
        ({"ids": ["b", "\udcff"], "embeddings": [[1.0, 2.0]] * 2}, UnicodeEncodeError),
        ({"ids": ["b"], "embeddings": [[1.0, 2.0]], "documents": ["\udcff"]}, UnicodeEncodeError),
        ({"ids": ["b"], "embeddings": [[1.0, 2.0]], "metadatas": [{"k": "\udcff"}]}, UnicodeEncodeError),
        ({"ids": ["b"], "embeddings": [[1.0, 2.0]], "metadatas": [{"\udcff": 1}]}, UnicodeEncodeError),
        ({"ids": ["b"], "embeddings": [[1.0, 2.0]], "uris": ["\udcff"]}, UnicodeEncodeError),
        ({"ids": ["b" * (2**20 + 1)], "embeddings": [[1.0, 2.0]]}, InvalidArgumentError),
        ({"ids": ["b"], "embeddings": [[1.0, 2.0]], "metadatas": [{"k" * (2**16 + 1): 1}]}, InvalidArgumentError),
        (
            {"ids": ["b"], "embeddings": [[1.0, 2.0]], "metadatas": [{str(at): 1 for at in range(2**16 + 1)}]},
            InvalidArgumentError,
        ),
        ({"ids": ["b"], "embeddings": [[1.0, 2.0]], "metadatas": [{"k": "v" * (2**24 + 1)}]}, InvalidArgumentError),
        ({"ids": ["b"], "embeddings": [[1.0, 2.0]], "metadatas": [{"k": [1] * (2**24 + 1)}]}, InvalidArgumentError),
    ):
        for method in (collection.add, collection.upsert):
            with pytest.raises(error):
                method(**given)
        assert collection.get(include=["embeddings"])["ids"] == ["a"]


def test_large_values_are_kept(open_client):
    """Ids, keys and documents far beyond what fits a page or a key of the store."""
    record = {
        "ids": ["i" * 1_000_000],
        "documents": ["d" * 5_000_000],
        "metadatas": [{"k" * 60_000: "v" * 1_000_000, **{f"k{at}": at for at in range(2_000)}}],
    }
    with open_client() as client:
        client.create_collection("c-1", embedding_function=None).add(embeddings=[[1.0]], **record)
    with open_client() as client:
        got = client.get_collection("c-1").get()
        assert {key: got[key] for key in record} == record


def test_the_embedding_function_is_remembered(open_client):
    with open_client() as client:
        collection = client.create_collection("c-1", embedding_function=Letters(2.0))
        collection.add(ids=["x", "y"], documents=["aab", "ccc"])
        assert collection.configuration_json["hnsw"]["space"] == "ip"
    with open_client() as client:
        collection = client.get_collection("c-1")
        assert isinstance(collection.configuration["embedding_function"], Letters)
        assert collection.get(include=["embeddings"])["embeddings"].tolist() == [[4, 2, 0, 0], [0, 0, 6, 0]]
        assert collection.query(query_texts="c", n_results=1)["ids"] == [["y"]]
        collection.update(ids=["x"], documents=["c"])
        assert collection.get(ids=["x"], include=["embeddings"])["embeddings"].tolist() == [[0, 0, 2, 0]]
        assert [each.configuration["embedding_function"].scale for each in client.list_collections()] == [2.0]


def test_another_embedding_function_is_refused(client):
    client.create_collection("c-1", embedding_function=Letters())
    with pytest.raises(ValueError, match="conflict: new: hashing vs persisted: letters"):
        client.get_collection("c-1", embedding_function=HashingEmbeddingFunction())
    with pytest.raises(ValueError, match="Embedding function conflict"):
        client.create_collection(
            "c-2", embedding_function=Letters(), configuration={"embedding_function": HashingEmbeddingFunction()}
        )


def test_an_unknown_embedding_function_only_matters_when_it_is_needed(client):
    from chroma_gpu.embed import known_embedding_functions

    class Passing(Letters):
        @staticmethod
        def name():
            return "passing"

    client.create_collection("c-1", embedding_function=Passing())
    del known_embedding_functions["passing"]
    collection = client.get_collection("c-1")
    collection.add(ids=["a"], embeddings=[[1.0]])
    with pytest.raises(ValueError, match="Embedding function passing not found"):
        collection.add(ids=["b"], documents=["text"])


@pytest.mark.parametrize(
    ("result", "error"),
    [
        (RuntimeError("out of order"), RuntimeError),
        ([[1.0, 2.0]], EmbeddingFailed),
        ([[1.0], [1.0, 2.0]], EmbeddingFailed),
        ([[1.0], [float("nan")]], EmbeddingFailed),
        ([["a"], ["b"]], ValueError),
        ([], ValueError),
    ],
)
def test_a_hostile_embedding_function_writes_nothing(client, result, error):
    class Hostile(Letters):
        def __call__(self, input):
            if isinstance(result, Exception):
                raise result
            return result

    collection = client.create_collection("c-1", embedding_function=Hostile())
    with pytest.raises(error):
        collection.add(ids=["a", "b"], documents=["x", "y"])
    assert collection.count() == 0


def test_tensors_are_taken(client):
    import torch

    collection = client.create_collection("c-1", embedding_function=None)
    collection.add(ids=["a", "b"], embeddings=torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True))
    collection.add(ids=["c"], embeddings=[torch.tensor([5.0, 5.0], dtype=torch.bfloat16)])
    assert collection.query(query_embeddings=torch.tensor([1.0, 0.0]), n_results=1)["ids"] == [["a"]]


def test_a_closed_client_says_so(open_client):
    client = open_client()
    collection = client.create_collection("c-1", embedding_function=None)
    client.close()
    client.close()
    for call in (collection.count, client.heartbeat, client.list_collections, lambda: client.create_collection("c-2")):
        with pytest.raises(ClosedError, match="closed"):
            call()


def test_clients_of_one_path_share_it_until_the_last_is_closed(open_client):
    first, second = open_client(), open_client()
    first.create_collection("c-1", embedding_function=None)
    first.close()
    assert second.count_collections() == 1
    with pytest.raises(ValueError, match="different settings"):
        open_client(index="flat")


def test_a_path_may_be_spelled_in_several_ways(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with chroma_gpu.PersistentClient("data") as first, chroma_gpu.PersistentClient(tmp_path / "." / "data") as second:
        first.create_collection("c-1", embedding_function=None)
        assert second.count_collections() == 1


def test_ephemeral_clients_share_their_data_until_the_last_is_closed():
    with chroma_gpu.EphemeralClient() as first, chroma_gpu.EphemeralClient() as second:
        first.create_collection("c-1", embedding_function=None)
        assert second.count_collections() == 1
    with chroma_gpu.EphemeralClient() as third:
        assert third.count_collections() == 0


def test_reset_is_guarded(client, tmp_path):
    client.create_collection("c-1", embedding_function=None)
    assert client.reset() is True
    assert client.count_collections() == 0
    with chroma_gpu.PersistentClient(tmp_path) as guarded, pytest.raises(chroma_gpu.errors.AuthorizationError):
        guarded.reset()


def test_tenants_and_databases_are_apart(client):
    admin = chroma_gpu.AdminClient(client.get_settings())
    admin.create_tenant("tenant-1")
    admin.create_database("database-1", "tenant-1")
    here = client.create_collection("c-1", embedding_function=None)
    client.set_tenant("tenant-1", "database-1")
    assert client.list_collections() == []
    with pytest.raises(chroma_gpu.errors.NotFoundError):
        client.get_collection_by_id(here.id)
    there = client.create_collection("c-1", embedding_function=None)
    there.add(ids=["a"], embeddings=[[1.0]])
    assert (here.count(), there.count()) == (0, 1)
    admin.delete_database("database-1", "tenant-1")
    with pytest.raises(chroma_gpu.errors.NotFoundError):
        there.count()
    admin.close()


def test_looks(client):
    collection = client.create_collection("c-1", metadata={"<b>": "&"}, embedding_function=None)
    assert bool(collection)
    assert repr(collection) == "Collection(name=c-1)"
    assert "<td>0</td>" in collection._repr_html_()
    assert "&lt;b&gt;" in collection._repr_html_()
    assert collection == client.get_collection("c-1", embedding_function=None)


def test_no_warning_is_left_over(client):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        collection = client.create_collection("c-1", embedding_function=Letters())
        collection.add(ids=["a"], documents=["abc"])
        collection.query(query_texts=["a"])


def test_nan_queries_are_refused(client):
    collection = client.create_collection("c-1", embedding_function=None)
    collection.add(ids=["a"], embeddings=[[1.0, 2.0]])
    for value in (np.nan, np.inf, 1e39):
        with pytest.raises(InvalidArgumentError, match="NaN or Infinity"):
            collection.query(query_embeddings=np.array([[1.0, value]]))
        with pytest.raises(InvalidArgumentError, match="NaN or Infinity"):
            collection.query(query_embeddings=[[1.0, value]])


def test_ints_beyond_all_floats_are_refused(client):
    collection = client.create_collection("c-1", embedding_function=None)
    collection.add(ids=["a"], embeddings=[[1.0, 2.0]])
    for vector in ([10**400, 1], [[1, -(10**400)]]):
        with pytest.raises(InvalidArgumentError, match="too large for float32"):
            collection.query(query_embeddings=vector)
        with pytest.raises(InvalidArgumentError, match="too large for float32"):
            collection.add(ids=["b"], embeddings=vector)
    for value in (10**400, [1, 10**400]):
        with pytest.raises(InvalidArgumentError, match="numbers must be finite"):
            collection.add(ids=["b"], embeddings=[[1.0, 2.0]], metadatas=[{"n": value}])
    assert collection.query(query_embeddings=[1, 2], max_distance=10**400)["ids"] == [["a"]]
    assert collection.query(query_embeddings=[1, 2], max_distance=-(10**400))["ids"] == [[]]
    assert collection.count() == 1


def test_empty_vectors_are_refused(client):
    collection = client.create_collection("c-1", embedding_function=None)
    for given in ([[]], np.empty((1, 0)), [np.array([])]):
        with pytest.raises(ValueError, match="at pos 0"):
            collection.add(ids=["a"], embeddings=given)
    assert collection.count() == 0


def test_ids_to_search_among_must_exist(client):
    collection = client.create_collection("c-1", embedding_function=None)
    collection.add(ids=["a", "b"], embeddings=[[1.0, 2.0], [3.0, 4.0]])
    assert collection.query(query_embeddings=[[1.0, 2.0]], ids=["b"])["ids"] == [["b"]]
    with pytest.raises(InternalError, match="Error finding id nope"):
        collection.query(query_embeddings=[[1.0, 2.0]], ids=["b", "nope"])
    assert collection.get(ids=["b", "nope"])["ids"] == ["b"]


def test_cosine_gives_back_what_was_given(client):
    collection = client.create_collection("c-1", configuration={"hnsw": {"space": "cosine"}}, embedding_function=None)
    vectors = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32) * 1e3
    collection.add(ids=list("abcde"), embeddings=vectors)
    assert np.array_equal(collection.get(include=["embeddings"])["embeddings"], vectors.astype(np.float64))
    assert collection.query(query_embeddings=vectors[2], n_results=1)["distances"] == [[0.0]]


def test_a_result_is_the_callers_own(client):
    collection = client.create_collection("c-1", embedding_function=None)
    collection.add(ids=["a"], embeddings=[[1.0]], metadatas=[{"k": [1]}])
    for call in (collection.get, lambda: collection.query(query_embeddings=[[1.0]])):
        first = call()
        first["included"].clear()
        first["ids"].clear()
        assert call()["included"]
        assert call()["ids"]


def test_images_are_loaded_from_uris(client, monkeypatch):
    opened = []

    class File(contextlib.nullcontext):
        def __array__(self, dtype=None, copy=None):
            return np.full((2, 2, 3), len(self.enter_result), np.uint8)

        def __enter__(self):
            opened.append(self.enter_result)
            return self

    class Means(Letters):
        def __call__(self, input):
            return [[float(is_image(each) and each.mean()), 1.0] for each in input]

        embed_query = __call__

    pil = types.ModuleType("PIL")
    pil.Image = types.SimpleNamespace(open=File)
    monkeypatch.setitem(sys.modules, "PIL", pil)
    collection = client.create_collection("c-1", embedding_function=Means(), data_loader=ImageLoader(max_workers=2))
    collection.add(ids=["a", "b"], uris=["x", "yyyy"])
    collection.add(ids=["t"], documents=["text"])
    assert collection.query(query_uris=["zzzz"], n_results=1)["ids"] == [["b"]]
    assert sorted(opened) == ["x", "yyyy", "zzzz"]
    data = collection.get(include=["data"])["data"]
    assert [None if each is None else int(each.max()) for each in data] == [1, 4, None]
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ValueError, match="pip install pillow"):
        ImageLoader()


def test_a_collection_knows_how_many_records_its_client_takes_at_once(client):
    collection = client.create_collection("c-1", embedding_function=None)
    batches = create_batches(collection._client, ids=["a", "b"], embeddings=[[1.0], [2.0]])
    assert batches == [(["a", "b"], [[1.0], [2.0]], None, None)]
    assert collection._client.get_max_batch_size() == client.get_max_batch_size()
