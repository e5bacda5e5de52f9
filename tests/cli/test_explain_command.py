"""``chroma-gpu explain``: the report, its JSON, and what it refuses."""

from __future__ import annotations

import json

import pytest

import chroma_gpu
from chroma_gpu.cli import main
from chroma_gpu.utils.embedding_functions import HashingEmbeddingFunction


@pytest.fixture
def path(tmp_path):
    place = str(tmp_path / "data")
    with chroma_gpu.PersistentClient(place) as client:
        fruits = client.create_collection("fruits", embedding_function=HashingEmbeddingFunction())
        fruits.add(
            ids=["a", "b", "c"],
            documents=["an apple", "a pear", "another pear"],
            metadatas=[{"year": 2001}, {"year": 2002}, {"year": 2003}],
        )
    return place


def test_the_report_in_words(path, capsys):
    where = ["--where", '{"year": {"$gte": 2002}}', "--where-document", '{"$contains": "another"}']
    assert main(["explain", "fruits", "pear", "--path", path, *where]) == 0
    out = capsys.readouterr().out
    assert "1 of 3 records are candidates" in out
    assert '{"year": {"$gte": 2002}}' in out
    assert '{"#document": {"$contains": "another"}}' in out


def test_as_json(path, capsys):
    assert main(["explain", "fruits", "pear", "--path", path, "-n", "2", "--where", '{"year": 2002}', "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["live"], said["candidates"], said["searches"][0]["k"]) == (3, 1, 1)
    assert said["filter"]["condition"] == {"year": {"$eq": 2002}}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nuts", "pear"], "does not exist"),
        (["fruits", "pear", "--where", '{"year": {"$near": 1}}'], "where"),
        (["fruits", "pear", "--path", "{nowhere}"], "holds no data"),
    ],
)
def test_what_cannot_be_explained_is_one_line(path, tmp_path, arguments, says, capsys):
    assert main(["explain", "--path", path, *(each.replace("{nowhere}", str(tmp_path / "none")) for each in arguments)]) == 1
    err = capsys.readouterr().err
    assert says in err
    assert err.startswith("chroma-gpu explain: ")
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "none").exists()
