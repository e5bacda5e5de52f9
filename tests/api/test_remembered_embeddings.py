"""What was embedded before is not embedded again: collections of one directory share it, and their vectors stay the same bit for bit."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from embed import tiny_models
from embed.conftest import play  # noqa: F401  a fixture
from embed.services import KEY, Answer, data, vector

import chroma_gpu
from chroma_gpu.config import Settings
from chroma_gpu.embed.encoders import transformer as encoders
from chroma_gpu.embed.texts import embed_texts
from chroma_gpu.utils import embedding_functions as ef

WORDS = [" ".join(tiny_models.WORDS[at % 7 : at % 7 + 1 + at % 5]) + f" {at}" for at in range(60)]
IDS = [str(at) for at in range(60)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny_models.transformer(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture
def embedded(monkeypatch):
    """How many texts went through the model."""
    counts = []
    core = encoders.TransformerEncoder.core

    def counted(self, tokens, places):
        counts.append(len(places))
        return core(self, tokens, places)

    monkeypatch.setattr(encoders.TransformerEncoder, "core", counted)
    return lambda: sum(counts)


def opened(path, **settings):
    return chroma_gpu.PersistentClient(path, Settings(device="cpu", **settings))


def made(client, name, model):
    return client.create_collection(name, embedding_function=ef.SentenceTransformerEmbeddingFunction(model, device="cpu"))


def vectors(collection):
    found = collection.get(include=["embeddings"])
    return dict(zip(found["ids"], map(bytes, np.asarray(found["embeddings"])), strict=True))


def test_collections_share_what_was_embedded(tmp_path, model, embedded):
    with opened(tmp_path / "plain", embedding_cache=0) as client:
        plain = made(client, "plain", model)
        plain.add(ids=IDS, documents=WORDS)
        expected = vectors(plain)
        assert not (tmp_path / "plain" / "embeddings").exists()
    without = embedded()
    with opened(tmp_path / "data") as client:
        first, second = made(client, "first", model), made(client, "second", model)
        first.add(ids=IDS, documents=WORDS)
        once = embedded() - without
        second.upsert(ids=IDS, documents=WORDS)
        first.update(ids=IDS[:10], documents=WORDS[:10])
        assert embedded() - without == once == 60
        assert vectors(first) == vectors(second) == expected
    with opened(tmp_path / "data") as client:
        third = made(client, "third", model)
        third.add(ids=[*IDS, "new"], documents=[*WORDS, "another text"])
        assert embedded() - without == once + 1
        assert {id_: found for id_, found in vectors(third).items() if id_ != "new"} == expected


def test_a_collection_embedded_anew_finds_what_another_has(tmp_path, model, embedded):
    with opened(tmp_path) as client:
        first = made(client, "first", model)
        first.add(ids=IDS, documents=WORDS)
        other = client.create_collection("other", embedding_function=ef.HashingEmbeddingFunction())
        other.add(ids=IDS, documents=WORDS)
        before = embedded()
        other.reembed(ef.SentenceTransformerEmbeddingFunction(model, device="cpu"))
        assert embedded() == before
        assert vectors(other) == vectors(first)


def test_queries_are_neither_looked_up_nor_kept(tmp_path, model, embedded):
    with opened(tmp_path) as client:
        collection = made(client, "first", model)
        collection.add(ids=["a"], documents=["one"])
        before = embedded()
        collection.query(query_texts=["one", "two"])
        assert embedded() == before + 2
        assert [use.entries for use in client._engine.memory.models()] == [1]


def test_equal_texts_are_kept_once(tmp_path, model):
    with opened(tmp_path) as client:
        collection = made(client, "first", model)
        collection.add(ids=["a", "b", "c"], documents=["one", "one", ""])
        assert [use.entries for use in client._engine.memory.models()] == [2]
        kept = vectors(collection)
        assert kept["a"] == kept["b"] != kept["c"]


def test_reset_forgets(tmp_path, model):
    with opened(tmp_path, allow_reset=True) as client:
        made(client, "first", model).add(ids=["a"], documents=["one"])
        assert client._engine.memory.models()
        client.reset()
        assert client._engine.memory.models() == []
        assert [path.name for path in (tmp_path / "embeddings").iterdir()] == ["lock"]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are listed by Linux only")
def test_closing_closes_its_files(tmp_path, model):
    def open_files():
        links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
        return [os.readlink(link) for link in links if os.path.lexists(link) and str(tmp_path) in os.readlink(link)]

    client = opened(tmp_path)
    made(client, "one", model).add(ids=IDS, documents=WORDS)
    assert any(path.endswith(".vectors") for path in open_files())
    client.close()
    assert open_files() == []


def test_a_model_whose_files_are_others_than_were_loaded_is_not_kept(tmp_path):
    directory = tiny_models.transformer(tmp_path / "model")
    weights = directory / "model.safetensors"
    old = ef.SentenceTransformerEmbeddingFunction(str(directory), device="cpu")
    old(WORDS[:1])
    data = bytearray(weights.read_bytes())
    data[-1] ^= 64
    weights.write_bytes(data)
    with opened(tmp_path / "data") as client:
        client.create_collection("one", embedding_function=old).add(ids=IDS, documents=WORDS)
    assert not (tmp_path / "data" / "embeddings").exists()


def test_memory_keeps_nothing_beside_itself(model):
    with chroma_gpu.EphemeralClient() as client:
        assert client._engine.memory is None
        made(client, "first", model).add(ids=["a"], documents=["one"])


def test_functions_of_users_are_always_called(tmp_path):
    class Mine:
        calls = 0

        def __call__(self, input):
            self.calls += 1
            return [np.array([len(text), 1.0], np.float32) for text in input]

        def fingerprint(self):
            return "mine"

        def is_legacy(self):
            return True

    function = Mine()
    with opened(tmp_path) as client:
        for name in ("first", "second"):
            client.create_collection(name, embedding_function=function).add(ids=["a"], documents=["one"])
        assert function.calls == 2
        assert client._engine.memory.models() == []


def test_what_is_made_without_a_model_is_not_kept(tmp_path):
    with opened(tmp_path) as client:
        function = ef.HashingEmbeddingFunction(64)
        client.create_collection("first", embedding_function=function).add(ids=["a"], documents=["one"])
        assert client._engine.memory.models() == []


# ---- services


@pytest.fixture
def service(play, monkeypatch, tmp_path):  # noqa: F811
    monkeypatch.setenv("MY_KEY", KEY)
    return play(lambda asked: Answer(data(asked.body["input"])))


def openai(**given):
    return ef.OpenAIEmbeddingFunction(api_key_env_var="MY_KEY", model_name="m", **given)


def asked_for(service):
    return [text for asked in service.asked for text in asked.body["input"]]


def test_a_service_is_not_paid_twice(tmp_path, service):
    with opened(tmp_path) as client:
        for name in ("first", "second"):
            client.create_collection(name, embedding_function=openai()).add(ids=["a", "b", "c"], documents=["one", "two", "one"])
        assert asked_for(service) == ["one", "two"]
        third = client.create_collection("third", embedding_function=openai())
        third.add(ids=["a", "b", "c"], documents=["two", "three", "one"])
        assert asked_for(service) == ["one", "two", "three"]
        found = third.get(include=["embeddings"])
        assert found["embeddings"].tolist() == [vector(text) for text in ("two", "three", "one")]
        assert KEY not in repr(client._engine.memory.models())


def test_other_arguments_are_another_service(tmp_path, service):
    assert openai().fingerprint() == openai().fingerprint() != openai(dimensions=3).fingerprint()
    assert (
        ef.OllamaEmbeddingFunction("http://one", "m").fingerprint() != ef.OllamaEmbeddingFunction("http://two", "m").fingerprint()
    )


def test_a_server_that_names_no_model_is_always_asked():
    assert ef.HuggingFaceEmbeddingServer("http://tei:8080/embed").fingerprint() is None


def test_vectors_that_depend_on_other_texts_are_not_remembered(monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    assert ef.JinaEmbeddingFunction(api_key_env_var="MY_KEY").fingerprint() is not None
    assert ef.JinaEmbeddingFunction(api_key_env_var="MY_KEY", late_chunking=True).fingerprint() is None


def test_a_service_that_changes_its_lengths_is_asked_for_all(tmp_path, play, monkeypatch):  # noqa: F811
    """Vectors of one call are of one length."""
    monkeypatch.setenv("MY_KEY", KEY)
    lengths = iter([3, 4, 4])

    def answers(asked):
        dim = next(lengths)
        return Answer({"data": [{"index": at, "embedding": [float(dim)] * dim} for at in range(len(asked.body["input"]))]})

    service = play(answers)
    with opened(tmp_path) as client:
        memory = client._engine.memory
        assert embed_texts(openai(), ["one"], memory=memory).shape == (1, 3)
        assert embed_texts(openai(), ["one", "two"], memory=memory).tolist() == [[4.0] * 4] * 2
        assert embed_texts(openai(), ["one", "two"], memory=memory).shape == (2, 4)
    assert asked_for(service) == ["one", "two", "one", "two"]


def test_what_a_service_made_before_it_failed_is_kept(tmp_path, play, monkeypatch):  # noqa: F811
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.setattr("chroma_gpu.api.models.CollectionCommon.BATCH", 2)
    answers = iter([Answer(data(["one", "two"])), Answer({}, 400), Answer(data(["three"]))])
    service = play(lambda asked: next(answers))
    with opened(tmp_path) as client:
        collection = client.create_collection("first", embedding_function=openai())
        with pytest.raises(chroma_gpu.errors.EmbeddingFailed):
            collection.add(ids=["a", "b", "c"], documents=["one", "two", "three"], progress=lambda *_: None)
        collection.add(ids=["a", "b", "c"], documents=["one", "two", "three"])
    assert asked_for(service) == ["one", "two", "three", "three"]


# ---- the setting


@pytest.mark.parametrize(("given", "bytes_"), [(0, 0), ("0", 0), ("1GB", 10**9), ("100MiB", 100 << 20), ("12345", 12345), (5, 5)])
def test_sizes_that_are_taken(given, bytes_, monkeypatch):
    assert Settings(embedding_cache=given).embedding_cache == bytes_
    monkeypatch.setenv("CHROMA_GPU_EMBEDDING_CACHE", str(given))
    assert Settings().embedding_cache == bytes_


@pytest.mark.parametrize("given", [-1, "10%", "much", None, "-5"])
def test_sizes_that_are_refused(given):
    with pytest.raises(ValueError, match="embedding_cache"):
        Settings(embedding_cache=given)
