"""``product`` on CUDA: fused, by a kernel that multiplies and collects, or split. See README.md."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

from functools import cache
from typing import Any, Final

import torch
import triton.language as tl
from torch import Tensor
from torch.nn.functional import pad

from chroma_gpu.kernels.buffer import Buffer, Chunk
from chroma_gpu.kernels.launch import launch
from chroma_gpu.kernels.multiply_triton import COLLECTED, collect_kernel, product_kernel
from chroma_gpu.kernels.product import Choice, Lists, Part, PlainTiles, Tiles, Way
from chroma_gpu.kernels.tuning import Config, Variant, config

SCORES: Final = {75: 1 << 21, 80: 1 << 24}
"""Scores of a tile of the library's product, from a capability on: what half the caches hold, or what takes longer than its launches."""

_TYPES: Final[dict[torch.dtype, Any]] = {torch.float16: tl.float16, torch.int8: tl.int8}


def tiles(queries: Tensor, buffer: Buffer, choice: Choice, lengths: Tensor | None, variant: Way) -> Tiles:
    """The tiles of ``product`` on a device that Triton serves.  Raises ValueError if float32 vectors shall be multiplied here"""
    codes = buffer.chunks[0].vectors
    capability = capability_of(buffer.device)
    how = config("product", capability, str(codes.dtype).removeprefix("torch."), codes.shape[1], len(queries))
    whole = codes.dtype == torch.float32
    if variant == "fused" and whole:
        raise ValueError('float32 vectors have no tensor cores that keep their precision: use "split"')
    if variant == "fused" or (variant == "auto" and how.way == "dot" and not whole):
        return FusedTiles(queries, buffer, choice, lengths, how)
    return SplitTiles(queries, buffer, choice, lengths, capability)


class FusedTiles:
    """Tiles that are multiplied where they are collected; every part is one launch."""

    def __init__(self, queries: Tensor, buffer: Buffer, choice: Choice, lengths: Tensor | None, how: Config) -> None:
        first = buffer.chunks[0]
        self.n_queries, dim = queries.shape
        self.buffer, self.choice = buffer, choice
        self.height = how.rows
        self.margins = first.error is not None
        self.chunk_tiles = -(-buffer.span // how.rows)
        listed = choice.at is not None
        self.count = -(-choice.most // how.rows) if listed else self.chunk_tiles * len(buffer.chunks)
        self.blocks = -(-self.n_queries // how.queries)
        more = self.blocks * how.queries - self.n_queries
        steps = -(-buffer.stride // how.dims)
        halves = halved(queries) if queries.dtype == torch.float32 else [queries]
        self.queries = torch.cat([pad(half, (0, steps * how.dims - dim, 0, more)) for half in halves], dim=1).contiguous()
        self.lengths = None if lengths is None else pad(lengths.float(), (0, more)).contiguous()
        self.more = more
        self.taken = torch.zeros(slots(buffer.device), dtype=torch.int32, device=buffer.device)
        self.scratch = torch.empty(len(self.taken) * how.rows * how.queries, dtype=torch.float32, device=buffer.device)
        self.constants: dict[str, Any] = {
            "CODES": _TYPES[first.vectors.dtype],
            "STRIDE": buffer.stride,
            "HALVES": len(halves),
            "ALIGNED": buffer.aligned,
            "LISTED": listed,
            "GAIN": first.gain is not None,
            "BIAS": first.bias is not None,
            "ERROR": self.margins,
            "ROWS": how.rows,
            "QUERIES": how.queries,
            "DIMS": how.dims,
            "STEPS": steps,
            "num_warps": how.num_warps,
            "num_stages": how.num_stages,
        }

    def sample(self, size: int) -> Tensor:
        wanted = min(self.count, -(-size // self.height))
        step = self.count // wanted
        n = wanted * self.height
        lowest = torch.empty((self.blocks * self.constants["QUERIES"], n), dtype=torch.float32, device=self.buffer.device)
        self._launch(Part(0, wanted, step, False), None, None, lowest, n)
        return lowest[: self.n_queries]

    def collect(self, part: Part, floors: Tensor, lists: Lists) -> None:
        self._launch(part, pad(floors, (0, self.more), value=torch.inf), lists, None, lists.capacity)

    def _launch(self, part: Part, floors: Tensor | None, lists: Lists | None, lowest: Tensor | None, capacity: int) -> None:
        # One query block after the other takes a tile: so a tile is read from memory once, and from the cache by the others.
        launch(
            product_kernel,
            (self.blocks * (part.stop - part.first), 1, 1),
            self.queries,
            self.buffer.places,
            self.choice.home,
            self.choice.at,
            self.choice.words,
            self.lengths,
            floors,
            None if lists is None else lists.counts,
            None if lists is None else lists.scores,
            None if lists is None else lists.margins,
            None if lists is None else lists.rows,
            None if lists is None else self.scratch,
            None if lists is None else self.taken,
            lowest,
            0 if self.choice.words is None else len(self.choice.words),
            self.choice.most,
            capacity,
            self.chunk_tiles,
            len(self.taken),
            self.blocks,
            part.first,
            part.step,
            int(part.skip),
            **self.constants,
        )


class SplitTiles(PlainTiles):
    """Tiles whose scores a library writes to where the caches hold them; what collects reads them there."""

    def __init__(self, queries: Tensor, buffer: Buffer, choice: Choice, lengths: Tensor | None, capability: int) -> None:
        limit = SCORES[80 if capability >= 80 else 75]
        super().__init__(queries, buffer, choice, None if lengths is None else lengths.float().contiguous(), limit)
        self.n_queries = len(queries)
        # The library's float16 products with float32 sums are on CUDA only.
        self.cores = buffer.device.type == "cuda" and buffer.chunks[0].vectors.dtype != torch.float32
        if not self.cores:
            self.queries = queries.float()
        elif queries.dtype == torch.float32:
            self.queries = torch.cat(halved(queries))

    def collect(self, part: Part, floors: Tensor, lists: Lists) -> None:
        for number in part.numbers():
            self._collect(*self.pieces[number], floors, lists)

    def products(self, vectors: Tensor) -> Tensor:
        return self._terms(vectors).view(-1, self.n_queries, len(vectors)).sum(0)

    def _terms(self, vectors: Tensor) -> Tensor:
        """[q, n] float32, or [2 q, n]: what is to be added for a product."""
        if not self.cores:
            return self.queries @ vectors.float().T
        product: Tensor = torch.mm(self.queries, vectors.half().T, out_dtype=torch.float32)
        return product

    def _collect(self, chunk: Chunk, rows: slice | Tensor, floors: Tensor, lists: Lists) -> None:
        terms = self._terms(chunk.vectors[rows])
        n = terms.shape[1]
        height, width = COLLECTED
        launch(
            collect_kernel,
            (-(-n // height), -(-self.n_queries // width), 1),
            terms,
            None if isinstance(rows, slice) else rows,
            chunk.gain,
            chunk.bias,
            chunk.error,
            self.words,
            self.lengths,
            floors,
            lists.counts,
            lists.scores,
            lists.margins,
            lists.rows,
            0 if self.words is None else len(self.words),
            n,
            self.n_queries,
            rows.start if isinstance(rows, slice) else 0,
            chunk.start,
            lists.capacity,
            num_warps=4,
            num_stages=1,
            HALVES=len(terms) // self.n_queries,
            ROWS=height,
            QUERIES=width,
        )


def halved(queries: Tensor) -> list[Tensor]:
    """Two float16 tensors that together are unit vectors of float32 to 2**-22 of each number, and 2**-25 at least."""
    high = queries.half()
    return [high, (queries - high.float()).half()]


@cache
def capability_of(device: torch.device) -> int:
    """75 for 7.5; 0 for the interpreter."""
    if device.type != "cuda":
        return 0
    major, minor = torch.cuda.get_device_capability(device)
    return int(10 * major + minor)


@cache
def slots(device: torch.device) -> int:
    """How many programs may look through their tiles at once: as many as run at once. One more would wait for another."""
    return 4 * torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


VARIANTS: Final[tuple[Variant, ...]] = ()
"""The kernels are in multiply_triton.py."""
