"""1-bit codes of vectors: estimates of distances, and how far off they can be.

FAISS's RaBitQ keeps one bit for each coordinate of the rotated vector, relative to a centre. With q' = q - c and o = x - c a code
estimates <o, q'> without bias and with a standard deviation of

    |o_perp| * |q'| * sqrt(1 / f**2 - 1) / sqrt(width - 1)

where o_perp is the part of o across q', and f, the cosine between o and its code, is 0.80 within a few per cent (Gao and Long,
"RaBitQ", SIGMOD 2024, theorem 3.2). It is the random rotation that makes this hold whatever the data.

Estimates are given as keys, smaller for nearer rows: the squared distance for l2, and -2 <q, x> for ip and (at length 1) cosine.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from chroma_gpu.index import scoring
from chroma_gpu.index.faiss_library import Shared, load_faiss, selector
from chroma_gpu.index.growing import Growing
from chroma_gpu.index.outliers import Outliers
from chroma_gpu.index.rotation import Rotation
from chroma_gpu.records import Metric, Rows, Vectors
from chroma_gpu.rowset import RowSet

_EXTREME: Final = 2.0**40
"""Norm from which a row has no useful code."""

_QUERY_STEP: Final = 0.015
"""Error of the query's 8-bit table, as a share of reach where the code's error has sqrt(1 / f**2 - 1) * |o_perp|."""


@dataclass(frozen=True, slots=True, eq=False)
class Bounds:
    """What holds for all rows but the outliers, which no search may leave to their codes.

    reach    none is farther from the centre
    longest  none is longer; 1 for cosine
    """

    reach: float
    longest: float
    outliers: Rows


class Codes:
    """The codes of rows [0, len). Searches may run while rows are added; one thread adds.

    fast      the index that FAISS scans 32 codes at a time
    norms     of the rows, filled by the caller before ``add``
    radii     distance of each row from the centre
    trained   how many rows the centre stands for
    """

    def __init__(self, rotation: Rotation, metric: Metric, fast: Any, norms: Growing, radii: Growing, trained: int) -> None:
        self.rotation, self.metric, self.norms, self.radii, self.trained = rotation, metric, norms, radii, trained
        self.fast = Shared(fast)
        self.plain: Shared | None = None
        self.centre: npt.NDArray[np.float32] = load_faiss().vector_to_array(fast.center)
        self._by_radius, self._by_norm = Outliers(radii), Outliers(norms)
        self._take(len(radii))

    @classmethod
    def train(cls, rotation: Rotation, metric: Metric, sample: Vectors, norms: Growing, trained: int) -> Codes:
        """Codes of no rows yet, about the mean of a sample [n, dim]."""
        faiss = load_faiss()
        lengths = scoring.norms(sample)
        if metric is Metric.COSINE:
            usable = scoring.normalised(sample, lengths)
        else:
            usable = sample[lengths < _EXTREME]
        centre = usable.mean(axis=0, dtype=np.float64) if len(usable) else np.zeros(rotation.dim)
        fast = faiss.IndexRaBitQFastScan(rotation.width, _faiss_metric(faiss, metric))
        fast.train(rotation(centre.astype(np.float32)[None]))
        return cls(rotation, metric, fast, norms, Growing(), trained)

    def __len__(self) -> int:
        return len(self.fast)

    @property
    def bounds(self) -> Bounds:
        """For the rows so far."""
        far, long = self._by_radius.bound, self._by_norm.bound
        if self.metric is Metric.COSINE:
            return Bounds(far.largest, 1.0, far.rows)
        return Bounds(far.largest, long.largest, np.union1d(far.rows, long.rows) if len(long.rows) else far.rows)

    def add(self, vectors: Vectors) -> None:
        """Encode the next rows [n, dim]."""
        rotated, radii = self._placed(vectors, self.norms.view(len(self) + len(vectors))[len(self) :])
        self.radii.append(radii)
        self._take(len(self.radii))
        self.fast.add(rotated)
        if self.plain is not None:
            self.plain.add(rotated)

    def make_plain(self, blocks: Iterable[Vectors]) -> None:
        """Make the second form of all codes, which a mask can skip through, from the vectors of rows [0, len) in order."""
        faiss = load_faiss()
        plain = faiss.IndexRaBitQ(self.rotation.width, _faiss_metric(faiss, self.metric))
        plain.train(self.centre[None])
        for vectors in blocks:
            norms = self.norms.view(plain.ntotal + len(vectors))[plain.ntotal :]
            plain.add(self._placed(vectors, norms)[0])
        self.plain = Shared(plain)

    def scan(self, rotated: Vectors, fetch: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """(keys, rows) of the ``fetch`` smallest keys, ascending.  rotated: [1, width], from ``place_query``."""
        return self._keys(self.fast.search(rotated, fetch))

    def scan_plain(
        self, plain: Shared, rotated: Vectors, fetch: int, mask: RowSet
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """As ``scan`` among the rows of the mask, in the second form."""
        params = load_faiss().RaBitQSearchParameters(sel=selector(mask), qb=8)
        return self._keys(plain.search(rotated, fetch, params))

    def _keys(
        self, found: tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        values, rows = found[0][0], found[1][0]
        filled = rows >= 0
        values = values[filled]
        return values if self.metric is Metric.L2 else -2 * values, rows[filled]

    def place_query(self, query: Vectors) -> tuple[Vectors, float, float]:
        """(rotated [1, width], |q - c|, |q|) of a query [1, dim]; at length 1 for cosine."""
        if self.metric is Metric.COSINE:
            query = scoring.normalised(query, scoring.norms(query))
        rotated = self.rotation(query)
        offset = rotated[0].astype(np.float64) - self.centre
        return rotated, float(np.sqrt(offset @ offset)), float(np.linalg.norm(rotated[0].astype(np.float64)))

    def deviation(self, bounds: Bounds, key: float, offset: float, length: float) -> float:
        """Standard deviation of the key of a row that is no outlier and whose true key is at most ``key``.

        offset, length  |q - c| and |q|
        """
        squared = key if self.metric is Metric.L2 else bounds.longest**2 + length**2 + key  # of the distance
        across = bounds.reach**2
        if offset > 0:
            # The triangle q, c, x has sides |q'|, |o| and at most sqrt(squared); its height over q' is largest at the longest |o|
            # allowed, or where the angle at q is right.
            side = min(bounds.reach**2, offset**2 + max(squared, 0.0))
            across = max(0.0, side - (side + offset**2 - squared) ** 2 / (4 * offset**2))
        share = 0.798 - 0.21 / math.sqrt(self.rotation.width)
        spread = math.sqrt(1 / share**2 - 1) * math.sqrt(across) + _QUERY_STEP * bounds.reach
        return 2 * offset * spread / math.sqrt(self.rotation.width - 1)

    def _placed(self, vectors: Vectors, norms: npt.NDArray[np.float32]) -> tuple[Vectors, npt.NDArray[np.float32]]:
        """(rotated [n, width], distance from the centre [n]); rows too long for a code are put on the centre, at distance inf."""
        if self.metric is Metric.COSINE:
            vectors = scoring.normalised(vectors, norms)
        rotated = self.rotation(vectors)
        extreme = np.zeros(len(norms), np.bool_) if self.metric is Metric.COSINE else ~(norms < _EXTREME)
        rotated[extreme] = self.centre
        radii = scoring.norms(rotated - self.centre)
        radii[extreme] = np.inf
        return rotated, radii

    def _take(self, stop: int) -> None:
        """Before a row can be found, the bounds must know it."""
        if stop:
            self._by_radius.take(stop)
            self._by_norm.take(stop)


def _faiss_metric(faiss: Any, metric: Metric) -> int:
    return int(faiss.METRIC_L2 if metric is Metric.L2 else faiss.METRIC_INNER_PRODUCT)
