"""What jobs commit: rows checked as those of ``add`` and ``upsert`` are, and a note with them; and where collections go, notes go."""

from __future__ import annotations

import numpy as np
import pytest

import chroma_gpu
from chroma_gpu.config import Settings
from chroma_gpu.errors import DimensionMismatch, InvalidArgumentError, NoteChanged, StoreBusy
from chroma_gpu.records import Mode, Note
from chroma_gpu.utils import embedding_functions as ef


@pytest.fixture(params=["memory", "disk"])
def client(request, tmp_path):
    settings = Settings(device="cpu")
    made = chroma_gpu.PersistentClient(tmp_path, settings) if request.param == "disk" else chroma_gpu.EphemeralClient(settings)
    with made:
        for collection in made.list_collections():
            made.delete_collection(collection.name)
        yield made


@pytest.fixture
def collection(client):
    return client.create_collection("one", embedding_function=ef.HashingEmbeddingFunction(16))


def commit(collection, *ids, note=None, mode=Mode.UPSERT, dim=16, documents="text", metadatas=None, **given):
    vectors = np.full((len(ids), dim), 1.0, np.float32) if ids else None
    texts = [f"{documents} of {id_}" for id_ in ids] if documents else None
    collection._commit_job(list(ids), vectors, texts, metadatas, None, mode=mode, note=note, **given)


def test_rows_and_note(collection):
    assert collection._note("job") is None
    commit(collection, "a", "b", note=Note("job", b"1"), metadatas=[{"n": 1}, None])
    assert collection._note("job") == b"1"
    commit(collection, note=Note("job", b"2", b"1"))
    assert (collection._note("job"), collection.count()) == (b"2", 2)
    found = collection.get()
    assert (found["documents"], found["metadatas"]) == (["text of a", "text of b"], [{"n": 1}, None])
    assert collection.query(query_embeddings=[[1.0] * 16], n_results=5)["ids"] == [["a", "b"]]
    assert collection.repair(check=True).sound


def test_modes(collection):
    commit(collection, "a", note=Note("job", b"1"))
    commit(collection, "a", "b", mode=Mode.ADD, documents="other", note=Note("job", b"2", b"1"))
    assert collection.get()["documents"] == ["text of a", "other of b"]
    collection._commit_job(["a", "none"], None, ["changed", "x"], None, None, mode=Mode.UPDATE, note=Note("job", b"3", b"2"))
    assert collection.get()["documents"] == ["changed", "other of b"]
    assert collection._note("job") == b"3"


def test_another_job_is_noticed(collection):
    commit(collection, "a", note=Note("job", b"1"))
    with pytest.raises(NoteChanged):
        commit(collection, "b", note=Note("job", b"2"))
    assert (collection.count(), collection._note("job")) == (1, b"1")


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"metadatas": [{"k": object()}]}, ValueError),
        ({"metadatas": [{"k": 1}, {"k": 2}]}, ValueError),
        ({"dim": 3}, DimensionMismatch),
    ],
)
def test_what_is_wrong_leaves_nothing(collection, given, error):
    commit(collection, "a", note=Note("job", b"1"))
    with pytest.raises(error):
        commit(collection, "b", note=Note("job", b"2", b"1"), **given)
    assert (collection.count(), collection._note("job")) == (1, b"1")


def test_errors_say_where(collection):
    with pytest.raises(InvalidArgumentError, match=r" in upsert\.$"):
        commit(collection, "")


def test_compacting_keeps_notes(collection):
    commit(collection, "a", "b", note=Note("job", b"1"))
    collection.delete(ids=["a"])
    collection.compact()
    assert (collection._note("job"), collection.get()["ids"]) == (b"1", ["b"])


def test_a_fork_has_the_notes_of_its_rows(client, collection):
    """A job that goes on there goes on where these rows end; the source is not moved by it."""
    commit(collection, "a", note=Note("job", b"1"))
    fork = collection.fork("fork")
    assert fork._note("job") == b"1"
    commit(fork, "b", note=Note("job", b"2", b"1"))
    assert (fork._note("job"), collection._note("job")) == (b"2", b"1")
    assert (fork.count(), collection.count()) == (2, 1)


def test_embedding_anew_keeps_notes(collection):
    commit(collection, "a", "b", note=Note("job", b"1"))
    commit(collection, note=Note("other", b"x"))
    collection.reembed(ef.HashingEmbeddingFunction(8))
    assert (collection._note("job"), collection._note("other")) == (b"1", b"x")
    assert collection.repair(check=True).sound


def test_a_job_whose_collection_was_embedded_anew_is_told(client, collection):
    commit(collection, "a", note=Note("job", b"1"))
    client.get_collection("one").reembed(ef.HashingEmbeddingFunction(8))
    with pytest.raises(StoreBusy, match="embedded anew"):
        commit(collection, "b", note=Note("job", b"2", b"1"))
    again = client.get_collection("one")
    assert (again.count(), again._note("job")) == (1, b"1")
    commit(again, "b", dim=8, note=Note("job", b"2", b"1"), rebuilt=again._entry.rebuilt)
    assert again._note("job") == b"2"
