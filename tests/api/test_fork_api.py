"""Collections: fork, fork_count, get_indexing_status and read levels."""

from __future__ import annotations

import numpy as np
import pytest

from chroma_gpu import errors
from chroma_gpu.api.types import IndexingStatus, ReadLevel
from chroma_gpu.utils.embedding_functions import register_embedding_function


@register_embedding_function
class Lengths:
    """One value a text: its length."""

    def __call__(self, input):
        return [np.array([len(text), 1], np.float32) for text in input]

    @staticmethod
    def name():
        return "fork_lengths"

    @staticmethod
    def is_legacy():
        return False

    @staticmethod
    def build_from_config(config):
        return Lengths()

    def get_config(self):
        return {}

    def default_space(self):
        return "l2"

    def supported_spaces(self):
        return ["l2"]

    def embed_query(self, input):
        return self(input)

    @staticmethod
    def validate_config(config):
        pass

    def validate_config_update(self, old, new):
        pass


def collection(client, **given):
    return client.create_collection("source", embedding_function=Lengths(), **given)


def test_a_fork_goes_its_own_way(client):
    source = collection(client, metadata={"a": 1}, configuration={"hnsw": {"ef_search": 7}})
    source.add(ids=["a", "b"], documents=["x", "yy"])
    fork = source.fork("copy")
    assert fork.name == "copy"
    assert fork.id != source.id
    assert (fork.metadata, fork.configuration_json) == (source.metadata, source.configuration_json)
    assert fork._embedding_function is source._embedding_function
    fork.add(ids=["c"], documents=["zzz"])
    source.update(ids=["a"], metadatas=[{"only": "source"}])
    source.modify(name="renamed", metadata={"b": 2})
    assert source.get()["ids"] == ["a", "b"]
    assert fork.get()["ids"] == ["a", "b", "c"]
    assert fork.get(ids=["a"])["metadatas"] == [None]
    assert fork.query(query_texts=["..."], n_results=1)["ids"] == [["c"]]
    assert client.get_collection("copy").metadata == {"a": 1}
    assert [each.name for each in client.list_collections()] == ["renamed", "copy"]


def test_a_fork_keeps_the_data_loader(client):
    source = client.create_collection("source", data_loader=lambda uris: [None for _ in uris])
    assert source.fork("copy")._data_loader is source._data_loader


def test_a_name_that_cannot_be_taken(client):
    source = collection(client)
    for name, error in {"source": errors.AlreadyExistsError, "a": errors.InvalidArgumentError, 3: TypeError}.items():
        with pytest.raises(error):
            source.fork(name)
    assert client.count_collections() == 1
    client.delete_collection("source")
    with pytest.raises(errors.NotFoundError):
        source.fork("copy")


def test_forks_are_counted_in_source_and_forks(client):
    source = collection(client)
    assert source.fork_count() == 0
    forks = [source.fork(f"copy{at}") for at in range(3)]
    forks.append(forks[0].fork("copy of copy"[:4] + "-of-copy"))
    assert [each.fork_count() for each in (source, *forks)] == [4] * 5
    client.delete_collection("copy1")
    assert source.fork_count() == 3
    client.delete_collection("source")
    with pytest.raises(errors.NotFoundError):
        source.fork_count()


def test_indexing_status_counts_what_was_done(open_client):
    client = open_client(index="codes")
    made = client.create_collection("one", embedding_function=None)
    assert made.get_indexing_status() == IndexingStatus(0, 0, 0, 1.0)
    made.upsert(ids=["a", "b"], embeddings=[[1.0], [2.0]])
    made.upsert(ids=["a", "c"], embeddings=[[3.0], [4.0]])
    assert made.get_indexing_status().total_ops == 4
    made.delete(ids=["a", "b"])
    made.update(ids=["c", "unknown"], metadatas=[{"x": 1}, {"x": 1}])
    assert made.get_indexing_status().total_ops == 7
    made.compact()
    made.add(ids=[str(at) for at in range(3000)], embeddings=np.random.default_rng(0).random((3000, 1)))
    made.wait_indexed()
    assert made.get_indexing_status() == IndexingStatus(3007, 0, 3007, 1.0)
    client.delete_collection("one")
    with pytest.raises(errors.NotFoundError, match="does not exist"):
        made.get_indexing_status()


def test_indexing_status_says_what_waits(client, monkeypatch):
    monkeypatch.setattr("chroma_gpu.engine.background.Background.ask", lambda *_: None)
    monkeypatch.setattr("chroma_gpu.engine.planner.wanted", lambda *_, **__: ("codes",))
    made = client.create_collection("one", embedding_function=None)
    made.add(ids=[str(at) for at in range(100)], embeddings=np.ones((100, 4)))
    assert made.get_indexing_status() == IndexingStatus(0, 100, 100, 0.0)
    made.wait_indexed()
    made.add(ids=["more"], embeddings=np.ones((1, 4)))
    assert made.get_indexing_status().op_indexing_progress == 1.0, "so few are left to the exact scan for good"


def test_every_read_level_sees_everything(client):
    made = collection(client)
    made.add(ids=["a", "b"], documents=["x", "yy"])
    assert [made.count(read_level=level) for level in ReadLevel] == [2, 2, 2]
    assert made.count("index_only") == 2
    with pytest.raises(ValueError, match="nonsense"):
        made.count(read_level="nonsense")


def test_forks_stay_apart_after_reopening(open_client):
    with open_client() as client:
        source = collection(client)
        source.add(ids=["a"], documents=["x"])
        source.fork("copy").add(ids=["b"], documents=["yy"])
    with open_client() as client:
        assert client.get_collection("copy").get()["ids"] == ["a", "b"]
        assert client.get_collection("source").get()["ids"] == ["a"]
        assert client.get_collection("source").fork_count() == 1
