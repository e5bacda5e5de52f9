"""The door: its names, and what it costs to go through it."""

from __future__ import annotations

import json
import subprocess
import sys

import chroma_gpu

NAMES = [
    "AdminClient",
    "Client",
    "Collection",
    "CollectionMetadata",
    "DEFAULT_DATABASE",
    "DEFAULT_TENANT",
    "DataLoader",
    "Documents",
    "EmbeddingFunction",
    "Embeddings",
    "EphemeralClient",
    "GetResult",
    "IDs",
    "Include",
    "Metadata",
    "Metadatas",
    "PersistentClient",
    "QueryResult",
    "Settings",
    "URIs",
    "Where",
    "WhereDocument",
    "__version__",
]


def test_the_names_are_frozen():
    assert sorted(chroma_gpu.__all__) == sorted(NAMES)


def test_every_name_resolves():
    for name in chroma_gpu.__all__:
        assert getattr(chroma_gpu, name) is not None
    assert set(chroma_gpu.__all__) <= set(dir(chroma_gpu))


def _fresh(code: str) -> dict:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_importing_loads_nothing_heavy():
    heavy = ["torch", "faiss", "numpy", "lmdb", "transformers", "sentence_transformers"]
    got = _fresh(f"import chroma_gpu, sys, json; print(json.dumps([m for m in {heavy} if m in sys.modules]))")
    assert got == []


def test_a_client_and_a_query_load_neither_torch_nor_models():
    code = """
import json, sys
import chroma_gpu
with chroma_gpu.EphemeralClient() as client:
    collection = client.create_collection("c-1")
    collection.add(ids=["a"], embeddings=[[1.0, 2.0]])
    collection.query(query_embeddings=[[1.0, 2.0]], n_results=1)
print(json.dumps([m for m in ("torch", "transformers", "sentence_transformers", "faiss") if m in sys.modules]))
"""
    assert _fresh(code) == []
