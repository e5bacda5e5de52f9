"""The same search in another way than the usual one: its launches recorded and started as one ("replay"), or by FAISS ("faiss")."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from time import perf_counter
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu_cases import Case
from benchmarks.gpu_data import CHECKED, Table
from benchmarks.gpu_timing import Clock
from chroma_gpu.index.gpu import batches
from chroma_gpu.index.gpu.bounds import HALVED, asked
from chroma_gpu.index.gpu.codes import Codes
from chroma_gpu.kernels.buffer import Buffer
from chroma_gpu.kernels.quantise import allocate, quantise
from chroma_gpu.kernels.scan import Survivors, scan
from chroma_gpu.kernels.tuning import assuming
from chroma_gpu.records import Metric

KINDS: Final = ("replay", "faiss")
_METRIC: Final = Metric.L2
"""What both ways can: FAISS knows nothing of the gain that rows have under cosine."""

_SAME: Final = 1e-6
"""Share by which squared distances may differ and be one."""


class Rows:
    """Rows as an index keeps them for l2: codes, and vectors where the type of a case names them too.

    codes, vectors  buffers; vectors are the codes themselves where those are float32, None where nobody keeps them
    """

    def __init__(self, case: Case, device: str) -> None:
        self.table = Table(case.rows, case.dim, "float32", device)
        kinds = [Codes(each) for each in case.dtype.split("+")]
        self.kind = kinds[0]
        held = {each: self._buffer(each, device) for each in kinds}
        self.codes, self.vectors = held[self.kind], held.get(Codes.FLOAT32)
        self.longest = max(float(block.norm(dim=1).max()) for _, _, block in self.table.blocks())

    def asked(self, plain: Tensor, codes: Codes) -> tuple[Tensor, Tensor, Tensor | None]:
        """(directions, slack, lengths) of queries."""
        host = plain.cpu().numpy()
        norms = np.linalg.norm(host, axis=1).astype(np.float32)
        halved = codes is not Codes.FLOAT32 and len(host) >= HALVED
        made = asked(host, norms, _METRIC, codes, self.longest, plain.device, halved=halved)
        units, slack, lengths = (
            None if each is None else torch.from_numpy(each).to(plain.device) for each in (made.units, made.slack, made.lengths)
        )
        return units, slack, lengths

    def _buffer(self, codes: Codes, device: str) -> Buffer:
        chunks = []
        for start, stop, block in self.table.blocks():
            chunks.append(allocate(stop - start, self.table.dim, codes.dtype, _METRIC, device, start))
            quantise(block, chunks[-1], 0, _METRIC)
        return Buffer.of(chunks)


def measured(case: Case, rows: Rows, clock: Clock) -> dict[str, Any]:
    """ms of the other way and of the usual one, what the other takes once, and whether its answers are exact.

    way  the case's, or "usual" where that cannot be had here: then both times are of the usual way
    """
    plain = rows.table.queries(case.batch)
    units, slack, lengths = rows.asked(plain, rows.kind)

    def usually() -> Survivors:
        with assuming("replay", None):
            return scan(units, rows.codes, case.k, slack, lengths=lengths)

    other, way, prepared = (_replay if case.kind == "replay" else _faiss)(case, rows, plain, usually)
    usual = clock.median(usually) * 1e3
    made = {"way": way, "ms": clock.median(other) * 1e3, "usual_ms": usual, "prepared_ms": prepared * 1e3}
    return made | {"usual_ratio": usual / made["ms"]} | _judged(rows, plain, other(), case.k)


def _replay(
    case: Case, rows: Rows, plain: Tensor, usually: Callable[[], Survivors]
) -> tuple[Callable[[], Survivors], str, float]:
    units, slack, lengths = rows.asked(plain, rows.kind)
    snapshot = replace(rows.codes, kept={})

    def search() -> Survivors:
        with assuming("replay", 0):
            return scan(units, snapshot, case.k, slack, lengths=lengths)

    usually()  # compiles
    began = perf_counter()
    search()
    took = perf_counter() - began
    recorded = any(not isinstance(each, int) for each in snapshot.kept.values())
    return search, "replay" if recorded else "usual", took


def _faiss(case: Case, rows: Rows, plain: Tensor, usually: Callable[[], Survivors]) -> tuple[Callable[[], Survivors], str, float]:
    vectors = rows.vectors
    if vectors is None:
        raise ValueError(f"{case.dtype} keeps no vectors")
    units, slack, lengths = rows.asked(plain, Codes.FLOAT32)

    def search() -> Survivors:
        found = batches.found(units, vectors, case.k, slack, _METRIC, lengths=lengths)
        if found is None:
            raise RuntimeError("FAISS failed, or could not show that nothing was left out")
        return found

    with assuming("faiss", 0):
        there = batches.pays(vectors, case.dtype, _METRIC, max(case.batch, batches.LEAST), case.k)
    return (search, "faiss", 0.0) if there else (usually, "usual", 0.0)


def _judged(rows: Rows, plain: Tensor, found: Survivors, k: int) -> dict[str, Any]:
    """Of some queries, the share whose k nearest by float64 are all among the survivors."""
    exact = 0
    some = plain[:CHECKED].double()
    for query, point in enumerate(some):
        distances = torch.cat([(block.double() - point).square().sum(1) for _, _, block in rows.table.blocks()])
        last = distances.topk(min(k, len(distances)), largest=False).values[-1]
        ours = distances[found.rows[found.owners == query]]
        exact += int((ours <= last * (1 + _SAME)).sum()) >= min(k, len(distances))
    return {"exact": exact / len(some), "checked": len(some), "survivors": len(found.rows) / len(plain)}
