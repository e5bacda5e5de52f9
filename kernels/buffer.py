"""The rows of a table as kernels see them: chunks on one device, and where each of them lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

CHUNK = 1 << 16
"""Rows of a full chunk. Only the last one of a buffer may have fewer."""


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Rows [start, start + n) of a table, start a multiple of 32.

    The score of a row for a query q of length l, given as q / l, is ``l * gain * <q / l, vectors> - bias``; larger is nearer. The true
    score, of the vector that the codes stand for, differs by at most ``l * error``.

    vectors  [n, dim] float32, float16 or int8: the vectors themselves, or codes of them. Contiguous, or the first columns of a wider
             contiguous tensor that is zero in the others: kernels load 16 bytes at once where rows are a multiple of that
    gain     [n] float32, or None for 1
    bias     [n] float32, or None for 0; +inf for a row that must not survive while k others do
    error    [n] float32, or None for 0
    """

    start: int
    vectors: Tensor
    gain: Tensor | None = None
    bias: Tensor | None = None
    error: Tensor | None = None

    def __len__(self) -> int:
        return len(self.vectors)


@dataclass(frozen=True, slots=True, eq=False)
class Buffer:
    """Some chunks of one table on one device, all of one type and with the same columns; a snapshot that never changes.

    chunks  ascending by start, not necessarily without gaps: another device may have what is between
    places  [chunks, 6] int64 on the device: the addresses of vectors, gain, bias and error (0 for None), start and number of rows.
            What it points to lives as long as ``chunks``
    rows    how many there are in all chunks together
    span    rows of the longest chunk
    stride  numbers from one row to the next
    even    whether chunk i starts CHUNK * i rows after the first one, and none is longer than CHUNK
    aligned whether every row begins at a multiple of 16 bytes
    kept    what searches keep for this snapshot alone, see ``replays``; it goes with it
    """

    chunks: tuple[Chunk, ...]
    places: Tensor
    rows: int
    span: int
    stride: int
    even: bool
    aligned: bool
    kept: dict[Any, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, chunks: Sequence[Chunk]) -> Buffer:
        """A buffer over chunks.  Raises ValueError if they differ in device, type, dimension or columns, or are not in order"""
        shapes = {
            (
                c.vectors.device,
                c.vectors.dtype,
                c.vectors.shape[1],
                c.vectors.stride(0),
                c.gain is None,
                c.bias is None,
                c.error is None,
            )
            for c in chunks
        }
        if len(shapes) > 1:
            raise ValueError("the chunks of a buffer must agree in device, type, dimension and columns")
        stops = [0, *(chunk.start + len(chunk) for chunk in chunks)]
        if any(chunk.start < stop or chunk.start % 32 for chunk, stop in zip(chunks, stops, strict=False)):
            raise ValueError("the chunks of a buffer must be in order, apart, and begin at multiples of 32")
        rows = [
            [*(0 if t is None else t.data_ptr() for t in (c.vectors, c.gain, c.bias, c.error)), c.start, len(c)] for c in chunks
        ]
        device = chunks[0].vectors.device if chunks else torch.device("cpu")
        stride = chunks[0].vectors.stride(0) if chunks else 0
        sizes = [row[5] for row in rows]
        return cls(
            tuple(chunks),
            torch.tensor(rows, dtype=torch.int64, device=device).view(len(rows), 6),
            rows=sum(sizes),
            span=max(sizes, default=0),
            stride=stride,
            even=all(row[4] == rows[0][4] + CHUNK * i and row[5] <= CHUNK for i, row in enumerate(rows)),
            aligned=not chunks or not (stride * chunks[0].vectors.itemsize % 16 or any(row[0] % 16 for row in rows)),
        )

    def __len__(self) -> int:
        """How many rows there are in all chunks together."""
        return self.rows

    @property
    def device(self) -> torch.device:
        """Where the chunks are."""
        return self.places.device
