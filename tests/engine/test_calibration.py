"""Calibration: what is measured scales the shipped figures within bounds, is kept, and is made anew when it no longer holds."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import count

import pytest

from benchmarks.datasets import folded
from chroma_gpu.config import Settings
from chroma_gpu.engine import calibration
from chroma_gpu.engine.background import Background
from chroma_gpu.engine.calibration import MOST, Calibration, calibrate, load, save
from chroma_gpu.engine.indexes import Indexes
from chroma_gpu.index import IndexSpec, create
from chroma_gpu.index.codes import CodesIndex
from chroma_gpu.index.cost import SHIPPED
from chroma_gpu.records import Metric
from chroma_gpu.store.memory import MemoryVectors

N, DIM = 5_000, 64
KINDS = ("codes", "hnsw")


@pytest.fixture(scope="module")
def source():
    held = MemoryVectors()
    held.append(0, folded(N, DIM))
    held.commit(N, DIM)
    return held


@pytest.fixture(scope="module")
def indexes(source):
    made = {}
    for kind in KINDS:
        params = {"M": 8, "ef_construction": 40, "ef_search": 100} if kind == "hnsw" else {}
        made[kind] = create(IndexSpec(kind, Metric.L2, DIM, params), source)
        made[kind].add(N)
    return made


@pytest.fixture
def background():
    made = Background()
    yield made
    made.close()


@pytest.fixture
def low_threshold(monkeypatch):
    monkeypatch.setattr(calibration, "CALIBRATED_ROWS", 1_000)


def kept(source, background, folder, **settings):
    return Indexes(source, Metric.L2, {}, Settings(device="cpu", index="codes", **settings), background, folder)


@pytest.mark.parametrize("metric", list(Metric))
def test_every_way_there_is_is_measured(source, metric):
    index = create(IndexSpec("codes", metric, DIM), source)
    index.add(N)
    made = calibrate(source, metric, {"codes": index})
    ways = {"call", "gathered", "listed", "read", "copied", "packed", "multiplied", "scored"}
    assert set(made.factors) == ways | {"lone", "bit"}
    for name, factor in made.factors.items():
        assert getattr(made.costs, name) == pytest.approx(factor * getattr(SHIPPED, name))
    assert made.rows == N
    assert "5,000 rows" in str(made)
    assert "bit x" in str(made)


def test_a_graph_is_asked_what_it_finds(source, indexes):
    made = calibrate(source, Metric.L2, indexes)
    assert {"hop", "visit", "rerank", "bit"} <= set(made.factors)
    assert made.costs.breadth in calibration.BREADTHS
    assert 0.9 <= made.costs.found <= 1


def test_a_graph_that_finds_too_little_gets_longer_lists(source, indexes, monkeypatch):
    monkeypatch.setattr(calibration, "GRAPH_RECALL", 1.01)
    made = calibrate(source, Metric.L2, {"hnsw": indexes["hnsw"]})
    assert made.costs.breadth == calibration.BREADTHS[-1]
    assert made.costs.graph_ef(100, 10, N, N // 2) == (300, 600)


@pytest.mark.parametrize(("second", "bound"), [(0.0, 1 / MOST), (1.0, MOST)])
def test_no_measurement_turns_the_planner_round(source, indexes, second, bound):
    """A clock that stands still, and one by which every call takes a second."""
    ticks = count()
    made = calibrate(source, Metric.L2, indexes, lambda: second * next(ticks))
    assert all(1 / MOST <= factor <= MOST for factor in made.factors.values())
    assert made.factors["call"] == bound
    assert made.factors["copied"] == bound


@pytest.mark.parametrize(("guard", "name"), [("exact", "lost"), ("widened", "widened")])
def test_guards_that_always_fail_are_counted(source, indexes, monkeypatch, guard, name):
    search = CodesIndex.search
    monkeypatch.setattr(CodesIndex, "search", lambda *given: replace(search(*given), guard=guard))
    made = calibrate(source, Metric.L2, {"codes": indexes["codes"]})
    shares = {"lost": made.costs.lost, "widened": made.costs.widened}
    assert shares.pop(name) > 0.5
    assert shares.popitem()[1] < 0.1


def test_a_scan_that_found_everything_in_caches_is_not_believed(source, indexes):
    at_once = calibrate(source, Metric.L2, indexes, lambda: 0.0)
    assert at_once.factors["read"] == 1.0
    assert at_once.factors["gathered"] < 1.0


def test_it_is_kept(tmp_path):
    made = Calibration(SHIPPED.scaled(read=2), N, 0.25, {"read": 2.0})
    save(made, tmp_path / "index", DIM, KINDS)
    assert load(tmp_path / "index", DIM, KINDS, N) == made
    assert load(tmp_path / "index", DIM, KINDS, 4 * N) == made
    assert [path.name for path in (tmp_path / "index").iterdir()] == ["calibration.json"]


@pytest.mark.parametrize("harm", ["missing", "flip", "truncate", "list", "field", "dim", "kinds", "processor", "grown"])
def test_what_no_longer_holds_is_ignored(harm, tmp_path, monkeypatch):
    save(Calibration(SHIPPED.scaled(read=2), N, 0.25, {"read": 2.0}), tmp_path, DIM, KINDS)
    path = tmp_path / "calibration.json"
    dim, kinds, rows = DIM, KINDS, N
    if harm == "missing":
        path.unlink()
    elif harm == "flip":
        path.write_text(path.read_text().replace('"seconds": 0.25', '"seconds": 0.75'))
    elif harm == "truncate":
        path.write_text(path.read_text()[:-10])
    elif harm == "list":
        path.write_text("[]")
    elif harm == "field":
        said = json.loads(path.read_text())
        said["costs"]["unheard of"] = 1.0
        said["sha256"] = calibration._digest(said)
        path.write_text(json.dumps(said))
    elif harm == "dim":
        dim += 1
    elif harm == "kinds":
        kinds = ("codes",)
    elif harm == "processor":
        monkeypatch.setattr(calibration, "_processor", lambda: "another")
    else:
        rows = 4 * N + 1
    assert load(tmp_path, dim, kinds, rows) is None


def test_a_table_is_calibrated_once_and_remembers(source, background, tmp_path, low_threshold, monkeypatch):
    first = kept(source, background, tmp_path)
    assert str(first.calibration) == "shipped defaults"
    first.build(N, DIM)
    made = first.calibration
    assert made.rows == N
    first.close()
    monkeypatch.setattr(calibration, "calibrate", None)  # nothing is measured again
    second = kept(source, background, tmp_path)
    second.follow(N, DIM)
    assert second.calibration == made
    second.build(N, DIM)
    second.close()


def test_it_happens_in_the_background(source, background, low_threshold, tmp_path):
    following = kept(source, background, tmp_path)
    following.follow(N, DIM)
    while not (tmp_path / "calibration.json").exists():
        pass
    background.drain(id(following))
    assert following.costs == load(tmp_path, DIM, ("codes",), N).costs
    following.close()


def test_it_can_be_turned_off_and_small_tables_go_without(source, background, tmp_path, monkeypatch):
    small = kept(source, background, tmp_path)
    small.build(N, DIM)
    assert small.calibration == Calibration()
    small.close()
    monkeypatch.setattr(calibration, "CALIBRATED_ROWS", 1_000)
    off = kept(source, background, tmp_path, calibrate=False)
    off.build(N, DIM)
    off.follow(N, DIM)
    assert off.calibration == Calibration()
    assert not (tmp_path / "calibration.json").exists()
    off.close()
