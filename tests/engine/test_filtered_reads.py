"""Filtered reads of a table: one committed state whatever is written meanwhile, more rows than one chunk, and what is kept of them."""

from __future__ import annotations

import numpy as np
import pytest

from chroma_gpu.bytecache import ByteCache
from chroma_gpu.config import Settings
from chroma_gpu.engine.engine import Engine
from chroma_gpu.engine.ranked import Question
from chroma_gpu.filter import (
    And,
    Contains,
    DocumentContains,
    DocumentMatches,
    DocumentNotContains,
    Eq,
    Gt,
    Gte,
    In,
    InIds,
    Lt,
    Lte,
    Ne,
    NotIn,
    Or,
    matches,
)
from chroma_gpu.records import Column, Metric, Mode, RecordBatch
from chroma_gpu.roaring import CHUNK

T, D = "default_tenant", "default_database"
ALL = frozenset([Column.METADATA, Column.DOCUMENT])
NOTHING: frozenset[Column] = frozenset()


@pytest.fixture
def engine():
    made = Engine.in_memory(Settings(device="cpu"))
    yield made
    made.close()


@pytest.fixture
def collection(engine):
    return engine.catalog.create_collection("0", T, D, metric=Metric.L2, params={}, metadata={}, configuration={}).id


def vectors(n, value=0.0):
    return np.full((n, 2), value, np.float32)


READS = {
    "fetch": lambda table, expr: table.fetch(expr, ALL).ids,
    "rows": lambda table, expr: [f"id{row}" for row in table.rows(expr).tolist()],
    "search": lambda table, expr: sorted(table.search(vectors(1), 9, expr, ALL).records.ids),
    "rank": lambda table, expr: table.rank([Question(None, expr, ALL)])[0].records.ids,
}


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize(
    "expr",
    [
        Or((DocumentContains("aaaa"), Eq("x", "b"))),
        And((DocumentMatches("a{4}"), Eq("x", "a"))),
        Or((DocumentNotContains("bbbb"), Eq("x", "b"))),
    ],
)
def test_what_is_rewritten_while_it_is_read_is_read_again(engine, collection, read, expr, monkeypatch):
    """Every record says the same in metadata and document, at any time; so a condition holds for all of them or none."""
    n = 4
    ids = [f"id{at}" for at in range(n)]

    def say(what):
        engine.write(collection, RecordBatch(ids, vectors(n), [what * 4] * n, [{"x": what}] * n), Mode.ADD)
        engine.write(collection, RecordBatch(ids, None, [what * 4] * n, [{"x": what}] * n), Mode.UPDATE)

    say("a")
    with engine.table(collection) as table:
        documents, told = type(table._store).documents, []

        def telling(store, rows):
            if not told:
                told.append("b")
                say("b")
            return documents(store, rows)

        monkeypatch.setattr(type(table._store), "documents", telling)
        found = READS[read](table, expr)
    assert told
    assert found == (ids if matches(expr, 0, {"x": "b"}, b"bbbb") else [])


def test_what_is_rewritten_after_it_was_found_is_read_again(engine, collection, monkeypatch):
    engine.write(collection, RecordBatch(["a", "b"], vectors(2), None, [{"x": 1}, {"x": 1}]), Mode.ADD)
    with engine.table(collection) as table:
        reading, told = type(table._store).read, []

        def telling(store, rows, columns):
            if not told:
                told.append("a")
                engine.write(collection, RecordBatch(told, metadatas=[{"x": 2}]), Mode.UPDATE)
            return reading(store, rows, columns)

        monkeypatch.setattr(type(table._store), "read", telling)
        assert table.fetch(Eq("x", 1), ALL).metadatas == [{"x": 1}]


def test_what_is_rewritten_after_it_was_chosen_is_not_removed(engine, collection, monkeypatch):
    engine.write(collection, RecordBatch(["a", "b"], vectors(2), None, [{"x": 1}, {"x": 1}]), Mode.ADD)
    with engine.table(collection) as table:
        deleting, told = type(table._store).delete, []

        def telling(store, rows, **seen):
            if not told:
                told.append("a")
                engine.write(collection, RecordBatch(told, metadatas=[{"x": 2}]), Mode.UPDATE)
            return deleting(store, rows, **seen)

        monkeypatch.setattr(type(table._store), "delete", telling)
        assert table.remove(Eq("x", 1)).removed == 1
        assert table.fetch(None, NOTHING).ids == ["a"]


def test_a_kept_answer_weighs_what_its_condition_does(engine, collection):
    engine.write(collection, RecordBatch(["a"], vectors(1), ["text"], [{"x": 1}]), Mode.ADD)
    many = tuple(f"name {at}" for at in range(1_000))
    for expr in (InIds(many), In("x", many), Or((DocumentContains("t" * 50_000), Eq("x", 2)))):
        with engine.table(collection) as table:
            cache: ByteCache = table._fields._cache
            before = cache.nbytes
            table.fetch(expr, NOTHING)
            assert cache.nbytes - before > 50_000


EDGES = [
    2**53,
    2**53 + 1,
    2.0**53,
    2**63 - 1,
    -(2**63),
    2.0**63,
    -0.0,
    0,
    1.0,
    1,
    True,
    False,
    "1",
    ["a", "a", "b"],
    [1, 1],
    [-0.0],
]


def test_more_than_one_chunk_of_rows(engine, collection):
    """Through adds, rewriting, moves and deletes; with pages in the order of insertion."""
    n, rng = 2 * CHUNK + 9_000, np.random.default_rng(0)
    model = {}

    def metadata(at):
        found = {"n": at, "few": int(at % 3), "name": f"name {at % 11}"} if at % 10 else {"few": float(at % 4)}
        if CHUNK - 99 < at < CHUNK + 99 or at % 500 == 0:
            found["odd"] = EDGES[int(rng.integers(len(EDGES)))]
        if at >= 2 * CHUNK:
            found["late"] = at / 2
        return found

    def write(ids, mode, value):
        metadatas = [metadata(int(at)) for at in rng.integers(n, size=len(ids))] if model else [*map(metadata, range(n))]
        given = None if mode is Mode.UPDATE else vectors(len(ids), value)
        engine.write(collection, RecordBatch(ids, given, None, metadatas), mode)
        for id_, each in zip(ids, metadatas, strict=True):
            model[id_] = {**model.get(id_, {}), **each}

    def some(count):
        ids = list(model)
        return [ids[at] for at in rng.choice(len(ids), count, replace=False).tolist()]

    write([f"id{at}" for at in range(n)], Mode.ADD, 0.0)
    write(some(3_000), Mode.UPDATE, 0.0)
    write(some(3_000), Mode.UPSERT, 1.0)
    gone = some(2_000)
    engine.delete(collection, None, gone, None)
    for id_ in gone:
        del model[id_]
    named = tuple(some(500))
    known = set(named)
    exprs = [
        Or((Eq("odd", 2**53 + 1), Gt("odd", 2**63 - 1), Contains("odd", "a"), Lte("odd", -(2**63)))),
        And((Ne("odd", 1), Lt("odd", 2.0**53 + 2))),
        Or((Eq("odd", True), In("odd", (0.0, 1.0)), Contains("odd", 0.0))),
        And((Gte("n", CHUNK - 5), Lt("n", 2 * CHUNK + 5), Ne("few", 1))),
        Or((Gte("late", CHUNK + 100.5), And((Eq("name", "name 3"), In("few", (0, 2.0)))))),
        And((NotIn("name", ("name 1", "name 2")), InIds(named, others=True), Lt("n", 70_000))),
    ]
    for expr in exprs:
        expected = [id_ for id_, each in model.items() if matches(expr, 0, each, None, id_)]
        with engine.table(collection) as table:
            assert table.fetch(expr, NOTHING).ids == expected
            assert table.fetch(expr, NOTHING, offset=30, limit=50).ids == expected[30:80]
            assert table.fetch(expr, NOTHING, ids=named, offset=2).ids == [id_ for id_ in expected if id_ in known][2:]
