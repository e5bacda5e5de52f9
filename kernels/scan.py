"""Masked exact scan: the rows that may be among the k best of each query, by one pass over all rows.

A score is ``length * gain * <q, x> - bias``, larger for nearer rows, in float32. So one kernel serves every metric: gain is 1 / |x| for
cosine, bias is |x|**2 / 2 for l2; and every kind of codes: the error of a row says how far its score may be from the true one. What
comes back is not the answer but all that it can be: whoever scores the survivors in full precision gets the exact k nearest, ties
included.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from chroma_gpu.kernels.buffer import Buffer, Chunk

SCORES = {"cpu": 1 << 22, "cuda": 1 << 27}
"""Scores held at once on a device: 16 MiB where a cache may hold them, 512 MiB where launches count."""

CONVERTED = 1 << 22
"""Numbers of float16 or int8 codes that are made float32 at once."""

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
    queries: Tensor,
    buffer: Buffer,
    k: int,
    slack: Tensor,
    words: Tensor | None = None,
    *,
    lengths: Tensor | None = None,
    passing: int | None = None,
    limit: int | None = None,
) -> Survivors:
    """Every row that may be among the k best of a query, given the errors of all rows and the slack of the query.

    That is: score + length * error >= (k-th largest score - length * error) - slack; all rows where there are fewer than k. So every
    true neighbour survives if slack is at least twice what arithmetic may add to the errors.

    queries  [q, dim] float32 or float16, on the device of the buffer
    slack    [q] float32: twice the error of the arithmetic, see ``product_error``
    words    [ceil(size / 32)] int32: bit r % 32 of word r // 32 says whether row r may be found; None allows every row. Rows at
             and past 32 * len(words) may not
    lengths  [q] float32: what queries are to be multiplied by, 1 by default
    passing  how many rows of the buffer the words allow, if that is known: it saves time, not rows
    limit    scores held at once by the way that is not Triton; by default what suits the device
    Raises   ValueError for a k below 1
    Cost     one pass over the rows that are allowed, whatever the queries are up to some 32; on CUDA nothing but the survivors is
             written, and the host waits once, at the end
    """
    if k < 1:
        raise ValueError("k must be at least 1")
    if has_triton(buffer.device) and limit is None and len(queries):
        from chroma_gpu.kernels.scan_triton import scan as by_triton

        return by_triton(queries, buffer, k, slack, words, lengths=lengths, passing=passing)
    return reference(queries, buffer, k, slack, words, lengths=lengths, limit=limit)


def reference(
    queries: Tensor,
    buffer: Buffer,
    k: int,
    slack: Tensor,
    words: Tensor | None = None,
    *,
    lengths: Tensor | None = None,
    limit: int | None = None,
) -> Survivors:
    """``scan`` in plain torch, on any device.  Cost: q * (rows / blocks) scores at a time, never all"""
    queries = queries.float()
    limit = limit or SCORES.get(queries.device.type, 1 << 24)
    if buffer.chunks and buffer.chunks[0].vectors.dtype != torch.float32:
        limit = min(limit, max(1, len(queries)) * max(32, CONVERTED // queries.shape[1]))
    best = queries.new_full((len(queries), k), -torch.inf)  # of each query, lower ends of scores, the least first
    found: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for chunk, first, stop in blocks(buffer.chunks, len(queries), limit):
        columns = None if words is None else _passing(words, chunk.start + first, chunk.start + stop)
        if columns is not None and not len(columns):
            continue
        scores, margins = _scores(queries, chunk, first, stop, columns, lengths)  # [q, n], [q or 1, n]
        owners, places = _survivors(scores, margins, best, k, slack)
        kept = scores[owners, places]
        margin = torch.zeros_like(kept) if margins is None else margins.expand_as(scores)[owners, places]
        best = _best_with(best, owners, kept - margin, k)
        found.append((owners, (places if columns is None else columns[places]) + (chunk.start + first), kept, kept + margin))
    if not found:
        empty = torch.empty(0, dtype=torch.int64, device=queries.device)
        return Survivors(empty, empty, queries.new_empty(0))
    owners, rows, scores, highest = (torch.cat(parts) for parts in zip(*found, strict=True))
    alive = ~(highest < (best[:, 0] - slack)[owners])
    order = torch.argsort(owners[alive], stable=True)
    return Survivors(owners[alive][order], rows[alive][order], scores[alive][order])


@cache
def _importable() -> bool:
    return find_spec("triton") is not None


def has_triton(device: torch.device) -> bool:
    """Whether the Triton kernels serve a device. Tests replace it: under TRITON_INTERPRET=1 they serve the CPU, slowly.

    Cost    once for each device, a kernel is built and started
    """
    return device.type == "cuda" and _importable() and _starts(device)


@cache
def _starts(device: torch.device) -> bool:
    """Whether Triton can start a kernel; if not, for want of a C compiler or of a folder to write to, torch alone does the work."""
    from chroma_gpu.device import is_lost, is_out_of_memory

    try:
        from chroma_gpu.kernels.lists_triton import tried

        tried(device)
    except Exception as error:  # Triton raises what it likes: of its build, of ptxas, of the driver
        if is_lost(error) or is_out_of_memory(error):
            raise
        warnings.warn(
            f"Triton cannot start kernels on {device}: {error}. Searches there are slower, by torch alone. Triton needs a C compiler "
            "(gcc or clang, or the variable CC), the headers of Python, and a folder it may write to (TRITON_CACHE_DIR).",
            RuntimeWarning,
            stacklevel=2,
        )
        _WITHOUT.add(device)
        return False
    return True


_WITHOUT: set[torch.device] = set()
"""Where Triton was tried in vain."""


def product_error(dim: int, device: torch.device, codes: torch.dtype = torch.float32) -> float:
    """The largest |computed <q, x> - true <q, x>| as a share of |q| |x|, with this module's arithmetic on a device.

    dim * 2**-24 bounds any order of summing float32 products; where torch was told to multiply float32 matrices as tf32 or
    bf16, rounding the factors comes on top. Codes of float16 and int8 are multiplied by tensor cores on CUDA, which cut what they
    add instead of rounding it: four times as much covers every generation, and a query cut into two float16 numbers. Without Triton
    they are multiplied as float32.
    """
    if device.type == "cuda" and codes != torch.float32 and _importable() and device not in _WITHOUT:
        return (dim + 16) * 2.0**-22
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


def _scores(
    queries: Tensor, chunk: Chunk, first: int, stop: int, columns: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """The scores of a block and, where codes have errors, how far each may be from the true one."""

    def of(column: Tensor) -> Tensor:
        return column[first:stop] if columns is None else column[first:stop][columns]

    sparse = columns is not None and len(columns) < SPARSE * (stop - first)
    vectors = of(chunk.vectors) if sparse else chunk.vectors[first:stop]
    scores = queries @ vectors.float().T
    if columns is not None and not sparse:
        scores = scores[:, columns]
    if lengths is not None:
        scores *= lengths[:, None]
    if chunk.gain is not None:
        scores *= of(chunk.gain)
    if chunk.bias is not None:
        scores -= of(chunk.bias)
    if chunk.error is None:
        return scores, None
    return scores, of(chunk.error)[None] if lengths is None else lengths[:, None] * of(chunk.error)


def _survivors(scores: Tensor, margins: Tensor | None, best: Tensor, k: int, slack: Tensor) -> tuple[Tensor, Tensor]:
    """(query, place) of each score that may still count, by query."""
    # The k-th best of a sample is a valid floor for the block. Where a sample says nothing, because rows come in the order of
    # their nearness, too many pass, and the block itself gives the floor.
    n_queries, n = scores.shape
    lowest, highest = (scores, scores) if margins is None else (scores - margins, scores + margins)
    sample = max(1024, 8 * k)
    floor = best[:, 0]
    if floor.isinf().any():
        floor = _best_of(torch.cat([best, lowest[:, :sample]], dim=1), k)[:, 0]
    passed = ~(highest < (floor - slack)[:, None])
    if n > sample and int(passed.sum()) > n_queries * (sample + n // 32):
        floor = _best_of(torch.cat([best, lowest], dim=1), k)[:, 0]
        passed = ~(highest < (floor - slack)[:, None])
    owners, places = torch.nonzero(passed, as_tuple=True)
    return owners, places


def _best_with(best: Tensor, owners: Tensor, lowest: Tensor, k: int) -> Tensor:
    """[q, k]: the best so far with those of new survivors, which are ordered by query."""
    sizes = torch.bincount(owners, minlength=len(best))
    padded = best.new_full((len(best), k + int(sizes.max())), -torch.inf)
    padded[:, :k] = best
    padded[owners, k + torch.arange(len(owners), device=owners.device) - (sizes.cumsum(0) - sizes)[owners]] = lowest
    return _best_of(padded, k)


def _best_of(scores: Tensor, k: int) -> Tensor:
    """[q, k]: the k largest of each line, ascending."""
    return torch.topk(scores, k, dim=1).values.flip(1)
