"""Run the benchmark: every engine in processes of its own, one after the other, over the same records, queries and filters.

    python benchmarks/run.py --peers chromadb,faiss,hnswlib,lancedb --rows 50000

Rows are appended to ``benchmarks/results/*.jsonl``; ``benchmarks/report.py`` makes the README's table of them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from threading import Timer
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    # Not this folder: its datasets.py would be taken for the library of that name.
    sys.path[0] = str(ROOT)

from benchmarks import workload  # noqa: E402
from benchmarks.cases import CASES, Limits, Measured, fill, reopen  # noqa: E402
from benchmarks.machine import commit, machine  # noqa: E402
from benchmarks.peers import ENGINES, PEERS, Store, installed  # noqa: E402

RESULTS: Final = ROOT / "benchmarks" / "results"
DATA: Final = ROOT.parent / "shared" / "data"
GENERATED: Final = Path("generated")
MINUTES: Final = 30
"""A process of an engine that takes longer is ended, and the engine has failed."""
QUICK: Final = Limits(seconds=1.0, queries=100, least=10, singles=20)


def main(given: Sequence[str] | None = None) -> int:
    """The command line. Returns 1 if an engine failed; the rows of the others are kept."""
    options = _options(given)
    if options.process:
        return _measure(json.loads(sys.stdin.read()))
    engines = ["chroma_gpu", *(engine for peer in options.peers for engine in PEERS[peer])]
    versions = _versions(engines)
    limits = QUICK if options.quick else Limits()
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        data, records = _records(options.data, options.rows)
        records.save(Path(folder))
        now = datetime.now(UTC).isoformat(timespec="seconds")
        facts = {"rows": options.rows, "dim": records.vectors.shape[1], "data": data, "machine": machine(options.folder)}
        facts |= {"commit": commit(ROOT), "run": now}
        if options.resume:
            facts["run"], done = _last_run(_file(facts, options.results))
            engines = [engine for engine in engines if engine not in done]
        del records
        failed = []
        for engine in engines:
            print(f"\n{engine} {versions[engine]}: {ENGINES[engine].settings}", flush=True)
            about = {"engine": engine, "version": versions[engine], "settings": ENGINES[engine].settings, **facts}
            try:
                for each in measure(engine, Path(folder), limits):
                    _keep({**each, **about, "date": datetime.now(UTC).isoformat(timespec="seconds")}, options.results)
            except subprocess.CalledProcessError as error:
                print(f"{engine} failed: {error}", file=sys.stderr)
                failed.append(engine)
    print(f"\nrows kept in {options.results}" if options.results else "\nrows not kept")
    return 1 if failed else 0


def _last_run(file: Path) -> tuple[str, set[str]]:
    """When the last run in a file of results was started, and the engines that have gone through all of it."""
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    if not rows:
        raise SystemExit(f"there is no run to resume in {file}")
    run = max(row["run"] for row in rows)
    counts = Counter(row["engine"] for row in rows if row["run"] == run)
    return run, {engine for engine, count in counts.items() if count >= len(CASES)}


def measure(engine: str, folder: Path, limits: Limits) -> Iterator[dict[str, Any]]:
    """All cases of one engine, over the workload saved in the folder; the value of what it does not do is None.

    Raises CalledProcessError if one of its processes failed.
    """
    done = set()
    with tempfile.TemporaryDirectory(dir=folder) as own:
        for process in ("fill", "reopen"):
            job = {"engine": engine, "process": process, "folder": own, "workload": str(folder), "limits": asdict(limits)}
            for each in _process(job):
                done.add(each["case"])
                yield each
    for case in CASES:
        if case.name not in done:
            yield {"case": case.name, "value": None, "unit": case.unit}


def _process(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    command = [sys.executable, __file__, "--process"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdin
        assert running.stdout
        running.stdin.write(json.dumps(job))
        running.stdin.close()
        late = Timer(MINUTES * 60, running.kill)
        late.start()
        try:
            for line in running.stdout:
                if line.startswith('{"case"'):
                    yield json.loads(line)
                else:
                    print(line, end="")
        finally:
            late.cancel()
    if running.returncode:
        raise subprocess.CalledProcessError(running.returncode, [*command, job["engine"], job["process"]])


def _measure(job: dict[str, Any]) -> int:
    """In a process of an engine: go through its cases and print what was measured."""
    engine, limits = ENGINES[job["engine"]](), Limits(**job["limits"])
    folder, saved = Path(job["folder"]), Path(job["workload"])
    units = {case.name: case.unit for case in CASES}
    measured: Iterator[Measured] = iter(())
    if job["process"] == "fill":
        measured = fill(engine, workload.Workload.load(saved), folder, limits)
    elif isinstance(engine, Store):
        measured = reopen(engine, workload.load_queries(saved), lambda: workload.Workload.load(saved), folder, limits)
    for each in measured:
        print(json.dumps(asdict(each) | {"unit": units[each.case]}), flush=True)
    return 0


def _keep(row: dict[str, Any], results: Path | None) -> None:
    """Print a row, and append it to the file of its data and size."""
    if row["value"] is not None:
        more = {key: row[key] for key in ("p95", "recall", "share") if row.get(key) is not None}
        print(
            f"  {row['case']:16}{row['value']:12.4g} {row['unit']:10}",
            *(f"{key} {value:.4g}" for key, value in more.items()),
            flush=True,
        )
    if results is not None:
        results.mkdir(parents=True, exist_ok=True)
        with _file(row, results).open("a") as file:
            file.write(json.dumps(row) + "\n")


def _file(facts: dict[str, Any], results: Path) -> Path:
    return results / f"{facts['data']}-{facts['rows']}x{facts['dim']}.jsonl"


def _records(data: Path | None, rows: int) -> tuple[str, workload.Workload]:
    """The name of the data and the records: packages if their files are there, else generated ones."""
    if data == GENERATED or (data is None and not (DATA / workload.VECTORS).exists()):
        return "generated", workload.generated(rows)
    return "packages", workload.packages(data or DATA, rows)


def _versions(engines: list[str]) -> dict[str, str]:
    try:
        return {engine: installed(ENGINES[engine]()) for engine in engines}
    except PackageNotFoundError as error:
        raise SystemExit(f"{error.name} is not installed; `pip install -e '.[cpu,bench]'` brings all peers") from error


def _options(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default="", help=f"with which engines to compare: some of {','.join(PEERS)}")
    parser.add_argument("--rows", type=int, help="records (50,000; 5,000 if --quick)")
    parser.add_argument(
        "--quick", action="store_true", help="seconds, not minutes; prints its rows, keeps them only if --results is given"
    )
    parser.add_argument("--data", type=Path, help=f"folder with the embedded package descriptions, or the word {GENERATED}")
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "build", help="where the engines keep their files for the time of the run"
    )
    parser.add_argument("--results", type=Path, help="where rows are kept (benchmarks/results)")
    parser.add_argument(
        "--resume", action="store_true", help="go on with the last run: engines that have all rows in it are left out"
    )
    parser.add_argument("--process", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    options.peers = [each for each in options.peers.split(",") if each]
    if unknown := set(options.peers) - PEERS.keys():
        parser.error(f"unknown peers: {', '.join(sorted(unknown))}")
    options.rows = options.rows or (5_000 if options.quick else 50_000)
    if options.results is None and not options.quick:
        options.results = RESULTS
    if options.resume and options.results is None:
        parser.error("--resume needs --results: a quick run keeps no rows")
    return options


if __name__ == "__main__":
    sys.exit(main())
