"""Rows, queries, filters and exact answers, made on the device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from torch import Tensor

from chroma_gpu.index.gpu.bounds import HALVED, asked
from chroma_gpu.index.gpu.codes import Codes
from chroma_gpu.kernels.buffer import CHUNK, Buffer, Chunk
from chroma_gpu.kernels.quantise import quantise
from chroma_gpu.records import Metric

_INTRINSIC: Final = 32
_NOISE: Final = 0.35
CHECKED: Final = 8
"""Queries of a batch whose answers are held against brute force."""

DEEP: Final = 5_064
"""How many neighbours brute force keeps: the longest answer and some more, which float64 then puts in order."""


class Table:
    """Rows in chunks of one allocation each, as an index has them, and one matrix of the same for the peers.

    Rows are points of a sheet of 32 dimensions in ``dim``, with noise: neighbours are about as near as those of sentences.
    vectors  [rows, dim] float32, where a third of the device's memory holds them
    """

    def __init__(self, rows: int, dim: int, dtype: str, device: str) -> None:
        self.rows, self.dim, self.dtype, self.device = rows, dim, dtype, device
        kind = getattr(torch, dtype)
        self.spread = torch.randn(_INTRINSIC, dim, generator=_seeded(device, 1), device=device) / _INTRINSIC**0.5
        self.matrix = torch.zeros(rows, dim, dtype=kind, device=device)
        self.columns = {name: torch.zeros(rows, device=device) for name in ("gain", "bias", "error")}
        fits = not device.startswith("cuda") or 4 * rows * dim < torch.cuda.get_device_properties(device).total_memory / 3
        self.vectors = torch.empty(rows, dim, device=device) if fits else None
        chunks = []
        for start, stop, block in self.blocks(made=False):
            if self.vectors is not None:
                self.vectors[start:stop] = block
            parts = (self.matrix, *self.columns.values())
            chunk = Chunk(start, *(each[start:stop] for each in parts))
            quantise(block, chunk, 0, Metric.COSINE)
            chunks.append(chunk)
        self.buffer = Buffer.of(chunks)
        self.halves: Tensor | None = None  # what peers search, made when the first asks

    @property
    def row_bytes(self) -> int:
        """Bytes of a row that a search reads."""
        return self.dim * self.matrix.element_size() + 12

    def blocks(self, *, made: bool = True) -> Iterator[tuple[int, int, Tensor]]:
        """(start, stop, float32 vectors), chunk by chunk; made again where they do not fit."""
        for start in range(0, self.rows, CHUNK):
            stop = min(start + CHUNK, self.rows)
            if made and self.vectors is not None:
                yield start, stop, self.vectors[start:stop]
            else:
                yield start, stop, self._points(stop - start, 1_000 + start)

    def queries(self, n: int) -> Tensor:
        """[n, dim] float32: points that no row is."""
        return self._points(n, 2)

    def take(self, rows: Tensor) -> Tensor:
        """[n, dim] float32: the vectors of a few rows."""
        if self.vectors is not None:
            return self.vectors[rows]
        taken = torch.empty(len(rows), self.dim, device=self.device)
        for start, stop, block in self.blocks():
            here = (rows >= start) & (rows < stop)
            taken[here] = block[rows[here] - start]
        return taken

    def _points(self, n: int, seed: int) -> Tensor:
        generator = _seeded(self.device, seed)
        points = torch.randn(n, _INTRINSIC, generator=generator, device=self.device) @ self.spread
        return points.add_(torch.randn(n, self.dim, generator=generator, device=self.device), alpha=_NOISE)


@dataclass(frozen=True, slots=True)
class Questions:
    """Queries as kernels take them.

    plain  [q, dim] float32, of length 1
    units  what kernels get, float16 in large batches; slack [q], lengths [q] or None
    """

    plain: Tensor
    units: Tensor
    slack: Tensor
    lengths: Tensor | None

    @classmethod
    def of(cls, table: Table, batch: int) -> Questions:
        """The first queries of a table, with the slack that the index gives them."""
        plain = torch.nn.functional.normalize(table.queries(batch))
        host = plain.cpu().numpy()
        norms = np.linalg.norm(host, axis=1).astype(np.float32)
        halved = table.dtype != "float32" and batch >= HALVED
        made = asked(host, norms, Metric.COSINE, Codes(table.dtype), 1.0, torch.device(table.device), halved=halved)
        there = (
            None if each is None else torch.from_numpy(each).to(table.device) for each in (made.units, made.slack, made.lengths)
        )
        units, slack, lengths = there
        return cls(plain, units, slack, lengths)


@dataclass(slots=True)
class Filter:
    """Random rows of a share of the table: as flags, as the mask that kernels take, as a list."""

    share: float
    flags: Tensor
    _words: Tensor | None = field(default=None)

    @classmethod
    def of(cls, table: Table, share: float, seed: int = 3) -> Filter:
        """A filter that passes about this share."""
        flags = torch.rand(table.rows, generator=_seeded(table.device, seed), device=table.device) < share
        return cls(share, flags)

    @property
    def words(self) -> Tensor:
        """[ceil(rows / 32)] int32: bit r % 32 of word r // 32."""
        if self._words is None:
            padded = torch.nn.functional.pad(self.flags, (0, -len(self.flags) % 32)).view(-1, 32)
            bits = torch.arange(32, device=padded.device)
            words = torch.cat([(part.long() << bits).sum(1) for part in padded.split(1 << 20)])
            self._words = torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)
        return self._words

    @property
    def listed(self) -> Tensor:
        """[n] int64, ascending."""
        return torch.nonzero(self.flags).flatten()


def nearest(table: Table, plain: Tensor, flags: Tensor | None, k: int) -> Tensor:
    """[q, <= k] float64: the cosines of the nearest passing rows by brute force, in float32 with room and then in float64, nearest first."""
    room = k + DEEP - 5_000
    best = torch.empty(len(plain), 0, device=plain.device)
    ids = torch.empty(len(plain), 0, dtype=torch.int64, device=plain.device)
    for start, stop, block in table.blocks():
        scores = plain @ torch.nn.functional.normalize(block).T
        if flags is not None:
            scores.masked_fill_(~flags[start:stop], -torch.inf)
        both = torch.cat([best, scores], dim=1)
        best, at = torch.topk(both, min(room, both.shape[1]), dim=1)
        rows = torch.arange(start, stop, device=plain.device).expand(len(plain), -1)
        ids = torch.gather(torch.cat([ids, rows], dim=1), 1, at)
    found = []
    for query, rows, scores in zip(plain, ids, best, strict=True):
        found.append(cosines(table, query, rows[scores > -torch.inf]).sort(descending=True).values[:k])
    return torch.nn.utils.rnn.pad_sequence(found, batch_first=True, padding_value=-torch.inf)


def cosines(table: Table, query: Tensor, rows: Tensor) -> Tensor:
    """[n] float64: the true scores of rows for one query."""
    vectors = table.take(rows).double()
    return (vectors @ query.double()) / vectors.norm(dim=1) / query.double().norm()


def _seeded(device: str, seed: int) -> torch.Generator:
    return torch.Generator(device=device).manual_seed(seed)
