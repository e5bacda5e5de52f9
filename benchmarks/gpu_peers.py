"""The same search by others on the same card, over the same matrix where it lies: torch, FAISS, cuVS. What is not installed is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any, Final

import torch
from torch import Tensor

from benchmarks.gpu_data import Filter, Questions, Table, cosines
from chroma_gpu.kernels.buffer import Buffer, Chunk
from chroma_gpu.records import Metric

_SCORES: Final = 8 << 30
"""Bytes of scores that torch makes at once; a larger batch goes in parts."""

FAISS_MOST: Final = 2048
"""The longest answer that FAISS gives on a GPU."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One way of others: a search that returns rows [q, k]."""

    name: str
    version: str
    search: Callable[[], Tensor]


def peers(table: Table, asked: Questions, filtered: Filter | None, k: int) -> Iterator[Peer]:
    """Those that can do this search. Halves for both kinds of codes, but what they search are the vectors as rounded, without a bound.

    torch    product, mask, topk
    faiss    ``knn_gpu`` over the matrix, or over a copy of the rows that pass, made anew each time: its GPU indexes ignore selectors
    cuvs     brute force, with the mask as a bitset
    """
    matrix = halves(table)
    queries = asked.plain.to(matrix.dtype)
    k = min(k, table.rows if filtered is None else int(filtered.flags.sum()))
    if not k:
        return
    yield Peer("torch", torch.__version__, lambda: by_torch(queries, matrix, None if filtered is None else ~filtered.flags, k))
    if not table.device.startswith("cuda"):
        return
    if find_spec("faiss") and k <= FAISS_MOST and (search := _faiss(queries, matrix, filtered, k)) is not None:
        yield Peer("faiss", _version("faiss-gpu", "faiss-gpu-cuvs"), search)
    if find_spec("cuvs") and (search := _cuvs(queries, matrix, filtered, k)) is not None:
        yield Peer("cuvs", _version("cuvs-cu13", "cuvs-cu12", "cuvs"), search)


def by_torch(queries: Tensor, matrix: Tensor, excluded: Tensor | None, k: int) -> Tensor:
    """[q, k] int64."""
    step = max(1, _SCORES // (queries.element_size() * len(matrix)))
    found = []
    for part in queries.split(step):
        scores = part @ matrix.T
        if excluded is not None:
            scores.masked_fill_(excluded, -torch.inf)
        found.append(torch.topk(scores, k, dim=1).indices)
    return torch.cat(found)


def worst(table: Table, asked: Questions, found: Tensor, best: Tensor) -> float:
    """Least recall of the checked queries: the share of what a peer found that is at least as near as the true last one."""
    shares = []
    for query, rows, true in zip(asked.plain, found, best, strict=False):
        shares.append(float((cosines(table, query, rows.long()) >= true[true > -torch.inf].min() - 1e-9).double().mean()))
    return min(shares)


def halves(table: Table) -> Tensor:
    """The rows at length 1 as peers take them: float32, or float16 where our codes are narrower; kept with the table."""
    if table.halves is None:
        kind = torch.float32 if table.dtype == "float32" else torch.float16
        table.halves = torch.empty(table.rows, table.dim, dtype=kind, device=table.device)
        for start, stop, block in table.blocks():
            table.halves[start:stop] = torch.nn.functional.normalize(block)
    return table.halves


def _faiss(queries: Tensor, matrix: Tensor, filtered: Filter | None, k: int) -> Callable[[], Tensor] | None:
    from chroma_gpu.index.faiss_gpu import cards, nearest

    if not cards():
        return None

    def among(vectors: Tensor) -> Tensor:
        found = nearest(queries, Buffer.of([Chunk(0, vectors)]), k, Metric.IP)
        if found is None:
            raise ValueError(f"FAISS cannot find {k} rows of {vectors.dtype}")
        return found.rows

    if filtered is None:
        return lambda: among(matrix)
    return lambda: filtered.listed[among(matrix[filtered.listed])]


def _cuvs(queries: Tensor, matrix: Tensor, filtered: Filter | None, k: int) -> Callable[[], Tensor] | None:
    from cuvs.common import Resources
    from cuvs.neighbors import brute_force, filters

    resources = Resources(stream=torch.cuda.current_stream().cuda_stream)
    index = brute_force.build(matrix, metric="inner_product", resources=resources)

    def search() -> Tensor:
        # The bitset is ready made for them: so are our masks.
        passing: Any = None if filtered is None else filters.from_bitset(filtered.words.view(torch.uint32))
        neighbours = torch.empty(len(queries), k, dtype=torch.int64, device=queries.device)
        distances = torch.empty(len(queries), k, dtype=torch.float32, device=queries.device)
        brute_force.search(index, queries, k, neighbours, distances, prefilter=passing, resources=resources)
        return neighbours

    return search


def _version(*names: str) -> str:
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "unknown"
