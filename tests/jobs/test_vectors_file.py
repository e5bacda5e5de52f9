"""A collection as a parquet file: everything that was put in is found in it, by type, in order."""

from __future__ import annotations

import json
import os
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import chroma_gpu
from chroma_gpu.errors import MissingDependency, StoreBusy
from chroma_gpu.jobs import vectors_file
from chroma_gpu.records import SparseVector

parquet = pytest.importorskip("pyarrow.parquet", reason="files of this kind need pyarrow")


def facts(path):
    return json.loads(parquet.read_schema(path).metadata[b"chroma_gpu"])


def restored(path):
    """The records of a file, by nothing but what the file says of itself."""
    table, columns = parquet.read_table(path), facts(path)["columns"]
    records = []
    for row in table.to_pylist():
        metadata = {}
        for name, column in columns.items():
            value = row[name]
            if value is not None:
                value = json.loads(value) if column["type"] == "json" else value
                is_sparse = isinstance(value, dict)
                metadata[column["key"]] = SparseVector.from_dict(value) if is_sparse else value
        records.append((row["id"], row["vector"], row["document"], row["uri"], metadata or None))
    return records


@pytest.fixture
def fruits(client):
    made = client.create_collection("fruits", configuration={"hnsw": {"space": "cosine"}}, metadata={"of": "trees"})
    made.add(
        ids=["a", "b", "c"],
        embeddings=np.eye(3, 4),
        documents=["apple", None, "chérry"],
        uris=[None, "file:b", None],
        metadatas=[
            {"year": 1, "id": "inner", "price": 1.5, "ripe": True, "tags": ["x", "y"], "mixed": 1, "metadata_id": 7},
            None,
            {"year": 2, "vector": [1, 2], "mixed": "one", "words": SparseVector([1, 5], [0.5, 2.0])},
        ],
    )
    return made


def test_columns_have_the_types_of_their_values(fruits, tmp_path):
    path = tmp_path / "new" / "fruits.parquet"
    assert vectors_file.write(fruits, path) == 3
    schema = parquet.read_schema(path)
    assert {name: str(schema.field(name).type) for name in schema.names} == {
        **{"id": "string", "vector": "fixed_size_list<element: float>[4]", "document": "string", "uri": "string"},
        **{"metadata_metadata_id": "string", "metadata_id": "int64", "mixed": "string", "price": "double", "ripe": "bool"},
        **{"tags": "list<element: string>", "metadata_vector": "list<element: int64>", "words": "string", "year": "int64"},
    }
    assert schema.names[:4] == ["id", "vector", "document", "uri"]
    assert os.listdir(path.parent) == ["fruits.parquet"]


def test_the_file_says_what_it_is(fruits, tmp_path):
    vectors_file.write(fruits, tmp_path / "f.parquet")
    found = facts(tmp_path / "f.parquet")
    assert (found["version"], found["collection"], found["metadata"]) == (1, "fruits", {"of": "trees"})
    assert (found["count"], found["dimension"], found["space"]) == (3, 4, "cosine")
    assert found["embedding_function"]["name"] == "default"
    assert found["columns"]["metadata_metadata_id"] == {"key": "id", "type": "str"}
    assert found["columns"]["metadata_id"] == {"key": "metadata_id", "type": "int"}
    assert found["columns"]["mixed"] == {"key": "mixed", "type": "json"}


SCALARS = (
    st.text(st.characters(exclude_categories=("Cs",)), max_size=5),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
)
VALUES = st.one_of(*SCALARS, *(st.lists(each, min_size=1, max_size=3) for each in SCALARS))
KEYS = st.sampled_from(["id", "vector", "document", "uri", "metadata_id", "metadata_metadata_id", "year", "a.b", "ü"])
RECORDS = st.lists(st.tuples(st.none() | st.text("ab", max_size=3), st.dictionaries(KEYS, VALUES, max_size=5)), max_size=12)


@given(RECORDS, st.integers(0, 99))
def test_nothing_is_lost(tmp_path_factory, records, seed):
    client = chroma_gpu.EphemeralClient(chroma_gpu.Settings(allow_reset=True))
    client.reset()
    collection = client.create_collection("records")
    expected, rng = [], np.random.default_rng(seed)
    for at, (document, metadata) in enumerate(records):
        vector = rng.standard_normal(2).astype(np.float32)
        expected.append((str(at), vector.tolist(), document, None, metadata or None))
        collection.add(ids=[str(at)], embeddings=[vector], documents=[document], metadatas=[metadata or None])
    path = tmp_path_factory.mktemp("files") / "records.parquet"
    assert vectors_file.write(collection, path) == len(records)
    assert restored(path) == expected


def test_large_collections_go_in_groups_in_insertion_order(client, tmp_path, monkeypatch):
    monkeypatch.setattr(vectors_file, "PAGE_BYTES", 40_000)
    monkeypatch.setattr(vectors_file, "GROUP_BYTES", 100_000)
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((3_000, 8)).astype(np.float32)
    ids = [f"i{at}" for at in range(3_000)]
    collection = client.create_collection("many")
    collection.add(ids=ids, embeddings=vectors, metadatas=[{"at": at} for at in range(3_000)])
    collection.update(ids=["i5"], embeddings=vectors[5:6] + 1)  # which keeps its place
    collection.delete(ids=["i7"])
    told = []
    assert (
        vectors_file.write(collection, tmp_path / "f.parquet", progress=lambda done, total: told.append((done, total))) == 2_999
    )
    file = parquet.ParquetFile(tmp_path / "f.parquet")
    assert file.num_row_groups > 3
    assert told[-1] == (2_999, 2_999)
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    table = file.read()
    assert table["id"].to_pylist() == [each for each in ids if each != "i7"]
    vectors[5] += 1
    assert np.array_equal(np.array(table["vector"].to_pylist(), np.float32), np.delete(vectors, 7, axis=0))


def test_a_collection_without_records(client, tmp_path):
    assert vectors_file.write(client.create_collection("empty"), tmp_path / "f.parquet") == 0
    table = parquet.read_table(tmp_path / "f.parquet")
    assert (table.num_rows, table.column_names) == (0, ["id", "vector", "document", "uri"])


def test_what_others_write_meanwhile_is_in_it_whole(fruits, tmp_path, monkeypatch):
    path, seen = tmp_path / "f.parquet", []

    def another(done, total):
        if len(seen) < 2:
            seen.append(done)
            fruits.add(ids=[f"more{len(seen)}"], embeddings=np.ones((1, 4)), metadatas=[{"late": len(seen)}])

    assert vectors_file.write(fruits, path, progress=another) == 5
    assert parquet.read_table(path)["late"].to_pylist()[-2:] == [1, 2]
    times = []

    def always(done, total):
        times.append(done)
        fruits.update(ids=["a"], metadatas=[{"year": 10 + len(times)}])

    with pytest.raises(StoreBusy):
        vectors_file.write(fruits, path, progress=always)
    assert len(times) == 3
    assert parquet.read_table(path).num_rows == 5
    assert os.listdir(tmp_path) == ["f.parquet"]


def test_pyarrow_is_optional(fruits, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingDependency, match="pip install pyarrow"):
        vectors_file.write(fruits, tmp_path / "f.parquet")
    assert not os.listdir(tmp_path)
