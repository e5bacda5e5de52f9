"""The command line, called as the console script calls it."""

from __future__ import annotations

import gzip
import io
import json
import shlex
import signal
import subprocess
import sys

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
    said = capsys.readouterr()
    assert said.out == ""
    assert "fruits: 3 of 3 rows written" in said.err
    assert main(["query", "fruits", "a pear", "--path", path, "-n", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["ids"], found["documents"], found["metadatas"]) == ([["r1"]], [["pear number 1"]], [[{"year": 2001}]])


def test_the_table_shows_answers_and_times(file, path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    embed(file, path)
    assert main(["query", "fruits", "a pear", "plum", "--path", path, "--where", '{"year": {"$gt": 2001}}']) == 0
    out = capsys.readouterr().out
    assert "pear number" not in out
    assert out.count("plum number 2") == 2
    assert "search again" in out


def test_nothing_is_embedded_twice(file, path, capsys):
    embed(file, path)
    capsys.readouterr()
    assert embed(file, path, "--json") == 0
    said = capsys.readouterr()
    assert "nothing to do: all 3 rows" in said.err
    assert json.loads(said.out)["rows_out"] == 3
    file.write_text(file.read_text().replace("plum number", "plums, number") + '\n{"id": "r9", "text": "kiwi"}')
    assert embed(file, path, "--batch", "2", "--json") == 0
    said = capsys.readouterr()
    assert "not those of the last run" in said.err
    report = json.loads(said.out)
    assert (report["rows_in"], report["rows_out"], report["unchanged"]) == (4, 2, 2)


def test_bad_rows_are_told_by_the_exit_status(file, path, tmp_path, capsys):
    with file.open("a") as more:
        more.write('\n{"id": "r8"}\nno json')
    report = tmp_path / "report.json"
    assert embed(file, path, "--dead-letter", str(tmp_path / "bad.jsonl"), "--report", str(report)) == 3
    assert "2 bad rows, kept in" in capsys.readouterr().err
    assert [json.loads(line)["row"] for line in (tmp_path / "bad.jsonl").read_text().splitlines()] == [4, 5]
    assert json.loads(report.read_text())["dead"] == 2
    assert embed(file, path, "--no-resume", "--on-error", "fail") == 1
    assert "row 4" in capsys.readouterr().err
    assert embed(file, path, "--max-errors", "1", "--prefix-id", "x") == 1
    assert "2 of 5 rows are bad, and 1 may be" in capsys.readouterr().err


def test_a_stopped_job_says_how_to_go_on(file, path, capsys, monkeypatch):
    from chroma_gpu.jobs import run

    blocks = run.embed_blocks

    def stopped(function, texts, **given):
        signal.raise_signal(signal.SIGTERM)
        return blocks(function, texts, **given)

    monkeypatch.setattr(run, "embed_blocks", stopped)
    before = signal.getsignal(signal.SIGTERM)
    assert embed(file, path) == 130
    assert signal.getsignal(signal.SIGTERM) is before
    err = capsys.readouterr().err
    line = next(line for line in err.splitlines() if line.startswith("go on with: "))
    monkeypatch.undo()
    assert main(shlex.split(line.removeprefix("go on with: "))[1:]) == 0
    assert "3 of 3 rows written" in capsys.readouterr().err


def test_from_standard_input(path, monkeypatch, capsys):
    given = "".join(json.dumps(record) + "\n" for record in RECORDS).encode()
    for _ in range(2):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given)))
        assert main(["embed", "-", "-c", "fruits", "--path", path, "-m", "hashing"]) == 0
    err = capsys.readouterr().err
    assert "3 of 3 rows written" in err
    assert "0 of 3 rows written" in err


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ([], "there is nowhere to write to"),
        (["-c", "fruits", "--prompt", "a", "--instruction", "b"], "give one of them"),
        (["-c", "fruits", "--checkpoint-every", "0"], "checkpoint_every must be 1 or more"),
        (["-c", "fruits", "--dedupe", "near:2"], "near:T"),
        (["-c", "fruits", "--max-errors", "few"], "a share like 1%"),
        (["-c", "fruits", "--chunk-size", "many"], "no number"),
    ],
)
def test_usage(file, path, more, says, capsys):
    try:
        status = main(["embed", str(file), "--path", path, *more])
    except SystemExit as stopped:
        status = stopped.code
    assert status == 2
    assert says in capsys.readouterr().err


def test_a_dry_run_writes_nothing(file, path, tmp_path, capsys):
    assert embed(file, path, "--dry-run") == 0
    assert "3" in capsys.readouterr().err
    assert [each.name for each in tmp_path.iterdir()] == [file.name]


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
        (["embed", "{bad}", "-c", "x"], "Expected a name"),
        (["embed", "{bad}", "-c", "fruits", "-m", "hashing", "--on-error", "fail"], "row 1"),
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


def test_a_stream_that_is_closed_stays_out_of_the_data(file, path):
    """Files that are opened later must not get its number, and what is said must not go to stdout instead."""
    given = ["embed", str(file), "-c", "fruits", "--path", path, "--model", "hashing", "--json"]
    program = f"import sys; from chroma_gpu.cli import main; sys.exit(main({given!r}))"
    done = subprocess.run(["sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-c", program], stdout=subprocess.PIPE, check=True)
    assert json.loads(done.stdout)["rows_out"] == len(RECORDS)


@pytest.mark.parametrize("wrong", [["no-such-file.jsonl"], ["--sample", "2"], ["--format", "sql"]])
def test_what_cannot_be_read_is_a_matter_of_usage(wrong, file, path, capsys):
    given = wrong if wrong[0].endswith("jsonl") else [str(file), *wrong]
    assert main(["embed", *given, "-c", "fruits", "--path", path, "--model", "hashing"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("chroma-gpu embed: ")
    assert main(["info", "--path", path]) == 1
