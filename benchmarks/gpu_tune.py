"""Block sizes measured on the card at hand, and other ways of searching beside the usual one, for the shapes that count most, into the
file that the kernels read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import torch

from benchmarks import gpu_ways
from benchmarks.gpu_cases import Case, other_ways
from benchmarks.gpu_data import Filter, Questions, Table
from benchmarks.gpu_timing import Clock
from chroma_gpu.config import tuning_file
from chroma_gpu.kernels.gather import gather
from chroma_gpu.kernels.scan import scan
from chroma_gpu.kernels.tuning import compare, measure

_ROWS: Final = 1 << 20
_DIM: Final = 384
_SECONDS: Final = 0.1


def tune(clock: Clock, device: str, rows: int = _ROWS) -> None:
    """Time the candidates of ``scan``, ``gather`` and ``product`` for one query, some and many, and keep the best of each."""
    properties = torch.cuda.get_device_properties(device)
    capability = 10 * properties.major + properties.minor
    for dtype in ("float16", "int8"):
        table = Table(rows, _DIM, dtype, device)
        listed = Filter.of(table, 0.05).listed
        for kernel, batch in (("scan", 1), ("scan", 32), ("gather", 1), ("product", 256), ("product", 1024)):
            asked = Questions.of(table, batch)

            def run(
                kernel: str = kernel, asked: Questions = asked, table: Table = table, listed: torch.Tensor = listed
            ) -> object:
                if kernel == "gather":
                    return gather(asked.units, table.buffer, listed, 10, asked.slack, lengths=asked.lengths)
                return scan(asked.units, table.buffer, 10, asked.slack, lengths=asked.lengths)

            best = measure(
                kernel,
                properties.name,
                (capability, dtype, _DIM, batch),
                run,
                lambda run: clock.median(run, _SECONDS),
                tuning_file(),
            )
            print(f"{kernel} {dtype} b{batch}: {best}", flush=True)
        del table, listed, asked
        torch.cuda.empty_cache()
    choose(clock, device, properties.name, capability)


def choose(clock: Clock, device: str, card: str, capability: int, wanted: Iterable[Case] | None = None) -> None:
    """Measure the other ways beside the usual one, which has its block sizes by now, and note where they are faster."""
    for case in other_ways() if wanted is None else wanted:
        try:
            row = gpu_ways.measured(case, gpu_ways.Rows(case, device), clock)
        except (
            RuntimeError
        ) as error:  # no room, or a library that does not fit the card: then nothing is noted, and nothing taken
            print(f"{case.key}: {str(error)[:200]}", flush=True)
            row = None
        if clock.cuda:
            torch.cuda.empty_cache()
        if row is None:
            continue
        if row["way"] != case.kind or row["exact"] < 1:
            print(f"{case.key}: not here, or not exact", flush=True)
            continue
        shape = (capability, case.dtype, case.dim, case.batch, case.rows, case.k)
        after = compare(case.kind, card, shape, row["usual_ms"] / 1e3, row["ms"] / 1e3, row["prepared_ms"] / 1e3, tuning_file())
        said = "no" if after is None else f"yes, after {after} searches"
        print(f"{case.key}: {row['ms']:.4f} ms, usually {row['usual_ms']:.4f}: {said}", flush=True)
