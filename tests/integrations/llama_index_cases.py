"""LlamaIndex's Chroma store."""

from __future__ import annotations

import chromadb
import pytest
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters, VectorStoreQuery
from llama_index.vector_stores.chroma import ChromaVectorStore


@pytest.fixture
def store():
    client = chromadb.EphemeralClient()
    collection = client.get_or_create_collection("nodes", embedding_function=None)
    store = ChromaVectorStore.from_collection(collection)
    nodes = [
        TextNode(text="north", id_="1", embedding=[1.0, 0.0], metadata={"k": 1}),
        TextNode(text="east", id_="2", embedding=[0.0, 1.0], metadata={"k": 2}),
    ]
    assert store.add(nodes) == ["1", "2"]
    yield store
    client.delete_collection("nodes")


def test_query_and_filter(store):
    found = store.query(VectorStoreQuery(query_embedding=[1.0, 0.1], similarity_top_k=2))
    assert found.ids == ["1", "2"]
    only = MetadataFilters(filters=[MetadataFilter(key="k", value=2)])
    assert store.query(VectorStoreQuery(query_embedding=[1.0, 0.1], similarity_top_k=2, filters=only)).ids == ["2"]


def test_delete_and_clear(store):
    store.delete_nodes(["1"])
    assert [node.node_id for node in store.get_nodes(None)] == ["2"]
    store.clear()
    assert store.get_nodes(None) == []
