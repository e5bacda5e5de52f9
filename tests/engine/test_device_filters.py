"""Filters of collections whose vectors are on a device: the same answers, one upload of a mask at most, and a host that takes over."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from engine.test_filter_index import Histories
from hypothesis import settings as profile
from hypothesis.stateful import run_state_machine_as_test

from chroma_gpu.engine import planner
from chroma_gpu.engine.indexes import Indexes
from chroma_gpu.engine.planner import Choice
from chroma_gpu.filter.device import columns
from chroma_gpu.filter.device.cost import FilterCost
from chroma_gpu.index import IndexSpec, Traits
from chroma_gpu.index.gpu.ledger import LEDGER
from chroma_gpu.index.gpu.masks import MASKS
from chroma_gpu.kernels import predicate
from chroma_gpu.records import Metric
from chroma_gpu.store.inverted import fold as folding

N, DIM = 6_000, 16
VECTORS = np.random.default_rng(3).standard_normal((N, DIM), dtype=np.float32)
WHERE = {"$and": [{"part": {"$lt": 60}}, {"$or": [{"kind": "a"}, {"odd": True}]}]}


@pytest.fixture
def name(device, monkeypatch):
    """The name of a device that is not the CPU as tables are searched without one, and that looks cheap."""
    made = f"{device}:0" if device in ("cpu", "cuda") else device
    monkeypatch.setattr(Indexes, "_devices", lambda self: (made,))
    monkeypatch.setattr(planner, "whole", lambda *given: 0.01)
    monkeypatch.setattr(FilterCost, "pays", lambda self, rows, asked, reads: True)
    monkeypatch.setattr(columns, "HOT", 1)
    return made


@pytest.fixture
def opened(open_client, name):
    def opened(**given):
        client = open_client(index="flat", vram_limit="1GB", **given)
        collection = client.get_or_create_collection("vectors", embedding_function=None)
        if not collection.count():
            collection.add(
                ids=[str(at) for at in range(N)],
                embeddings=VECTORS,
                metadatas=[{"part": at % 100, "kind": "ab"[at % 2], "odd": at % 3 == 1} for at in range(N)],
            )
        collection.wait_indexed()
        return client, collection

    return opened


def passes(at):
    return at % 100 < 60 and (at % 2 == 0 or at % 3 == 1)


def nearest(query, rows):
    return [str(rows[at]) for at in np.argsort(((VECTORS[rows] - query) ** 2).sum(axis=1), kind="stable")[:5]]


def test_filters_on_a_device_find_what_a_look_at_every_record_finds(device, monkeypatch):
    """Whatever was written, folded, forked, compacted or deleted before."""
    made = f"{device}:0" if device in ("cpu", "cuda") else device
    choice = Choice(IndexSpec("flat", Metric.L2, 2), Traits(exact=True, concurrent_add=True, device=made), 1)
    asked = []
    evaluated = predicate.predicate

    def counted(*given):
        asked.append(1)
        return evaluated(*given)

    monkeypatch.setattr(Indexes, "choices", lambda self: [choice])
    monkeypatch.setattr(FilterCost, "pays", lambda self, rows, asked, reads: True)
    monkeypatch.setattr(columns, "HOT", 1)
    monkeypatch.setattr(predicate, "predicate", counted)
    monkeypatch.setattr(folding, "FOLD_ROWS", 3)
    run_state_machine_as_test(type("Machine", (Histories,), {}), settings=profile(max_examples=40, stateful_step_count=25))
    assert len(asked) > 10, "else this says nothing of the device"


def test_an_explanation_says_which_conditions_were_answered_there(opened):
    _, collection = opened()
    said = collection.explain(query_embeddings=VECTORS[5], n_results=5, where=WHERE)
    assert (said.filter.how, said.filter.asked, said.filter.passed) == ("device", N, sum(map(passes, range(N))))
    assert "device" in str(said)
    said = collection.explain(query_embeddings=VECTORS[5], n_results=5, where=WHERE)
    assert said.filter.how == "kept"


def test_a_filter_that_was_evaluated_on_the_device_costs_no_upload(opened, name):
    _, collection = opened()
    rows = [at for at in range(N) if passes(at)]
    uploads = MASKS.uploads
    for query in VECTORS[:3]:
        assert collection.query(query_embeddings=query, n_results=5, where=WHERE)["ids"] == [nearest(query, rows)]
    narrow = {"part": {"$eq": 7}}
    assert collection.explain(query_embeddings=VECTORS[0], n_results=5, where=narrow).searches[0].on.startswith("a list")
    assert MASKS.uploads == uploads
    assert collection.get(where=narrow, limit=2)["ids"] == ["7", "107"]


def test_masks_are_uploaded_once_between_two_writes(opened):
    """Those of filters that the host evaluated, and those of live rows, also where an index is some rows behind."""
    _, collection = opened(device_filters=False)
    rows = [at for at in range(N) if passes(at)]

    def uploads(where=None):
        before = MASKS.uploads
        for query in VECTORS[:3]:
            assert collection.query(query_embeddings=query, n_results=5, where=where)["ids"] == [nearest(query, rows)]
        return MASKS.uploads - before

    assert uploads(WHERE) == 1
    assert uploads(WHERE) == 0
    rows = list(range(N))
    assert uploads() == 0, "all rows live"
    collection.delete(ids=["17", "18"])
    rows = [at for at in range(N) if at not in (17, 18)]
    assert uploads() == 1
    assert uploads() == 0
    collection.add(ids=["late"], embeddings=VECTORS[:1] * 100)
    assert uploads() == 1, "the index is one row behind"
    rows = [at for at in rows if passes(at)]
    assert uploads(WHERE) == 1
    assert uploads(WHERE) == 0


def test_what_the_device_has_of_a_mask_serves_an_index_that_is_behind(opened):
    _, collection = opened()
    collection.delete(ids=["17"])
    collection.add(ids=["late"], embeddings=VECTORS[:1], metadatas=[{"part": 1, "kind": "a"}])
    rows = [at for at in range(N) if passes(at) and at != 17]
    before = MASKS.uploads
    for query in VECTORS[1:4]:
        found = collection.query(query_embeddings=query, n_results=5, where=WHERE)["ids"][0]
        assert [each for each in found if each != "late"] == nearest(query, rows)[: len(found) - found.count("late")]
    assert collection.query(query_embeddings=VECTORS[0], n_results=2, where=WHERE)["ids"] == [["0", "late"]]
    assert MASKS.uploads - before == 1, "of the live rows, which the filter needs"


def test_the_setting_leaves_filters_to_the_host(opened):
    _, collection = opened(device_filters=False)
    said = collection.explain(query_embeddings=VECTORS[5], n_results=5, where={"part": {"$lt": 60}})
    assert said.filter.how == "index"


def test_devices_without_float64_are_not_asked(opened, monkeypatch):
    _, collection = opened()
    choice = Choice(IndexSpec("flat", Metric.L2, DIM), Traits(exact=True, concurrent_add=True, device="mps"), N)
    monkeypatch.setattr(Indexes, "choices", lambda self: [choice])
    assert len(collection.get(where={"part": {"$lt": 60}}, include=[])["ids"]) == N * 60 // 100


def test_columns_are_in_the_books_and_leave_them_with_their_table(opened, name):
    client, collection = opened()
    vectors = LEDGER.held()[name]
    collection.query(query_embeddings=VECTORS[5], n_results=5, where=WHERE)
    assert LEDGER.held()[name] == vectors + sum(columns.column_bytes(kind, 65_536) for kind in ("int", "str", "bool"))
    client.delete_collection("vectors")
    assert name not in LEDGER.held()


def test_columns_make_room_for_vectors(opened, name):
    _, collection = opened()
    vectors = LEDGER.held()[name]
    collection.query(query_embeddings=VECTORS[5], n_results=5, where=WHERE)
    held = LEDGER.held()[name]
    budget = LEDGER.budget(name, "1GB")

    class Vectors:
        def release(self):
            pass

    other = Vectors()
    LEDGER.reserve(other, name, budget - held + 1, budget)
    assert LEDGER.held()[name] == vectors + budget - held + 1, "the columns went, the vectors stayed"
    LEDGER.give_back(other)
    assert collection.explain(query_embeddings=VECTORS[5], n_results=5, where={"part": {"$lt": 61}}).filter.how == "device"


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (torch.OutOfMemoryError("out of memory"), "the memory of the device ran out"),
        (RuntimeError("CUDA error: device-side assert triggered"), "the device failed: CUDA error"),
    ],
)
def test_a_device_that_fails_leaves_filters_to_the_host(opened, monkeypatch, raised, said):
    _, collection = opened()

    def broken(*_):
        raise raised

    monkeypatch.setattr(predicate, "predicate", broken)
    rows = [at for at in range(N) if passes(at)]
    with pytest.warns(RuntimeWarning, match=rf"{said}.*Settings\.device_filters=False"):
        found = collection.query(query_embeddings=VECTORS[5], n_results=5, where=WHERE)["ids"]
    assert found == [nearest(VECTORS[5], rows)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        said = collection.explain(query_embeddings=VECTORS[5], n_results=5, where={"part": {"$lt": 60}})
    assert said.filter.how == "index"


def test_other_errors_are_not_hidden(opened, monkeypatch):
    _, collection = opened()

    def broken(*_):
        raise ValueError("a mistake of ours")

    monkeypatch.setattr(predicate, "predicate", broken)
    with pytest.raises(ValueError, match="a mistake of ours"):
        collection.query(query_embeddings=VECTORS[5], n_results=5, where=WHERE)
