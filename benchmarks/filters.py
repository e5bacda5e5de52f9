"""Run the benchmark of filtered search: a grid of filters over a million rows, evaluation alone, documents, adds, opening.

    python benchmarks/filters.py --peers faiss,chromadb

Every step is a process of its own with a limit of time. What is made on the way is kept in ``--folder`` until all is done, so the same
command goes on where it was ended; a step that failed is tried again. Rows are appended to ``benchmarks/results/filters-*.jsonl``;
``benchmarks/report.py`` makes the tables of docs/benchmarks.md of them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    # Not this folder: its datasets.py would be taken for the library of that name.
    sys.path[0] = str(ROOT)

from benchmarks import filter_data, filter_grid, filter_steps  # noqa: E402
from benchmarks.cases import BATCH_ROWS  # noqa: E402
from benchmarks.filter_data import CELLS, DIM, Judge, Relation, Rows  # noqa: E402
from benchmarks.libraries import FaissFlat, FaissHnsw  # noqa: E402
from benchmarks.machine import commit, machine  # noqa: E402
from benchmarks.peers import ENGINES, Chroma, ChromaGpu, installed  # noqa: E402

RESULTS: Final = ROOT / "benchmarks" / "results"
DATA: Final = ROOT.parent / "shared" / "data"
PEERS: Final = {"faiss": ("faiss-flat", "faiss-hnsw"), "chromadb": ("chromadb",)}


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured.

    rows     of the grid; small: of the grid that chromadb takes part in
    texts    of the filters of documents, at most; queries: of a cell; plans: how many of these every plan answers
    operands of a filter whose evaluation is timed
    seconds  that a cell's queries may take, and its plans
    """

    rows: int = 1_000_000
    small: int = 50_000
    texts: int = 200_000
    queries: int = 100
    plans: int = 20
    operands: int = 50
    seconds: float = 15.0


QUICK: Final = Size(rows=6_000, small=2_000, texts=3_000, queries=10, plans=3, operands=5, seconds=0.2)


@dataclass(frozen=True, slots=True)
class Step:
    """One process: which engine does what, in how many minutes, after which others."""

    name: str
    engine: str
    minutes: int
    run: Callable[[Place], Iterator[dict[str, Any]]]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """Where the steps find each other's work."""

    folder: Path
    data: Path
    size: Size

    def rows(self, *, small: bool = False) -> Rows:
        return Rows.load(self.folder, min(self.size.small, self.size.rows) if small else None)

    def judge(self, *, small: bool = False) -> Judge:
        return Judge.load(self.folder / f"truth-{'small' if small else 'all'}.npy", self.rows(small=small))


def main(given: Sequence[str] | None = None) -> int:
    """The command line. Returns 1 if a step failed; the rows of the others are kept, and the same command tries it again."""
    options = _options(given)
    size = Size(**{**asdict(QUICK if options.quick else Size()), **({"rows": options.rows} if options.rows else {})})
    folder = options.folder / f"filters-{size.rows}"
    place = Place(folder, options.data, size)
    if options.step:
        return _measure(options.step, place)
    folder.mkdir(parents=True, exist_ok=True)
    begun = folder / "run.json"
    if not begun.exists():
        begun.write_text(json.dumps({"run": datetime.now(UTC).isoformat(timespec="seconds"), **asdict(size)}))
    run = json.loads(begun.read_text())
    facts = {"dim": DIM, "data": "folded", "machine": machine(folder), "commit": commit(ROOT), "run": run.pop("run")}
    if run != asdict(size):
        raise SystemExit(f"{folder} is of a run of another size; remove it to begin anew")
    failed = []
    for step in steps(["chroma_gpu", *(engine for peer in options.peers for engine in PEERS[peer])]):
        done = folder / f"{step.name}.jsonl"
        if done.exists():
            continue
        print(f"\n{step.name}", flush=True)
        if missing := [each for each in step.needs if each in failed]:
            print(f"  left out: {', '.join(missing)} failed", file=sys.stderr)
            failed.append(step.name)
            continue
        began = perf_counter()
        rows = _process(step, options)
        if rows is None:
            failed.append(step.name)
            continue
        rows = [{**_about(step), **facts, **each, "date": datetime.now(UTC).isoformat(timespec="seconds")} for each in rows]
        lines = "".join(json.dumps(each) + "\n" for each in rows)
        if options.results is not None:
            options.results.mkdir(parents=True, exist_ok=True)
            with (options.results / f"filters-{size.rows}x{DIM}.jsonl").open("a") as file:
                file.write(lines)
        done.write_text(lines)
        print(f"  {perf_counter() - began:.0f} s", flush=True)
    if failed:
        print(f"\nfailed: {', '.join(failed)}; the same command tries again", file=sys.stderr)
        return 1
    if not options.keep:
        shutil.rmtree(folder)
    print(f"\nrows kept in {options.results}" if options.results else "\nrows not kept")
    return 0


def steps(engines: Sequence[str]) -> list[Step]:
    """In their order: later ones use what earlier ones left in the folder."""
    made = [
        Step("data", "chroma_gpu", 10, _data),
        Step("add", "chroma_gpu", 30, lambda place: _add(place, ChromaGpu(), "ours"), ("data",)),
        Step("add-graphless", "chroma_gpu", 30, _add_graphless, ("data",)),
        Step("open", "chroma_gpu", 5, _open, ("add",)),
        Step("evaluate", "chroma_gpu", 10, _evaluate, ("add",)),
    ]
    for relation in Relation:
        made.append(Step(f"grid-{relation}", "chroma_gpu", 15, _grid(ChromaGpu, relation, "ours"), ("add",)))
        made.append(Step(f"plans-{relation}", "chroma_gpu", 15, _plans(relation), ("add",)))
    for engine in engines:
        kind = ENGINES[engine]
        if issubclass(kind, FaissFlat | FaissHnsw):
            made += [
                Step(f"grid-{engine}-{relation}", engine, 30, _grid_faiss(kind, relation), ("data",)) for relation in Relation
            ]
        elif issubclass(kind, Chroma):
            small, texts = f"small-{engine}", f"texts-{engine}"
            made.append(Step(f"{small}-add", engine, 20, _small_add(kind, small), ("data",)))
            for relation in Relation:
                made.append(Step(f"{small}-{relation}", engine, 20, _grid(kind, relation, small, small=True), (f"{small}-add",)))
            made.append(Step(f"{texts}-add", engine, 30, _texts_add(kind, texts)))
            made.append(Step(f"{texts}-get", engine, 15, _texts(kind, texts), (f"{texts}-add",)))
    return made


def _data(place: Place) -> Iterator[dict[str, Any]]:
    filter_data.prepare(place.folder, place.size.rows, place.size.queries)
    for name, small in {"all": False, "small": True}.items():
        Judge(place.rows(small=small)).save(place.folder / f"truth-{name}.npy")
    yield from ()


def _add(place: Place, engine: ChromaGpu, folder: str, prefix: str = "") -> Iterator[dict[str, Any]]:
    rows, (_, found) = place.rows(), filter_data.texts(place.data)
    shutil.rmtree(place.folder / folder, ignore_errors=True)
    for each in filter_steps.add(engine, rows.batches([each["text"] for each in found], BATCH_ROWS), place.folder / folder):
        yield {**each, "case": prefix + each["case"], "rows": len(rows.label)}


def _open(place: Place) -> Iterator[dict[str, Any]]:
    yield from filter_steps.opening(ChromaGpu(), place.rows(), place.folder / "ours")


def _evaluate(place: Place) -> Iterator[dict[str, Any]]:
    yield from filter_steps.evaluation(ChromaGpu(), place.rows(), place.folder / "ours", place.size.operands)


def _add_graphless(place: Place) -> Iterator[dict[str, Any]]:
    for each in _add(place, filter_steps.Graphless(), "graphless", "graphless_"):
        yield {**each, "settings": filter_steps.Graphless.settings}
    shutil.rmtree(place.folder / "graphless")


def _grid(
    kind: type[Chroma], relation: Relation, folder: str, *, small: bool = False
) -> Callable[[Place], Iterator[dict[str, Any]]]:
    def run(place: Place) -> Iterator[dict[str, Any]]:
        engine, rows, judge = kind(), place.rows(small=small), place.judge(small=small)
        engine.load()
        engine.open(place.folder / folder, DIM)
        for each in filter_grid.grid(engine, rows, judge, relation, place.size.seconds):
            yield {**each, "rows": len(rows.label)}
        engine.close()

    return run


def _plans(relation: Relation) -> Callable[[Place], Iterator[dict[str, Any]]]:
    def run(place: Place) -> Iterator[dict[str, Any]]:
        engine, rows, judge = ChromaGpu(), place.rows(), place.judge()
        engine.load()
        engine.open(place.folder / "ours", DIM)
        for cell in CELLS:
            if cell.relation is relation:
                yield filter_grid.plans(engine.collection, rows, judge, cell, place.size.plans, place.size.seconds)
        engine.close()

    return run


def _grid_faiss(kind: type[FaissFlat | FaissHnsw], relation: Relation) -> Callable[[Place], Iterator[dict[str, Any]]]:
    def run(place: Place) -> Iterator[dict[str, Any]]:
        engine = kind()
        rows, judge = place.rows(), place.judge()
        # What is built in minutes is kept for the next relation.
        file = place.folder / f"{engine.name}.faiss" if engine.name == "faiss-hnsw" else None
        yield from filter_grid.faiss(engine, rows, judge, file)
        yield from filter_grid.grid(engine, rows, judge, relation, place.size.seconds)

    return run


def _small_add(kind: type[Chroma], name: str) -> Callable[[Place], Iterator[dict[str, Any]]]:
    def run(place: Place) -> Iterator[dict[str, Any]]:
        rows, (_, found) = place.rows(small=True), filter_data.texts(place.data)
        folder = place.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        for each in filter_steps.add(kind(), rows.batches([each["text"] for each in found], BATCH_ROWS), folder):
            yield {**each, "rows": len(rows.label)}

    return run


def _texts_add(kind: type[Chroma], name: str) -> Callable[[Place], Iterator[dict[str, Any]]]:
    def run(place: Place) -> Iterator[dict[str, Any]]:
        data, found = filter_data.texts(place.data)
        found = found[: place.size.texts]
        folder = place.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        for each in filter_steps.add(kind(), filter_steps.records(found), folder):
            yield {**each, "case": f"texts_{each['case']}", "rows": len(found), "data": data, "dim": filter_steps.DIM}

    return run


def _texts(kind: type[Chroma], name: str) -> Callable[[Place], Iterator[dict[str, Any]]]:
    def run(place: Place) -> Iterator[dict[str, Any]]:
        data, found = filter_data.texts(place.data)
        found = found[: place.size.texts]
        for each in filter_steps.documents(kind(), found, place.folder / name):
            yield {**each, "rows": len(found), "data": data, "dim": filter_steps.DIM}

    return run


def _process(step: Step, options: argparse.Namespace) -> list[dict[str, Any]] | None:
    """The rows of a step; None if it failed or took too long."""
    command = [sys.executable, __file__, "--step", step.name, "--folder", str(options.folder), "--data", str(options.data)]
    command += ["--peers", ",".join(options.peers), *(["--rows", str(options.rows)] if options.rows else [])]
    command += ["--quick"] if options.quick else []
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=step.minutes * 60, check=False)
    except subprocess.TimeoutExpired:
        print(f"  ended after {step.minutes} minutes", file=sys.stderr)
        return None
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"case"')]
    for each in rows:
        shown = {name: each[name] for name in ("p95", "recall", "matches") if each.get(name) is not None}
        print(
            f"  {each['case']:32}{each['value'] or 0:12.4g} {each['unit']:8}",
            *(f"{name} {value:.4g}" for name, value in shown.items()),
        )
    if done.returncode:
        print(f"  it failed: {done.returncode}", file=sys.stderr)
        return None
    return rows


def _measure(name: str, place: Place) -> int:
    """In the process of a step: print what is measured."""
    step = next(each for each in steps(list(ENGINES)) if each.name == name)
    for each in measured(step, place):
        print(json.dumps(each), flush=True)
    return 0


def measured(step: Step, place: Place) -> Iterator[dict[str, Any]]:
    """The rows of a step, without what all rows of the run share."""
    nothing = {"n": 1, "p95": None, "recall": None, "share": None, "rows": place.size.rows}
    for each in step.run(place):
        yield {"case": each["case"], **nothing, **each}


def _about(step: Step) -> dict[str, Any]:
    return {"engine": step.engine, "version": installed(ENGINES[step.engine]()), "settings": ENGINES[step.engine].settings}


def _options(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default="", help=f"with which engines to compare: some of {','.join(PEERS)}")
    parser.add_argument("--rows", type=int, help="of the grid (1,000,000; 6,000 if --quick)")
    parser.add_argument("--quick", action="store_true", help="under a minute; keeps its rows only if --results is given")
    parser.add_argument(
        "--data", type=Path, default=DATA, help="folder with the package descriptions; generated texts if they are not there"
    )
    parser.add_argument("--folder", type=Path, default=ROOT / "build", help="where the work is kept until all of it is done")
    parser.add_argument("--keep", action="store_true", help="do not remove it then")
    parser.add_argument("--results", type=Path, help="where rows are kept (benchmarks/results)")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    options.peers = [each for each in options.peers.split(",") if each]
    if unknown := set(options.peers) - PEERS.keys():
        parser.error(f"unknown peers: {', '.join(sorted(unknown))}")
    if options.results is None and not options.quick:
        options.results = RESULTS
    return options


if __name__ == "__main__":
    sys.exit(main())
