"""Exact search over all rows, on any device; serves where FAISS is not installed.

On the CPU it reads the vectors where they lie, with numpy. On another device it keeps codes of them and scans these with our kernels,
which return every row that may be among the k nearest; those few are scored on the host by ``scoring.distances``, so that the answer
is the same, bit for bit, on every device and whatever the codes. Where the rows are at the time, see ``gpu/residence``.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from chroma_gpu.errors import InvalidArgumentError
from chroma_gpu.index import IndexSpec, Traits, answers, checkpoint, exact, scoring
from chroma_gpu.index.cost import SHIPPED, Costs
from chroma_gpu.index.gpu.bounds import ordinary
from chroma_gpu.index.gpu.codes import LADDERS
from chroma_gpu.index.gpu.residence import Residence
from chroma_gpu.index.growing import Growing
from chroma_gpu.records import DeviceBlock, Hits, Metric, Vectors, VectorSource
from chroma_gpu.rowset import RowSet

_SLICE: Final = 8192
"""Rows whose norms are taken at once."""

_PARAMS: Final = {
    "device": "cpu",
    "codes": "auto",
    "precision": "exact",
    "limit": "80%",
    "resident": None,
    "rerank": None,
}

_KNOWN: Final = {"codes": tuple(LADDERS), "precision": ("exact", "fast")}


class FlatIndex:
    """Exact search by brute force (kind "flat").

    params   device: where rows are scored, "cpu" by default; several with commas between them share the rows. codes, precision and
             limit: as ``gpu.residence.Residence`` and ``Settings`` have them, precision "fast" for answers by the codes alone.
             resident: whether the device has rows at all, by default everywhere but on the CPU. rerank: whether it has the vectors
             beside the codes
    Memory   4 bytes a row on the host; on devices ``gpu.codes.Layout.row_bytes``
    Cost     add: one reading of the new rows, none of the old ones
    """

    def __init__(self, spec: IndexSpec, source: VectorSource) -> None:
        unknown = spec.params.keys() - _PARAMS.keys()
        if unknown:
            raise InvalidArgumentError(
                f"the index kind flat has no parameter {', '.join(sorted(unknown))}; it has {', '.join(_PARAMS)}."
            )
        self.spec = spec
        self._params: dict[str, Any] = {**_PARAMS, **spec.params}
        for name, known in _KNOWN.items():
            if self._params[name] not in known:
                raise InvalidArgumentError(f"{name} of the index kind flat must be one of {', '.join(known)}.")
        self._source = source
        self._adding = threading.Lock()
        self._norms = Growing()
        self._count = 0
        resident = self._params["resident"]
        self._residence = self._resident() if (self._params["device"] != "cpu" if resident is None else resident) else None

    @property
    def traits(self) -> Traits:
        """As of now: where no device will have the rows any more, the work is done on the CPU."""
        residence = self._residence
        if residence is None or residence.over:
            return Traits(exact=True, concurrent_add=True, device="cpu")
        layout = residence.layout
        return Traits(
            exact=residence.certified,
            concurrent_add=True,
            device=str(self._params["device"]),
            codes=None if layout is None else str(layout),
        )

    def __len__(self) -> int:
        return self._count

    def add(self, stop: int) -> None:
        """Take in rows [len(self), stop) from the source. Searches go on meanwhile.  Raises DeviceError"""
        with self._adding:
            for first in range(self._count, stop, _SLICE):
                last = min(first + _SLICE, stop)
                self._norms.append(scoring.norms(self._source.block(first, last)))
                self._count = last
            if self._residence is not None:
                self._residence.fill(self._count)

    def search(self, queries: Vectors, k: int, mask: RowSet | None = None, costs: Costs = SHIPPED) -> Hits:
        """As ``Index.search``; exact but for precision "fast".

        Raises   DeviceError if the device failed; the next search is answered by the CPU
        """
        queries = exact.checked(queries, self.spec.dim)
        n = self._count
        mask, passing = exact.narrowed(mask, n)
        if not (len(queries) and k and passing):
            return Hits.empty(len(queries), k)
        residence = self._residence
        if residence is None or residence.over:
            return self._on_host(queries, n, k, mask)
        norms = scoring.norms(queries)
        alike = (norms == 0) & (self.spec.metric is not Metric.L2)
        held = ordinary(norms) & ~alike
        parts, places = [], []
        for some in (held, alike, ~(held | alike)):
            if some.any():
                few = queries if some.all() else queries[some]
                if some is held:
                    hits = residence.search(few, norms[some], n, k, mask, passing) or self._on_host(few, n, k, mask)
                else:
                    hits = _alike(len(few), n, k, mask) if some is alike else self._on_host(few, n, k, mask)
                parts.append(hits)
                places.append(np.flatnonzero(some))
        if len(parts) == 1:
            return parts[0]
        hits, order = answers.stacked(parts, k), np.argsort(np.concatenate(places))
        return replace(hits, rows=hits.rows[order], distances=hits.distances[order], counts=hits.counts[order])

    def offer(self, block: DeviceBlock) -> None:
        """As ``index.offer``."""
        if self._residence is not None:
            self._residence.offer(block)

    def lengths(self, stop: int) -> npt.NDArray[np.float32] | None:
        """As ``Index.lengths``."""
        return self._norms.view(stop) if stop <= self._count else None

    def close(self) -> None:
        """Give the memory of devices back at once; the CPU answers from now on. Idempotent."""
        if self._residence is not None:
            self._residence.close()

    def save(self, path: Path) -> None:
        """As ``Index.save``. There is nothing to keep but the norms: the rows are in the source."""
        with self._adding:
            checkpoint.write(path, self.spec, checkpoint.Checkpoint(self._count, {}, {"norms": self._norms.view()}))

    @classmethod
    def load(cls, path: Path, spec: IndexSpec, source: VectorSource) -> FlatIndex:
        """As ``Index.load``; uploads every row if a device has them."""
        index = cls(spec, source)
        held = checkpoint.read(path, spec, source)
        index._norms.append(held.column("norms"))
        index._count = held.count
        if index._residence is not None:
            index._residence.fill(held.count)
        return index

    def _on_host(self, queries: Vectors, n: int, k: int, mask: RowSet | None) -> Hits:
        return exact.search_block(queries, self._source, 0, n, mask, k, self.spec.metric, self._norms.view(n))

    def _resident(self) -> Residence:
        params = self._params
        return Residence(
            str(params["device"]).split(","),
            self._source,
            self.spec.metric,
            self._norms,
            codes=params["codes"],
            certified=params["precision"] == "exact",
            limit=params["limit"],
            rerank=params["rerank"],
        )


def _alike(n_queries: int, n: int, k: int, mask: RowSet | None) -> Hits:
    """For queries of zeros under cosine and ip, to which every row is at 1: a scan would keep them all."""
    rows = np.arange(min(k, n), dtype=np.uint32) if mask is None else mask.rows()[:k]
    hits = Hits.empty(n_queries, k)
    hits.rows[:, : len(rows)], hits.distances[:, : len(rows)], hits.counts[:] = rows, 1, len(rows)
    return hits
