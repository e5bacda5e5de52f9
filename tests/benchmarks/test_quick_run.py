"""The runner works: a quick run of our engine measures every case, and its answers are right."""

import json
import subprocess
import sys

import pytest

from benchmarks import run
from benchmarks.cases import CASES


def test_a_quick_run_measures_every_case(tmp_path):
    command = [sys.executable, str(run.ROOT / "benchmarks" / "run.py"), "--quick", "--data", "generated"]
    command += ["--folder", str(tmp_path / "work"), "--results", str(tmp_path / "results")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = (tmp_path / "results").iterdir()
    rows = {row["case"]: row for row in map(json.loads, file.read_text().splitlines())}
    assert list(rows) == [case.name for case in CASES]
    assert all(row["value"] > 0 for row in rows.values() if row["case"] != "disk_deleted"), rows
    recalls = {case: row["recall"] for case, row in rows.items() if row.get("recall") is not None}
    assert len(recalls) == 8
    assert min(recalls.values()) >= 0.99, recalls
    assert rows["disk_deleted"]["value"] < rows["disk"]["value"]
    assert not list((tmp_path / "work").iterdir())


def test_unknown_peers_are_refused(capsys):
    with pytest.raises(SystemExit):
        run.main(["--peers", "chromadb,nobody"])
    assert "nobody" in capsys.readouterr().err


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="packages-minilm"):
        run.main(["--quick", "--data", str(tmp_path), "--folder", str(tmp_path / "work")])


def test_a_run_is_resumed_with_the_engines_that_are_not_done(tmp_path, monkeypatch):
    given = ["--quick", "--rows", "300", "--data", "generated", "--folder", str(tmp_path), "--results", str(tmp_path / "results")]
    measured = []

    def measure(engine, folder, limits):
        measured.append(engine)
        yield from ({"case": case.name, "value": 1.0, "unit": case.unit} for case in CASES)

    monkeypatch.setattr(run, "measure", measure)
    with pytest.raises(SystemExit, match="no run to resume"):
        run.main([*given, "--resume"])
    assert run.main(given) == 0
    assert run.main([*given, "--resume", "--peers", "faiss"]) == 0
    assert measured == ["chroma_gpu", "faiss-flat", "faiss-hnsw"]
    (file,) = (tmp_path / "results").iterdir()
    assert len({json.loads(line)["run"] for line in file.read_text().splitlines()}) == 1
