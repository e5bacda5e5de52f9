"""Search over 1-bit codes on the CPU, reranked exactly, with a guard that says when the codes were not enough.

The best estimates are fetched, their rows scored exactly, and the answer accepted only if the guard passes; otherwise more are
fetched, and in the end everything is scanned. A batch of queries goes to the exact scan at once: there one matrix product serves
all queries, and costs each of them less than reading the codes.

The guard. Let T be the exact distance of the k-th reranked row and E the last estimate fetched. A row that belongs to the answer
but was not fetched has an estimate of at least E and a distance of at most T, so its error is at least E - T. The guard demands
that E - T exceeds 3.5 standard deviations of the error of a row no farther than T (``rabitq``), so that each true neighbour is
missed with a probability under 2.4e-4; on real vectors the deviation is overstated and it is some 1e-5. The errors seen while
reranking must agree: if their root mean square is above 1.5 times the deviation, they set it. Ties at the boundary have E - T
near 0 and never pass. Rows far outside the others, whose errors have no useful bound, are reranked for every query.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from chroma_gpu.errors import InvalidArgumentError
from chroma_gpu.index import IndexSpec, Traits, checkpoint, cost, exact, scoring
from chroma_gpu.index.faiss_library import Shared, load_faiss
from chroma_gpu.index.growing import Growing
from chroma_gpu.index.rabitq import Bounds, Codes
from chroma_gpu.index.rotation import Rotation
from chroma_gpu.records import Hits, Metric, Rows, Vectors, VectorSource
from chroma_gpu.rowset import RowSet

_FIRST: Final = 4096
"""Rows from which codes are made; below, the exact scan is as fast."""

_NARROWEST: Final = 48
"""Dimensions from which codes are made; below, a row is hardly longer than its code."""

_REFRESH: Final = 4
"""Growth after which centre and codes are made anew."""

_SAMPLE: Final = 1 << 16
"""Rows that the centre is the mean of."""

_SLICE: Final = 1000
"""Rows encoded at once. FAISS uses a team of threads above 1,000, and searches wait for one slice, some 2 ms."""

_DEVIATIONS: Final = 3.5
"""How many standard deviations the guard demands."""

_CALIBRATION: Final = 16
"""Reranked rows, at least, whose errors are compared with the predicted deviation."""

_TRUSTED: Final = 1.5
"""How far the errors of so few rows may exceed the prediction by chance."""

_LONGEST: Final = 2.0**40
"""Norm from which a query is scored exactly: FAISS works in float32."""


class CodesIndex:
    """1-bit codes with exact rerank (kind "codes"); needs FAISS.

    params   fetch: estimates fetched first for each query; 200 + 20 k by default
    Memory   dim / 8 + 16 bytes a row, and dim / 8 + 8 more after the first search that skips through codes under a mask
    Cost     add: 3 µs a row of 384, 1.33 times that in the long run, because growing fourfold makes all codes anew: rows that
             arrive in the order of their topics would otherwise leave the centre, and with it the errors, at the first topic
    """

    def __init__(self, spec: IndexSpec, source: VectorSource) -> None:
        load_faiss()
        unknown = spec.params.keys() - {"fetch"}
        if unknown:
            raise InvalidArgumentError(f"the index kind codes has no parameter {', '.join(sorted(unknown))}; it has fetch.")
        self.spec = spec
        self.traits = Traits(exact=False, concurrent_add=True, device="cpu")
        self.source = source
        self.rotation = Rotation(spec.dim)
        self._adding = threading.Lock()
        self.norms = Growing()
        self._count = 0
        self._codes: Codes | None = None

    def __len__(self) -> int:
        return self._count

    def add(self, stop: int) -> None:
        """Take in rows [len(self), stop) from the source. Searches go on meanwhile and see them slice by slice."""
        with self._adding:
            if stop >= _FIRST and self.spec.dim >= _NARROWEST and (self._codes is None or stop >= _REFRESH * self._codes.trained):
                self._codes = self._encoded_anew(stop)
            for vectors in self._blocks(self._count, stop):
                self.norms.append(scoring.norms(vectors))
                if self._codes is not None:
                    self._codes.add(vectors)
                self._count += len(vectors)

    def search(self, queries: Vectors, k: int, mask: RowSet | None = None) -> Hits:
        """As ``Index.search``.

        Returns  Hits whose guard is None where the exact scan was the cheaper way from the start, else the worst of the batch:
                 "passed", "widened" (passed after fetching more) or "exact" (failed, so that everything was scanned)
        Cost     one query of k = 10 among 50,000 x 384: 0.55 ms when the guard passes at once
        """
        queries = exact.checked(queries, self.spec.dim)
        codes, n = self._codes, self._count
        mask, passing = exact.narrowed(mask, n)
        if not (len(queries) and k and passing):
            return Hits.empty(len(queries), k)
        search = _Search(self, codes, n, mask, passing, k)
        if codes is None or passing <= k or len(queries) * search.cost(search.first) >= search.exact_cost(len(queries)):
            return search.exactly(queries)
        return exact.stacked([search.one(codes, query[None]) for query in queries], k)

    def save(self, path: Path) -> None:
        """As ``Index.save``."""
        with self._adding:
            codes = self._codes
            arrays = {"norms": self.norms.view()}
            if codes is None:
                held = checkpoint.Checkpoint(self._count, {"trained": 0}, arrays)
            else:
                arrays["radii"] = codes.radii.view()
                held = checkpoint.Checkpoint(self._count, {"trained": codes.trained}, arrays, codes.fast.index)
            checkpoint.write(path, self.spec, held)

    @classmethod
    def load(cls, path: Path, spec: IndexSpec, source: VectorSource) -> CodesIndex:
        """As ``Index.load``."""
        index = cls(spec, source)
        held = checkpoint.read(path, spec, source)
        index.norms = Growing(held.column("norms"))
        index._count = held.count
        if held.faiss is not None:
            held.require(isinstance(held.faiss, load_faiss().IndexRaBitQFastScan), "an index of 1-bit codes")
            held.require(held.faiss.d == index.rotation.width and held.faiss.ntotal == held.count, "all codes")
            radii = Growing(held.column("radii"))
            index._codes = Codes(index.rotation, spec.metric, held.faiss, index.norms, radii, int(held.extra["trained"]))
        return index

    def plain(self, codes: Codes) -> Shared | None:
        """The form of the codes that a mask can skip through, made when first asked for; None while rows are being added."""
        if codes.plain is None and self._adding.acquire(blocking=False):
            try:
                if codes.plain is None and codes is self._codes:
                    codes.make_plain(self._blocks(0, len(codes)))
            finally:
                self._adding.release()
        return codes.plain

    def _encoded_anew(self, stop: int) -> Codes:
        """Codes of the rows there are, with the centre of the rows there will be."""
        spread = np.linspace(0, stop - 1, min(stop, _SAMPLE)).astype(np.uint32)
        codes = Codes.train(self.rotation, self.spec.metric, self.source.gather(spread), self.norms, stop)
        for vectors in self._blocks(0, self._count):
            codes.add(vectors)
        return codes

    def _blocks(self, start: int, stop: int) -> Iterator[Vectors]:
        for first in range(start, stop, _SLICE):
            yield self.source.block(first, min(first + _SLICE, stop))


class _Search:
    """What the queries of one call share."""

    def __init__(self, index: CodesIndex, codes: Codes | None, n: int, mask: RowSet | None, passing: int, k: int) -> None:
        self.index, self.codes, self.n, self.mask, self.passing, self.k = index, codes, n, mask, passing, k
        self.metric, self.dim, self.source = index.spec.metric, index.spec.dim, index.source
        self.norms = index.norms.view(n)
        self.width = index.rotation.width
        self.first = int(index.spec.params.get("fetch", 200 + 20 * k))

    def cost(self, fetch: int) -> float:
        """Of one attempt with one query."""
        return min(cost.codes(self.n, self.passing, self.width, fetch), self._skipping(fetch))

    def exact_cost(self, n_queries: int) -> float:
        """Of the exact scan."""
        return cost.exact_block(self.n, self.passing, self.dim, n_queries)

    def exactly(self, queries: Vectors) -> Hits:
        """The answer by brute force."""
        return exact.search_block(queries, self.source, 0, self.n, self.mask, self.k, self.metric, self.norms)

    def one(self, codes: Codes, query: Vectors) -> Hits:
        """The answer to a query [1, dim]."""
        rotated, offset, length = codes.place_query(query)
        fetch, guard = self.first, "passed"
        while length < _LONGEST and self.cost(fetch) < self.exact_cost(1):
            hits = self._attempt(codes, query, rotated, offset, length, fetch)
            if hits is not None:
                return replace(hits, guard=guard)
            fetch, guard = 4 * fetch, "widened"
        return replace(self.exactly(query), guard="exact")

    def _attempt(self, codes: Codes, query: Vectors, rotated: Vectors, offset: float, length: float, fetch: int) -> Hits | None:
        """The answer from the best ``fetch`` estimates, or None if the guard does not pass."""
        bounds = codes.bounds
        keys, rows, last = self._estimates(codes, rotated, fetch)
        wanted = max(self.k, _CALIBRATION)
        hits = exact.search_rows(query, self.source, self._with_outliers(rows, bounds), wanted, self.metric, self.norms)
        if hits.counts[0] < self.k:
            return None
        true = hits.distances[0, : hits.counts[0]].astype(np.float64)
        if self.metric is not Metric.L2:
            true = 2 * true - 2
        key = float(true[self.k - 1])
        seen = _root_mean_square(keys, rows, true, hits.rows[0, : hits.counts[0]])
        deviation = max(codes.deviation(bounds, key, offset, length), seen / _TRUSTED)
        rounding = 2.0**-18 * (length + bounds.longest) ** 2
        if not last - key > _DEVIATIONS * deviation + rounding:
            return None
        return Hits(hits.rows[:, : self.k], hits.distances[:, : self.k], np.minimum(hits.counts, self.k), exact=last == np.inf)

    def _estimates(self, codes: Codes, rotated: Vectors, fetch: int) -> tuple[npt.NDArray[np.float32], Rows, float]:
        """(keys, rows) that pass the mask, and the key that no row left out is below."""
        plain = None
        if self._skipping(fetch) < cost.codes(self.n, self.passing, self.width, fetch):
            plain = self.index.plain(codes)
        if plain is not None and self.mask is not None:
            available, asked = self.passing, min(fetch, self.passing)
            keys, found = codes.scan_plain(plain, rotated, asked, self.mask)
        else:
            available = len(codes)
            asked = min(round(fetch * self.n / self.passing), available)
            keys, found = codes.scan(rotated, asked)
        if len(found) == available:
            last = np.inf
        else:
            last = float(keys[-1]) if len(found) == asked else -np.inf
        inside = found < self.n
        if self.mask is not None:
            inside[inside] = _among(self.mask, found[inside])
        return keys[inside], found[inside].astype(np.uint32), last

    def _with_outliers(self, rows: Rows, bounds: Bounds) -> Rows:
        more = bounds.outliers[bounds.outliers < self.n]
        if self.mask is not None:
            more = more[_among(self.mask, more)]
        return np.union1d(rows, more) if len(more) else rows

    def _skipping(self, fetch: int) -> float:
        return cost.codes_skipping(self.n, self.passing, self.width, fetch) if self.mask is not None else np.inf


def _root_mean_square(keys: npt.NDArray[np.float32], rows: Rows, true: npt.NDArray[np.float64], nearest: Rows) -> float:
    """Of the errors of the estimates of the nearest rows, those that were reranked without an estimate aside."""
    same = nearest[:, None] == rows
    known = same.any(axis=1)
    errors = keys[same.argmax(axis=1)[known]] - true[known]
    return float(np.sqrt(np.mean(errors * errors))) if len(errors) else 0.0


def _among(mask: RowSet, rows: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which of the rows, all below mask.size, are in the mask."""
    bits: npt.NDArray[np.uint8] = mask.bytes()[rows >> 3] >> (rows & 7).astype(np.uint8) & 1
    return bits.view(np.bool_)
