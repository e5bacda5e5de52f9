"""Measure the kernels on a GPU, cell by cell, beside torch and what else is installed; and rehearse all of it on a CPU.

    python benchmarks/gpu.py [--preset quick|full] [--minutes 9] [--tune]
    python benchmarks/gpu.py --device cpu --tiny

Rows are appended to ``benchmarks/results/gpu-<card>.jsonl``, each as soon as it is measured. Cells that the file has for this commit
are left out, so the same command goes on where it was ended, or where its minutes were over.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path[0] = str(ROOT)

import torch  # noqa: E402

from benchmarks import gpu_steps, gpu_tune, gpu_ways  # noqa: E402
from benchmarks.gpu_cases import PRESETS, Case, cases, left  # noqa: E402
from benchmarks.gpu_collection import Collections  # noqa: E402
from benchmarks.gpu_data import Table  # noqa: E402
from benchmarks.gpu_steps import Place  # noqa: E402
from benchmarks.gpu_timing import Clock, peaks  # noqa: E402
from benchmarks.machine import commit, machine  # noqa: E402
from chroma_gpu.device import is_out_of_memory  # noqa: E402

RESULTS: Final = ROOT / "benchmarks" / "results"
_KINDS: Final[dict[str, Callable[[Case, Table, Place], dict[str, Any]]]] = {
    "scan": gpu_steps.search,
    "gather": gpu_steps.search,
    "lists": gpu_steps.lists,
    "add": gpu_steps.add,
    "join": gpu_steps.join,
}


def main(given: Sequence[str] | None = None) -> int:
    """The command line. Returns 0 when every cell is measured, 1 if one failed, 3 if the minutes were over before."""
    options = _options(given)
    place = _place(options)
    facts = _facts(options, place)
    file = options.results / f"gpu-{_name(facts['card'])}.jsonl"
    wanted = [each.tiny() if options.tiny else each for each in cases(options.preset)]
    waiting = left(list(dict.fromkeys(wanted)), {file, RESULTS / file.name} if not options.tiny else [file], facts["commit"])
    if options.only:
        waiting = [each for each in waiting if re.search(options.only, each.key)]
    ends = monotonic() + 60 * options.minutes
    failed = 0
    with Measured(place, options.device) as measured:
        for number, case in enumerate(waiting):
            if monotonic() > ends:
                print(f"\n{len(waiting) - number} of {len(wanted)} cells are left: the same command goes on", flush=True)
                return 3
            row = {"case": case.key, "error": None, **_of(case), **facts, **measured.row(case)}
            row["date"] = datetime.now(UTC).isoformat(timespec="seconds")
            failed += row["error"] is not None
            options.results.mkdir(parents=True, exist_ok=True)
            with file.open("a") as out:
                out.write(json.dumps(row) + "\n")
            print(_said(row), flush=True)
            if "CUDA error" in (row["error"] or ""):
                print("\nthe device serves this process no more: the same command goes on, with this cell last", file=sys.stderr)
                return 1
    print(f"\n{len(waiting) - failed} cells measured, {failed} failed; rows are in {file}")
    return int(failed > 0)


class Measured:
    """Measures cells; keeps the table of the last one for the next, and lets go of it before it makes another."""

    def __init__(self, place: Place, device: str) -> None:
        self._place, self._device = place, device
        self._table: tuple[object, Table] | None = None
        self._collections = Collections(device)

    def __enter__(self) -> Measured:
        return self

    def __exit__(self, *raised: object) -> None:
        self._collections.close()

    def row(self, case: Case) -> dict[str, Any]:
        """What was measured of a cell, or why it could not be."""
        try:
            if case.kind == "peaks":
                return {"ms": None, **self._place.peaks}
            if case.kind == "collection":
                self._forget()
                return self._collections.measured(case, self._place)
            if case.kind == "predicate":
                return gpu_steps.predicate(case, self._device, self._place)
            if case.kind in gpu_ways.KINDS:
                return gpu_ways.measured(case, self._way_table(case), self._place.clock)
            return _KINDS[case.kind](case, self._of(case), self._place)
        except Exception as error:  # one cell of thousands: the row says why, and the others go on
            if not is_out_of_memory(error) and self._place.tiny:
                raise
            self._forget()
            return {"ms": None, "error": f"{type(error).__name__}: {error}"[:500]}

    def _way_table(self, case: Case) -> gpu_ways.Rows:
        self._forget()
        return gpu_ways.Rows(case, self._device)

    def _of(self, case: Case) -> Table:
        if self._table is None or self._table[0] != case.data:
            self._forget()
            self._table = case.data, Table(case.rows, case.dim, case.dtype, self._device)
        return self._table[1]

    def _forget(self) -> None:
        self._table = None
        if self._place.clock.cuda:
            torch.cuda.empty_cache()


def _place(options: argparse.Namespace) -> Place:
    clock = Clock(options.device)
    if clock.cuda and options.tune:
        gpu_tune.tune(clock, options.device)
    return Place(clock, peaks(clock, tiny=options.tiny), options.tiny)


def _facts(options: argparse.Namespace, place: Place) -> dict[str, Any]:
    """What every row says besides its figures."""
    properties = torch.cuda.get_device_properties(options.device) if place.clock.cuda else None
    return {
        "card": properties.name if properties else "cpu",
        "capability": 10 * properties.major + properties.minor if properties else 0,
        "peaks": place.peaks,
        "machine": machine(ROOT),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": _triton(),
        "commit": commit(ROOT),
        "tiny": options.tiny,
    }


def _of(case: Case) -> dict[str, Any]:
    return {
        "kind": case.kind,
        "rows": case.rows,
        "dim": case.dim,
        "dtype": case.dtype,
        "batch": case.batch,
        "share": case.share,
        "k": case.k,
    }


def _said(row: dict[str, Any]) -> str:
    """One line of a row."""
    if row["error"]:
        return f"{row['case']:44} failed: {row['error'][:120]}"
    if row["ms"] is None:
        return f"{row['case']:44} copy {row['copy']:,.0f} GB/s, 16 bit {row['float16']:.1f}, float32 {row['float32']:.1f} TFLOP/s"
    parts = [f"{row['case']:44}{row['ms']:10.4f} ms"]
    parts += [f"{row['of_copy'] * 100:4.0f} % of copy"] if "of_copy" in row else []
    parts += [f"exact {row['exact']:.2f}"] if "exact" in row else []
    parts += [f"by {row['way']}, usually {row['usual_ms']:.4f} ms"] if "way" in row else []
    parts += [f"{peer} {row[f'{peer}_ratio']:.2f}x" for peer in ("torch", "faiss", "cuvs", "copy") if f"{peer}_ratio" in row]
    return "  ".join(parts)


def _name(card: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", card.lower().removeprefix("nvidia ")).strip("-")


def _triton() -> str | None:
    try:
        import triton
    except ImportError:
        return None
    return str(triton.__version__)


def _options(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="quick")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to see that everything runs; these rows are no results")
    parser.add_argument("--minutes", type=float, default=600.0, help="no cell is begun after these")
    parser.add_argument("--only", default="", help="a regular expression: cells whose names have it")
    parser.add_argument("--tune", action="store_true", help="measure block sizes first, see chroma_gpu.kernels.tuning")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="rows are appended here; those there and in the repository count"
    )
    options = parser.parse_args(given)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("torch sees no GPU here; --device cpu --tiny rehearses")
    return options


if __name__ == "__main__":
    sys.exit(main())
