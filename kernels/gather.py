"""Exact scan of listed rows: another set of candidates for each query, or one for all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from chroma_gpu.kernels import scan
from chroma_gpu.kernels.buffer import Buffer, Chunk
from chroma_gpu.kernels.scan import Survivors


def gather(
    queries: Tensor,
    buffer: Buffer,
    rows: Tensor,
    k: int,
    slack: Tensor,
    offsets: Sequence[int] | None = None,
    *,
    lengths: Tensor | None = None,
) -> Survivors:
    """As ``scan`` among listed rows: every one that may be among the k best of its query within what is listed for it.

    queries  [q, dim] float32 or float16
    rows     [m] int64, distinct for each query, on the device of the buffer; each within a chunk
    offsets  q + 1 positions in ``rows``: query i has rows[offsets[i]:offsets[i + 1]]. None gives all rows to every query
    lengths  [q] float32, 1 by default
    Raises   ValueError for a k below 1
    Cost     reads m vectors, or m for all queries together without offsets; on CUDA a handful of launches in either case
    """
    if k < 1:
        raise ValueError("k must be at least 1")
    if scan.has_triton(buffer.device) and len(queries) and len(rows):
        from chroma_gpu.kernels.gather_triton import gather as by_triton

        return by_triton(queries, buffer, rows, k, slack, offsets, lengths=lengths)
    return reference(queries, buffer, rows, k, slack, offsets, lengths=lengths)


def reference(
    queries: Tensor,
    buffer: Buffer,
    rows: Tensor,
    k: int,
    slack: Tensor,
    offsets: Sequence[int] | None = None,
    *,
    lengths: Tensor | None = None,
) -> Survivors:
    """``gather`` in plain torch, on any device.  Cost: copies the listed rows together; a scan for each list"""
    if offsets is None:
        return _shared(queries, buffer.chunks, rows, k, slack, lengths)
    parts = []
    for i in range(len(queries)):
        own = None if lengths is None else lengths[i : i + 1]
        one = _shared(queries[i : i + 1], buffer.chunks, rows[offsets[i] : offsets[i + 1]], k, slack[i : i + 1], own)
        parts.append((one.owners + i, one.rows, one.scores))
    if not parts:
        return scan.reference(queries, Buffer.of([]), k, slack)
    owners, found, scores = (torch.cat(part) for part in zip(*parts, strict=True))
    return Survivors(owners, found, scores)


def _shared(queries: Tensor, chunks: Sequence[Chunk], rows: Tensor, k: int, slack: Tensor, lengths: Tensor | None) -> Survivors:
    """Copy the rows together and scan them."""
    starts = torch.tensor([chunk.start for chunk in chunks], device=rows.device)
    home = torch.searchsorted(starts, rows, right=True) - 1
    vectors: list[Tensor] = []
    columns: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
    ids: list[Tensor] = []
    for number, chunk in enumerate(chunks):
        mine = rows[home == number]
        if len(mine):
            at = mine - chunk.start
            vectors.append(chunk.vectors[at])
            for parts, column in zip(columns, (chunk.gain, chunk.bias, chunk.error), strict=True):
                if column is not None:
                    parts.append(column[at])
            ids.append(mine)
    if not ids:
        return scan.reference(queries, Buffer.of([]), k, slack)
    # All chunks of a buffer have the same columns.
    together = Chunk(0, torch.cat(vectors), *(torch.cat(parts) if parts else None for parts in columns))
    survivors = scan.reference(queries, Buffer.of([together]), k, slack, lengths=lengths)
    return Survivors(survivors.owners, torch.cat(ids)[survivors.rows], survivors.scores)
