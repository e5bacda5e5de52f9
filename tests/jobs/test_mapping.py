"""Rows to records: what is the id, the text, the vector, the metadata; and nothing that a collection would refuse."""

from __future__ import annotations

import hashlib
import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import chroma_gpu
from chroma_gpu.errors import InvalidArgumentError
from chroma_gpu.jobs.mapping import Mapping
from chroma_gpu.jobs.options import EmbedOptions
from chroma_gpu.jobs.rows import BadRow, Cursor, Item, Row, Stage
from chroma_gpu.records import SparseVector


def row(fields):
    return Row("here.jsonl", 7, Cursor(0, 6), Cursor(0, 7), fields)


def mapping(**options):
    return Mapping.of(EmbedOptions(inputs=("-",), collection="c", **options))


def good(fields, **options):
    item = mapping(**options).item(row(fields))
    assert isinstance(item, Item), item
    return item


def bad(fields, **options):
    found = mapping(**options).item(row(fields))
    assert isinstance(found, BadRow)
    assert (found.source, found.number, found.after, found.stage) == ("here.jsonl", 7, Cursor(0, 7), Stage.READ)
    return found


def test_a_row_with_everything():
    item = good({"id": "a", "text": "hello", "lang": "en", "n": 3, "share": 0.5, "new": True, "gone": None, "tags": ["x", "y"]})
    assert (item.id, item.text, item.uri, item.vector) == ("a", "hello", None, None)
    assert item.metadata == {"lang": "en", "n": 3, "share": 0.5, "new": True, "tags": ["x", "y"]}
    assert item.row.number == 7


def test_ids():
    digest = hashlib.blake2b("täxt".encode(), digest_size=16).hexdigest()
    assert good({"text": "täxt"}).id == digest
    assert good({"text": "täxt", "id": ""}).id == digest
    assert good({"text": "t", "id": 12}).id == "12"
    assert good({"text": "t", "id": UUID(int=1)}).id == str(UUID(int=1))
    assert good({"text": "t", "key": "k", "id": "other"}, id_column="key").id == "k"
    assert good({"text": "t", "key": "k", "id": "other"}, id_column="key").metadata == {"id": "other"}
    assert good({"text": "t", "id": "a"}, prefix_id="p:").id == "p:a"
    assert good({"text": "täxt"}, prefix_id="p:").id == "p:" + digest
    assert "no id in 'key'" in bad({"text": "t"}, id_column="key").message
    assert bad({"text": "t", "id": ["a"]}).error == "TypeError"
    assert bad({"text": "t", "id": True}).error == "TypeError"
    assert "characters" in bad({"text": "t", "id": "x" * (1 << 20)}).message
    with pytest.raises(InvalidArgumentError):
        mapping(prefix_id="\ud800")


def test_texts():
    assert good({"content": "c", "document": "d"}).text == "d"
    assert good({"content": "c", "text": None}).text == "c"
    assert good({"content": "c", "document": "d"}).metadata == {"content": "c"}
    item = good(
        {"title": "T", "body": "B", "year": 1999, "note": None}, text_columns=("title", "note", "year", "body"), join=" | "
    )
    assert item.text == "T | 1999 | B"
    assert item.metadata is None
    assert bad({"title": "T"}).message == "there is no text in 'text' or 'document' or 'content'"
    assert bad({"title": None}, text_columns=("title",)).message == "there is no text in 'title'"
    assert bad({"text": " \n"}).message == "the text is blank"
    assert bad({"text": ["a"]}).message == "'text' is no text but of type list"
    assert bad({"text": True}).error == "TypeError"


def test_what_is_bad_keeps_its_id_and_its_fields():
    found = bad({"id": "a", "text": None, "x": 1}, prefix_id="p:")
    assert found.id == "p:a"
    assert found.fields == {"id": "a", "text": None, "x": 1}
    assert bad({"text": None}).id is None


def test_vectors():
    for given_vector in ([1, 2.5], (1, 2.5), np.array([1, 2.5]), "[1, 2.5]", np.array([1, 2.5], "<f4").tobytes()):
        item = good({"id": "a", "v": given_vector}, vector_column="v")
        assert item.vector.dtype == np.float32
        assert item.vector.tolist() == [1, 2.5]
        assert (item.text, item.metadata) == (None, None)
    assert good({"id": "a", "v": [1], "text": "kept"}, vector_column="v").text == "kept"
    for given_vector in (None, [], [[1.0]], ["a"], [True], 3, "no", "{}", b"abc", [math.nan], [1e39], [None], [10**400]):
        assert "v" in bad({"id": "a", "v": given_vector}, vector_column="v").fields
    assert "neither an id nor a text" in bad({"v": [1]}, vector_column="v").message


def test_vectors_have_one_length():
    made = mapping(vector_column="v")
    assert isinstance(made.item(row({"id": "a", "v": []})), BadRow)
    assert isinstance(made.item(row({"id": "a", "v": [1, 2]})), Item)
    assert "has 3 dimensions, others have 2" in made.item(row({"id": "a", "v": [1, 2, 3]})).message
    known = Mapping.of(EmbedOptions(inputs=("-",), collection="c", vector_column="v"), dim=3)
    assert isinstance(known.item(row({"id": "a", "v": [1, 2]})), BadRow)


def test_uris():
    item = good({"text": "t", "u": "file:a"}, uri_column="u")
    assert (item.uri, item.metadata) == ("file:a", None)
    assert good({"text": "t"}, uri_column="u").uri is None
    assert bad({"text": "t", "u": 3}, uri_column="u").error == "TypeError"


def test_metadata_of_other_kinds():
    kept = good(
        {
            "text": "t",
            "when": datetime(2024, 1, 2, 3, 4, tzinfo=UTC),
            "day": date(2024, 1, 2),
            "took": timedelta(seconds=90),
            "price": Decimal("1.5"),
            "key": UUID(int=1),
            "nested": {"a": [1, None]},
            "mixed": [1, "a"],
            "numbers": [1, 2.5],
            "flags": [True, False],
            "none": [],
            "array": np.array([1, 2]),
            "number": np.float32(0.5),
            "sparse": {"#type": "sparse_vector", "indices": [1, 5], "values": [0.5, 1]},
        }
    ).metadata
    assert kept == {
        "when": "2024-01-02T03:04:00+00:00",
        "day": "2024-01-02",
        "took": 90.0,
        "price": 1.5,
        "key": str(UUID(int=1)),
        "nested": '{"a":[1,null]}',
        "mixed": '[1,"a"]',
        "numbers": [1.0, 2.5],
        "flags": [True, False],
        "array": [1, 2],
        "number": 0.5,
        "sparse": SparseVector([1, 5], [0.5, 1]),
    }
    assert all(type(each) is float for each in kept["numbers"])


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        1 << 63,
        -(1 << 63) - 1,
        [1 << 63],
        [math.nan],
        b"bytes",
        "\ud800",
        ["\ud800"],
        "x" * ((1 << 24) + 1),
        {"#type": "sparse_vector", "indices": [5, 1], "values": [1, 1]},
        {"a": "\ud800"},
        Decimal("NaN"),
        object(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_metadata_that_cannot_be_kept(value):
    found = bad({"text": "t", "k": value})
    assert "k" in found.fields


@pytest.mark.parametrize("key", ["", "#a", "$b", "chroma:document", "k" * 70_000, "\ud800"], ids=lambda key: ascii(key[:20]))
def test_keys_that_cannot_be_kept(key):
    bad({"text": "t", key: 1})
    assert good({"text": "t", key: 1}, metadata_columns=()).metadata is None
    assert good({"text": "t", key: None}).metadata is None


def test_named_metadata_alone_is_kept():
    fields = {"id": "a", "text": "t", "x": 1, "y": 2}
    assert good(fields, metadata_columns=("y", "id", "gone")).metadata == {"y": 2, "id": "a"}
    assert good(fields, metadata_columns=()).metadata is None


def test_keys_are_forgotten_before_they_are_many():
    made = mapping()
    for at in range(10_000):
        made.item(row({"text": "t", f"key{at}": 1}))
    assert len(made._good_keys) < 5_000
    assert isinstance(made.item(row({"text": "t", "#": 1})), BadRow)


NUMBERS = (
    st.integers(-(2**70), 2**70) | st.floats() | st.integers(0, 5) | st.sampled_from([2**63, 2**63 - 1, -(2**63), 0.0, -0.0])
)
STRINGS = st.text(st.characters(), max_size=8) | st.sampled_from(["", " ", "#a", "$", "chroma:document", "\ud800", "ok", "#type"])
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | STRINGS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(STRINGS, inner, max_size=3),
    max_leaves=6,
)
SPARSE = st.fixed_dictionaries(
    {
        "#type": st.sampled_from(["sparse_vector", "other"]),
        "indices": st.lists(st.integers(-1, 2**33), max_size=3),
        "values": st.lists(NUMBERS, max_size=3),
    }
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "id": JSON | STRINGS,
        "text": JSON | STRINGS,
        "uri": STRINGS | st.integers() | st.none(),
        "v": st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=2) | JSON,
        "sparse": SPARSE,
        "k": JSON,
    },
)


@pytest.fixture(scope="module")
def collections():
    with chroma_gpu.EphemeralClient() as client:
        yield [client.create_collection(f"taken-{n}", embedding_function=None) for n in range(2)]


@settings(max_examples=600, deadline=None)
@given(fields=FIELDS, more=st.dictionaries(STRINGS, JSON, max_size=3), with_vector=st.booleans())
def test_a_collection_takes_whatever_the_mapping_takes(collections, fields, more, with_vector):
    options = {"vector_column": "v"} if with_vector else {}
    found = Mapping.of(EmbedOptions(inputs=("-",), collection="c", uri_column="uri", **options), dim=2).item(
        row({**more, **fields})
    )
    if isinstance(found, BadRow):
        assert found.message
        return
    vector = np.ones(2, np.float32) if found.vector is None else found.vector
    collections[with_vector].upsert(
        ids=[found.id],
        embeddings=[vector],
        documents=None if found.text is None else [found.text],
        metadatas=None if found.metadata is None else [found.metadata],
        uris=None if found.uri is None else [found.uri],
    )
    there = collections[with_vector].get(ids=[found.id], include=["documents", "metadatas"])
    if found.text is not None:
        assert there["documents"] == [found.text]
    for key, value in (found.metadata or {}).items():
        assert there["metadatas"][0][key] == value
