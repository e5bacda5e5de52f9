"""Indexes of a table: built in the background, saved, restored, and never needed for a right answer."""

from __future__ import annotations

import json

import numpy as np
import pytest

import chroma_gpu
from chroma_gpu.config import Settings
from chroma_gpu.engine.background import Background
from chroma_gpu.engine.indexes import Indexes
from chroma_gpu.errors import MissingDependency
from chroma_gpu.records import Metric
from chroma_gpu.store.memory import MemoryVectors

N, DIM = 6_000, 64


@pytest.fixture
def vectors():
    return np.random.default_rng(5).standard_normal((N, DIM), dtype=np.float32)


@pytest.fixture
def source(vectors):
    held = MemoryVectors()
    held.append(0, vectors)
    held.commit(N, DIM)
    return held


@pytest.fixture
def background():
    made = Background()
    yield made
    made.close()


def indexes(source, background, folder=None, **settings):
    return Indexes(source, Metric.L2, {}, Settings(device="cpu", **settings), background, folder)


def test_catching_up_happens_in_the_background(source, background):
    kept = indexes(source, background, index="codes")
    kept.follow(N, DIM)
    while [choice.rows for choice in kept.choices()] != [N]:
        pass
    kept.close()
    assert kept.choices() == []


@pytest.mark.parametrize("kind", ["codes", "hnsw"])
def test_a_checkpoint_is_restored(kind, source, background, tmp_path, vectors, monkeypatch):
    first = indexes(source, background, tmp_path, index=kind)
    first.build(N, DIM)
    want = first.get(kind).search(vectors[:3], 5)
    first.close()
    second = indexes(source, background, tmp_path, index=kind)
    monkeypatch.setattr("chroma_gpu.engine.indexes.create", None)  # nothing is built anew
    second.follow(N, DIM)
    assert np.array_equal(second.get(kind).search(vectors[:3], 5).rows, want.rows)
    second.close()


@pytest.mark.parametrize("harm", ["flip", "truncate", "manifest", "other", "ahead"])
def test_a_checkpoint_that_does_not_fit_is_built_anew(harm, source, background, tmp_path, vectors):
    made = indexes(source, background, tmp_path, index="codes")
    made.build(N, DIM)
    made.close()
    data, manifest = tmp_path / "codes.bin", tmp_path / "codes.json"
    rows = N
    if harm == "flip":
        content = bytearray(data.read_bytes())
        content[len(content) // 2] ^= 1
        data.write_bytes(content)
    elif harm == "truncate":
        data.write_bytes(data.read_bytes()[:-100])
    elif harm == "manifest":
        manifest.write_text("{")
    elif harm == "other":
        manifest.write_text(json.dumps({"size": 0}))
    else:
        rows = N - 1_000
        source = MemoryVectors()
        source.append(0, vectors[:rows])
        source.commit(rows, DIM)
    again = indexes(source, background, tmp_path, index="codes")
    again.build(rows, DIM)
    assert len(again.get("codes")) == rows
    assert again.get("codes").search(vectors[:1], 1).rows[0, 0] == 0
    again.close()


def test_a_build_that_fails_is_told_to_who_waits_and_hurts_no_query(open_client, vectors, monkeypatch):
    def broken(*_):
        raise RuntimeError("out of luck")

    monkeypatch.setattr("chroma_gpu.engine.indexes.create", broken)
    with open_client() as client:
        collection = client.create_collection("c-1", embedding_function=None)
        collection.add(ids=[str(at) for at in range(N)], embeddings=vectors)
        assert collection.query(query_embeddings=vectors[7], n_results=1)["ids"] == [["7"]]
        with pytest.raises(RuntimeError, match="out of luck"):
            collection.wait_indexed()
        monkeypatch.undo()
        collection.wait_indexed()
        assert collection.describe()["indexed"] == {"codes": N}


def test_rows_not_yet_indexed_are_found(open_client, vectors):
    with open_client(index="codes") as client:
        collection = client.create_collection("c-1", embedding_function=None)
        collection.add(ids=[str(at) for at in range(5_000)], embeddings=vectors[:5_000])
        collection.wait_indexed()
        collection.add(ids=[str(at) for at in range(5_000, 5_500)], embeddings=vectors[5_000:5_500])
        assert collection.describe()["indexed"] == {"codes": 5_000}
        for at in (0, 4_999, 5_000, 5_499):
            assert collection.query(query_embeddings=vectors[at], n_results=1)["ids"] == [[str(at)]]


def test_answers_do_not_depend_on_the_index(open_client, tmp_path, vectors):
    """The same table under each index, and under none, in all the ways of a filter."""
    rng = np.random.default_rng(6)
    metadatas = [{"g": int(value)} for value in rng.integers(0, 1_000, N)]
    answers = {}
    for index in ("flat", "codes", "hnsw", "ivf", "ivf_pq"):
        with chroma_gpu.PersistentClient(tmp_path / index, Settings(index=index)) as client:
            collection = client.create_collection("c-1", embedding_function=None)
            collection.add(ids=[str(at) for at in range(N)], embeddings=vectors, metadatas=metadatas)
            collection.delete(where={"g": {"$gte": 900}})
            collection.wait_indexed()
            answers[index] = [
                collection.query(query_embeddings=vectors[:20], n_results=10, where=where, include=["distances"])
                for where in (None, {"g": {"$lt": 500}}, {"g": {"$lt": 5}})
            ]
    exact = answers["flat"]
    for index in ("codes", "hnsw", "ivf", "ivf_pq"):
        for got, want in zip(answers[index], exact, strict=True):
            found = sum(len(set(a) & set(b)) for a, b in zip(got["ids"], want["ids"], strict=True))
            assert found >= 0.98 * sum(map(len, want["ids"]))
            assert got["distances"][0][:1] == want["distances"][0][:1]


def test_an_index_that_cannot_be_made_here_is_refused_at_once(tmp_path, vectors):
    """Nothing else takes the place of what was asked for."""
    with chroma_gpu.PersistentClient(tmp_path / "cagra", Settings(index="cagra")) as client:
        collection = client.create_collection("c-1", embedding_function=None)
        with pytest.raises(MissingDependency, match=r"cagra needs cuVS.*cuvs-cu13"):
            collection.add(ids=["a"], embeddings=vectors[:1])


def test_lists_are_tuned_for_the_recall_of_the_settings(source, background):
    reads = []
    for recall in (0.8, 0.95, 0.0):
        indexes = Indexes(source, Metric.L2, {}, Settings(index="ivf", recall=recall), background, None)
        indexes.build(N, DIM)
        (choice,) = indexes.choices()
        assert choice.traits.recall >= (recall or 0.99)
        reads.append(choice.traits.reads)
        indexes.close()
    assert reads == sorted(reads)
    assert reads[0] < reads[2]
