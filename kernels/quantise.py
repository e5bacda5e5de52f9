"""From float32 vectors to the rows of a chunk: codes, and the gain, bias and error that make scores of them.

A row is scaled by a power of two, so that its largest coordinate lies in [1, 2); nothing over- or underflows, and whole numbers and
halves stay what they are. With x' = x / 2^e the scaled row,

    float16  c = half(x'), step = 1
    int8     c = round(x' / step), step = max|x'| / 127
    float32  c = x itself

so that codes never depend on the order in which a norm is summed. The gain is step * 2^e for l2 and ip, and step / |x'| for cosine.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from chroma_gpu.kernels import scan
from chroma_gpu.kernels.buffer import Chunk
from chroma_gpu.records import Metric

LANES: Final = 32
"""Terms of a partial sum: the sum of d terms errs by at most LANES + d / LANES roundings, whatever the order inside either stage."""

FLOOR: Final = 2.0**-100
"""Added to every error: more than gradual underflow, or flushing to zero, can take from a score."""

MAX_DIM: Final = 1 << 14
"""Dimensions of the longest row that fits the registers of one program."""

_BLOCK: Final = 1 << 22
"""Elements of one temporary: 16 MiB."""


def quantise(vectors: Tensor, chunk: Chunk, first: int, metric: Metric, aside: Tensor | None = None) -> None:
    """Write vectors into rows [first, first + n) of a chunk, in place: codes, and whichever of gain, bias and error it has.

    The score of the codes differs from the score of the vector by at most length * error for a query of any length, but for the
    rounding of bias, at most ``norm_error(dim) * |x|^2``: that is the slack's, as is what the arithmetic of a scan adds.

    vectors  [n, dim] float32, on the device of the chunk. Unless set aside: finite, of norms up to 2^60; for float32 codes and
             cosine of norms from 2^-60, or 0
    chunk    float32, float16 or int8; gain may be None where it is 1, bias where it is 0 and nothing is set aside
    aside    [n] bool: rows that must not be found; they get codes and a gain of 0 and a bias of +inf
    Raises   ValueError for rows past the chunk, shapes that do not match, or rows set aside in a chunk without bias
    Cost     one pass over the vectors on CUDA, in one launch; some eight elsewhere
    """
    if scan.has_triton(vectors.device) and vectors.shape[1] <= MAX_DIM:
        from chroma_gpu.kernels import quantise_triton

        return quantise_triton.quantise(vectors, chunk, first, metric, aside)
    return reference(vectors, chunk, first, metric, aside)


def reference(vectors: Tensor, chunk: Chunk, first: int, metric: Metric, aside: Tensor | None = None) -> None:
    """``quantise`` in plain torch, on any device."""
    check(vectors, chunk, first, metric, aside)
    step = max(1, _BLOCK // max(1, vectors.shape[1]))
    for start in range(0, len(vectors), step):
        stop = min(start + step, len(vectors))
        _quantise(vectors[start:stop], chunk, first + start, metric, None if aside is None else aside[start:stop])


def allocate(rows: int, dim: int, dtype: torch.dtype, metric: Metric, device: torch.device | str, start: int) -> Chunk:
    """A chunk with all columns that codes of a type need for a metric, each row at a multiple of 16 bytes.

    No row can be found before it is written.

    Raises  torch.OutOfMemoryError
    """
    gain, error = _columns(dtype, metric)
    return Chunk(
        start,
        torch.zeros(rows, _stride(dim, dtype), dtype=dtype, device=device)[:, :dim],
        torch.zeros(rows, device=device) if gain else None,
        torch.full((rows,), torch.inf, device=device),
        torch.zeros(rows, device=device) if error else None,
    )


def row_bytes(dim: int, dtype: torch.dtype, metric: Metric) -> int:
    """Bytes that one row takes in a chunk of ``allocate``."""
    return _stride(dim, dtype) * dtype.itemsize + 4 * (1 + sum(_columns(dtype, metric)))


def norm_error(dim: int) -> float:
    """The largest relative error of a norm that is summed here, and of half its square."""
    return (min(dim, LANES + dim / LANES) + 8) * 2.0**-24


def check(vectors: Tensor, chunk: Chunk, first: int, metric: Metric, aside: Tensor | None) -> None:
    """Raises ValueError as ``quantise`` does."""
    n, dim = vectors.shape
    if vectors.dtype != torch.float32 or dim != chunk.vectors.shape[1]:
        raise ValueError(f"vectors must be float32 of {chunk.vectors.shape[1]} dimensions, not {vectors.dtype} of {dim}")
    if chunk.vectors.dtype not in {torch.float32, torch.float16, torch.int8}:
        raise ValueError(f"there are no codes of type {chunk.vectors.dtype}")
    if not 0 <= first <= first + n <= len(chunk):
        raise ValueError(f"rows {first} to {first + n} are not in a chunk of {len(chunk)}")
    gain, error = _columns(chunk.vectors.dtype, metric)
    bias = metric is Metric.L2 or aside is not None
    for name, needed, column in (("gain", gain, chunk.gain), ("bias", bias, chunk.bias), ("error", error, chunk.error)):
        if needed and column is None:
            raise ValueError(f"these rows need a chunk that has a column for {name}")
    if aside is not None and (aside.shape != (n,) or aside.dtype != torch.bool):
        raise ValueError(f"what is set aside must be [{n}] bool")


def _stride(dim: int, dtype: torch.dtype) -> int:
    """Numbers from one row to the next."""
    unit = 16 // dtype.itemsize
    return -(-dim // unit) * unit


def _columns(dtype: torch.dtype, metric: Metric) -> tuple[bool, bool]:
    """Whether there must be a gain, and an error."""
    exact = dtype == torch.float32
    return not exact or metric is Metric.COSINE, not exact


def _quantise(vectors: Tensor, chunk: Chunk, first: int, metric: Metric, aside: Tensor | None) -> None:
    if aside is not None:
        vectors = vectors.masked_fill(aside[:, None], 0)
    rows = slice(first, first + len(vectors))
    largest = vectors.abs().amax(dim=1)
    zero = largest == 0
    exponent = _exponent(torch.where(zero, 1.0, largest))
    half = exponent >> 1
    # Two factors: 2^e and its inverse need not be floats where x is.
    low, high = _power(half), _power(exponent - half)
    scaled = vectors * (1 / low)[:, None] * (1 / high)[:, None]
    square = _sum(scaled.square())
    norm = square.sqrt()
    inverse = torch.where(zero, 0.0, norm.reciprocal())
    if chunk.vectors.dtype == torch.float32:
        step, rest = None, None
        chunk.vectors[rows] = vectors
    elif chunk.vectors.dtype == torch.float16:
        step = torch.ones_like(norm)
        codes = scaled.half()
        chunk.vectors[rows] = codes
        rest = _sum(scaled.sub_(codes.float()).square_()).sqrt()
    else:
        peak = torch.where(zero, 1.0, largest * (1 / low) * (1 / high))
        step = peak * (1 / 127)
        codes = (scaled * (peak.reciprocal() * 127)[:, None]).add_(0.5).floor_()
        chunk.vectors[rows] = codes.to(torch.int8)
        rest = _sum(scaled.sub_(codes.mul_(step[:, None])).square_()).sqrt()
    if chunk.gain is not None:
        if metric is Metric.COSINE:
            gain = inverse * (1 / low) * (1 / high) if step is None else step * inverse
        else:
            gain = torch.ones_like(norm) if step is None else step * low * high
        chunk.gain[rows] = gain.masked_fill_(zero, 0)
    if chunk.bias is not None:
        bias = square / 2 * low * high * low * high if metric is Metric.L2 else torch.zeros_like(norm)
        chunk.bias[rows] = bias if aside is None else bias.masked_fill_(aside, torch.inf)
    if chunk.error is not None:
        chunk.error[rows] = 0 if rest is None else _error(rest, norm, inverse, low, high, zero, chunk, metric)


def _error(
    rest: Tensor, norm: Tensor, inverse: Tensor, low: Tensor, high: Tensor, zero: Tensor, chunk: Chunk, metric: Metric
) -> Tensor:
    """[n]: what the codes leave of the vectors, rounded up; the README has the proof."""
    share = norm_error(chunk.vectors.shape[1])
    if metric is Metric.COSINE:
        error = rest * inverse * (1 + 4 * share) + (2 * share + 2.0**-22)
    else:
        rounding = norm * 2.0**-22 if chunk.vectors.dtype == torch.int8 else 0
        error = (rest * (1 + 2 * share) + rounding + 2.0**-50) * low * high
    return error.masked_fill_(zero, 0) + FLOOR


def _exponent(values: Tensor) -> Tensor:
    """[n] int32: the largest powers of two that are not above positive values."""
    tiny = values < 2.0**-60
    bits = (values * torch.where(tiny, 2.0**64, 1.0)).view(torch.int32)
    return (bits >> 23) - torch.where(tiny, 127 + 64, 127).to(torch.int32)


def _power(exponent: Tensor) -> Tensor:
    """[n] float32: 2^exponent, for exponents of normal floats."""
    return ((exponent + 127) << 23).view(torch.float32)


def _sum(terms: Tensor) -> Tensor:
    """[n]: the sums of lines, in two stages."""
    return torch.nn.functional.pad(terms, (0, -terms.shape[1] % LANES)).view(len(terms), -1, LANES).sum(dim=2).sum(dim=1)
