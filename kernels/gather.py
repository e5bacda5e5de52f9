"""Exact scan of listed rows: another set of candidates for each query, or one for all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from chroma_gpu.kernels.buffer import Buffer, Chunk
from chroma_gpu.kernels.scan import Survivors, scan


def gather(
    queries: Tensor, buffer: Buffer, rows: Tensor, k: int, slack: Tensor, offsets: Sequence[int] | None = None
) -> Survivors:
    """As ``scan`` among listed rows: every one whose score is at least the k-th best of its query less its slack.

    queries  [q, dim] float32
    rows     [m] int64, distinct for each query, on the device of the buffer; each within a chunk
    offsets  q + 1 positions in ``rows``: query i has rows[offsets[i]:offsets[i + 1]]. None gives all rows to every query
    Cost     reads m vectors, or m for all queries together without offsets
    """
    if offsets is None:
        return _shared(queries, buffer.chunks, rows, k, slack)
    parts = []
    for i in range(len(queries)):
        one = _shared(queries[i : i + 1], buffer.chunks, rows[offsets[i] : offsets[i + 1]], k, slack[i : i + 1])
        parts.append((one.owners + i, one.rows, one.scores))
    owners, found, scores = (torch.cat(part) for part in zip(*parts, strict=True))
    return Survivors(owners, found, scores)


def _shared(queries: Tensor, chunks: Sequence[Chunk], rows: Tensor, k: int, slack: Tensor) -> Survivors:
    """Copy the rows together and scan them."""
    starts = torch.tensor([chunk.start for chunk in chunks], device=rows.device)
    home = torch.searchsorted(starts, rows, right=True) - 1
    together, ids = [], []
    for number, chunk in enumerate(chunks):
        mine = rows[home == number]
        if len(mine):
            at = mine - chunk.start
            together.append(
                (
                    chunk.vectors[at],
                    None if chunk.gain is None else chunk.gain[at],
                    None if chunk.bias is None else chunk.bias[at],
                )
            )
            ids.append(mine)
    if not ids:
        return scan(queries, Buffer.of([]), k, slack)
    # All chunks of a buffer have the same columns.
    vectors, gain, bias = (None if part[0] is None else torch.cat(part) for part in zip(*together, strict=True))
    local = [Chunk(0, vectors, gain, bias)]
    survivors = scan(queries, Buffer.of(local), k, slack)
    return Survivors(survivors.owners, torch.cat(ids)[survivors.rows], survivors.scores)
