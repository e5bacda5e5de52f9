"""Exact search over all rows, on any device; serves where FAISS is not installed.

On the CPU it reads the vectors where they lie, with numpy. On another device it keeps a float32 copy of them and scans it with our
kernels, which return every row that may be among the k nearest; those few are scored on the host by ``scoring.distances``, so that
the answer is the same, bit for bit, on every device.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from chroma_gpu.errors import DeviceError, InvalidArgumentError
from chroma_gpu.index import IndexSpec, Traits, answers, checkpoint, exact, scoring
from chroma_gpu.index.cost import SHIPPED, Costs
from chroma_gpu.index.growing import Growing
from chroma_gpu.index.outliers import Outliers
from chroma_gpu.records import Hits, Metric, Rows, Vectors, VectorSource
from chroma_gpu.rowset import RowSet

if TYPE_CHECKING:
    from chroma_gpu.kernels.buffer import Chunk

_SLICE: Final = 8192
"""Rows taken in at once."""

_FIRST_CHUNK: Final = 1 << 14
"""Rows of a device's first chunk."""

_LISTED: Final = 0.03
"""Share of rows that pass the mask, below which they are listed instead of masked."""

_EXTREME: Final = 2.0**60
"""Norm above which, for cosine also below whose inverse, rows and queries are scored on the host: float32 could overflow."""


class FlatIndex:
    """Exact search by brute force (kind "flat").

    params   device: where rows are scored, "cpu" by default. resident: whether a copy of the rows is kept on the device, by default
             everywhere but on the CPU
    Memory   4 bytes a row on the host; on a device 4 dim + 8 bytes a row and up to half of that again, free for rows to come
    Cost     add: one copy of the new rows, none of the old ones
    """

    def __init__(self, spec: IndexSpec, source: VectorSource) -> None:
        unknown = spec.params.keys() - {"device", "resident"}
        if unknown:
            raise InvalidArgumentError(
                f"the index kind flat has no parameter {', '.join(sorted(unknown))}; it has device, resident."
            )
        device = str(spec.params.get("device", "cpu"))
        self.spec = spec
        self.traits = Traits(exact=True, concurrent_add=True, device=device)
        self._source = source
        self._adding = threading.Lock()
        self._norms = Growing()
        self._count = 0
        self._buffer = (
            _Buffer(spec.dim, spec.metric, device, self._norms) if spec.params.get("resident", device != "cpu") else None
        )

    def __len__(self) -> int:
        return self._count

    def add(self, stop: int) -> None:
        """Take in rows [len(self), stop) from the source. Searches go on meanwhile."""
        with self._adding:
            for first in range(self._count, stop, _SLICE):
                last = min(first + _SLICE, stop)
                vectors = self._source.block(first, last)
                self._norms.append(scoring.norms(vectors))
                if self._buffer is not None:
                    self._buffer.add(vectors)
                self._count = last

    def search(self, queries: Vectors, k: int, mask: RowSet | None = None, costs: Costs = SHIPPED) -> Hits:
        """As ``Index.search``; always exact, and always in the same way."""
        queries = exact.checked(queries, self.spec.dim)
        n = self._count
        mask, passing = exact.narrowed(mask, n)
        if not (len(queries) and k and passing):
            return Hits.empty(len(queries), k)
        lengths = scoring.norms(queries)
        ordinary = ((lengths < _EXTREME) & (lengths > 1 / _EXTREME)) | (lengths == 0)
        if self._buffer is None or not ordinary.all():
            return exact.search_block(queries, self._source, 0, n, mask, k, self.spec.metric, self._norms.view(n))
        owners, rows = self._buffer.candidates(queries, lengths, n, min(k, passing), mask, passing)
        return answers.settle(queries, self._source, owners, rows, k, self.spec.metric)

    def lengths(self, stop: int) -> npt.NDArray[np.float32] | None:
        """As ``Index.lengths``."""
        return self._norms.view(stop) if stop <= self._count else None

    def save(self, path: Path) -> None:
        """As ``Index.save``. There is nothing to keep but the norms: the rows are in the source."""
        with self._adding:
            checkpoint.write(path, self.spec, checkpoint.Checkpoint(self._count, {}, {"norms": self._norms.view()}))

    @classmethod
    def load(cls, path: Path, spec: IndexSpec, source: VectorSource) -> FlatIndex:
        """As ``Index.load``; reads every row once if a device keeps a copy."""
        index = cls(spec, source)
        held = checkpoint.read(path, spec, source)
        if index._buffer is None:
            index._norms = Growing(held.column("norms"))
            index._count = held.count
        else:
            index.add(held.count)
        return index


class _Buffer:
    """A copy of the rows on a torch device, growing without copying what is there.

    Each new chunk is half as large as what there is, so that at most a third of the memory is free and a search has few chunks.
    Rows that float32 could overflow on, or so long that their error bound would serve no other row, are set aside: the kernels see
    them at score -inf, and every search hands them to the host.
    """

    def __init__(self, dim: int, metric: Metric, device: str, norms: Growing) -> None:
        import torch

        try:
            self.device = torch.device(device)
            torch.empty(1, device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise DeviceError(f"the device {device!r} cannot be used: {error}", hint='Use "cpu".') from error
        self.dim, self.metric, self._norms = dim, metric, norms
        self._chunks: list[Chunk] = []
        self._count = 0
        self._outliers = Outliers(norms)
        self._longest = 0.0
        self._aside = np.empty(0, np.uint32)

    def add(self, vectors: Vectors) -> None:
        """Append rows whose norms are there already."""
        import torch

        norms = self._norms.view(self._count + len(vectors))[self._count :]
        aside = self._set_aside(norms)
        vectors, gain, bias = vectors.copy(), np.ones_like(norms), np.zeros_like(norms)
        vectors[aside] = 0
        if self.metric is Metric.COSINE:
            gain = np.divide(1, norms, out=np.zeros_like(norms), where=~aside & (norms > 0))
        elif self.metric is Metric.L2:
            bias = np.where(aside, 0, norms * np.where(aside, 0, norms) / 2).astype(np.float32)
        bias[aside] = np.inf
        done = 0
        while done < len(vectors):
            chunk = self._room(len(vectors) - done)
            first = self._count - chunk.start
            size = min(len(vectors) - done, len(chunk.vectors) - first)
            for target, given in ((chunk.vectors, vectors), (chunk.gain, gain), (chunk.bias, bias)):
                if target is not None:
                    target[first : first + size] = torch.from_numpy(given[done : done + size]).to(self.device)
            done += size
            self._count += size

    def candidates(
        self, queries: Vectors, lengths: npt.NDArray[np.float32], n: int, k: int, mask: RowSet | None, passing: int
    ) -> tuple[npt.NDArray[np.intp], Rows]:
        """(query, row) pairs among which are the k nearest of each query, each pair once.  n: rows that may be found."""
        import torch

        from chroma_gpu.kernels.gather import gather
        from chroma_gpu.kernels.scan import scan

        moved = torch.from_numpy(queries.copy()).to(self.device)
        slack = torch.from_numpy(self._slack(lengths)).to(self.device)
        from chroma_gpu.kernels.buffer import Buffer

        chunks = Buffer.of(self._up_to(n))
        if mask is None:
            found = scan(moved, chunks, k, slack)
        elif passing < _LISTED * n:
            listed = torch.from_numpy(mask.rows().astype(np.int64)).to(self.device)
            found = gather(moved, chunks, listed, k, slack)
        else:
            words = torch.from_numpy(mask.words.view(np.int32).copy()).to(self.device)
            found = scan(moved, chunks, k, slack, words)
        owners, rows = found.owners.cpu().numpy(), found.rows.cpu().numpy().astype(np.uint32)
        # Read after the scan: a row that an add set aside meanwhile may be missing from what was found.
        aside = self._aside[self._aside < n]
        if mask is not None:
            aside = aside[mask.flags()[aside]]
        if not len(aside):
            return owners, rows
        other = np.isin(rows, aside, invert=True)
        repeated = np.repeat(np.arange(len(queries)), len(aside))
        return np.concatenate([owners[other], repeated]), np.concatenate([rows[other], np.tile(aside, len(queries))])

    def _set_aside(self, norms: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        """[n] bool: which of the rows about to be added are set aside. Earlier rows may join them; none comes back."""
        import torch

        first, stop = self._count, self._count + len(norms)
        aside = ~(norms < _EXTREME)
        if self.metric is Metric.COSINE:
            aside |= (norms < 1 / _EXTREME) & (norms > 0)
            self._aside = np.concatenate([self._aside, (np.flatnonzero(aside) + first).astype(np.uint32)])
            return aside
        self._outliers.take(stop)
        bound = self._outliers.bound
        aside[bound.rows[bound.rows >= first] - first] = True
        late = np.setdiff1d(bound.rows[bound.rows < first], self._aside)
        self._aside = np.concatenate([self._aside, late, (np.flatnonzero(aside) + first).astype(np.uint32)])
        for chunk in self._chunks:
            inside = late[(late >= chunk.start) & (late < chunk.start + len(chunk.vectors))]
            if chunk.bias is not None and len(inside):
                chunk.bias[torch.from_numpy((inside - chunk.start).astype(np.int64)).to(self.device)] = torch.inf
        self._longest = min(bound.largest, _EXTREME)
        return aside

    def _room(self, rows: int) -> Chunk:
        """The last chunk, or a new one if that is full."""
        import torch

        from chroma_gpu.kernels.buffer import Chunk

        start = 0
        if self._chunks:
            last = self._chunks[-1]
            start = last.start + len(last.vectors)
            if self._count < start:
                return last
        size = -(-max(_FIRST_CHUNK, rows, start // 2) // 32) * 32
        try:
            chunk = Chunk(
                start,
                torch.zeros(size, self.dim, device=self.device),
                torch.zeros(size, device=self.device) if self.metric is Metric.COSINE else None,
                torch.zeros(size, device=self.device),
            )
        except torch.OutOfMemoryError as error:
            raise DeviceError(f"{size} more rows do not fit on {self.device}.", hint='Use index="codes" or "hnsw".') from error
        self._chunks.append(chunk)
        return chunk

    def _up_to(self, n: int) -> list[Chunk]:
        """The filled part of the chunks that hold rows [0, n)."""
        from chroma_gpu.kernels.buffer import Chunk

        parts = []
        for chunk in self._chunks:
            size = min(n - chunk.start, len(chunk.vectors))
            if size > 0:
                gain, bias = (None if column is None else column[:size] for column in (chunk.gain, chunk.bias))
                parts.append(Chunk(chunk.start, chunk.vectors[:size], gain, bias))
        return parts

    def _slack(self, lengths: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """[q]: twice the error of a score, with the rounding of the final distance; the bounds of ``exact``, without its scaling."""
        from chroma_gpu.kernels.scan import product_error

        error = 2 * product_error(self.dim, self.device)
        wide = lengths.astype(np.float64)
        if self.metric is Metric.COSINE:
            margins = 2 * error * wide
        elif self.metric is Metric.IP:
            margins = error * wide * self._longest + 2.0**-22
        else:
            margins = error * (wide + self._longest) ** 2
        underflow = self.dim * (2.0**-64 if self.metric is Metric.COSINE else 2.0**-120)
        with np.errstate(over="ignore"):
            slack: npt.NDArray[np.float32] = (2.002 * margins + underflow).astype(np.float32)
        return slack
