"""What of a job's progress is shown where: on terminals, in log files, to programs, to callers."""

from __future__ import annotations

import io
import json
import re
import sys

import pytest

from chroma_gpu.jobs import progress
from chroma_gpu.jobs.progress import Progressed, shown


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

    monkeypatch.setattr(progress, "monotonic", lambda: Clock.now)
    return Clock


def run(mode, clock, moments, **given):
    with shown(mode, 1_000, "fruits") as tell:
        for seconds, done in moments:
            clock.now = 100.0 + seconds
            tell(Progressed(done=done, seconds=seconds, **({"total": 1_000} | given)))


def test_a_function_is_called_each_time():
    told = []
    with shown(told.append, 10) as tell:
        for done in range(3):
            tell(Progressed(done=done))
    assert [each.done for each in told] == [0, 1, 2]


def test_a_log_file_gets_a_line_every_half_minute(capsys, clock):
    run("auto", clock, [(second, second * 10) for second in range(95)], dead=3, tokens=5_000)
    shown = capsys.readouterr().err
    lines = shown.splitlines()
    assert [re.match(r"fruits: (\d+) of 1,000 rows", line)[1] for line in lines] == ["300", "600", "900", "940"]
    assert lines[0] == "fruits: 300 of 1,000 rows (30%), 10 rows/s, 167 tokens/s, 3 bad, 1 min 10 s left"
    assert not re.search(r"[^\n\x20-\x7e]", shown)


def test_a_short_job_leaves_no_line_in_a_log(capsys, clock):
    run("auto", clock, [(5, 1_000)])
    assert capsys.readouterr().err == ""


def test_json_is_an_object_a_second_and_a_last_one(capsys, clock):
    run("json", clock, [(at / 4, at * 5) for at in range(1, 15)])
    objects = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [each["done"] for each in objects] == [20, 40, 60, 70]
    assert objects[0] == {
        **{"done": 20, "total": 1_000, "embedded": 0, "dead": 0, "tokens": 0, "seconds": 1.0, "resumed": 0},
        **{"rows_per_second": 20.0, "tokens_per_second": 0.0, "seconds_left": 49.0},
    }


def test_a_stream_has_no_total(capsys, clock):
    run("json", clock, [(2, 50)], total=None)
    found = json.loads(capsys.readouterr().err)
    assert (found["total"], found["seconds_left"]) == (None, None)
    assert str(Progressed(done=50, seconds=2)) == "50 rows, 25 rows/s"


def test_what_was_done_before_does_not_count_in_the_speed():
    now = Progressed(done=600, total=1_000, seconds=10, resumed=500)
    assert (now.rows_per_second, now.seconds_left) == (10, 40)


@pytest.mark.parametrize("mode", ["auto", "bar"])
def test_a_terminal_gets_a_bar_without_colours(mode, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("NO_COLOR", "1")
    with shown(mode, None, "fruits") as tell:
        tell(Progressed(done=600, total=1_000, seconds=1, resumed=500, dead=2))
        tell(Progressed(done=1_000, total=1_000, seconds=2, resumed=500, dead=2))
    last = terminal.getvalue().split("\r")[-1]
    assert "fruits: 100%" in last
    assert "1.00k/1.00k" in last
    assert "2 bad" in last
    assert "\x1b[3" not in terminal.getvalue()


def test_none_shows_nothing_and_no_stderr_is_no_trouble(capsys, clock, monkeypatch):
    run("none", clock, [(100, 5)])
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys, "stderr", None)
    run("auto", clock, [(100, 5)])


def test_another_mode_is_refused():
    with pytest.raises(ValueError, match="auto, bar, json, none"), shown("fancy", 1):
        pass
