"""Haystack's Chroma document store."""

from __future__ import annotations

from haystack import Document
from haystack_integrations.document_stores.chroma import ChromaDocumentStore


def test_write_search_filter_delete(tmp_path):
    store = ChromaDocumentStore(persist_path=str(tmp_path), collection_name="documents")
    documents = [
        Document(id="1", content="north", embedding=[1.0, 0.0], meta={"k": 1}),
        Document(id="2", content="east", embedding=[0.0, 1.0], meta={"k": 2}),
    ]
    assert store.write_documents(documents) == 2
    assert store.count_documents() == 2
    (found,) = store.search_embeddings([[0.1, 1.0]], top_k=1)
    assert [each.id for each in found] == ["2"]
    assert [each.id for each in store.filter_documents({"field": "meta.k", "operator": "==", "value": 1})] == ["1"]
    store.delete_documents(["1"])
    assert store.count_documents() == 1
