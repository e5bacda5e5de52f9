"""Masked exact scan: the rows that may be among the k best of each query, by one pass over all rows.

A score is gain * <q, x> - bias, larger for nearer rows, in float32. So one kernel serves every metric: gain is 1 / |x| for cosine,
bias is |x|**2 / 2 for l2. What comes back is not the answer but all that it can be: whoever scores the survivors in full precision
gets the exact k nearest, ties included.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from chroma_gpu.kernels.buffer import Buffer, Chunk

SCORES = {"cpu": 1 << 22, "cuda": 1 << 27}
"""Scores held at once on a device: 16 MiB where a cache may hold them, 512 MiB where launches count."""

SPARSE = 0.2
"""Share of a block's rows that pass the mask, below which they are copied together before they are scored."""


@dataclass(frozen=True, slots=True, eq=False)
class Survivors:
    """(query, row) pairs, by query, in no order of rows.

    owners  [m] int64: the query
    rows    [m] int64: the row
    scores  [m] float32
    """

    owners: Tensor
    rows: Tensor
    scores: Tensor


def scan(
    queries: Tensor, buffer: Buffer, k: int, slack: Tensor, words: Tensor | None = None, limit: int | None = None
) -> Survivors:
    """Every row whose score is at least the k-th best of its query less the slack of the query; all rows where there are fewer.

    queries  [q, dim] float32, on the device of the buffer
    slack    [q] float32: twice the error of a score, see ``product_error``
    words    [ceil(size / 32)] int32: bit r % 32 of word r // 32 says whether row r may be found; None allows every row. Rows at
             and past 32 * len(words) may not
    limit    scores held at once; by default what suits the device
    Cost     one pass over the rows; q * (rows / blocks) scores at a time, never all
    """
    best = queries.new_full((len(queries), k), -torch.inf)  # of each query, the least first
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for chunk, first, stop in blocks(buffer.chunks, len(queries), limit or SCORES.get(queries.device.type, 1 << 24)):
        columns = None if words is None else _passing(words, chunk.start + first, chunk.start + stop)
        if columns is not None and not len(columns):
            continue
        scores = _scores(queries, chunk, first, stop, columns)  # [q, n]
        owners, places = _survivors(scores, best, k, slack)
        kept = scores[owners, places]
        best = _best_with(best, owners, kept, k)
        found.append((owners, (places if columns is None else columns[places]) + (chunk.start + first), kept))
    if not found:
        empty = torch.empty(0, dtype=torch.int64, device=queries.device)
        return Survivors(empty, empty, queries.new_empty(0))
    owners, rows, scores = (torch.cat(parts) for parts in zip(*found, strict=True))
    alive = ~(scores < (best[:, 0] - slack)[owners])
    order = torch.argsort(owners[alive], stable=True)
    return Survivors(owners[alive][order], rows[alive][order], scores[alive][order])


def product_error(dim: int, device: torch.device) -> float:
    """The largest |computed <q, x> - true <q, x>| as a share of |q| |x|, with this module's arithmetic on a device.

    dim * 2**-24 bounds any order of summing float32 products; where torch was told to multiply float32 matrices as tf32 or
    bf16, rounding the factors comes on top.
    """
    backend = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    precision = getattr(getattr(backend, "matmul", None), "fp32_precision", None) or torch.get_float32_matmul_precision()
    rounded = {"ieee": 0.0, "none": 0.0, "highest": 0.0, "tf32": 2.0**-9, "high": 2.0**-9}.get(precision, 2.0**-6)
    return (dim + 16) * 2.0**-24 + rounded


def blocks(chunks: Sequence[Chunk], n_queries: int, limit: int) -> Iterator[tuple[Chunk, int, int]]:
    """(chunk, first, stop): the pieces of chunks that are scored at once; firsts are multiples of 32 after the chunk's start."""
    step = max(1, limit // (32 * max(1, n_queries))) * 32
    for chunk in chunks:
        for first in range(0, len(chunk.vectors), step):
            yield chunk, first, min(first + step, len(chunk.vectors))


def _passing(words: Tensor, start: int, stop: int) -> Tensor:
    """[n] int64: which of rows [start, stop) are in the mask, counted from start."""
    rows = torch.arange(start, max(start, min(stop, 32 * len(words))), device=words.device)
    return torch.nonzero((words[rows >> 5] >> (rows & 31).to(torch.int32)) & 1).flatten()


def _scores(queries: Tensor, chunk: Chunk, first: int, stop: int, columns: Tensor | None) -> Tensor:
    vectors, gain, bias = chunk.vectors[first:stop], chunk.gain, chunk.bias
    sparse = columns is not None and len(columns) < SPARSE * (stop - first)
    if sparse:
        vectors = vectors[columns]
    scores = queries @ vectors.T
    if columns is not None and not sparse:
        scores = scores[:, columns]
    if gain is not None:
        scores *= gain[first:stop] if columns is None else gain[first:stop][columns]
    if bias is not None:
        scores -= bias[first:stop] if columns is None else bias[first:stop][columns]
    return scores


def _survivors(scores: Tensor, best: Tensor, k: int, slack: Tensor) -> tuple[Tensor, Tensor]:
    """(query, place) of each score that may still count, by query."""
    # The k-th best of a sample is a valid floor for the block. Where a sample says nothing, because rows come in the order of
    # their nearness, too many pass, and the block itself gives the floor.
    n_queries, n = scores.shape
    sample = max(1024, 8 * k)
    floor = best[:, 0]
    if floor.isinf().any():
        floor = _best_of(torch.cat([best, scores[:, :sample]], dim=1), k)[:, 0]
    passed = ~(scores < (floor - slack)[:, None])
    if n > sample and int(passed.sum()) > n_queries * (sample + n // 32):
        floor = _best_of(torch.cat([best, scores], dim=1), k)[:, 0]
        passed = ~(scores < (floor - slack)[:, None])
    owners, places = torch.nonzero(passed, as_tuple=True)
    return owners, places


def _best_with(best: Tensor, owners: Tensor, scores: Tensor, k: int) -> Tensor:
    """[q, k]: the best scores so far with those of new survivors, which are ordered by query."""
    sizes = torch.bincount(owners, minlength=len(best))
    padded = best.new_full((len(best), k + int(sizes.max())), -torch.inf)
    padded[:, :k] = best
    padded[owners, k + torch.arange(len(owners), device=owners.device) - (sizes.cumsum(0) - sizes)[owners]] = scores
    return _best_of(padded, k)


def _best_of(scores: Tensor, k: int) -> Tensor:
    """[q, k]: the k largest of each line, ascending."""
    return torch.topk(scores, k, dim=1).values.flip(1)
