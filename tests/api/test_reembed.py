"""reembed: another embedding function for records that are there."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from chroma_gpu import errors
from chroma_gpu.utils.embedding_functions import register_embedding_function


@register_embedding_function
class Counting:
    """Vectors of ``dim`` values, which depend on the text and on ``factor``."""

    def __init__(self, dim=2, factor=1.0):
        self.dim, self.factor = dim, factor
        self.seen, self.failing, self.hook = [], False, None
        self.error = RuntimeError("the service is down")

    def __call__(self, input):
        if self.hook is not None:
            self.hook()
        if self.failing and self.seen:
            raise self.error
        self.seen += list(input)
        return [np.array([self.factor * sum(text.encode()), *range(self.dim - 1)], np.float32) for text in input]

    @staticmethod
    def name():
        return "reembed_counting"

    @staticmethod
    def is_legacy():
        return False

    @staticmethod
    def build_from_config(config):
        return Counting(**config)

    def get_config(self):
        return {"dim": self.dim, "factor": self.factor}

    def default_space(self):
        return "cosine" if self.dim == 5 else "l2"

    def supported_spaces(self):
        return ["cosine"] if self.dim == 5 else ["l2", "ip", "cosine"]

    def embed_query(self, input):
        return self(input)

    @staticmethod
    def validate_config(config):
        pass

    def validate_config_update(self, old, new):
        pass


TEXTS = {"a": "one", "b": "two", "c": "three", "d": "four"}


def vectors(function, texts):
    return np.stack(Counting(**function.get_config())(texts)).astype(np.float64)


@pytest.fixture
def collection(client):
    made = client.create_collection("one", embedding_function=Counting(), configuration={"hnsw": {"space": "ip"}})
    made.add(ids=list(TEXTS), documents=list(TEXTS.values()), metadatas=[{"at": at} for at in range(4)])
    made.update(ids=list(TEXTS), uris=[*"wxyz"])
    return made


def test_every_record_gets_a_vector_of_the_new_function(client, collection):
    other = client.get_collection("one")
    before, new, steps = collection.get(include=["documents", "metadatas", "uris"]), Counting(3, 2.0), []
    collection.reembed(new, batch_size=3, progress=lambda done, total: steps.append((done, total)))
    assert steps[-1] == (4, 4)
    assert collection.get(include=["documents", "metadatas", "uris"]) == before
    assert np.array_equal(collection.get(include=["embeddings"])["embeddings"], vectors(new, list(TEXTS.values())))
    assert collection.configuration_json["hnsw"]["space"] == "ip", "the distance stays"
    assert client.get_collection("one").configuration["embedding_function"].get_config() == {"dim": 3, "factor": 2.0}
    # The object itself, one that was there before, and one that is fetched now embed with the new function.
    for at, each in enumerate((collection, other, client.get_collection("one"))):
        each.add(ids=[f"new{at}"], documents=["five"])
        assert each.query(query_texts=["five"], n_results=9, include=["embeddings"])["embeddings"][0].shape == (5 + at, 3)
        assert each.embed_queries(["five"]).shape == (1, 3)
    assert np.array_equal(collection.get(ids=["new1"], include=["embeddings"])["embeddings"], vectors(new, ["five"]))


def test_a_distance_that_the_function_does_not_support_gives_way(client, collection):
    collection.reembed(Counting(5))
    assert collection.configuration_json["hnsw"]["space"] == "cosine"
    assert client.get_collection("one").describe()["distance"] == "cosine"
    assert collection.query(query_texts=["one"], n_results=1)["distances"][0][0] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("kind", [RuntimeError, ConnectionError, KeyError])
def test_an_interrupted_call_is_gone_on_with(collection, kind):
    failing, new = Counting(3), Counting(3)
    failing.failing, failing.error = True, kind("the service is down")
    before = collection.get(include=["embeddings"])["embeddings"]
    with pytest.raises(kind, match="down"):
        collection.reembed(failing, batch_size=1)
    assert np.array_equal(collection.get(include=["embeddings"])["embeddings"], before)
    collection.add(ids=["e"], documents=["five"])
    collection.reembed(new)
    assert failing.seen + new.seen == [*TEXTS.values(), "five"], "each was embedded once"


def test_another_function_begins_anew_and_abort_gives_up(collection):
    failing = Counting(3)
    failing.failing = True
    assert not collection.reembed_abort()
    with pytest.raises(RuntimeError, match="down"):
        collection.reembed(failing, batch_size=1)
    assert collection.reembed_abort()
    with pytest.raises(RuntimeError, match="down"):
        collection.reembed(failing, batch_size=1)
    new = Counting(3, 5.0)
    collection.reembed(new)
    assert new.seen == list(TEXTS.values())


def test_records_without_documents_are_said_before_anything_is_done(collection):
    collection.add(ids=["e"], embeddings=[[1, 2]], uris=["u"])
    collection.add(ids=["f"], embeddings=[[3, 4]])
    new = Counting(3)
    with pytest.raises(errors.InvalidArgumentError, match="2 of 6 records do not have a document,"):
        collection.reembed(new)
    collection._data_loader = lambda uris: [f"loaded {uri}" for uri in uris]
    with pytest.raises(errors.InvalidArgumentError, match="1 of 6 records do not have a document or a uri,"):
        collection.reembed(new)
    assert new.seen == []
    collection.delete(ids=["f"])
    collection.reembed(new)
    assert np.array_equal(collection.get(include=["embeddings"])["embeddings"], vectors(new, [*TEXTS.values(), "loaded u"]))


def test_one_that_was_given_its_own_function_is_told(client, collection):
    class Other(Counting):
        @staticmethod
        def name():
            return "reembed_other"

    other = client.get_collection("one", embedding_function=Counting())
    collection.reembed(Other(3))
    with pytest.raises(ValueError, match="conflict"):
        other.query(query_texts=["one"])
    with pytest.raises(ValueError, match="conflict"):
        other.add(ids=["x"], documents=["one"])
    assert collection.count() == 4


def test_a_text_that_was_embedded_before_the_switch_is_embedded_again(client, collection):
    """The switch happens between embedding and writing."""
    other = client.get_collection("one")
    old = other._function()
    old.hook = lambda: (setattr(old, "hook", None), collection.reembed(Counting(2, 7.0)))
    other.add(ids=["e"], documents=["five"])
    assert old.seen[-1] == "five"
    assert np.array_equal(collection.get(ids=["e"], include=["embeddings"])["embeddings"], vectors(Counting(2, 7.0), ["five"]))


def test_writers_of_the_same_object_go_on(client, collection):
    failures, done = [], threading.Event()

    def write():
        try:
            at = 0
            while not done.is_set() or at < 3:
                collection.add(ids=[f"n{at}"], documents=[f"text {at}"])
                at += 1
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    for factor in (2.0, 3.0, 4.0):
        collection.reembed(Counting(2, factor), batch_size=2)
    done.set()
    thread.join()
    assert not failures, failures
    found = collection.get(include=["embeddings", "documents"])
    assert np.array_equal(found["embeddings"], vectors(Counting(2, 4.0), found["documents"]))


def test_a_batch_size_must_be_one_or_more(collection):
    with pytest.raises(ValueError, match="batch_size"):
        collection.reembed(Counting(3), batch_size=0)


def test_it_lasts(open_client):
    with open_client() as client:
        made = client.create_collection("one", embedding_function=Counting())
        made.add(ids=list(TEXTS), documents=list(TEXTS.values()))
        made.reembed(Counting(4))
    with open_client() as client:
        made = client.get_collection("one")
        assert made.get(include=["embeddings"])["embeddings"].shape == (4, 4)
        assert made.query(query_texts=["two"], n_results=1)["ids"] == [["b"]]


def test_what_is_modified_meanwhile_stays(client, collection):
    new, other = Counting(3, 2.0), client.get_collection("one")
    new.hook = lambda: other.modify(configuration={"hnsw": {"ef_search": 77}})
    collection.reembed(new)
    assert client.get_collection("one").configuration_json["hnsw"]["ef_search"] == 77


def test_a_second_call_on_the_same_object_takes_nothing_from_the_first(collection):
    new = Counting(3, 2.0)

    def second():
        with pytest.raises(errors.StoreBusy):
            collection.reembed(Counting(4))

    new.hook = second
    collection.reembed(new)
    assert collection._embedding_function is new
