"""Random histories on a persistent collection against a dictionary: nothing is lost, nothing is left, every answer is exact."""

from __future__ import annotations

import shutil
import tempfile
from functools import partial

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import chroma_gpu
from chroma_gpu.api.client import Client
from chroma_gpu.errors import InternalError

DIM = 4
IDS = [f"id{at}" for at in range(24)] + ["ü" * 300, "x" * 2000, " "]

ids = st.lists(st.sampled_from(IDS), min_size=1, max_size=8, unique=True)
# Few distinct values, so that equal vectors and equal distances are common.
vector = st.lists(st.sampled_from([0.0, 1.0, -1.0, 0.5]), min_size=DIM, max_size=DIM)
value = st.one_of(st.integers(-2, 2), st.sampled_from([0.5, True, False, "x", "y", ["p", "q"], [1, 2]]))
metadata = st.one_of(st.none(), st.dictionaries(st.sampled_from("kmn"), value, min_size=1, max_size=3))
document = st.one_of(st.none(), st.text("ab é\n", max_size=6))
condition = st.one_of(
    st.none(),
    st.builds(
        lambda key, op, operand: {key: {op: operand}},
        st.sampled_from("kmn"),
        st.sampled_from(["$gt", "$lte"]),
        st.integers(-2, 2),
    ),
    st.builds(
        lambda key, op, operand: {key: {op: operand}},
        st.sampled_from("kmn"),
        st.sampled_from(["$eq", "$ne", "$contains", "$not_contains"]),
        st.sampled_from([1, 0.5, True, "x", "p", 2]),
    ),
)


def passes(record, where) -> bool:
    """The plain meaning of a condition with one key."""
    if where is None:
        return True
    ((key, test),) = where.items()
    ((op, operand),) = test.items()
    got = (record["metadata"] or {}).get(key)
    if op in ("$contains", "$not_contains"):
        inside = isinstance(got, list) and any(type(each) is type(operand) and each == operand for each in got)
        return inside == (op == "$contains")
    number = type(got) in (int, float) and type(operand) in (int, float)
    equal = not isinstance(got, list) and got == operand and (number or type(got) is type(operand))
    if op in ("$eq", "$ne"):
        return equal == (op == "$eq")
    return number and (got > operand if op == "$gt" else got <= operand)


class History(RuleBasedStateMachine):
    """``model``: id -> record in insertion order; an update keeps its place, delete and add puts it last."""

    @initialize(space=st.sampled_from(["l2", "ip", "cosine"]))
    def begin(self, space):
        self.path = tempfile.mkdtemp()
        self.space = space
        self.model = {}
        self.open()

    def open(self):
        # A tiny map, so that it grows in the middle of everything.
        self.client = chroma_gpu.PersistentClient(self.path, chroma_gpu.Settings(map_size=1))
        self.collection = self.client.get_or_create_collection(
            "history", configuration={"hnsw": {"space": self.space}}, embedding_function=None
        )

    def teardown(self):
        if hasattr(self, "path"):
            Client.clear_system_cache()
            shutil.rmtree(self.path)

    @rule(ids=ids, data=st.data())
    def add(self, ids, data):
        vectors, documents, metadatas = self.draw(ids, data)
        self.collection.add(ids=ids, embeddings=vectors, documents=documents, metadatas=metadatas)
        for at, each in enumerate(ids):
            if each not in self.model:
                self.model[each] = {"vector": vectors[at], "document": documents[at], "metadata": metadatas[at]}

    @rule(ids=ids, data=st.data())
    def upsert(self, ids, data):
        vectors, documents, metadatas = self.draw(ids, data)
        self.collection.upsert(ids=ids, embeddings=vectors, documents=documents, metadatas=metadatas)
        for at, each in enumerate(ids):
            old = self.model.setdefault(each, {"vector": None, "document": None, "metadata": None})
            self.merge(old, vectors[at], documents[at], metadatas[at])

    @rule(ids=ids, data=st.data(), with_vectors=st.booleans())
    def update(self, ids, data, with_vectors):
        vectors, documents, metadatas = self.draw(ids, data)
        given = {"embeddings": vectors, "documents": documents} if with_vectors else {}
        self.collection.update(ids=ids, metadatas=metadatas, **given)
        for at, each in enumerate(ids):
            if each in self.model:
                self.merge(self.model[each], *((vectors[at], documents[at]) if with_vectors else (None, None)), metadatas[at])

    @rule(ids=ids, key=st.sampled_from("kmn"))
    def remove_a_key(self, ids, key):
        self.collection.update(ids=ids, metadatas=[{key: None}] * len(ids))
        for each in ids:
            if each in self.model:
                self.merge(self.model[each], None, None, {key: None})

    @rule(ids=ids)
    def delete(self, ids):
        self.collection.delete(ids=ids)
        for each in ids:
            self.model.pop(each, None)

    @precondition(lambda self: len(self.model) > 4)
    @rule(where=condition.filter(bool), limit=st.one_of(st.none(), st.integers(0, 3)))
    def delete_where(self, where, limit):
        gone = [each for each, record in self.model.items() if passes(record, where)][:limit]
        assert self.collection.delete(where=where, limit=limit) == {"deleted": len(gone)}
        for each in gone:
            del self.model[each]

    @rule()
    def reopen(self):
        self.client.close()
        self.open()

    @rule()
    def compact(self):
        self.collection.compact()

    @rule(where=condition, limit=st.one_of(st.none(), st.integers(0, 9)), offset=st.integers(0, 5))
    def get(self, where, limit, offset):
        got = self.collection.get(where=where, limit=limit, offset=offset, include=["documents", "metadatas", "embeddings"])
        want = [(each, record) for each, record in self.model.items() if passes(record, where)][offset:]
        want = want if limit is None else want[:limit]
        assert got["ids"] == [each for each, _ in want]
        assert got["documents"] == [record["document"] for _, record in want]
        assert got["metadatas"] == [record["metadata"] for _, record in want]
        assert got["embeddings"].tolist() == [record["vector"] for _, record in want]

    @rule(query=vector, where=condition, k=st.integers(1, 30), data=st.data())
    def query(self, query, where, k, data):
        known = st.lists(st.sampled_from(sorted(self.model)), min_size=1, unique=True) if self.model else st.none()
        among = data.draw(st.one_of(st.none(), ids, known))
        ask = partial(self.collection.query, query_embeddings=[query], n_results=k, where=where, include=["distances"])
        if among is not None and not set(among) <= self.model.keys():
            with pytest.raises(InternalError, match="Error finding id"):
                ask(ids=among)
            return
        got = ask(ids=among)
        want = {
            each: self.distance(query, record["vector"])
            for each, record in self.model.items()
            if passes(record, where) and (among is None or each in among)
        }
        found, distances = got["ids"][0], got["distances"][0]
        # The model divides by norms in another order, so a cosine may differ in its last bits.
        assert distances == pytest.approx(sorted(want.values())[:k], abs=1e-6)
        assert len(set(found)) == len(found)
        assert [want[each] for each in found] == pytest.approx(distances, abs=1e-6)
        assert distances == sorted(distances)

    @invariant()
    def nothing_more_and_nothing_less(self):
        if hasattr(self, "collection"):
            assert self.collection.count() == len(self.model)

    def draw(self, ids, data):
        return [data.draw(st.lists(each, min_size=len(ids), max_size=len(ids))) for each in (vector, document, metadata)]

    def merge(self, record, vector, document, metadata):
        if vector is not None:
            record["vector"] = vector
        if document is not None:
            record["document"] = document
        merged = {**(record["metadata"] or {}), **(metadata or {})}
        record["metadata"] = {key: each for key, each in merged.items() if each is not None} or None

    def distance(self, query, vector):
        q, v = np.float64(query), np.float64(vector)
        if self.space == "l2":
            return float(np.float32(((q - v) ** 2).sum()))
        if self.space == "ip":
            return float(np.float32(1 - q @ v))
        norms = np.linalg.norm(q) * np.linalg.norm(v)
        return float(np.float32(1 - (q @ v / norms if norms else 0)))


TestHistory = History.TestCase


@pytest.mark.soak
class TestLongHistories(History.TestCase):
    """Many more and longer histories than the default profile makes."""

    settings = settings.get_profile("soak")
