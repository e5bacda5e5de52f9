"""Quantising on CUDA: one launch, one read of the vectors."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from chroma_gpu.kernels.buffer import Chunk
from chroma_gpu.kernels.launch import COMPILING
from chroma_gpu.kernels.quantise import FLOOR, LANES, MAX_DIM, check, norm_error
from chroma_gpu.kernels.tuning import Variant
from chroma_gpu.records import Metric

_FLOOR = tl.constexpr(FLOOR)
_LANES = tl.constexpr(LANES)


def quantise(vectors: Tensor, chunk: Chunk, first: int, metric: Metric, aside: Tensor | None = None) -> None:
    """As ``kernels.quantise.quantise``; the codes are the same, bit for bit, the rest to some roundings.

    Raises  ValueError beyond MAX_DIM dimensions too
    Cost    4 dim bytes read a row, and the row written
    """
    check(vectors, chunk, first, metric, aside)
    n, dim = vectors.shape
    if dim > MAX_DIM:
        raise ValueError(f"{dim} dimensions are more than {MAX_DIM}")
    if not n:
        return
    rows, width, warps = tile(dim, vectors.is_cuda)
    with COMPILING, torch.cuda.device_of(vectors):
        _quantise_kernel[(triton.cdiv(n, rows),)](
            vectors.contiguous(),
            None if aside is None else aside.view(torch.uint8).contiguous(),
            chunk.vectors,
            chunk.gain,
            chunk.bias,
            chunk.error,
            n,
            first,
            dim,
            chunk.vectors.stride(0),
            norm_error(dim),
            metric is Metric.COSINE,
            metric is Metric.L2,
            rows,
            width,
            num_warps=warps,
            # Fused, a product that is about to be rounded to a code could fall to the other side than it does elsewhere.
            enable_fp_fusion=False,
        )


def tile(dim: int, device: bool) -> tuple[int, int, int]:
    """Rows and columns of a tile, and its warps: 4 to 32 values for each thread. Off the device a program costs more than its work."""
    width = max(LANES, triton.next_power_of_2(dim))
    rows = max(1, min(16, 2048 // width) if device else (1 << 20) // width)
    return rows, width, max(4, min(16, rows * width // 1024))


@triton.jit
def write_rows(x, places, inside, codes, gain, bias, error, dim, stride, share, flagged, COSINE: tl.constexpr, L2: tl.constexpr, WIDTH: tl.constexpr):  # fmt: skip
    """Quantise a tile into rows of a chunk.

    x        [ROWS, WIDTH] float32, 0 past dim and in rows that are flagged
    places   [ROWS] int64 rows of the chunk; inside: those that exist
    stride   from one row of codes to the next
    flagged  [ROWS] bool: set aside
    """
    columns = tl.arange(0, WIDTH)
    largest = tl.max(tl.abs(x), axis=1)
    zero = largest == 0.0
    exponent = _exponent(tl.where(zero, 1.0, largest))
    half = exponent >> 1
    low = _power(half)
    high = _power(exponent - half)
    down = _power(-half)
    down2 = _power(half - exponent)
    scaled = x * down[:, None] * down2[:, None]
    square = sum_lines(scaled * scaled)
    norm = tl.sqrt(square)
    inverse = tl.where(zero, 0.0, 1.0 / tl.where(zero, 1.0, norm))
    at = codes + places[:, None] * stride + columns[None, :]
    some = inside[:, None] & (columns < dim)[None, :]
    none = tl.zeros_like(norm)
    step = none + 1.0
    rest = none
    if codes.dtype.element_ty == tl.float32:
        tl.store(at, x, mask=some)
    elif codes.dtype.element_ty == tl.float16:
        code = scaled.to(tl.float16)
        tl.store(at, code, mask=some)
        left = scaled - code.to(tl.float32)
        rest = tl.sqrt(sum_lines(left * left))
    else:
        peak = tl.where(zero, 1.0, largest * down * down2)
        step = peak * (1.0 / 127)
        # Rounded as everywhere else, unlike roots and the other quotient: it decides what the codes are.
        code = tl.floor(scaled * (tl.div_rn(none + 1.0, peak) * 127.0)[:, None] + 0.5)
        tl.store(at, code.to(tl.int8), mask=some)
        left = scaled - code * step[:, None]
        rest = tl.sqrt(sum_lines(left * left))
    if gain is not None:
        if COSINE:
            if codes.dtype.element_ty == tl.float32:
                factor = inverse * down * down2
            else:
                factor = step * inverse
        elif codes.dtype.element_ty == tl.float32:
            factor = step
        else:
            factor = step * low * high
        tl.store(gain + places, tl.where(zero, 0.0, factor), mask=inside)
    if bias is not None:
        if L2:
            shift = square * 0.5 * low * high * low * high
        else:
            shift = none
        tl.store(bias + places, tl.where(flagged, float("inf"), shift), mask=inside)
    if error is not None:
        if codes.dtype.element_ty == tl.float32:
            bound = rest
        else:
            if COSINE:
                bound = rest * inverse * (1.0 + 4.0 * share) + (2.0 * share + 2.0**-22)
            elif codes.dtype.element_ty == tl.int8:
                bound = (rest * (1.0 + 2.0 * share) + norm * 2.0**-22 + 2.0**-50) * low * high
            else:
                bound = (rest * (1.0 + 2.0 * share) + 2.0**-50) * low * high
            bound = tl.where(zero, 0.0, bound) + _FLOOR
        tl.store(error + places, bound, mask=inside)


@triton.jit(do_not_specialize=["n", "first"])
def _quantise_kernel(
    vectors, aside, codes, gain, bias, error, n, first, dim, stride, share,
    COSINE: tl.constexpr, L2: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, WIDTH)
    inside = rows < n
    if aside is not None:
        flagged = tl.load(aside + rows, mask=inside, other=0) != 0
    else:
        flagged = rows < 0
    wanted = (inside & ~flagged)[:, None] & (columns < dim)[None, :]
    x = tl.load(vectors + rows.to(tl.int64)[:, None] * dim + columns[None, :], mask=wanted, other=0.0)
    write_rows(x, rows.to(tl.int64) + first, inside, codes, gain, bias, error, dim, stride, share, flagged, COSINE, L2, WIDTH)


@triton.jit
def _exponent(values):
    tiny = values < 2.0**-60
    bits = (values * tl.where(tiny, 2.0**64, 1.0)).to(tl.int32, bitcast=True)
    return (bits >> 23) - tl.where(tiny, 127 + 64, 127)


@triton.jit
def _power(exponent):
    return ((exponent + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def sum_lines(terms):
    """In two stages, so that the bound on its rounding does not grow with the dimension."""
    return tl.sum(tl.sum(tl.reshape(terms, [terms.shape[0], terms.shape[1] // _LANES, _LANES]), axis=2), axis=1)


def _variants() -> Iterator[Variant]:
    columns = {"aside": "*u8", "gain": "*fp32", "bias": "*fp32", "error": "*fp32"}
    numbers = {"n": "i32", "first": "i32", "dim": "i32", "stride": "i32", "share": "fp32"}
    for codes, dims in (("i8", (32, 384, 1024, 1536, 4096, MAX_DIM)), ("fp16", (384, 1536)), ("fp32", (384, 1536))):
        for dim in dims:
            rows, width, warps = tile(dim, True)
            given = {"vectors": "*fp32", "codes": f"*{codes}", **columns, **numbers}
            flags = {"COSINE": dim == 384, "L2": dim != 384, "ROWS": rows, "WIDTH": width}
            absent = {"error": None} if codes == "fp32" else {"aside": None} if dim == 1536 else {}
            signature = {name: kind for name, kind in given.items() if name not in absent}
            yield Variant(f"quantise {codes} {dim}", _quantise_kernel, signature, {**absent, **flags}, warps, 1)


VARIANTS = tuple(_variants())
