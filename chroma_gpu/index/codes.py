"""Search over 1-bit codes on the CPU, reranked exactly, with a guard that says when the codes were not enough.

The best estimates are fetched, their rows scored exactly, and the answer accepted only if the guard passes. Otherwise as many are
fetched as the first ones tell would suffice, once, or everything is scanned, whichever costs less. A batch of queries goes to the
exact scan at once: there one matrix product serves all queries, and costs each of them less than reading the codes.

The guard asks how many neighbours an answer must be expected to miss. Let E be the last estimate fetched and t the exact distance
of a neighbour. It was fetched if its error, whose standard deviation s is known (``rabitq``), stayed below E - t: with probability
p = Phi((E - t) / s). So each neighbour found stands for 1 / p neighbours there are, and (1 - p) / p summed over those found is an
unbiased estimate of those missed (Horvitz and Thompson, 1952). An answer passes if that is at most 1e-4 a neighbour, which a recall
of 0.9999 is; s is taken at the k-th distance and for the farthest row, so that true recall is higher. The errors seen while
reranking must agree: if their root mean square is above 1.5 s, it sets s. Ties at the boundary have E - t near 0 and never pass.
Rows far outside the others, whose errors have no useful bound, are reranked for every query.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from chroma_gpu.errors import InvalidArgumentError
from chroma_gpu.index import IndexSpec, Traits, answers, checkpoint, exact, scoring
from chroma_gpu.index.cost import SHIPPED, Costs, codes_fetch
from chroma_gpu.index.faiss_library import Shared, load_faiss
from chroma_gpu.index.growing import Growing
from chroma_gpu.index.held import Held
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

_SAMPLE: Final = 1 << 14
"""Rows that the centre is the mean of."""

_SLICE: Final = 1000
"""Rows encoded at once. FAISS uses a team of threads above 1,000, and searches wait for one slice, some 2 ms."""

_MISSES: Final = 1e-4
"""Neighbours that an answer may be expected to miss, for each neighbour."""

_CUT: Final = 3.75
"""Standard deviations above the k-th of a few good rows, past which estimates are not followed up. 1 - Phi(3.75) is below
``_MISSES``, so that this alone fails no answer."""

_SPARE: Final = 1.2
"""More estimates than were found to be needed are fetched the second time: how dense they come is known from the first ones only."""

_CALIBRATION: Final = 16
"""Reranked rows, at least, whose errors are compared with the predicted deviation."""

_TRUSTED: Final = 1.5
"""How far the errors of so few rows may exceed the prediction by chance."""

_LONGEST: Final = 2.0**40
"""Norm from which a query is scored exactly: FAISS works in float32."""


class CodesIndex:
    """1-bit codes with exact rerank (kind "codes"); needs FAISS.

    params   fetch: estimates fetched first for each query; by default 30 k and twice the root of the rows that pass
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

    def search(self, queries: Vectors, k: int, mask: RowSet | None = None, costs: Costs = SHIPPED) -> Hits:
        """As ``Index.search``.

        Returns  Hits whose guard is None where the exact scan was the cheaper way from the start, else the worst of the batch:
                 "passed", "widened" (passed after fetching more) or "exact" (failed, so that everything was scanned)
        Cost     one query of k = 10 among 50,000 x 384 on one core: 1.1 ms when the guard passes at once (0.5 ms of it for the scan),
                 as it does for 92 % of real queries; the exact scan takes 2.3 ms on two cores
        """
        queries = exact.checked(queries, self.spec.dim)
        codes, n = self._codes, self._count
        mask, passing = exact.narrowed(mask, n)
        if not (len(queries) and k and passing):
            return Hits.empty(len(queries), k)
        search = _Search(self, codes, n, mask, passing, k, costs)
        if codes is None or passing <= k or len(queries) * search.cost(search.first) >= search.exact_cost(len(queries)):
            return search.exactly(queries)
        return answers.stacked([search.one(codes, query[None]) for query in queries], k)

    def lengths(self, stop: int) -> npt.NDArray[np.float32] | None:
        """As ``Index.lengths``."""
        return self.norms.view(stop) if stop <= self._count else None

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

    def __init__(
        self, index: CodesIndex, codes: Codes | None, n: int, mask: RowSet | None, passing: int, k: int, costs: Costs
    ) -> None:
        self.costs = costs
        self.index, self.codes, self.n, self.mask, self.passing, self.k = index, codes, n, mask, passing, k
        self.metric, self.dim, self.source = index.spec.metric, index.spec.dim, index.source
        self.norms = index.norms.view(n)
        self.width = index.rotation.width
        self.first = int(index.spec.params.get("fetch", codes_fetch(k, passing)))

    def cost(self, fetch: int) -> float:
        """Of one attempt with one query."""
        return min(self.costs.codes(self.n, self.passing, self.width, fetch), self._skipping(fetch))

    def exact_cost(self, n_queries: int) -> float:
        """Of the exact scan."""
        return self.costs.exact_block(self.n, self.passing, self.dim, n_queries)

    def exactly(self, queries: Vectors) -> Hits:
        """The answer by brute force."""
        return exact.search_block(queries, self.source, 0, self.n, self.mask, self.k, self.metric, self.norms)

    def one(self, codes: Codes, query: Vectors) -> Hits:
        """The answer to a query [1, dim]."""
        rotated, offset, length = codes.place_query(query)
        fetch, least = float(self.first), 0.0
        for guard in ("passed", "widened"):
            if not (length < _LONGEST and fetch < 4 * self.passing and self.cost(round(fetch)) < self.exact_cost(1)):
                break
            outcome = self._attempt(codes, query, rotated, offset, length, round(fetch), least)
            if isinstance(outcome, Hits):
                return replace(outcome, guard=guard)
            fetch, least = outcome
        return replace(self.exactly(query), guard="exact")

    def _attempt(
        self, codes: Codes, query: Vectors, rotated: Vectors, offset: float, length: float, fetch: int, least: float
    ) -> Hits | tuple[float, float]:
        """The answer from the best ``fetch`` estimates, or, if the guard does not pass, what to fetch next time, and a deviation to
        count on then.

        least    a deviation that was seen before
        """
        bounds = codes.bounds
        rounding = 2.0**-18 * (length + bounds.longest) ** 2
        fetched, keys, rows, last = self._estimates(codes, rotated, fetch)
        if len(rows) > 4 * self.k:
            # Only what may still be nearer than the k-th of the best few is worth scoring; the rest counts as not fetched.
            guess = self._guess(query, rows[: 3 * self.k])
            least = max(least, codes.deviation(bounds, guess, offset, length))
            farthest = guess + _CUT * least + rounding
            if farthest < last:
                last, near = farthest, int(np.searchsorted(keys, farthest))
                keys, rows = keys[:near], rows[:near]
        held, keys = self._with_outliers(rows, keys, bounds)
        hits = exact.search_block(query, held, 0, len(held), None, max(self.k, _CALIBRATION), self.metric, held.norms)
        count = int(hits.counts[0])
        if count < self.k:
            return math.inf, least
        true = hits.distances[0, :count].astype(np.float64)
        if self.metric is not Metric.L2:
            true = 2 * true - 2
        errors = keys[hits.rows[0, :count]] - true
        errors = errors[~np.isnan(errors)]
        seen = math.sqrt(errors @ errors / max(1, len(errors)))
        deviation = max(codes.deviation(bounds, float(true[self.k - 1]), offset, length), seen / _TRUSTED)
        if not _expected_misses(last - rounding - true[: self.k], deviation) <= _MISSES * self.k:
            least = max(least, deviation)
            needed = _places(fetched, float(true[self.k - 1]) + _CUT * least + rounding)
            return fetch * max(1.0, _SPARE * needed / max(1, len(fetched))), least
        counts = np.array([self.k], np.int32)
        return Hits(held.named(hits)[:, : self.k], hits.distances[:, : self.k], counts, exact=last == np.inf)

    def _estimates(
        self, codes: Codes, rotated: Vectors, fetch: int
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], Rows, float]:
        """The keys that were fetched, (keys, rows) of those that pass the mask, and the key that no row left out is below."""
        plain = None
        if self._skipping(fetch) < self.costs.codes(self.n, self.passing, self.width, fetch):
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
        return keys, keys[inside], found[inside].astype(np.uint32), last

    def _guess(self, query: Vectors, rows: Rows) -> float:
        """The k-th smallest key of at least k rows, in float32."""
        products = np.vecdot(self.source.gather(rows), query[0])
        norms = self.norms[rows]
        if self.metric is Metric.L2:
            keys = norms * norms - 2 * products + query[0] @ query[0]
        elif self.metric is Metric.IP:
            keys = -2 * products
        else:
            keys = -2 * products / np.maximum(norms * math.sqrt(query[0] @ query[0]), 1e-30)
        return float(np.partition(keys, self.k - 1)[self.k - 1])

    def _with_outliers(self, rows: Rows, keys: npt.NDArray[np.float32], bounds: Bounds) -> tuple[Held, npt.NDArray[np.float32]]:
        """What is reranked: rows and outliers in the order of rows, and their keys, NaN for outliers that have none."""
        order = np.argsort(rows)
        rows, keys = rows[order], keys[order]
        more = bounds.outliers[bounds.outliers < self.n]
        if self.mask is not None:
            more = more[_among(self.mask, more)]
        if len(more):
            together = np.union1d(rows, more)
            every = np.full(len(together), np.nan, np.float32)
            every[np.searchsorted(together, rows)] = keys
            rows, keys = together, every
        return Held(self.source, rows, self.norms), keys

    def _skipping(self, fetch: int) -> float:
        return self.costs.codes_skipping(self.n, self.passing, self.width, fetch) if self.mask is not None else np.inf


def _places(keys: npt.NDArray[np.float32], key: float) -> float:
    """How many rows have estimates below a key, as the smallest estimates tell; inf where they do not.

    Their number is taken to grow on as it did from a quarter of them to all: by a factor for every step. On real vectors that was
    0.95 to 1.5 times as many as there were.
    """
    quarter = len(keys) // 4
    step = float(keys[-1] - keys[quarter]) if quarter else 0.0
    growth = math.log(len(keys) / (quarter + 1)) * (key - float(keys[-1])) / step if step > 0 else math.inf
    return len(keys) * math.exp(growth) if growth < 20 else math.inf


def _expected_misses(room: npt.NDArray[np.float64], deviation: float) -> float:
    """How many neighbours an answer must be expected to miss; NaN or inf where that cannot be said.

    room  [k] descending: how far each neighbour's true key is below the last key that was fetched
    """
    missed = 0.0
    for distance in reversed(room.tolist()):
        if distance > 8 * deviation:
            break  # and so are all nearer ones
        found = 0.5 * math.erfc(-distance / deviation / math.sqrt(2)) if deviation > 0 else 0.0
        missed += (1 - found) / found if found > 0 else math.inf
        if missed > len(room):
            break
    return missed


def _among(mask: RowSet, rows: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which of the rows, all below mask.size, are in the mask."""
    bits: npt.NDArray[np.uint8] = mask.bytes()[rows >> 3] >> (rows & 7).astype(np.uint8) & 1
    return bits.view(np.bool_)
