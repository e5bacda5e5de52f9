"""Encoding on CUDA: one program for each text pools its tokens, normalises and writes vector and row; nothing lies in memory between."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from chroma_gpu.kernels.buffer import Chunk
from chroma_gpu.kernels.encode import check
from chroma_gpu.kernels.launch import COMPILING
from chroma_gpu.kernels.pooling import Pooling, counted
from chroma_gpu.kernels.quantise import LANES, MAX_DIM, norm_error
from chroma_gpu.kernels.quantise_triton import sum_lines, write_rows
from chroma_gpu.kernels.tuning import Variant
from chroma_gpu.records import Metric

_WAYS = {Pooling.MEAN: 0, Pooling.ROOT: 1, Pooling.WEIGHTED: 2, Pooling.MAX: 3, Pooling.CLS: 4, Pooling.LAST: 5}
_ROOT, _WEIGHTED, _MAX, _CLS = tl.constexpr(1), tl.constexpr(2), tl.constexpr(3), tl.constexpr(4)
_MARKS = tl.constexpr(1024)


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
    """As ``kernels.encode.encode``; the vectors are the same to some roundings, and the codes are of these.

    Raises  ValueError beyond MAX_DIM dimensions too
    Cost    the tokens of texts are read once; of cls and last, one of each text
    """
    staging = check(hidden, where, chunk, first, metric, staging)
    n, dim = staging.shape
    if dim > MAX_DIM:
        raise ValueError(f"{dim} dimensions are more than {MAX_DIM}")
    if not staging.numel():
        return staging
    tokens, width, warps = tile(dim, hidden.is_cuda)
    packed = hidden.dim() == 2
    where = (where if packed else counted(where, skipped)).contiguous()
    with COMPILING, torch.cuda.device_of(hidden):
        _encode_kernel[(n,)](
            hidden.contiguous(),
            where.view(torch.uint8) if where.dtype == torch.bool else where,
            staging,
            *((None,) * 4 if chunk is None else (chunk.vectors, chunk.gain, chunk.bias, chunk.error)),
            first,
            0 if packed else hidden.shape[1],
            skipped,
            dim,
            0 if chunk is None else chunk.vectors.stride(0),
            norm_error(dim),
            packed,
            _WAYS[pooling],
            normalise,
            metric is Metric.COSINE,
            metric is Metric.L2,
            tokens,
            width,
            num_warps=warps,
            enable_fp_fusion=False,  # as in quantise_triton
        )
    return staging


def tile(dim: int, device: bool) -> tuple[int, int, int]:
    """Tokens and columns of a tile, and its warps: up to 32 values for each thread."""
    width = max(LANES, triton.next_power_of_2(dim))
    tokens = max(1, min(16, 4096 // width))
    return tokens if device else 4 * tokens, width, max(4, min(16, tokens * width // 1024))


@triton.jit(do_not_specialize=["first", "tokens", "skipped"])
def _encode_kernel(
    hidden, where, staging, codes, gain, bias, error, first, tokens, skipped, dim, stride, share,
    PACKED: tl.constexpr, WAY: tl.constexpr, NORMALISE: tl.constexpr, COSINE: tl.constexpr, L2: tl.constexpr,
    TOKENS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    text = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, WIDTH)
    wanted = columns < dim
    if PACKED:
        start = tl.load(where + text).to(tl.int64) + skipped
        length = tl.maximum((tl.load(where + text + 1) - start).to(tl.int32), 0)
        states = hidden + start * dim
        marks = where
    else:
        length = tokens
        states = hidden + text * tokens * dim
        marks = where + text * tokens
    if WAY < _CLS:
        x, count = _over_all(states, marks, length, skipped, dim, columns, wanted, PACKED, WAY, TOKENS, WIDTH)
    else:
        place, count = _one(marks, length, PACKED, WAY)
        x = tl.load(states + place.to(tl.int64) * dim + columns, mask=wanted & (count > 0), other=0.0).to(tl.float32)
    x = tl.where(wanted & (count > 0), x, 0.0)[None, :]
    if NORMALISE:
        norm = tl.sqrt(sum_lines(x * x))
        # As torch does it: what is shorter than that stays short.
        x *= (1.0 / tl.where(norm < 1e-12, 1e-12, norm))[:, None]
    tl.store(staging + text * dim + columns[None, :], x, mask=wanted[None, :])
    if codes is not None:
        flagged = tl.max((~(tl.abs(x) < float("inf"))).to(tl.int32), axis=1) > 0
        x = tl.where(flagged[:, None], 0.0, x)
        places = tl.zeros([1], tl.int64) + text + first
        write_rows(x, places, places >= 0, codes, gain, bias, error, dim, stride, share, flagged, COSINE, L2, WIDTH)


@triton.jit
def _over_all(states, marks, length, skipped, dim, columns, wanted, PACKED: tl.constexpr, WAY: tl.constexpr, TOKENS: tl.constexpr, WIDTH: tl.constexpr):  # fmt: skip
    """[WIDTH] float32 mean or maximum of the tokens, and how many there are."""
    least: tl.constexpr = float("-inf") if WAY == _MAX else 0.0
    found = tl.full([TOKENS, WIDTH], least, tl.float32)
    seen = tl.zeros([TOKENS], tl.int32)
    weights = tl.zeros([TOKENS], tl.float32)
    begin = skipped + 1
    if WAY == _WEIGHTED and not PACKED:
        place, _ = _one(marks, length, PACKED, _CLS)
        begin -= place
    at = length * 0
    while at < length:
        places = at + tl.arange(0, TOKENS)
        real = places < length
        if not PACKED:
            real = tl.load(marks + places, mask=real, other=0) != 0
        # What is no text is not even read.
        some = tl.load(
            states + places.to(tl.int64)[:, None] * dim + columns[None, :], mask=real[:, None] & wanted[None, :], other=least
        ).to(tl.float32)
        if WAY == _MAX:
            found = tl.maximum(found, some, propagate_nan=tl.PropagateNan.ALL)
        elif WAY == _WEIGHTED:
            weight = tl.where(real, places + begin, 0).to(tl.float32)
            found += some * weight[:, None]
            weights += weight
        else:
            found += some
        seen += real.to(tl.int32)
        at += TOKENS
    count = tl.sum(seen, axis=0)
    if WAY == _MAX:
        invalid = tl.max((found != found).to(tl.int32), axis=0) > 0  # noqa: PLR0124 - NaN, which the maximum may drop
        x = tl.where(invalid, float("nan"), tl.max(found, axis=0))
    else:
        share = tl.maximum(count, 1).to(tl.float32)
        if WAY == _WEIGHTED:
            share = tl.maximum(tl.sum(weights, axis=0), 1.0)
        if WAY == _ROOT:
            share = tl.sqrt(share)
        x = tl.sum(found, axis=0) * (1.0 / share)
    return x, count


@triton.jit
def _one(marks, length, PACKED: tl.constexpr, WAY: tl.constexpr):
    """The place of the first or the last token, and more than 0 if there is one."""
    if PACKED:
        if WAY == _CLS:
            place = length * 0
        else:
            place = length - 1
        count = length
    else:
        place = length * 0 - 1
        if WAY == _CLS:
            place = length
        at = length * 0
        while at < length:
            places = at + tl.arange(0, _MARKS)
            real = tl.load(marks + places, mask=places < length, other=0) != 0
            if WAY == _CLS:
                place = tl.minimum(place, tl.min(tl.where(real, places, length), axis=0))
            else:
                place = tl.maximum(place, tl.max(tl.where(real, places, -1), axis=0))
            at += _MARKS
        count = ((place >= 0) & (place < length)).to(tl.int32)
    return place, count


def _variants() -> Iterator[Variant]:
    columns = {"codes": "*i8", "gain": "*fp32", "bias": "*fp32", "error": "*fp32"}
    numbers = {"first": "i32", "tokens": "i32", "skipped": "i32", "dim": "i32", "stride": "i32", "share": "fp32"}
    for pooling, states, where, dim, normalise, codes in (
        (Pooling.MEAN, "fp16", "*i32", 384, True, True),
        (Pooling.MEAN, "bf16", "*i64", 1024, True, True),
        (Pooling.CLS, "fp16", "*i32", 768, True, True),
        (Pooling.LAST, "bf16", "*i64", 4096, False, True),
        (Pooling.MAX, "fp32", "*u8", 384, True, True),
        (Pooling.MEAN, "fp16", "*i32", 768, True, False),
        (Pooling.WEIGHTED, "fp16", "*i32", 768, True, False),
        (Pooling.WEIGHTED, "bf16", "*u8", 1024, False, False),
        (Pooling.ROOT, "fp16", "*i32", 384, True, True),
    ):
        packed = where == "*i32"
        tokens, width, warps = tile(dim, True)
        signature = {"hidden": f"*{states}", "where": where, "staging": "*fp32", **columns, **numbers}
        flags = {"PACKED": packed, "WAY": _WAYS[pooling], "NORMALISE": normalise, "COSINE": normalise, "L2": not normalise}
        absent = {} if codes else dict.fromkeys(columns)
        yield Variant(
            f"encode {'packed' if packed else 'padded'} {pooling} {states} {dim} {'rows' if codes else 'alone'}",
            _encode_kernel,
            {name: kind for name, kind in signature.items() if name not in absent},
            {**absent, **flags, "TOKENS": tokens, "WIDTH": width},
            warps,
            2,
            80 if states == "bf16" else 75,
        )


VARIANTS = tuple(_variants())
