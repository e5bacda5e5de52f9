"""Collections whose vectors are on a device, through the whole engine: plans say it, forgetting gives the memory back."""

from __future__ import annotations

import re

import numpy as np
import pytest

from chroma_gpu.engine import planner
from chroma_gpu.engine.indexes import Indexes
from chroma_gpu.errors import DeviceError
from chroma_gpu.index.gpu.ledger import LEDGER
from chroma_gpu.kernels import scan

N, DIM = 3_000, 16


@pytest.fixture
def name(device, monkeypatch):
    """The name of a device that is not the CPU as tables are searched without one, and that looks cheap."""
    made = f"{device}:0" if device in ("cpu", "cuda") else device
    monkeypatch.setattr(Indexes, "_devices", lambda self: (made,))
    monkeypatch.setattr(planner, "whole", lambda *given: 0.01)
    return made


@pytest.fixture
def vectors():
    return np.random.default_rng(3).standard_normal((N, DIM), dtype=np.float32)


def filled(client, vectors):
    collection = client.create_collection("vectors", embedding_function=None)
    collection.add(
        ids=[str(at) for at in range(N)], embeddings=vectors, metadatas=[{"part": at % 100} for at in range(N)]
    )  # fmt: skip
    collection.wait_indexed()
    return collection


def test_an_explanation_says_what_is_read_and_where(open_client, name, vectors):
    with open_client(index="flat", vram_limit="1GB") as client:
        collection = filled(client, vectors)
        said = collection.explain(query_embeddings=vectors[5], n_results=3)
        assert said.exact
        assert said.searches[0].way == "index(flat)"
        assert said.searches[0].on == f"all of float16+float32 on {name}"
        assert f"index(flat), all of float16+float32 on {name}, for 3 of #embedding; exact" in re.sub(
            ", expected [0-9.]+ m?s", "", str(said)
        )
        few = collection.explain(query_embeddings=vectors[5], n_results=3, where={"part": {"$lt": 90}})
        assert few.searches[0].on == f"a mask of float16+float32 on {name}"
        none = collection.explain(query_embeddings=vectors[5], n_results=3, where={"part": 7})
        assert none.searches[0].on == f"a list of float16+float32 on {name}"
        assert collection.query(query_embeddings=vectors[5], n_results=1)["ids"] == [["5"]]
        assert LEDGER.held()[name] > 0
        client.delete_collection("vectors")
        assert name not in LEDGER.held()


def test_fast_answers_are_called_approximate(open_client, name, vectors):
    with open_client(index="flat", precision="fast", vram_limit="1GB") as client:
        said = filled(client, vectors).explain(query_embeddings=vectors[5], n_results=3)
        assert not said.exact
        assert said.searches[0].recall is None
    with open_client(index="flat", precision="fast", vram_limit="1GB", recall=1.0) as client:
        collection = client.get_collection("vectors", embedding_function=None)
        collection.wait_indexed()
        said = collection.explain(query_embeddings=vectors[5], n_results=3)
        assert said.exact
        assert said.searches[0].way == "scan"


def test_a_table_that_fits_no_device_is_searched_by_the_cpu(open_client, name, vectors):
    with open_client(index="flat", vram_limit="1KB") as client:
        with pytest.warns(RuntimeWarning, match=r"3,000 vectors of 16 dimensions do not fit .* Settings\.vram_limit is '1KB'"):
            collection = filled(client, vectors)
        said = collection.explain(query_embeddings=vectors[5], n_results=3)
        assert said.searches[0].way in ("gather", "scan")
        assert collection.query(query_embeddings=vectors[5], n_results=1)["ids"] == [["5"]]


def test_a_device_that_fails_costs_one_query(open_client, name, vectors, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("CUDA error: device-side assert triggered")

    with open_client(index="flat", vram_limit="1GB") as client:
        collection = filled(client, vectors)
        monkeypatch.setattr(scan, "scan", broken)
        with pytest.raises(DeviceError, match="The data is on disk and safe"):
            collection.query(query_embeddings=vectors[5], n_results=1)
        assert collection.query(query_embeddings=vectors[5], n_results=1)["ids"] == [["5"]]
        collection.add(ids=["more"], embeddings=vectors[:1] * 3)
        assert collection.query(query_embeddings=vectors[0] * 3, n_results=1)["ids"] == [["more"]]
