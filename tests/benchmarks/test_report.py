"""The README's table is made of the newest results, and only of them."""

import json

import pytest

from benchmarks import report
from benchmarks.cases import CASES

MACHINE = {"cpu": "A CPU", "cores": 2, "gpu": [], "file_system": "ext4", "system": "Linux", "python": "3.12.1"}


def row(engine, case, value, run="2026-01-02T00:00:00+00:00", **more):
    facts = {"version": "1.0", "settings": f"of {engine}", "rows": 5_000, "dim": 8, "data": "packages", "machine": MACHINE}
    return {
        "engine": engine,
        "case": case,
        "value": value,
        "run": run,
        "commit": "abc",
        "p95": None,
        "recall": None,
        **facts,
        **more,
    }


@pytest.fixture
def rows():
    return [
        row("chroma_gpu", "query", 0.5, p95=0.75, recall=1.0),
        row("chroma_gpu", "query_61", 2.0, p95=3.0, recall=1.0, share=0.6144),
        row("chroma_gpu", "add", 12_000),
        row("chromadb", "query", 1.5, p95=2.0, recall=0.975),
        row("chromadb", "add", 1_500),
        row("chromadb", "single_adds", None),
    ]


def lines_of(table):
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("|")]
    return {first: rest for first, *rest in cells}


def test_cells_show_recall_and_ratios_say_how_many_times_better(rows):
    lines = lines_of(report.table(rows))
    assert lines["query, ms"] == ["0.5 / 0.75 (1.000)", "1.5 / 2 (0.975)", "3x"]
    assert lines["durable add, batches of 5,000 with documents and metadata, rows/s"] == ["12,000", "1,500", "8x"]


def test_what_is_not_measured_is_not_hidden(rows):
    lines = lines_of(report.table(rows))
    assert lines["query, filter on year (61.4 % pass), ms"] == ["2 / 3 (1.000)", "failed", "-"]
    assert lines["durable adds of one record, rows/s"] == ["failed", "-", "-"]
    assert len(lines) == 4 + 2


def test_a_case_that_is_newer_than_the_run_is_left_out(rows):
    assert not any("document," in line for line in report.table(rows).splitlines())
    assert len(lines_of(report.table([row("chroma_gpu", case.name, 1.0) for case in CASES]))) == len(CASES) + 2


def test_the_newest_run_of_all_files_counts(rows, tmp_path):
    newer = [row("chroma_gpu", "query", 9.0, run="2026-01-03T00:00:00+00:00")]
    for name, some in {"b": rows, "a": newer}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in some))
    assert report.newest_run(tmp_path) == newer


def test_no_results_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no results"):
        report.newest_run(tmp_path)


@pytest.mark.parametrize("readme", ["", report.BEGIN, f"{report.END}{report.BEGIN}", f"{report.BEGIN}{report.BEGIN}{report.END}"])
def test_a_readme_without_a_place_for_it_is_an_error(readme):
    with pytest.raises(ValueError, match="benchmarks:begin"):
        report.with_table(readme, "table")


def test_only_the_place_between_the_markers_changes():
    readme = f"above\n{report.BEGIN}\nold\n{report.END}\nbelow\n"
    assert report.with_table(readme, "new") == f"above\n{report.BEGIN}\nnew\n{report.END}\nbelow\n"


def test_the_command_writes_and_checks(rows, tmp_path, capsys):
    (tmp_path / "some.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    readme = tmp_path / "README.md"
    readme.write_text(f"{report.BEGIN}\n{report.END}\n")
    filters, embedding = tmp_path / "benchmarks.md", tmp_path / "embedding.md"
    for page in (filters, embedding):
        page.write_text(f"{report.BEGIN}\n{report.END}\n")
    given = ["--readme", str(readme), "--filters", str(filters), "--embedding", str(embedding), "--results", str(tmp_path)]
    assert report.main([*given, "--check"]) == 1
    assert report.main(given) == 0
    assert "8x" in capsys.readouterr().out
    assert report.main([*given, "--check"]) == 0
    assert all("Not measured yet" in page.read_text() for page in (filters, embedding))


def test_the_readme_has_the_table_of_the_newest_run():
    readme = report.README.read_text()
    assert readme == report.with_table(readme, report.table(report.newest_run(report.RESULTS)))


def test_the_page_of_filtered_search_has_the_tables_of_the_newest_run():
    page = report.FILTERS.read_text()
    assert page == report.with_table(page, report.filter_tables(report.RESULTS))


def test_the_page_of_embedding_has_the_tables_of_the_newest_runs():
    page = report.EMBEDDING.read_text()
    assert page == report.with_table(page, report.embedding_tables(report.RESULTS))
