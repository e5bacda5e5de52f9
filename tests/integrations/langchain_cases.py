"""LangChain's own test suite for vector stores, on its Chroma store, in memory and on disk."""

from __future__ import annotations

import uuid

import chromadb
import pytest
from langchain_chroma import Chroma
from langchain_tests.integration_tests import VectorStoreIntegrationTests


class InMemory(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self):
        store = Chroma(collection_name=str(uuid.uuid4()), embedding_function=self.get_embeddings())
        yield store
        store.delete_collection()


class TestInMemory(InMemory):
    pass


class TestOnDisk(InMemory):
    @pytest.fixture
    def vectorstore(self, tmp_path):
        yield Chroma(collection_name="store", embedding_function=self.get_embeddings(), persist_directory=str(tmp_path))
        chromadb.api.client.SharedSystemClient.clear_system_cache()


def test_it_stands_on_chroma_gpu():
    assert chromadb.__name__ == "chroma_gpu"


def test_a_store_can_be_forked():
    store = Chroma(collection_name="original", embedding_function=VectorStoreIntegrationTests.get_embeddings())
    store.add_texts(["one", "two"], ids=["1", "2"])
    fork = store.fork("copy")
    fork.delete(["1"])
    assert [store._collection.count(), fork._collection.count()] == [2, 1]
