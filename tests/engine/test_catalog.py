"""Names, on disk and in memory."""

from __future__ import annotations

import uuid

import pytest

from chroma_gpu.engine.catalog import TABLES, Catalog
from chroma_gpu.errors import AlreadyExistsError, InternalError, NotFoundError, UniqueConstraintError
from chroma_gpu.records import Metric
from chroma_gpu.store.lmdb import open_lmdb
from chroma_gpu.store.memory import MemoryKeyValue

T, D = "default_tenant", "default_database"


@pytest.fixture(params=["memory", "lmdb"])
def catalog(request, tmp_path):
    keyvalue = MemoryKeyValue(TABLES) if request.param == "memory" else open_lmdb(tmp_path / "catalog", TABLES)
    yield Catalog(keyvalue)
    keyvalue.close()


def make(catalog, name, tenant=T, database=D):
    return catalog.create_collection(
        name, tenant, database, metric=Metric.L2, params={"M": 8}, metadata={"a": 1}, configuration={"x": [1]}
    )


def test_the_defaults_are_there(catalog):
    assert catalog.tenant(T) == T
    assert catalog.database(D, T).name == D


def test_a_collection_is_what_was_made(catalog):
    made = make(catalog, "one")
    assert catalog.collection("one", T, D) == made == catalog.entry(made.id)
    assert (made.metric, made.params, made.metadata, made.configuration) == (Metric.L2, {"M": 8}, {"a": 1}, {"x": [1]})


def test_names_are_unique_within_a_database(catalog):
    make(catalog, "one")
    with pytest.raises(AlreadyExistsError) as caught:
        make(catalog, "one")
    assert isinstance(caught.value, InternalError)
    assert isinstance(caught.value, UniqueConstraintError)
    catalog.create_database("other", T)
    make(catalog, "one", database="other")
    assert (catalog.count(T, D), catalog.count(T, "other")) == (1, 1)


def test_names_may_be_as_long_as_they_like(catalog):
    catalog.create_tenant("t" * 3000)
    catalog.create_database("d" * 3000, "t" * 3000)
    make(catalog, "c" * 512, "t" * 3000, "d" * 3000)
    assert catalog.collection("c" * 512, "t" * 3000, "d" * 3000).name == "c" * 512


def test_names_do_not_run_into_each_other(catalog):
    catalog.create_tenant("ab")
    catalog.create_tenant("a")
    catalog.create_database("c", "ab")
    with pytest.raises(NotFoundError):
        catalog.database("bc", "a")


def test_listing_is_in_order_of_creation(catalog):
    for name in ("zz", "aa", "mm"):
        make(catalog, name)
    assert [entry.name for entry in catalog.collections(T, D)] == ["zz", "aa", "mm"]


def test_a_rename_frees_the_old_name(catalog):
    made = make(catalog, "old")
    catalog.change(made.id, name="new", metadata={"b": 2})
    make(catalog, "old")
    assert catalog.collection("new", T, D).id == made.id
    assert catalog.collection("new", T, D).metadata == {"b": 2}
    with pytest.raises(AlreadyExistsError):
        catalog.change(made.id, name="old")
    assert catalog.entry(made.id).name == "new"


def test_a_database_takes_its_collections_along(catalog):
    catalog.create_database("gone", T)
    inside, outside = make(catalog, "one", database="gone"), make(catalog, "one")
    assert catalog.delete_database("gone", T) == [inside]
    assert catalog.entry(inside.id) is None
    assert catalog.entry(outside.id) == outside
    assert [each.name for each in catalog.databases(T)] == [D]
    with pytest.raises(NotFoundError):
        catalog.delete_database("gone", T)


def test_what_is_not_there_is_said(catalog):
    for call in (
        lambda: catalog.tenant("nope"),
        lambda: catalog.database("nope", T),
        lambda: catalog.create_database("d", "nope"),
        lambda: make(catalog, "c", database="nope"),
        lambda: catalog.collection("nope", T, D),
        lambda: catalog.delete_collection("nope", T, D),
        lambda: catalog.change(uuid.uuid4(), name="x"),
    ):
        with pytest.raises(NotFoundError):
            call()


def test_clear_leaves_the_defaults(catalog):
    catalog.create_tenant("other")
    make(catalog, "one")
    catalog.clear()
    assert catalog.count(T, D) == 0
    assert catalog.database(D, T).name == D
    with pytest.raises(NotFoundError):
        catalog.tenant("other")
