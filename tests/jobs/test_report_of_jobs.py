"""The report of a job: its counts survive, its file is whole or not there."""

from __future__ import annotations

import dataclasses
import json
import os
import stat

import pytest

from chroma_gpu.jobs.replaced import replaced
from chroma_gpu.jobs.report import COUNTS, Report, duration


def a_report(**given):
    counts = {"rows_in": 1_000, "rows_out": 980, "unchanged": 5, "skipped": 3, "duplicates": 2, "dead": 10, "chunks": 990}
    counts |= {"remembered": 90, "tokens": 45_000, "truncated": 7, "padded_tokens": 50_000}
    facts = {"collection": "fruits", "path": "./chroma", "dead_letter": "bad.jsonl", "model": "all-MiniLM-L6-v2"}
    return Report(**(counts | facts | {"dtype": "float32", "device": "cpu", "seconds": 12.5, "finished": True} | given))


def test_every_number_that_adds_up_is_counted():
    numbers = {each.name for each in dataclasses.fields(Report) if each.type in ("int", "float")}
    assert numbers == {*COUNTS, "seconds"}


def test_counts_survive_resuming():
    first = a_report(interrupted=True, finished=False)
    kept = json.loads(json.dumps(first.counts()))
    second = a_report(seconds=2.5).added(kept)
    assert (second.rows_in, second.dead, second.tokens, second.runs, second.seconds) == (2_000, 20, 90_000, 2, 15.0)
    assert (second.finished, second.interrupted, second.collection) == (True, False, "fruits")
    assert a_report().added({}) == a_report()
    assert a_report().added({"of a later version": 7}) == a_report()


def test_rates():
    report = a_report()
    assert (report.rows_per_second, report.tokens_per_second) == (80.0, 3_600.0)
    assert report.padding_waste == pytest.approx(0.1)
    nothing = Report()
    assert (nothing.rows_per_second, nothing.tokens_per_second, nothing.padding_waste) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(("given", "code"), [({}, 3), ({"dead": 0}, 0), ({"interrupted": True}, 130)])
def test_exit_codes(given, code):
    assert a_report(**given).exit_code == code


def test_lines_for_people():
    text = "\n".join(a_report(out="v.parquet", peak_memory=3 << 30, runs=3).lines())
    for part in (
        *("fruits: 980 of 1,000 rows written to ./chroma", "5 unchanged, 2 duplicates, 3 left as they were"),
        *("10 bad rows, kept in bad.jsonl", "990 texts, 45,000 tokens, 90 known", "7 cut", "10.0% padding"),
        *("12 s: 80 rows/s, 3,600 tokens/s, in 3 runs", "all-MiniLM-L6-v2, in float32, on cpu, 3.00 GiB", "vectors in v.parquet"),
    ):
        assert part in text
    assert "stopped" not in text
    assert "the same command" in a_report(finished=False).lines()[-1]
    assert Report(finished=True, dead=1).lines()[:2] == ["the collection: 0 of 0 rows written", "  1 bad row"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (9.96, "10 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7_500, "2 h 5 min")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_the_file_is_json_with_everything(tmp_path):
    path = tmp_path / "new" / "report.json"
    a_report().write(path)
    found = json.loads(path.read_text())
    assert found["rows_out"] == 980
    assert found["padding_waste"] == 0.1
    assert found.keys() >= {each.name for each in dataclasses.fields(Report)}
    assert os.listdir(path.parent) == ["report.json"]


def test_a_file_is_replaced_whole_or_left(tmp_path):
    target, link = tmp_path / "file", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)

    def fail():
        with replaced(link) as part:
            part.write_text("half")
            assert target.read_text() == "old"
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (target.read_text(), sorted(os.listdir(tmp_path))) == ("old", ["file", "link"])
    with replaced(link) as part:
        part.write_text("new")
    assert (target.read_text(), link.is_symlink()) == ("new", True)
    with pytest.raises(IsADirectoryError), replaced(tmp_path):
        pass
    with replaced("/dev/null") as part:
        part.write_text("gone")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
