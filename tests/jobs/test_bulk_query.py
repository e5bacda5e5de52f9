"""Files of queries to files of hits: what ``Collection.query`` says of each, in order, whatever the file."""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import os
import signal
import sys

import numpy as np
import pytest

from chroma_gpu import cli
from chroma_gpu.cli import main
from chroma_gpu.embed.hashing import HashingEmbeddingFunction
from chroma_gpu.errors import EmbeddingFailed, InvalidArgumentError, MissingDependency
from chroma_gpu.jobs import bulk_query, queries

WORDS = ["apple", "pear", "plum", "kiwi", "red", "green", "sweet", "sour", "small", "large"]


def texts(rng, n):
    return [" ".join(rng.choice(WORDS, 4)) for _ in range(n)]


@pytest.fixture
def fruits(client):
    rng = np.random.default_rng(3)
    made = client.create_collection(
        "fruits", configuration={"hnsw": {"space": "cosine"}}, embedding_function=HashingEmbeddingFunction()
    )
    documents = texts(rng, 300)
    metadatas = [{"year": at % 10, "kind": "odd" if at % 2 else "even"} if at % 7 else None for at in range(300)]
    made.add(ids=[f"r{at}" for at in range(300)], documents=documents, metadatas=metadatas)
    return made


def written(path, rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def one_by_one(collection, asked, k, include):
    """What the collection says of each query."""
    answers = []
    for each in asked:
        given = {"query_embeddings": [each["vector"]]} if "vector" in each else {"query_texts": [each["text"]]}
        filters = {name: each.get(name) for name in ("where", "where_document")}
        found = collection.query(**given, n_results=k, include=list(include), **filters)
        answers.append({name: found[name][0] for name in ("ids", *include)})
    return answers


def mixed(rng, n, dim):
    """Queries of every kind: texts and vectors, with and without filters."""
    filters = [{}, {}, {"where": {"year": {"$gte": 5}}}, {"where": {"kind": "odd"}, "where_document": {"$contains": "red"}}]
    asked = []
    for at, text in enumerate(texts(rng, n)):
        one = {"vector": rng.standard_normal(dim).tolist()} if at % 5 == 0 else {"text": text}
        asked.append({"id": f"q{at}", **one, **filters[rng.integers(len(filters))]})
    return asked


@pytest.mark.parametrize("batch", [1, 7, 4_096])
def test_answers_are_those_of_single_queries(fruits, tmp_path, monkeypatch, batch):
    monkeypatch.setattr(queries, "AT_ONCE", 200)
    asked = mixed(np.random.default_rng(4), 60, fruits.describe()["dimension"])
    include = ("metadatas", "documents", "distances", "uris")
    source = written(tmp_path / "q.jsonl", asked)
    report = bulk_query(fruits, source, tmp_path / "hits.jsonl", k=12, include=include, batch=batch, progress="none")
    found = lines(tmp_path / "hits.jsonl")
    assert [each.pop("query_id") for each in found] == [each["id"] for each in asked]
    assert found == one_by_one(fruits, asked, 12, include)
    assert (report.queries_in, report.answered, report.dead, report.exit_code) == (60, 60, 0, 0)
    assert report.hits == sum(len(each["ids"]) for each in found)
    assert sorted(os.listdir(tmp_path)) == ["hits.jsonl", "q.jsonl"]


def test_filters_and_distances_for_all_queries(fruits, tmp_path):
    asked = [{"text": "red apple", "where": {"kind": "odd"}}, {"text": "sour plum"}]
    given = {"where": {"year": {"$lt": 6}}, "where_document": {"$not_contains": "kiwi"}, "max_distance": 0.9}
    bulk_query(fruits, written(tmp_path / "q.jsonl", asked), tmp_path / "h.jsonl", k=100, progress="none", **given)
    first, second = lines(tmp_path / "h.jsonl")
    both = {**given, "where": {"$and": [given["where"], {"kind": "odd"}]}}
    assert first["ids"] == fruits.query(query_texts=["red apple"], n_results=100, **both)["ids"][0]
    assert second["ids"] == fruits.query(query_texts=["sour plum"], n_results=100, **given)["ids"][0]
    assert 0 < len(first["ids"]) < 100
    assert first["query_id"] == "1"


def test_rows_of_hits(fruits, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="files of this kind need pyarrow")
    asked = mixed(np.random.default_rng(5), 20, fruits.describe()["dimension"])
    asked.append({"id": "none", "text": "apple", "where": {"year": 99}})
    source, include = written(tmp_path / "q.jsonl", asked), ("distances", "documents", "metadatas")
    bulk_query(fruits, source, tmp_path / "h.parquet", k=5, include=include, progress="none")
    bulk_query(fruits, source, tmp_path / "h.csv", k=5, include=include, progress="none")
    expected = [
        (query["id"], rank, *hit)
        for query, answer in zip(asked, one_by_one(fruits, asked, 5, include), strict=True)
        for rank, hit in enumerate(zip(*answer.values(), strict=True), 1)
    ]
    table = parquet.read_table(tmp_path / "h.parquet")
    assert table.column_names == ["query_id", "rank", "id", "distance", "document", "metadata"]
    found = [tuple(row.values()) for row in table.to_pylist()]
    assert [(*row[:5], json.loads(row[5]) if row[5] else None) for row in found] == expected
    with (tmp_path / "h.csv").open(newline="") as file:
        first, *rows = csv.reader(file)
    assert first == table.column_names
    read = [(row[0], int(row[1]), row[2], float(row[3]), row[4], json.loads(row[5]) if row[5] else None) for row in rows]
    assert read == expected


def test_large_files_of_hits_have_row_groups(fruits, tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet", reason="files of this kind need pyarrow")
    monkeypatch.setattr(queries.hits, "GROUP", 100)
    written(tmp_path / "q.jsonl", [{"text": each} for each in texts(np.random.default_rng(1), 40)])
    bulk_query(fruits, tmp_path / "q.jsonl", tmp_path / "h.parquet", progress="none")
    file = parquet.ParquetFile(tmp_path / "h.parquet")
    assert (file.metadata.num_rows, file.num_row_groups) == (400, 4)


def test_no_query_is_a_file_without_hits(fruits, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="files of this kind need pyarrow")
    report = bulk_query(fruits, written(tmp_path / "q.jsonl", []), tmp_path / "h.parquet", progress="none")
    assert parquet.read_table(tmp_path / "h.parquet").num_rows == report.queries_in == 0


@pytest.mark.parametrize("ending", ["csv", "tsv", "txt", "parquet"])
def test_forms_of_queries(fruits, tmp_path, ending):
    path = tmp_path / f"q.{ending}"
    wanted, where = ["red apple", "sour, green plum"], {"year": {"$gte": 5}}
    if ending == "txt":
        path.write_text("\ufeff" + "\n\n".join(wanted) + "\n", "utf-8")
    elif ending == "parquet":
        pyarrow = pytest.importorskip("pyarrow", reason="files of this kind need pyarrow")
        pytest.importorskip("pyarrow.parquet", reason="files of this kind need pyarrow")
        filters = [None, {**where, "kind": None}]  # tables have every key in every row
        pyarrow.parquet.write_table(pyarrow.table({"query_id": [1, 2], "query": wanted, "where": filters}), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.writer(file, delimiter="\t" if ending == "tsv" else ",")
            writer.writerows([["query", "where"], [wanted[0], ""], [wanted[1], json.dumps(where)]])
    bulk_query(fruits, path, tmp_path / "h.jsonl", progress="none")
    first, second = lines(tmp_path / "h.jsonl")
    assert first["ids"] == fruits.query(query_texts=wanted[:1])["ids"][0]
    given = {} if ending == "txt" else {"where": where}
    assert second["ids"] == fruits.query(query_texts=wanted[1:], **given)["ids"][0]
    assert (first["query_id"], second["query_id"]) == (("1", "3") if ending == "txt" else ("1", "2"))


def test_columns_can_be_named(fruits, tmp_path):
    dim = fruits.describe()["dimension"]
    row = {"id": "x", "key": "a", "text": "not this", "q": "red apple", "v": json.dumps([1.0] * dim), "vector": "no"}
    source = written(tmp_path / "q.jsonl", [row])
    bulk_query(fruits, source, tmp_path / "h.jsonl", id_column="key", text_column="q", progress="none")
    assert lines(tmp_path / "h.jsonl")[0]["ids"] == fruits.query(query_texts=["red apple"])["ids"][0]
    bulk_query(fruits, source, tmp_path / "h.jsonl", id_column="key", vector_column="v", progress="none")
    (found,) = lines(tmp_path / "h.jsonl")
    assert (found["query_id"], found["ids"]) == ("a", fruits.query(query_embeddings=[[1.0] * dim])["ids"][0])


def test_fields_of_a_table_that_are_empty_are_not_there(fruits, tmp_path):
    dim = fruits.describe()["dimension"]
    with (tmp_path / "q.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["id", "text", "vector", "where"], ["", "red apple", "", ""], ["b", "", json.dumps([1] * dim), '{"year": 3}']]
        )
    assert bulk_query(fruits, tmp_path / "q.csv", tmp_path / "h.jsonl", progress="none").dead == 0
    asked = [{"text": "red apple"}, {"vector": [1] * dim, "where": {"year": 3}}]
    want = one_by_one(fruits, asked, 10, ["distances"])
    got = lines(tmp_path / "h.jsonl")
    assert [each["query_id"] for each in got] == ["1", "b"]
    assert [each["ids"] for each in got] == [each["ids"] for each in want]


def test_bad_queries_are_set_apart(fruits, tmp_path):
    source = tmp_path / "q.jsonl"
    bad = [
        *('{"text": 7}', "{", '{"other": "x"}', '{"text": "x", "where": {"year": {"$what": 1}}}', '{"vector": [1, 2]}'),
        *('{"text": "x", "where": "{"}', '{"vector": ["a"]}', '{"text": "x", "where": [1]}', '{"id": 1.5, "text": "x"}'),
        '{"text": "x", "where_document": {"$regex": "("}}',
        '{"text": "x", "where": {"year": null}}',
        *(json.dumps({"vector": [value] * fruits.describe()["dimension"]}) for value in ("1", True)),
    ]
    good = ['{"id": "a", "text": "red apple"}', '{"id": "b", "text": "plum"}']
    source.write_text("\n".join([good[0], *bad, good[1]]))
    report = bulk_query(fruits, source, tmp_path / "h.jsonl", progress="none")
    assert [each["query_id"] for each in lines(tmp_path / "h.jsonl")] == ["a", "b"]
    assert (report.queries_in, report.answered, report.dead, report.exit_code) == (15, 2, 13, 3)
    dead = lines(tmp_path / "h.jsonl.bad.jsonl")
    assert [each["row"] for each in dead] == list(range(2, 15))
    assert report.dead_letter == str(tmp_path / "h.jsonl.bad.jsonl")
    assert dead[4]["error"] == "DimensionMismatch"
    assert any("13 bad queries, kept in" in line for line in report.lines())
    # What was mended can be asked alone, and then nothing is bad any more.
    mended = bulk_query(fruits, written(tmp_path / "q2.jsonl", [{"text": "x"}]), tmp_path / "h.jsonl", progress="none")
    assert (mended.dead, mended.dead_letter) == (0, None)
    assert not (tmp_path / "h.jsonl.bad.jsonl").exists()


class Choosy(HashingEmbeddingFunction):
    """Fails on some texts, and with them on every batch that they are in."""

    failing = "bad"

    def __call__(self, input):
        if any(self.failing in text for text in input):
            raise EmbeddingFailed("no vector")
        return super().__call__(input)

    def embed_query(self, input):
        return self(input)


def test_a_text_that_fails_does_not_fail_the_others(client, tmp_path):
    made = client.create_collection("fruits", embedding_function=Choosy())
    made.add(ids=list("abc"), documents=WORDS[:3])
    asked = [{"text": WORDS[at % 3] if at % 11 else f"bad {at}"} for at in range(50)]
    report = bulk_query(made, written(tmp_path / "q.jsonl", asked), tmp_path / "h.jsonl", k=1, progress="none")
    assert (report.answered, report.dead) == (45, 5)
    dead = lines(tmp_path / "h.jsonl.bad.jsonl")
    assert [(each["row"], each["stage"], each["error"]) for each in dead] == [
        (at, "embed", "EmbeddingFailed") for at in (1, 12, 23, 34, 45)
    ]


def test_a_model_that_always_fails_is_an_error_and_leaves_what_was_there(client, tmp_path):
    function = Choosy()
    made = client.create_collection("fruits", embedding_function=function)
    made.add(ids=["a"], documents=["x"])
    function.failing = ""
    (tmp_path / "h.jsonl").write_text("old")
    source = written(tmp_path / "q.jsonl", [{"text": f"{at}"} for at in range(50)])
    with pytest.raises(EmbeddingFailed):
        bulk_query(made, source, tmp_path / "h.jsonl", progress="none")
    assert (tmp_path / "h.jsonl").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["h.jsonl", "q.jsonl"]


def test_what_cannot_be_done_is_said_before_anything_is_read(fruits, tmp_path, monkeypatch):
    source = written(tmp_path / "q.jsonl", [{"text": "x"}])
    wrong = [
        ({"out": tmp_path / "h.xlsx"}, InvalidArgumentError, "parquet"),
        ({"include": ["data"]}, InvalidArgumentError, "cannot include"),
        ({"where": {"year": {"$what": 1}}}, ValueError, "what"),
        ({"k": 0}, TypeError, "0"),
        ({"batch": 0}, ValueError, "batch"),
        ({"max_distance": float("nan")}, ValueError, "NaN"),
        ({"queries": tmp_path / "none.jsonl"}, InvalidArgumentError, "not there"),
        ({"out": source}, InvalidArgumentError, "cannot be written"),
        ({"dead_letter": source}, InvalidArgumentError, "cannot be written"),
        ({"dead_letter": tmp_path / "h.jsonl"}, InvalidArgumentError, "both"),
    ]
    for given, error, says in wrong:
        with pytest.raises(error, match=says):
            bulk_query(fruits, **({"queries": source, "out": tmp_path / "h.jsonl", "progress": "none"} | given))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingDependency, match="pip install pyarrow"):
        bulk_query(fruits, source, tmp_path / "h.parquet")
    assert os.listdir(tmp_path) == ["q.jsonl"]


def test_progress_is_told_batch_by_batch(fruits, tmp_path):
    told = []
    source = written(tmp_path / "q.jsonl", [{"text": "x"}] * 25)
    bulk_query(fruits, source, tmp_path / "h.jsonl", batch=10, progress=told.append)
    assert [each.done for each in told] == [10, 20, 25]


def test_an_empty_collection_has_no_hits(client, tmp_path):
    made = client.create_collection("empty", embedding_function=HashingEmbeddingFunction())
    report = bulk_query(made, written(tmp_path / "q.jsonl", [{"text": "x"}]), tmp_path / "h.jsonl", progress="none")
    assert (report.hits, lines(tmp_path / "h.jsonl")) == (0, [{"query_id": "1", "ids": [], "distances": []}])


def test_the_command(tmp_path, capsys, monkeypatch):
    data, source = str(tmp_path / "data"), written(tmp_path / "q.jsonl", [{"text": "red"}, {"text": 1}])
    written(tmp_path / "r.jsonl", [{"id": f"r{at}", "text": text, "year": at} for at, text in enumerate(WORDS)])
    assert main(["embed", str(tmp_path / "r.jsonl"), "-c", "fruits", "--path", data, "--model", "hashing"]) == 0
    capsys.readouterr()
    asked = ["bulk-query", "fruits", "--path", data, "-k", "3", "--where", '{"year": {"$gt": 3}}', "--progress", "none"]
    out, told = tmp_path / "h.jsonl", tmp_path / "report.json"
    status = main(
        [*asked, "-i", str(source), "-o", str(out), "--include", "documents,distances", "--report", str(told), "--json"]
    )
    assert status == 3
    (found,) = lines(out)
    assert (found["ids"][0], found["documents"][0], len(found["ids"])) == ("r4", "red", 3)
    shown = capsys.readouterr()
    assert json.loads(shown.out) == json.loads(told.read_text())
    assert json.loads(shown.out)["dead"] == 1
    assert "1 of 2 queries answered, 3 hits" in shown.err
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"id": "q", "text": "red"}\n')))
    assert main([*asked, "-i", "-", "-o", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["query_id"] == "q"
    assert main([*asked[:2], "--path", str(tmp_path / "none"), "-i", "-", "-o", "-"]) == 1
    assert not (tmp_path / "none").exists()


def test_a_command_that_is_ended_leaves_nothing_beside_its_output(tmp_path, capsys):
    data, out = str(tmp_path / "data"), tmp_path / "out"
    written(tmp_path / "r.jsonl", [{"id": "a", "text": "red"}])
    assert main(["embed", str(tmp_path / "r.jsonl"), "-c", "fruits", "--path", data, "--model", "hashing"]) == 0
    source = written(tmp_path / "q.jsonl", [{"text": "red"}] * 5)
    handler = signal.getsignal(signal.SIGTERM)

    class Ended(io.StringIO):
        def write(self, text):
            os.kill(os.getpid(), signal.SIGTERM)  # while progress is told, in the middle of the work
            return len(text)

    with contextlib.redirect_stderr(Ended()), pytest.raises(KeyboardInterrupt):
        cli_main_without_its_net(
            ["bulk-query", "fruits", "--path", data, "-i", str(source), "-o", str(out / "h.jsonl"), "--progress", "json"]
        )
    assert os.listdir(out) == []
    assert signal.getsignal(signal.SIGTERM) is handler


def cli_main_without_its_net(given):
    """The command as ``main`` runs it; what ends it is not turned into an exit status."""
    options = cli._parser().parse_args(given, argparse.Namespace(arguments=given))
    return options.run(options)
