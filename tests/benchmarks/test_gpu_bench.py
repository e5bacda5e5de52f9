"""The benchmark for GPUs runs as a whole on a CPU, goes on where it was ended, and its plots say what is measured and what is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from xml.etree import ElementTree

import pytest
import torch

from benchmarks import gpu, gpu_check, gpu_report, gpu_tune, gpu_ways, limits, report
from benchmarks.gpu_cases import Case, cases, gpu_rows, left
from benchmarks.gpu_data import Filter, Questions, Table, nearest
from benchmarks.gpu_peers import by_torch, worst
from benchmarks.gpu_timing import Clock
from chroma_gpu.index.gpu_cost import CARDS, Card, Search, limit, most_rows, predicted
from chroma_gpu.kernels import tuning

ROOT = report.ROOT


def given(tmp_path, *more):
    return ["--device", "cpu", "--tiny", "--results", str(tmp_path), *more]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The rows of a rehearsal of the quick preset."""
    folder = tmp_path_factory.mktemp("results")
    assert gpu.main(given(folder)) == 0
    (file,) = folder.iterdir()
    return file, [json.loads(line) for line in file.read_text().splitlines()]


def test_every_cell_is_measured_and_exact(measured):
    _, rows = measured
    assert {row["case"] for row in rows} == {each.tiny().key for each in cases("quick")}
    assert {row["kind"] for row in rows} == {each.kind for each in cases("full")}
    for row in rows:
        assert row["error"] is None, row
        assert row["tiny"]
        assert row["ms"] is None or row["ms"] > 0
        assert row.get("recall", 1) == row.get("exact", 1) == 1, row
    assert min(row["torch_recall"] for row in rows if row["kind"] == "scan") > 0.5


def test_other_ways_are_rows_beside_the_usual_one(measured):
    _, rows = measured
    others = [row for row in rows if row["kind"] in gpu_ways.KINDS]
    assert {row["kind"] for row in others} == set(gpu_ways.KINDS)
    for row in others:
        assert row["usual_ms"] > 0
        assert row["way"] == "usual", "a CPU records nothing and has no FAISS for GPUs"


def test_a_way_is_noted_only_where_it_was_there_exact_and_faster(tmp_path, monkeypatch, capsys):
    path = tmp_path / "tuning.json"
    monkeypatch.setenv("CHROMA_GPU_TUNING", str(path))
    wanted = [Case("replay", 600, 8), Case("faiss", 600, 8, "float32", 256)]
    clock = Clock("cpu")
    gpu_tune.choose(clock, "cpu", "card", 0, wanted)
    assert not path.exists(), "neither is here"
    figures = {"ms": 1.0, "usual_ms": 2.0, "prepared_ms": 10.0, "exact": 1.0}
    say = {"replay": figures, "faiss": figures | {"exact": 0.9}}
    monkeypatch.setattr(gpu_ways, "measured", lambda case, rows, clock: say[case.kind] | {"way": case.kind})
    gpu_tune.choose(clock, "cpu", "card", 90, wanted)
    assert tuning.pays("replay", 90, "float16", 8, 1, 600, 10, tuning.Table.load(path)) == 10
    assert list(tuning.Table.load(path).ways) == ["replay sm_90 float16 64 1 4096 10"]
    say["replay"] = figures | {"ms": 3.0}
    gpu_tune.choose(clock, "cpu", "card", 90, wanted)
    assert tuning.pays("replay", 90, "float16", 8, 1, 600, 10, tuning.Table.load(path)) is None
    assert "yes, after 10 searches" in capsys.readouterr().out
    tuning._table.cache_clear()


def test_the_same_command_goes_on(measured, capsys):
    file, rows = measured
    assert gpu.main(given(file.parent)) == 0
    assert len(file.read_text().splitlines()) == len(rows)
    text = file.read_text()
    file.write_text("\n".join(text.splitlines()[:-2]) + "\n")
    assert gpu.main(given(file.parent, "--minutes", "0")) == 3
    assert "2 of " in capsys.readouterr().out
    assert gpu.main(given(file.parent)) == 0
    assert [json.loads(line)["case"] for line in file.read_text().splitlines()] == [row["case"] for row in rows]


def test_a_rehearsal_is_no_result(measured):
    file, _ = measured
    assert gpu_rows(file.parent) == []


def test_without_a_gpu_the_benchmark_says_how_to_rehearse(capsys):
    if torch.cuda.is_available():
        pytest.skip("what is said where there is no GPU cannot be seen beside one")
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "--tiny" in capsys.readouterr().err


def test_failed_cells_and_cells_of_other_commits_are_measured_again(tmp_path):
    wanted = [Case("scan", 10, 4), Case("scan", 20, 4), Case("gather", 30, 4), Case("gather", 10, 4)]
    rows = [(wanted[0], "abc", None), (wanted[1], "abc", "ValueError"), (wanted[2], "abd", None)]
    file = tmp_path / "gpu-card.jsonl"
    file.write_text(
        "".join(json.dumps({"case": case.key, "commit": commit, "error": error}) + "\n" for case, commit, error in rows)
    )
    assert left(wanted, [file, tmp_path / "none"], "abc") == [wanted[2], wanted[3], wanted[1]]


def test_presets_have_each_cell_once():
    for preset in ("quick", "full"):
        keys = [each.key for each in cases(preset)]
        assert len(keys) == len(set(keys)) > 40
    assert cases("full")[: len(cases("quick"))] == cases("quick")
    wanted = {(n, d, b) for n in (100_000, 1_000_000, 10_000_000) for d in (128, 384, 768, 1024) for b in (1, 8, 32, 256, 1024)}
    assert wanted <= {(each.rows, each.dim, each.batch) for each in cases("full") if each.kind == "scan"}


def test_brute_force_and_filters_are_what_they_say():
    table = Table(70_000, 8, "float16", "cpu")
    filtered = Filter.of(table, 0.1)
    words = filtered.words.numpy()
    rows = torch.arange(table.rows).numpy()
    assert (((words[rows >> 5] >> (rows & 31)) & 1).astype(bool) == filtered.flags.numpy()).all()
    assert len(filtered.listed) == int(filtered.flags.sum())
    asked = Questions.of(table, 3)
    best = nearest(table, asked.plain, filtered.flags, 10)
    vectors = table.vectors.double()
    scores = (vectors / vectors.norm(dim=1, keepdim=True)) @ asked.plain.double().T
    scores[~filtered.flags] = -torch.inf
    torch.testing.assert_close(best, scores.T.sort(descending=True).values[:, :10])
    table.vectors = None  # as for tables that do not fit: the blocks are made again
    torch.testing.assert_close(best, nearest(table, asked.plain, filtered.flags, 10))
    found = by_torch(asked.plain, vectors.float(), ~filtered.flags, 10)
    assert worst(table, asked, found, best) < 1, "products of rows that have other lengths are no cosines"


def result(case, took, card="NVIDIA H200", **more):
    moved, made = case.rows * (2 * case.dim + 12), 2 * case.rows * case.dim * case.batch
    facts = {"torch": "2", "triton": "3", "commit": "abc", "date": "2026-01-02T00:00:00", "tiny": False, "error": None}
    figures = {
        "ms": took,
        "bytes": moved,
        "flops": made,
        "tflops": made / took / 1e9,
        "of_copy": 0.8,
        "recall": 1.0,
        "torch_ratio": 3.0,
    }
    peaks = {"copy": 4_300.0, "float16": 790.0}
    return {"case": case.key, "card": card, "peaks": peaks, **gpu._of(case), **facts, **figures, **more}


def test_pages_are_what_model_and_results_give():
    assert limits.main(["--check"]) == 0


def test_measured_times_enter_the_page_and_the_plot(tmp_path, capsys):
    page, plot = tmp_path / "limits.md", tmp_path / "roofline.svg"
    page.write_text((ROOT / "docs" / "limits.md").read_text())
    results = tmp_path / "results"
    results.mkdir()
    options = ["--page", str(page), "--plot", str(plot), "--results", str(results)]
    assert limits.main(options) == 0
    assert "predicted by the model: nothing measured" in plot.read_text()
    rows = [result(Case("scan", 10_000_000), 1.875), result(Case("scan", 1_000_000, batch=32), 7.125, card="Tesla T4")]
    rows.append(result(Case("scan", 1_000_000), 1.0, ms=None, error="out of memory"))
    (results / "gpu-x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert limits.main([*options, "--check"]) == 1
    assert limits.main(options) == 0
    text = page.read_text()
    assert "10M x 384, float16, 1, 100 % |" in text
    assert "| 1.88 |" in text.split("### H200")[1].split("###")[0]
    assert "| 7.12 |" in text.split("### T4")[1].split("###")[0]
    assert "predicted" not in plot.read_text()
    ElementTree.fromstring(plot.read_text())


def test_the_readme_shows_a_card_only_when_one_was_measured():
    assert gpu_report.readme([]) == ""
    assert (
        gpu_report.readme(gpu_rows(ROOT / "benchmarks" / "results")) == "" or gpu_report.PLOT in (ROOT / "README.md").read_text()
    )
    said = gpu_report.readme([result(Case("scan", 10_000_000), 2.0)])
    assert "NVIDIA H200" in said
    assert "| scan 10000000x384 float16 b1 100% k10 | 2 | 80 % | 1.000 | 3x |" in said
    assert "docs/roofline.svg" in said


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_the_model_is_no_better_than_its_limit_and_follows_the_work(card):
    for codes in ("float32", "float16", "int8"):
        for queries in (1, 32, 1_024):
            whole = Search(10_000_000, 384, codes, queries)
            assert predicted(card, whole) > limit(card, whole)
            tenth = Search(10_000_000, 384, codes, queries, 1_000_000)
            assert limit(card, tenth) < 0.15 * limit(card, whole)
            assert predicted(card, tenth) < predicted(card, whole)
    assert most_rows(card, 384, "int8") > 1.9 * most_rows(card, 384, "float16") > 3.6 * most_rows(card, 384, "float32")


def test_the_model_says_what_was_computed_by_hand():
    h200 = Card.of("NVIDIA H200")
    halves, bytes_ = 10_000_000 * (2 * 384 + 12), 10_000_000 * (384 + 12)
    assert limit(h200, Search(10_000_000, 384, "float16")) == pytest.approx(halves / 4.3e6)
    assert limit(h200, Search(10_000_000, 384, "int8")) == pytest.approx(bytes_ / 4.3e6)
    assert limit(h200, Search(10_000_000, 384, "float16", 1_024)) == pytest.approx(1_024 * 384 * 1e7 / 395e6)
    assert Card.of("NVIDIA GeForce RTX 4090").name == "RTX 4090"
    assert most_rows(Card.of("Tesla T4"), 384, "int8") > 10_000_000 > most_rows(Card.of("Tesla T4"), 384, "float32")


def test_what_is_carried_is_unpacked_once(tmp_path):
    carry = tmp_path / "carry"
    carry.mkdir()
    with pytest.raises(FileNotFoundError):
        gpu_check.unpacked(carry, tmp_path / "into")
    with zipfile.ZipFile(carry / "thing-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("thing_for_a_card.py", "answer = 42\n")
    for _ in range(2):
        (folder,) = gpu_check.unpacked(carry, tmp_path / "into")
    environment = gpu_check._environment([folder], tmp_path)
    said = subprocess.run(
        [sys.executable, "-c", "import thing_for_a_card as t, chroma_gpu; print(t.answer)"],
        env=environment,
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert said.stdout == "42\n"
    assert "thing_for_a_card" not in gpu_check.lacking(environment)


def test_what_is_missing_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gpu_check, "_NEEDED", ("torch", "no_such_module"))
    assert gpu_check.main(["--step", "needs", "--results", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert "not here: no_such_module, needed" in said.out
    assert "carry wheels of no_such_module" in said.err


def test_steps_end_with_their_minutes_and_go_on(tmp_path, monkeypatch):
    ran = []

    def within(command, environment, ends):
        ran.append(next(each for each in command if each.startswith(("tests/", "benchmarks/"))))
        return 3 if ran.count("tests/index") == 1 and ran[-1] == "tests/index" else 0

    monkeypatch.setattr(gpu_check, "_within", within)
    monkeypatch.setattr(gpu_check, "commit", lambda root: "0123456789ab")
    assert gpu_check.main(["--results", str(tmp_path), "--device", "cpu"]) == 3
    assert ran == ["tests/kernels", "tests/index"]
    assert gpu_check.main(["--results", str(tmp_path), "--device", "cpu"]) == 0
    scripts = ["gpu.py", "gpu.py", "gpu_embedding.py", "limits.py"]
    assert ran[2:] == ["tests/index", "tests/embed", *(f"benchmarks/{script}" for script in scripts)]


def test_a_step_that_does_not_end_is_ended(tmp_path):
    sleeps = [sys.executable, "-c", "import time; time.sleep(60)"]
    assert gpu_check._within(sleeps, dict(os.environ), 0.0) == 3
