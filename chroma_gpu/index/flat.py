"""Exact search over all rows, on any device; serves where FAISS is not installed.

On the CPU it reads the vectors where they lie, with numpy. On another device it keeps codes of them and scans these with our kernels,
which return every row that may be among the k nearest; those few are scored on the host by ``scoring.distances``, so that the answer
is the same, bit for bit, on every device and whatever the codes. Where the rows are at the time, see ``gpu/residence``.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from chroma_gpu.errors import InvalidArgumentError
from chroma_gpu.index import IndexSpec, Traits, checkpoint, exact, scoring
from chroma_gpu.index.cost import SHIPPED, Costs
from chroma_gpu.index.gpu.bounds import ordinary
from chroma_gpu.index.gpu.codes import LADDERS
from chroma_gpu.index.gpu.residence import Residence
from chroma_gpu.index.growing import Growing
from chroma_gpu.records import DeviceBlock, Hits, Vectors, VectorSource
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
        hits = None
        if self._residence is not None and not self._residence.over:
            norms = scoring.norms(queries)
            if ordinary(norms).all():
                hits = self._residence.search(queries, norms, n, k, mask, passing)
        if hits is None:
            hits = exact.search_block(queries, self._source, 0, n, mask, k, self.spec.metric, self._norms.view(n))
        return hits

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
