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
    assert len(recalls) == 7
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
