"""The grid of plans on little data: every cell is there, for single queries and batches, and what is taken is right."""

from __future__ import annotations

import re
import sys

from benchmarks import planner_grid


def test_every_cell_is_measured(monkeypatch, capsys):
    given = ["--rows", "5000", "--dim", "64", "--shares", "0.5,0.01", "--batches", "1,8", "--queries", "3", "--runs", "1"]
    monkeypatch.setattr(sys, "argv", ["planner_grid", *given])
    planner_grid.main()
    *cells, last = capsys.readouterr().out.splitlines()[1:]
    assert [re.match(r" *(\S+) % (\S+) +x(\d+) ", line).groups() for line in cells] == [
        (share, kind, batch) for batch in ("1", "8") for share in ("50", "1") for kind in planner_grid.KINDS
    ]
    assert all("planner" in line for line in cells)
    assert re.fullmatch(r"regret: mean \S+, worst \S+; least recall 1.000", last)
