"""The benchmark of filtered search works: all steps of a quick run, going on after a failure, its judge, its tables."""

import json

import numpy as np
import pytest

from benchmarks import filter_report, filters
from benchmarks.filter_data import CELLS, Cell, Judge, Relation, Rows, prepare
from benchmarks.filters import Size
from benchmarks.workload import WrongAnswerError


def given(folder, *more):
    return [
        *("--quick", "--data", str(folder / "none"), "--folder", str(folder / "work"), "--results", str(folder / "results")),
        *more,
    ]


def place(folder):
    return filters.Place(folder / "work" / f"filters-{filters.QUICK.rows}", folder / "none", filters.QUICK)


def test_a_quick_run_measures_every_step_and_makes_the_tables(tmp_path, monkeypatch):
    # In this process: starting one for each of the steps takes longer than they do.
    monkeypatch.setattr(filters, "_process", lambda step, options: list(filters.measured(step, place(tmp_path))))
    assert filters.main(given(tmp_path)) == 0
    assert not list((tmp_path / "work").iterdir())
    (file,) = (tmp_path / "results").iterdir()
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert {row["engine"] for row in rows} == {"chroma_gpu"}
    assert len({row["run"] for row in rows}) == 1
    grid = [row for row in rows if row["case"].startswith("grid_")]
    assert len(grid) == 2 * len(CELLS)
    assert min(row["recall"] for row in grid) >= 0.98
    regrets = [row for row in rows if row["case"].startswith("regret_")]
    assert len(regrets) == len(CELLS)
    assert all(row["value"] > 0 and sum(row["plan"].values()) == filters.QUICK.plans for row in regrets)
    assert any(len(row["plans"]) > 1 for row in regrets)
    assert all(row["value"] > 0 for row in rows if row["case"].startswith(("add", "evaluate", "ids", "get", "open")))
    made = filter_report.tables(rows)
    assert "failed" not in "".join(line.split("|")[2] for line in made.splitlines() if line.startswith("|"))
    assert "Regret: mean" in made


def test_a_failed_step_is_tried_again_and_the_others_are_not(tmp_path, monkeypatch, capsys):
    ran = []

    def process(step, options):
        ran.append(step.name)
        if step.name == "evaluate" and ran.count("evaluate") == 1:
            return None
        return [{"case": step.name, "value": 1.0, "unit": "ms"}]

    monkeypatch.setattr(filters, "_process", process)
    assert filters.main(given(tmp_path)) == 1
    assert "failed: evaluate" in capsys.readouterr().err
    first = list(ran)
    assert filters.main(given(tmp_path)) == 0
    assert ran == [*first, "evaluate"]
    (file,) = (tmp_path / "results").iterdir()
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert sorted(row["case"] for row in rows) == sorted(first)
    assert len({row["run"] for row in rows}) == 1


def test_what_needs_a_failed_step_is_left_out(tmp_path, monkeypatch, capsys):
    ran = []
    monkeypatch.setattr(filters, "_process", lambda step, options: ran.append(step.name) if step.name == "data" else [])
    assert filters.main(given(tmp_path, "--peers", "faiss")) == 1
    assert ran == ["data"]
    assert "failed: data, add, " in capsys.readouterr().err


def test_a_step_is_a_process_whose_rows_come_back(tmp_path):
    options = filters._options(given(tmp_path))
    place(tmp_path).folder.mkdir(parents=True)
    data, add = filters.steps(["chroma_gpu"])[:2]
    assert filters._process(data, options) == []
    assert [row["case"] for row in filters._process(add, options)] == [
        row["case"] for row in filters.measured(add, place(tmp_path))
    ]
    (place(tmp_path).folder / "vectors.npy").unlink()
    assert filters._process(add, options) is None


def test_a_step_that_takes_too_long_has_failed(tmp_path, capsys):
    options = filters._options(given(tmp_path))
    assert filters._process(filters.Step("data", "chroma_gpu", 0, filters._data), options) is None
    assert "ended after 0 minutes" in capsys.readouterr().err


def test_a_folder_of_another_size_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(filters, "_process", lambda step, options: None)
    assert filters.main(given(tmp_path)) == 1
    monkeypatch.setattr(filters, "QUICK", Size(rows=filters.QUICK.rows, texts=1))
    with pytest.raises(SystemExit, match="another size"):
        filters.main(given(tmp_path))


def test_unknown_peers_are_refused(capsys):
    with pytest.raises(SystemExit):
        filters.main(["--peers", "nobody"])
    assert "nobody" in capsys.readouterr().err


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grid")
    prepare(folder, 3_000, 10)
    return Rows.load(folder)


@pytest.mark.parametrize("relation", Relation)
def test_filters_pass_their_share(made, relation):
    for share in (0.9, 0.5, 0.1, 0.02):
        for each in made.filters(Cell(relation, share)):
            assert made.mask(each).mean() == pytest.approx(share, abs=0.01)


def test_correlated_filters_pass_the_neighbours_of_the_queries(made):
    vectors = made.vectors / np.linalg.norm(made.vectors, axis=1, keepdims=True)
    passing = {relation: [] for relation in Relation}
    for query in range(10):
        neighbours = np.argsort(-(vectors @ made.queries[query]))[:50]
        for relation, shares in passing.items():
            filtered = made.filters(Cell(relation, 0.1))[made.group(query)]
            shares.append(made.mask(filtered)[neighbours].mean())
    near, random, far = (np.mean(passing[relation]) for relation in (Relation.NEAR, Relation.RANDOM, Relation.FAR))
    assert near > 0.5
    assert 0.03 < random < 0.2
    assert far < 0.02


def test_the_judge_agrees_with_brute_force(made, tmp_path):
    judge = Judge(made)
    judge.save(tmp_path / "truth.npy")
    judge = Judge.load(tmp_path / "truth.npy", made)
    vectors = made.vectors / np.linalg.norm(made.vectors, axis=1, keepdims=True)
    cell = CELLS[1]
    for query in (0, 9):
        passing = np.flatnonzero(made.mask(judge.filters[cell][made.group(query)]))
        nearest = passing[np.argsort(-(vectors[passing] @ made.queries[query]))]
        answer = [f"r{row}" for row in nearest[:10]]
        assert judge.recall(cell, query, answer) == 1.0
        assert judge.recall(cell, query, [*answer[:5], *(f"r{row}" for row in nearest[-5:])]) == 0.5
        failing = np.setdiff1d(np.arange(3_000), passing)[0]
        for wrong in ([answer[0]] * 2, [*answer, f"r{nearest[10]}"], [f"r{failing}"]):
            with pytest.raises(WrongAnswerError):
                judge.recall(cell, query, wrong)


def test_records_are_the_columns(made):
    batches = list(made.batches(["one", "two"], 2_000))
    assert [len(each.ids) for each in batches] == [2_000, 1_000]
    assert batches[1].ids[0] == "r2000"
    assert batches[0].documents[:3] == ["one", "two", "one"]
    first = batches[1].metadatas[0]
    assert first["shard"] == made.shard[2_000]
    assert first["near_b"] == made.near[1, 2_000]
    assert first["label"] == f"label-{made.label[2_000]}"
