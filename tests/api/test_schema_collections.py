"""What a schema does to a collection: keys are discovered, filters are refused, sparse vectors are made, the right function embeds."""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar

import numpy as np
import pytest

from chroma_gpu import PersistentClient
from chroma_gpu.api.models.CollectionCommon import CollectionCommon, validation_context
from chroma_gpu.api.search.conditions import Key
from chroma_gpu.api.search.plan import Search
from chroma_gpu.api.search.ranks import Knn
from chroma_gpu.api.types import (
    BoolInvertedIndexConfig,
    EmbeddingFunction,
    FloatInvertedIndexConfig,
    FtsIndexConfig,
    IntInvertedIndexConfig,
    Schema,
    SparseVector,
    SparseVectorIndexConfig,
    StringInvertedIndexConfig,
    VectorIndexConfig,
)
from chroma_gpu.embed import SparseEmbeddingFunction
from chroma_gpu.errors import InvalidArgumentError
from chroma_gpu.types import Collection as CollectionModel


class Lengths(SparseEmbeddingFunction):
    """One coordinate: the length of the text; queries weigh twice. Remembers what it was asked."""

    calls: ClassVar[list[list[str]]] = []

    def __init__(self, extra=0):
        self.extra = extra

    def __call__(self, input):
        self.calls.append(list(input))
        return [SparseVector([len(text) + self.extra], [1.0]) for text in input]

    def embed_query(self, input):
        return [SparseVector([len(text) + self.extra], [2.0]) for text in input]

    @staticmethod
    def name():
        return "lengths_of_test_schema_collections"

    def get_config(self):
        return {"extra": self.extra}

    @staticmethod
    def build_from_config(config):
        return Lengths(config["extra"])


class Dense(EmbeddingFunction):
    """As many ones as it was told."""

    def __init__(self, dim=2):
        self.dim = dim

    def __call__(self, input):
        return [[1.0] * self.dim for _ in input]

    @staticmethod
    def name():
        return "dense_of_test_schema_collections"

    def get_config(self):
        return {"dim": self.dim}

    @staticmethod
    def build_from_config(config):
        return Dense(config["dim"])


def sparse_schema(source=Key.DOCUMENT, function=None, **fields):
    function = function or Lengths(100)
    schema = Schema().create_index(VectorIndexConfig(embedding_function=Dense()))
    return schema.create_index(SparseVectorIndexConfig(source_key=source, embedding_function=function, **fields), "sparse")


def vectors(collection):
    return [(each or {}).get("sparse") for each in collection.get()["metadatas"]]


@pytest.fixture(autouse=True)
def forget():
    Lengths.calls.clear()


def test_documents_become_sparse_vectors(client):
    collection = client.create_collection("documents", schema=sparse_schema())
    collection.add(ids=["a", "b"], documents=["x", "xxx"], metadatas=[None, {"k": 1}])
    collection.add(ids=["c"], documents=["xx"], metadatas=[{"sparse": SparseVector([7], [1.0])}])
    assert vectors(collection) == [SparseVector([101], [1.0]), SparseVector([103], [1.0]), SparseVector([7], [1.0])]
    assert Lengths.calls == [["x", "xxx"]]
    collection.update(ids=["a"], documents=["xxxx"])
    collection.upsert(ids=["b", "d"], documents=["", "xx"])
    assert [each.indices for each in vectors(collection)] == [[104], [100], [7], [102]]
    collection.update(ids=["d"], metadatas=[{"k": 2}])
    assert collection.get(ids=["d"])["metadatas"] == [{"k": 2, "sparse": SparseVector([102], [1.0])}]


def test_texts_in_metadata_become_sparse_vectors(client):
    collection = client.create_collection("metadata", schema=sparse_schema("text"))
    given = [{"text": "xx"}, {"text": 5}, {"other": "x"}, None]
    collection.add(ids=list("abcd"), documents=list("abcd"), metadatas=given)
    assert vectors(collection) == [SparseVector([102], [1.0]), None, None, None]
    assert collection.get()["metadatas"][1:] == given[1:]
    assert Lengths.calls == [["xx"]]


def test_a_function_that_gives_too_few_vectors_is_refused(client):
    class Few(Lengths):
        def __call__(self, input):
            return super().__call__(input[:1])

        @staticmethod
        def name():
            return "few_of_test_schema_collections"

        @staticmethod
        def build_from_config(config):
            return Few(config["extra"])

    collection = client.create_collection("few", schema=sparse_schema(function=Few()))
    with pytest.raises(ValueError, match="unexpected number of embeddings: 1 for 2 texts"):
        collection.add(ids=["a", "b"], documents=["x", "y"])
    assert collection.count() == 0


def test_texts_are_searched_with_the_function_of_their_key(client):
    collection = client.create_collection("search", schema=sparse_schema())
    collection.add(ids=["a", "b"], documents=["x", "xxx"])
    found = collection.search(Search().rank(Knn(query="yyy", key="sparse")).select(Key.SCORE))
    assert found["ids"] == [["b"]]
    assert found["scores"][0] == pytest.approx([1 - 2.0])
    assert collection._sparse_settings("sparse") == (True, False)
    assert collection._sparse_settings("other") == (False, False)
    assert client.create_collection("bm25", schema=sparse_schema(bm25=True))._sparse_settings("sparse") == (True, True)


def test_a_key_without_a_sparse_index_is_not_searched(client):
    collection = client.create_collection("plain", embedding_function=None)
    collection.add(ids=["a"], embeddings=[[1.0]], metadatas=[{"sparse": SparseVector([1], [1.0])}])
    with pytest.raises(InvalidArgumentError, match="indexing is disabled"):
        collection.search(Search().rank(Knn(query=SparseVector([1], [1.0]), key="sparse")))
    with pytest.raises(ValueError, match="Cannot embed string query for key 'sparse'"):
        collection.search(Search().rank(Knn(query="text", key="sparse")))


def test_functions_are_made_again_after_reopening(tmp_path):
    with PersistentClient(tmp_path) as client:
        client.create_collection("kept", schema=sparse_schema())
    with PersistentClient(tmp_path) as client:
        collection = client.get_collection("kept")
        collection.add(ids=["a"], documents=["xx"])
        assert vectors(collection) == [SparseVector([102], [1.0])]
        assert collection.get(include=["embeddings"])["embeddings"].tolist() == [[1.0, 1.0]]


def test_keys_are_discovered_with_the_defaults(client):
    schema = Schema().delete_index(IntInvertedIndexConfig()).create_index(StringInvertedIndexConfig(), "own")
    collection = client.create_collection("found", schema=schema, embedding_function=None)
    assert list(collection.schema.keys) == ["#document", "#embedding", "own"]
    collection.add(
        ids=["a", "b"],
        embeddings=[[1.0], [2.0]],
        metadatas=[{"n": 1, "own": 2, "list": ["x"]}, {"n": "x", "vector": SparseVector([1], [1.0])}],
    )
    keys = collection.schema.serialize_to_json()["keys"]
    string = {"fts_index": {"enabled": False, "config": {}}, "string_inverted_index": {"enabled": True, "config": {}}}
    ints = {"int_inverted_index": {"enabled": False, "config": {}}}
    assert keys["n"] == {"int": ints, "string": string}
    assert keys["own"] == {"int": ints, "string": {"string_inverted_index": {"enabled": True, "config": {}}}}
    assert keys["list"] == {"string": string}
    assert keys["vector"]["sparse_vector"]["sparse_vector_index"]["enabled"] is False
    with pytest.raises(InvalidArgumentError, match="key 'n' with type 'Int' because indexing is disabled"):
        collection.get(where={"n": 1})
    assert collection.get(where={"n": "x"})["ids"] == ["b"]
    assert set(schema.keys) == {"#document", "#embedding", "own"}


def test_every_call_with_a_filter_minds_the_schema(client):
    schema = Schema().delete_index(StringInvertedIndexConfig(), "s").delete_index(FtsIndexConfig(), "#document")
    collection = client.create_collection("filters", schema=schema)
    collection.add(ids=["a"], embeddings=[[1.0]], metadatas=[{"s": "x", "t": "x"}], documents=["text"])
    calls = (
        collection.get,
        collection.delete,
        lambda **given: collection.query(query_embeddings=[[1.0]], **given),
        lambda where=None, where_document=None: collection.search(Search(where=where or {"#document": where_document})),
    )
    for call in calls:
        with pytest.raises(InvalidArgumentError, match="Cannot filter using metadata key 's' with type 'Str' because indexing"):
            call(where={"s": "x"})
        with pytest.raises(InvalidArgumentError, match="Cannot filter using full-text search because FTS indexing is disabled"):
            call(where_document={"$contains": "x"})
        call(where={"t": "y"})
    assert collection.count() == 1


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    "value", ["x", Text("x"), np.str_("x"), 1, IntEnum("One", ["ONE"]).ONE, True, 1.5, np.float64(1.5), 2**70], ids=repr
)
def test_values_of_any_class_mind_the_schema(client, value):
    schema = Schema()
    for config in (StringInvertedIndexConfig, IntInvertedIndexConfig, FloatInvertedIndexConfig, BoolInvertedIndexConfig):
        schema.delete_index(config(), "s")
    collection = client.create_collection("subclasses", schema=schema)
    collection.add(ids=["a"], embeddings=[[1.0]], metadatas=[{"s": "x", "t": "x"}])
    for condition in (value, {"$ne": value}, {"$nin": [value]}, {"$contains": value}):
        with pytest.raises(InvalidArgumentError, match=r"key 's' .* because indexing is disabled"):
            collection.get(where={"$or": [{"t": "x"}, {"$and": [{"t": "x"}, {"s": condition}]}]})


def test_the_model_grows_with_writes(client):
    collection = client.create_collection("model", embedding_function=None)
    before = collection.get_model()
    assert (before["name"], before["dimension"], before["nonsense"]) == ("model", None, None)
    collection.add(ids=["a"], embeddings=[[1.0, 2.0]], metadatas=[{"k": 1}])
    after = client.get_collection("model").get_model()
    assert after["version"] > before["version"]
    assert after["log_position"] > before["log_position"]
    assert after.dimension == 2
    assert "k" in after.serialized_schema["keys"]
    assert after["configuration"]["hnsw"]["space"] == "l2"
    collection.delete(ids=["a"])
    collection.compact()
    assert collection.get_model()["version"] > after["version"]


def test_which_function_embeds(client):
    """The one given to the object, the stored one, the schema's, the default: the first there is."""
    schema = Schema().create_index(VectorIndexConfig(embedding_function=Dense(3)))
    by_schema = client.create_collection("by-schema", schema=schema)
    assert by_schema._embed(["x"]).shape == (1, 3)
    assert client.get_collection("by-schema", embedding_function=Dense(5))._embed(["x"], is_query=True).shape == (1, 5)
    model = CollectionModel(by_schema.id, "m", {}, schema.serialize_to_json(), None, 3, "t", "d")
    bare = CollectionCommon(client=client._engine, model=model, embedding_function=None)
    assert bare.configuration["embedding_function"] is None
    assert np.array_equal(bare._embed(["x"]), [[1.0, 1.0, 1.0]])
    assert (bare.name, bare.tenant, bare.database) == ("m", "t", "d")


def test_a_model_can_be_put_in_place_of_another(client):
    collection = client.create_collection("swapped", embedding_function=None)
    unknown = {"embedding_function": {"type": "known", "name": "no_such_function", "config": {}}}
    collection._model = CollectionModel(collection.id, "other", unknown, None, {"a": 1}, None, "t", "d")
    assert (collection.name, collection.metadata, collection.configuration_json) == ("other", {"a": 1}, unknown)
    for call in (lambda: collection.configuration, lambda: collection.add(ids=["a"], documents=["x"])):
        with pytest.raises(ValueError, match="Embedding function no_such_function not found"):
            call()


def test_validation_context_says_where():
    class Named:
        @validation_context("somewhere")
        def refuse(self, what):
            raise ValueError(what)

    with pytest.raises(ValueError, match=r"^bad in somewhere\.$"):
        Named().refuse("bad")
