"""Results: plain dictionaries that can be changed, and tables of the same records."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from chroma_gpu.errors import MissingDependency
from chroma_gpu.records import SparseVector


@pytest.fixture
def collection(client):
    made = client.create_collection("some", embedding_function=None)
    made.add(
        ids=["a", "b", "c"],
        embeddings=[[0, 0], [0, 1], [0, 3]],
        documents=["<script>1</script>", None, "x" * 500],
        metadatas=[{"k": 1}, {"k": "text", "s": SparseVector([1], [0.5])}, None],
        uris=[None, "u://b", None],
    )
    return made


def test_a_result_is_a_dictionary_that_can_be_changed(collection):
    got = collection.get(include=["documents"])
    plain = {
        "ids": ["a", "b", "c"],
        "embeddings": None,
        "documents": ["<script>1</script>", None, "x" * 500],
        "uris": None,
        "included": ["documents"],
        "data": None,
        "metadatas": None,
    }
    assert isinstance(got, dict)
    assert got == plain
    assert plain == got
    assert list(got) == list(plain)
    assert json.loads(json.dumps(got)) == plain
    got["ids"] = []
    assert {**got}["ids"] == []
    found = collection.query(query_embeddings=[[0, 0]])
    assert list(found) == ["ids", "embeddings", "documents", "uris", "included", "data", "metadatas", "distances"]


def test_get_as_a_frame_has_one_row_for_each_record(collection):
    frame = collection.get(include=["embeddings", "documents", "metadatas", "uris"]).to_pandas()
    assert list(frame.columns) == ["id", "document", "metadata", "embedding", "uri"]
    assert frame["id"].tolist() == ["a", "b", "c"]
    assert frame["document"].tolist() == ["<script>1</script>", None, "x" * 500]
    assert frame["metadata"].tolist()[0] == {"k": 1}
    np.testing.assert_array_equal(frame["embedding"][2], [0.0, 3.0])


def test_query_as_a_frame_numbers_the_queries(collection):
    frame = collection.query(query_embeddings=[[0, 0], [0, 3]], n_results=2).to_pandas()
    assert list(frame.columns) == ["query", "id", "document", "metadata", "distance"]
    assert frame["query"].tolist() == [0, 0, 1, 1]
    assert frame["id"].tolist() == ["a", "b", "c", "b"]
    assert frame["distance"].tolist() == [0.0, 1.0, 0.0, 4.0]


def test_arrow_has_the_rows_of_the_frame(collection):
    result = collection.query(query_embeddings=[[0, 0]], include=["embeddings", "documents", "metadatas", "distances", "uris"])
    table = result.to_arrow()
    assert table.column_names == ["query", "id", "document", "metadata", "embedding", "uri", "distance"]
    rows = table.to_pylist()
    assert [row["id"] for row in rows] == ["a", "b", "c"]
    assert rows[2]["embedding"] == [0.0, 3.0]
    assert json.loads(rows[1]["metadata"]) == {"k": "text", "s": SparseVector([1], [0.5]).to_dict()}
    assert rows[2]["metadata"] is None
    assert rows[1]["uri"] == "u://b"
    assert str(table.schema.field("embedding").type) == "list<item: float>"
    assert collection.get(ids=["a"]).to_arrow().to_pylist() == [
        {"id": "a", "document": "<script>1</script>", "metadata": '{"k": 1}'}
    ]


def test_nothing_found_is_an_empty_table(collection):
    for result in (collection.get(ids=["none"]), collection.query(query_embeddings=[[0, 0]], where={"k": 7})):
        assert len(result.to_pandas()) == 0
        assert result.to_arrow().num_rows == 0
        assert "<tbody></tbody>" in result._repr_html_()


def test_in_a_notebook_it_is_an_escaped_table(collection):
    shown = collection.get(include=["embeddings", "documents", "metadatas"])._repr_html_()
    assert "&lt;script&gt;1&lt;/script&gt;" in shown
    assert "<script>" not in shown
    assert "2 numbers" in shown
    assert "x" * 201 not in shown
    assert "<th>query</th>" in collection.query(query_embeddings=[[0, 0]])._repr_html_()


def test_a_long_table_says_how_much_is_left_out(client):
    many = client.create_collection("many", embedding_function=None)
    many.add(ids=[str(i) for i in range(60)], embeddings=[[float(i)] for i in range(60)])
    shown = many.get()._repr_html_()
    assert shown.count("<tr>") == 51
    assert "10 more records" in shown


@pytest.mark.parametrize(("library", "method"), [("pandas", "to_pandas"), ("pyarrow", "to_arrow")])
def test_a_missing_library_is_named_with_the_line_that_installs_it(collection, monkeypatch, library, method):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingDependency, match=f"pip install {library}"):
        getattr(collection.get(), method)()


@pytest.mark.parametrize(("space", "distances"), [("l2", [0.0, 1.0, 9.0]), ("ip", [1.0, 0.0, -2.0]), ("cosine", [1.0, 0.0, 0.0])])
def test_max_distance_leaves_out_what_is_farther(client, space, distances):
    made = client.create_collection(f"{space}-c", configuration={"hnsw": {"space": space}}, embedding_function=None)
    made.add(ids=["a", "b", "c"], embeddings=[[0, 0], [0, 1], [0, 3]])
    query = [0, 0] if space == "l2" else [0, 1]
    everything = dict(zip("abc", distances, strict=True))
    for limit in [*distances, -5.0, 0.5, float("inf")]:
        found = made.query(query_embeddings=[query, query], max_distance=limit)
        assert set(found["ids"][0]) == {id for id, distance in everything.items() if distance <= limit}
        assert found["ids"][0] == found["ids"][1]
        assert all(distance <= limit for distance in found["distances"][0])
        assert [len(column) for column in found["documents"]] == [len(found["ids"][0])] * 2
    assert made.query(query_embeddings=[query], max_distance=float("inf"), n_results=2)["ids"] == [
        made.query(query_embeddings=[query], n_results=2)["ids"][0]
    ]
    assert made.query(query_embeddings=[query], max_distance=-9, include=[])["ids"] == [[]]


@pytest.mark.parametrize(("wrong", "kind"), [("1", TypeError), (True, TypeError), ([1.0], TypeError), (float("nan"), ValueError)])
def test_max_distance_must_be_a_number(collection, wrong, kind):
    with pytest.raises(kind, match="max_distance"):
        collection.query(query_embeddings=[[0, 0]], max_distance=wrong)


class Lengths:
    """Embeds a text as its length."""

    def __init__(self) -> None:
        self.calls = []

    def __call__(self, input):
        self.calls.append(len(input))
        return [np.array([len(text), 1.0], np.float32) for text in input]


@pytest.mark.parametrize("method", ["add", "upsert", "update"])
def test_progress_counts_texts_up_to_their_number(client, method):
    function = Lengths()
    made = client.create_collection("some", embedding_function=None)
    made._embedding_function = function
    ids, texts = [str(i) for i in range(2_500)], ["t" * (i % 7) for i in range(2_500)]
    if method == "update":
        made.add(ids=ids, embeddings=[[0.0, 0.0]] * 2_500)
    told = []
    getattr(made, method)(ids=ids, documents=texts, progress=lambda done, total: told.append((done, total)))
    assert told == [(1_024, 2_500), (2_048, 2_500), (2_500, 2_500)]
    assert made.count() == 2_500
    function.calls.clear()
    made.upsert(ids=ids, documents=texts)
    assert function.calls == [2_500]  # without it, one call, as in Chroma


def test_progress_of_our_own_functions_counts_too(client):
    from chroma_gpu.embed.hashing import HashingEmbeddingFunction

    made = client.create_collection("some", embedding_function=HashingEmbeddingFunction(8))
    told = []
    made.add(ids=[str(i) for i in range(50)], documents=[f"text {i}" for i in range(50)], progress=lambda *at: told.append(at))
    assert told[-1] == (50, 50)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_a_bar_is_shown_when_it_is_asked_for(client, capsys):
    made = client.create_collection("some", embedding_function=None)
    made._embedding_function = Lengths()
    made.add(ids=["a"], documents=["text"], progress=False)
    assert capsys.readouterr().err == ""
    made.add(ids=["b"], documents=["text"], progress=True)
    assert "embedding" in capsys.readouterr().err
