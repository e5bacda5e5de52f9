"""Filters over the inverted index: whatever was written, folded, reopened, forked, compacted or written by somebody else before,
they find what a look at every record finds."""

from __future__ import annotations

import math
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from filter.random_metadata import CONDITIONS, METADATAS
from hypothesis import settings as profile
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from chroma_gpu.config import Settings
from chroma_gpu.engine.engine import Engine
from chroma_gpu.filter import (
    And,
    Contains,
    DocumentContains,
    DocumentMatches,
    DocumentNotContains,
    DocumentNotMatches,
    Eq,
    Gte,
    InIds,
    Or,
    matches,
)
from chroma_gpu.records import Column, Metric, Mode, RecordBatch, SparseVector
from chroma_gpu.store.inverted import fold as folding

T, D, DIM = "default_tenant", "default_database", 2
NOTHING: frozenset[Column] = frozenset()


def storable(value):
    """Whether a record can keep a value: the API lets nothing else through."""
    if isinstance(value, list):
        return bool(value) and len(set(map(type, value))) == 1 and all(map(storable, value))
    if isinstance(value, int) and not isinstance(value, bool):
        return -(2**63) <= value < 2**63
    return not isinstance(value, dict) and not (isinstance(value, float) and not math.isfinite(value))


STORED = METADATAS.map(lambda each: each and ({key: value for key, value in each.items() if storable(value)} or None))
TEXTS = st.text(alphabet="abé ", max_size=9) | st.sampled_from(["abab", "baba ab", "é€", "aab " * 9])
WANTED = st.text(alphabet="abé ", max_size=5)
PATTERNS = st.sampled_from(["a+b", "^aab", "ab(a|é)b", r"\bab", "(?i)BAB", "[ab]{3}é", "b$"])
ABOUT_TEXTS = st.one_of(
    st.builds(DocumentContains, WANTED),
    st.builds(DocumentNotContains, WANTED),
    st.builds(DocumentMatches, PATTERNS),
    st.builds(DocumentNotMatches, PATTERNS),
)
IDS = st.integers(0, 13).map("id{}".format)
EXPRS = st.recursive(
    st.one_of(CONDITIONS, ABOUT_TEXTS, st.builds(InIds, st.lists(IDS, max_size=6).map(tuple), st.booleans())),
    lambda inner: st.builds(
        lambda kind, children: kind(tuple(children)), st.sampled_from([And, Or]), st.lists(inner, max_size=3)
    ),
    max_leaves=6,
)


def conditions(metadata):
    """Conditions that a record with this metadata passes."""
    for field, value in (metadata or {}).items():
        if isinstance(value, list):
            yield Contains(field, value[0])
        elif not isinstance(value, SparseVector):
            yield Eq(field, value)
            if type(value) in (int, float):
                yield Gte(field, value)


class Histories(RuleBasedStateMachine):
    """Collections in two engines on one directory, or in one in memory, beside dictionaries of what they hold."""

    on_disk = False

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp()) if self.on_disk else None
        self.engines = [self.opened(), self.opened()] if self.on_disk else [self.opened()]
        self.collections = []
        self.made = 0
        self.seen = []

    def opened(self):
        settings = Settings(device="cpu", filter_memory=4_000 if self.on_disk else 1 << 20)
        return Engine.in_memory(settings) if self.folder is None else Engine.at(self.folder / "data", settings)

    def teardown(self):
        for each in self.engines:
            each.close()
        if self.folder is not None:
            shutil.rmtree(self.folder)

    @initialize()
    def create(self):
        entry = self.engines[0].catalog.create_collection("0", T, D, metric=Metric.L2, params={}, metadata={}, configuration={})
        self.collections.append((entry.id, {}))

    @rule(
        which=st.integers(0, 9),
        engine=st.integers(0, 1),
        mode=st.sampled_from(Mode),
        with_vectors=st.booleans(),
        records=st.dictionaries(IDS, st.tuples(STORED, st.none() | TEXTS), min_size=1, max_size=9),
    )
    def write(self, which, engine, mode, with_vectors, records):
        collection, model = self.collections[which % len(self.collections)]
        ids = list(records)
        vectors = np.full((len(ids), DIM), len(model), np.float32) if with_vectors or mode is not Mode.UPDATE else None
        metadatas, documents = zip(*records.values(), strict=True)
        self.engines[engine % len(self.engines)].write(collection, RecordBatch(ids, vectors, documents, metadatas), mode)
        for id_, (metadata, document) in records.items():
            old = model.get(id_)
            self.seen += [*conditions(old and old[0]), *conditions(metadata)]
            self.seen += [] if document is None else [DocumentContains(document[:4])]
            if old is None and mode is not Mode.UPDATE:
                model[id_] = (metadata, document)
            elif old is not None and mode is not Mode.ADD:
                merged = {**(old[0] or {}), **(metadata or {})}
                model[id_] = (merged or None, old[1] if document is None else document)

    @rule(which=st.integers(0, 9), number=st.integers(0, 99), metadata=STORED, gone=st.sampled_from([(), ("x",), ("x", "y")]))
    def rewrite(self, which, number, metadata, gone):
        """Other metadata for one record that is there, in place."""
        collection, model = self.collections[which % len(self.collections)]
        if model:
            id_ = list(model)[number % len(model)]
            given = {**(metadata or {}), **dict.fromkeys(gone)}
            self.engines[0].write(collection, RecordBatch([id_], metadatas=[given]), Mode.UPDATE)
            old, document = model[id_]
            self.seen += [*conditions(old), *conditions(metadata)]
            merged = {key: value for key, value in {**(old or {}), **given}.items() if value is not None}
            model[id_] = (merged or None, document)

    @rule(which=st.integers(0, 9), engine=st.integers(0, 1), ids=st.lists(IDS, max_size=5))
    def delete(self, which, engine, ids):
        collection, model = self.collections[which % len(self.collections)]
        self.engines[engine % len(self.engines)].delete(collection, None, ids, None)
        for id_ in ids:
            model.pop(id_, None)

    @precondition(lambda self: len(self.collections) < 3)
    @rule(which=st.integers(0, 9), engine=st.integers(0, 1))
    def fork(self, which, engine):
        collection, model = self.collections[which % len(self.collections)]
        self.made += 1
        entry = self.engines[engine % len(self.engines)].fork(collection, f"fork {self.made}")
        self.collections.append((entry.id, dict(model)))

    @rule(which=st.integers(0, 9), engine=st.integers(0, 1))
    def compact(self, which, engine):
        self.engines[engine % len(self.engines)].compact(self.collections[which % len(self.collections)][0])

    @precondition(lambda self: self.on_disk)
    @rule(engine=st.integers(0, 1))
    def reopen(self, engine):
        self.engines[engine].close()
        self.engines[engine] = self.opened()

    @rule(
        which=st.integers(0, 9),
        expr=EXPRS,
        ids=st.none() | st.lists(IDS, max_size=20, unique=True),
        offset=st.integers(0, 4),
        limit=st.none() | st.integers(0, 5),
    )
    def ask(self, which, expr, ids, offset, limit):
        self.compare(which, expr, ids, offset, limit)

    @invariant()
    def what_was_written_last_is_found(self):
        for which in range(len(self.collections)):
            for condition in self.seen[-8:]:
                self.compare(which, condition)

    def compare(self, which, expr, ids=None, offset=0, limit=None):
        collection, model = self.collections[which % len(self.collections)]
        expected = [
            id_
            for id_, (metadata, document) in model.items()
            if (ids is None or id_ in ids)
            and matches(expr, 0, metadata, None if document is None else document.encode(), id_)
        ]  # fmt: skip
        stop = None if limit is None else offset + limit
        for engine in self.engines:
            with engine.table(collection) as table:
                assert table.fetch(expr, NOTHING, ids=ids, offset=offset, limit=limit).ids == expected[offset:stop]
                assert limit is None or table.fetch(expr, NOTHING, ids=ids).ids == expected


@pytest.mark.parametrize("on_disk", [False, True], ids=["memory", "disk"])
def test_filters_find_what_a_look_at_every_record_finds(on_disk, monkeypatch):
    monkeypatch.setattr(folding, "FOLD_ROWS", 6)
    machine = type("OnDisk" if on_disk else "InMemory", (Histories,), {"on_disk": on_disk})
    run_state_machine_as_test(machine, settings=profile(max_examples=12 if on_disk else 40, stateful_step_count=25))
