"""The command line, called as the console script calls it."""

from __future__ import annotations

import gzip
import json

import pytest

import chroma_gpu
from chroma_gpu.cli import main

RECORDS = [
    {"id": f"r{at}", "text": f"{word} number {at}", "year": 2000 + at, "none": None}
    for at, word in enumerate(["apple", "pear", "plum"])
]


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "data")


@pytest.fixture
def file(tmp_path):
    made = tmp_path / "records.jsonl"
    made.write_text("\n".join(json.dumps(record) for record in RECORDS))
    return made


def embed(file, path, *more):
    return main(["embed", str(file), "-c", "fruits", "--path", path, "--model", "hashing", *more])


def test_embed_then_query(file, path, capsys):
    assert embed(file, path) == 0
    assert "3 records (3 new), 3 of 3 texts embedded" in " ".join(capsys.readouterr().out.split())
    assert main(["query", "fruits", "a pear", "--path", path, "-n", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["ids"], found["documents"], found["metadatas"]) == ([["r1"]], [["pear number 1"]], [[{"year": 2001}]])


def test_the_table_shows_answers_and_times(file, path, capsys):
    embed(file, path)
    assert main(["query", "fruits", "a pear", "plum", "--path", path, "--where", '{"year": {"$gt": 2001}}']) == 0
    out = capsys.readouterr().out
    assert "pear number" not in out
    assert out.count("plum number 2") == 2
    assert "search again" in out


def test_nothing_is_embedded_twice(file, path, capsys):
    embed(file, path)
    capsys.readouterr()
    file.write_text(file.read_text().replace("plum number", "plums, number") + '\n{"id": "r9", "text": "kiwi"}')
    assert embed(file, path, "--batch", "2") == 0
    assert "4 records (1 new), 2 of 4 texts embedded" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("suffix", ["csv", "txt", "jsonl.gz", "csv.gz"])
def test_formats(suffix, tmp_path, path):
    text = {
        "csv": 'id,text,year\na,"one, two",1999\nb,three,2000\n',
        "txt": "one, two\n\nthree\n",
        "jsonl": '{"id": "a", "text": "one, two"}\n{"id": "b", "text": "three"}\n',
    }[suffix.removesuffix(".gz")]
    made = tmp_path / f"file.{suffix}"
    made.write_bytes(gzip.compress(text.encode()) if suffix.endswith(".gz") else text.encode())
    assert embed(made, path) == 0
    with chroma_gpu.PersistentClient(path) as client:
        got = client.get_collection("fruits").get()
    assert got["documents"] == ["one, two", "three"]
    if suffix.startswith("csv"):
        assert got["metadatas"] == [{"year": "1999"}, {"year": "2000"}]


def test_fields_can_be_named(tmp_path, path):
    made = tmp_path / "file.jsonl"
    made.write_text('{"key": 7, "body": "text", "a": 1, "b": 2}\n')
    assert embed(made, path, "--id", "key", "--text", "body", "--metadata", "b") == 0
    with chroma_gpu.PersistentClient(path) as client:
        got = client.get_collection("fruits").get()
    assert (got["ids"], got["metadatas"]) == (["7"], [{"b": 2}])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["embed", "missing.jsonl", "-c", "fruits"], "No such file"),
        (["embed", "{bad}", "-c", "fruits"], "line 1"),
        (["embed", "{bad}", "-c", "x"], "line 1"),
        (["query", "fruits", "text"], "does not exist"),
        (["info"], "holds no data"),
        (["compact", "fruits"], "holds no data"),
    ],
)
def test_failures_are_one_line_and_a_status(arguments, says, tmp_path, capsys):
    (tmp_path / "bad.jsonl").write_text("{")
    given = [each.format(bad=tmp_path / "bad.jsonl") for each in arguments] + ["--path", str(tmp_path / "none")]
    assert main(given) == 1
    err = capsys.readouterr().err
    assert says in err
    assert err.startswith(f"chroma-gpu {arguments[0]}: ")
    assert len(err.strip().splitlines()) == 1


def test_a_filter_must_be_json(path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["query", "fruits", "x", "--path", path, "--where", "{"])
    assert stopped.value.code == 2
    assert "not JSON" in capsys.readouterr().err


def test_info_and_compact(file, path, capsys):
    embed(file, path)
    with chroma_gpu.PersistentClient(path) as client:
        client.get_collection("fruits").delete(ids=["r0"])
    capsys.readouterr()
    assert main(["info", "--path", path, "--json"]) == 0
    (facts,) = json.loads(capsys.readouterr().out)
    assert (facts["name"], facts["records"], facts["dead"], facts["embedding_function"]) == ("fruits", 2, 1, "hashing")
    assert main(["compact", "fruits", "--path", path]) == 0
    assert main(["info", "--path", path]) == 0
    assert "fruits" in capsys.readouterr().out
    with chroma_gpu.PersistentClient(path) as client:
        assert client.get_collection("fruits").describe()["dead"] == 0


def test_doctor(capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "torch" in out
    assert "default model" in out
    assert "index ivf_pq" in out
    assert "masks are" in out


def test_doctor_names_the_command_that_mends(capsys, monkeypatch):
    from chroma_gpu.cli import doctor

    monkeypatch.setattr(doctor, "REQUIRED", ("numpy", "no-such-package"))
    monkeypatch.setattr(doctor, "has_faiss", lambda: False)
    monkeypatch.setenv("COLUMNS", "300")
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "pip install no-such-package" in out
    assert "chroma-gpu[cpu]" in out
