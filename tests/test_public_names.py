"""The door: its names, and what it costs to go through it."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module

import pytest
from chroma_names import DOOR, PAIRS

import chroma_gpu

# Beyond chromadb.__all__: functions and classes that chromadb has without naming them there, and our own.
OURS = [
    "AdminAPI",
    "AdminClient",
    "AsyncClientAPI",
    "AsyncEphemeralClient",
    "AsyncHttpClient",
    "AsyncPersistentClient",
    "Client",
    "ClientAPI",
    "CloudClient",
    "CmekProvider",
    "DEFAULT_DATABASE",
    "DEFAULT_TENANT",
    "DataLoader",
    "EphemeralClient",
    "Explanation",
    "HttpClient",
    "PersistentClient",
    "ReadLevel",
    "Repair",
    "RustClient",
    "SearchResult",
    "Settings",
    "__version__",
    "compat_version",
    "configure",
    "get_settings",
]


def test_the_names_are_frozen():
    assert sorted(chroma_gpu.__all__) == sorted(DOOR + OURS)


@pytest.mark.parametrize("name", DOOR + OURS)
def test_every_name_of_the_door_resolves(name):
    assert getattr(chroma_gpu, name) is not None
    assert name in dir(chroma_gpu)


@pytest.mark.parametrize(("module", "name"), PAIRS)
def test_names_that_packages_import_resolve(module, name):
    assert getattr(import_module(module.replace("chromadb", "chroma_gpu", 1)), name) is not None


def test_modules_are_attributes_of_the_package():
    assert chroma_gpu.api.client.Client is import_module("chroma_gpu.api.client").Client
    assert chroma_gpu.config.Settings is chroma_gpu.Settings
    assert chroma_gpu.utils.embedding_functions.DefaultEmbeddingFunction.name() == "default"
    assert chroma_gpu.config.System.__name__ == "System"


@pytest.mark.parametrize("module", ["chroma_gpu", "chroma_gpu.api", "chroma_gpu.utils", "chroma_gpu.config"])
def test_an_unknown_name_is_an_attribute_error(module):
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        import_module(module).nothing  # noqa: B018


def _fresh(code: str) -> dict:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_importing_loads_nothing_heavy():
    heavy = ["torch", "faiss", "numpy", "lmdb", "httpx", "pandas", "pyarrow", "transformers", "sentence_transformers"]
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
print(json.dumps([m for m in ("torch", "transformers", "sentence_transformers", "faiss", "httpx", "pandas") if m in sys.modules]))
"""
    assert _fresh(code) == []
