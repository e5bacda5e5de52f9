"""``gather`` in Triton: the steps of ``scan``, among listed rows; lists of different queries in the same launches."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor

from chroma_gpu.kernels.buffer import Buffer
from chroma_gpu.kernels.collect_triton import COLLECT, EACH, EVERY, LISTED, SAMPLE, cut, score_variant
from chroma_gpu.kernels.scan import Survivors
from chroma_gpu.kernels.scan_triton import Source, answered, in_turns, nothing, planned, survivors, tuned


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
    """As ``gather.gather``."""
    if not len(rows):
        return nothing(buffer.device)
    if offsets is None:
        return answered(queries, buffer, k, slack, lengths, Source(LISTED, len(rows), listed=rows), "gather")
    sizes = [stop - start for start, stop in pairwise(offsets)]
    how = tuned("gather", buffer, 1)

    def some(part: slice) -> Survivors:
        if not any(sizes[part]):
            return nothing(buffer.device)
        source = _each(rows, offsets[part.start : part.stop + 1], sizes[part], how.rows)
        own = None if lengths is None else lengths[part]
        return survivors(queries[part], buffer, k, slack[part], own, source, "gather")

    return in_turns(len(queries), planned(k, max(1, *sizes), buffer, EACH, how, len(queries)).together, some)


def _each(rows: Tensor, offsets: Sequence[int], sizes: list[int], tile: int) -> Source:
    tiles = [0]
    for size in sizes:
        tiles.append(tiles[-1] - (-size // tile))
    # One transfer for what are three small tables to the kernels.
    table = torch.tensor([tiles, list(offsets), [*sizes, 0]], dtype=torch.int64).to(rows.device, non_blocking=True)
    return Source(EACH, max(sizes), listed=rows, bounds=table, tiles=tiles[-1], sizes=table[2])


VARIANTS: Final = tuple(
    score_variant(
        f"gather {codes} 384 {source} {mode}",
        cut("gather", 75, codes, 384, True, 1, torch.float32),
        codes,
        384,
        source,
        mode,
        wide=True,
    )
    for codes in ("float16", "int8", "float32")
    for source, mode in ((LISTED, COLLECT), (EACH, SAMPLE), (EACH, COLLECT), (EACH, EVERY))
)
