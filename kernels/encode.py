"""From the hidden states of a model to vectors and rows of a chunk at once: pooled, normalised, quantised, written."""

from __future__ import annotations

import torch
from torch import Tensor

from chroma_gpu.kernels import quantise as codes
from chroma_gpu.kernels import scan
from chroma_gpu.kernels.buffer import Chunk
from chroma_gpu.kernels.pooling import Pooling, pool
from chroma_gpu.records import Metric


def encode(
    hidden: Tensor,
    where: Tensor,
    pooling: Pooling,
    chunk: Chunk | None = None,
    first: int = 0,
    metric: Metric = Metric.COSINE,
    staging: Tensor | None = None,
    *,
    normalise: bool = True,
    skipped: int = 0,
) -> Tensor:
    """The vectors of texts, which are also written into rows [first, first + b) of a chunk if one is given.

    The codes are those of exactly the vectors that are returned. A vector with inf or NaN is set aside, as in ``quantise``.

    hidden   packed [T, h], the tokens of one text after those of another; or padded [b, t, h]. float32, float16 or bfloat16
    where    for packed states, offsets [b + 1] int32 or int64: text i is tokens [where[i], where[i + 1]). For padded ones, a mask
             [b, t] int or bool of what is text; what padding holds does not matter
    chunk    on the same device, with a column for bias; ``metric`` is that of its scores
    staging  [b, h] float32 that takes the vectors; a new tensor by default
    skipped  as in ``pool``: tokens at the beginning of each text that do not count
    Returns  staging: [b, h] float32, summed in float32, 0 for a text without tokens
    Raises   ValueError for shapes and types that do not match
    Cost     on CUDA one launch and one read of the hidden states, padding left out; else several passes, and a padded copy of packed ones
    """
    if scan.has_triton(hidden.device) and hidden.shape[-1] <= codes.MAX_DIM:
        from chroma_gpu.kernels import encode_triton

        return encode_triton.encode(hidden, where, pooling, chunk, first, metric, staging, normalise=normalise, skipped=skipped)
    return reference(hidden, where, pooling, chunk, first, metric, staging, normalise=normalise, skipped=skipped)


def reference(
    hidden: Tensor,
    where: Tensor,
    pooling: Pooling,
    chunk: Chunk | None = None,
    first: int = 0,
    metric: Metric = Metric.COSINE,
    staging: Tensor | None = None,
    *,
    normalise: bool = True,
    skipped: int = 0,
) -> Tensor:
    """``encode`` in plain torch, on any device: ``pool``, then ``quantise``."""
    staging = check(hidden, where, chunk, first, metric, staging)
    padded, mask = (hidden, where) if hidden.dim() == 3 else _padded(hidden, where)
    if padded.shape[1]:
        staging.copy_(pool(padded, mask, pooling, normalise=normalise, skipped=skipped))
    else:
        staging.zero_()
    if chunk is not None:
        codes.reference(staging, chunk, first, metric, ~staging.isfinite().all(dim=1))
    return staging


def check(hidden: Tensor, where: Tensor, chunk: Chunk | None, first: int, metric: Metric, staging: Tensor | None) -> Tensor:
    """The tensor that takes the vectors.  Raises ValueError as ``encode`` does."""
    if hidden.dtype not in {torch.float32, torch.float16, torch.bfloat16} or hidden.dim() not in {2, 3}:
        raise ValueError(f"hidden states must be floats [T, h] or [b, t, h], not {hidden.dtype} {list(hidden.shape)}")
    if hidden.dim() == 3:
        n = len(hidden)
        if where.shape != hidden.shape[:2] or where.is_floating_point():
            raise ValueError(f"the mask must be {list(hidden.shape[:2])} int or bool, not {where.dtype} {list(where.shape)}")
    else:
        n = len(where) - 1
        if where.dim() != 1 or n < 0 or where.dtype not in {torch.int32, torch.int64}:
            raise ValueError(f"offsets must be [b + 1] int32 or int64, not {where.dtype} {list(where.shape)}")
    if staging is None:
        staging = torch.empty(n, hidden.shape[-1], dtype=torch.float32, device=hidden.device)
    if staging.shape != (n, hidden.shape[-1]) or staging.dtype != torch.float32 or not staging.is_contiguous():
        raise ValueError(f"staging must be [{n}, {hidden.shape[-1]}] float32, contiguous")
    if chunk is not None:
        codes.check(staging, chunk, first, metric, torch.empty(n, dtype=torch.bool, device=hidden.device))
    return staging


def _padded(hidden: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """[b, t, h] and its mask."""
    if len(offsets) == 2:  # a single text, which is in a hurry
        only = hidden[int(offsets[0]) : int(offsets[1])][None]
        return only, torch.ones(only.shape[:2], dtype=torch.bool, device=hidden.device)
    lengths = offsets.diff()
    longest = int(lengths.max()) if len(lengths) else 0
    mask = torch.arange(longest, device=hidden.device) < lengths[:, None]
    padded = hidden.new_zeros(*mask.shape, hidden.shape[1])
    if longest:
        padded[mask] = hidden[int(offsets[0]) : int(offsets[-1])]
    return padded, mask
