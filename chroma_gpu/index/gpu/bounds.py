"""Why what a device leaves out cannot be an answer: queries as kernels take them, how far a score may be off, rows kept apart.

A kernel gets a query as its direction u and its length l, and keeps a row whose score, with the error of its code added, reaches the
k-th best score, with the errors subtracted, less a slack. The error of the codes is in their chunk. The slack is twice the rest:
the rounding of u (as float32, or as float16 for large batches), of the product, of norms, and of the final distance to float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from chroma_gpu.index.gpu.codes import Codes
from chroma_gpu.index.growing import Growing
from chroma_gpu.index.outliers import Outliers
from chroma_gpu.records import Metric, Rows, Vectors
from chroma_gpu.rowset import RowSet

if TYPE_CHECKING:
    import torch

EXTREME: Final = 2.0**60
"""Norm above which, for cosine also below whose inverse, rows and queries are scored on the host: float32 could overflow."""

HALVED: Final = 64
"""Queries from which on they are rounded to float16, for the tensor cores: below, reading the rows takes longer than multiplying."""


def ordinary(lengths: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """[q] bool: which queries a device can score."""
    held: npt.NDArray[np.bool_] = ((lengths < EXTREME) & (lengths > 1 / EXTREME)) | (lengths == 0)
    return held


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """Queries as kernels take them.

    units     [q, dim] float32 or float16: the queries divided by their lengths
    lengths   [q] float32, or None for 1: cosine and ip order rows in the same way whatever the length
    slack     [q] float32, in the unit of the scores
    """

    units: npt.NDArray[np.floating[Any]]
    lengths: npt.NDArray[np.float32] | None
    slack: npt.NDArray[np.float32]


def asked(
    queries: Vectors,
    norms: npt.NDArray[np.float32],
    metric: Metric,
    codes: Codes,
    longest: float,
    device: torch.device,
    *,
    halved: bool = False,
) -> Asked:
    """Ordinary queries for rows of some codes.

    norms    [q] of the queries
    longest  no row is longer, those set aside apart
    halved   the queries are rounded to float16
    """
    from chroma_gpu.kernels.scan import product_error

    dim = queries.shape[1]
    # Rounded up: a length times the error of a code is no less than with the true norm, and no row is longer.
    above = 1 + (dim + 4) * 2.0**-23
    longest *= above
    lengths = (norms * above).astype(np.float32)
    divisors = np.where(lengths > 0, lengths, np.float32(1))
    units: npt.NDArray[np.floating[Any]] = queries / divisors[:, None]
    rounded = np.full(len(queries), 2.0**-23)  # float32: |l u - q| is below 2^-24 of |q|
    if halved:
        halves = units.astype(np.float16)
        wide = queries.astype(np.float64) / divisors[:, None] - halves
        rounded = 1.000001 * np.sqrt(np.einsum("ij,ij->i", wide, wide))
        units = halves
    error, growth = 2 * product_error(dim, device, codes.dtype), codes.growth(dim)
    if metric is Metric.COSINE:
        margins = (2 * error + rounded) * growth + dim * 2.0**-64
    elif metric is Metric.IP:
        margins = (error + rounded) * growth * longest + 2.0**-22 / divisors.astype(np.float64) + dim * 2.0**-120
    else:
        wide_lengths = lengths.astype(np.float64)
        margins = (error * (wide_lengths + longest) ** 2 + rounded * wide_lengths * longest) * growth
        margins += dim * 2.0**-120 * np.maximum(1, wide_lengths)
    with np.errstate(over="ignore"):
        slack = (2.002 * margins).astype(np.float32)
    return Asked(units, lengths if metric is Metric.L2 else None, slack)


class Aside:
    """Rows that float32 could overflow on, or so long that their error bound would serve no other row.

    Kernels see them at score -inf, and every search hands them to the host. One thread takes rows in; ``rows`` and ``longest`` are
    replaced whole, so that others may read them meanwhile.
    """

    def __init__(self, metric: Metric, norms: Growing) -> None:
        self.rows: Rows = np.empty(0, np.uint32)
        self.longest = 0.0
        self._metric, self._norms = metric, norms
        self._outliers = Outliers(norms)
        self._taken = 0

    def take(self, stop: int) -> tuple[npt.NDArray[np.bool_], Rows]:
        """Look at the next rows, up to ``stop``, whose norms are there.

        Returns  ([n] bool: which of them are set aside, earlier rows that join them now). None ever comes back
        """
        first, self._taken = self._taken, stop
        norms = self._norms.view(stop)[first:]
        aside = ~(norms < EXTREME)
        if self._metric is Metric.COSINE:
            aside |= (norms < 1 / EXTREME) & (norms > 0)
            late = np.empty(0, np.uint32)
            self.longest = 1.0
        else:
            self._outliers.take(stop)
            bound = self._outliers.bound
            aside[bound.rows[bound.rows >= first] - first] = True
            late = np.setdiff1d(bound.rows[bound.rows < first], self.rows)
            self.longest = min(bound.largest, EXTREME)
        self.rows = np.concatenate([self.rows, late, (np.flatnonzero(aside) + first).astype(np.uint32)])
        return aside, late

    def among(self, stop: int, mask: RowSet | None) -> Rows:
        """The rows set aside below ``stop`` that a mask passes; rows that came after it do not."""
        rows: Rows = self.rows[self.rows < (stop if mask is None else min(stop, mask.size))]
        if mask is None or not len(rows):
            return rows
        passes = np.right_shift(mask.words[rows >> 6], (rows & 63).astype(np.uint64)) & np.uint64(1)
        passing: Rows = rows[passes.astype(np.bool_)]
        return passing
