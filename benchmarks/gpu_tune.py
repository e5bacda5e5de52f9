"""Block sizes measured on the card at hand, for the shapes that count most, into the file that the kernels read."""

from __future__ import annotations

from typing import Final

import torch

from benchmarks.gpu_data import Filter, Questions, Table
from benchmarks.gpu_timing import Clock
from chroma_gpu.config import tuning_file
from chroma_gpu.kernels.gather import gather
from chroma_gpu.kernels.scan import scan
from chroma_gpu.kernels.tuning import measure

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
