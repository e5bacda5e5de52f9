"""The rows of a table over one or several devices, chunks dealt in turn, and what may be nearest among them."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from chroma_gpu.index import answers, scoring
from chroma_gpu.index.gpu import batches, bounds
from chroma_gpu.index.gpu.bounds import Aside
from chroma_gpu.index.gpu.codes import Codes, Layout
from chroma_gpu.index.gpu.ledger import Ledger
from chroma_gpu.index.gpu.masks import MASKS
from chroma_gpu.index.gpu.offered import NOTHING, Offered
from chroma_gpu.index.gpu.rows import DeviceRows, Part, Released
from chroma_gpu.index.gpu.staging import on
from chroma_gpu.index.growing import Growing
from chroma_gpu.records import Hits, Metric, Rows, Vectors, VectorSource
from chroma_gpu.rowset import RowSet

if TYPE_CHECKING:
    from torch import Tensor

    from chroma_gpu.kernels.scan import Survivors

NARROWED: Final = 512
"""Survivors beyond the k of each query from which on the device narrows them by their vectors before the host scores the rest."""

KEPT: Final = 4
"""How many times k survivors of a query are left to the host anyway."""


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """Rows [0, rows) of a table as devices held them at one moment.

    longest  no row is longer, those set aside apart
    """

    rows: int
    parts: tuple[Part, ...]
    longest: float


_NOTHING: Final = Snapshot(0, (), 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """(query, row) pairs, each once, among which are the k nearest rows of each query.

    scores  [m] float32 by the codes, -inf for rows that were set aside; empty where true distances follow
    """

    owners: npt.NDArray[np.intp]
    rows: Rows
    scores: npt.NDArray[np.float32]


def settled(
    found: Found,
    queries: Vectors,
    norms: npt.NDArray[np.float32],
    k: int,
    metric: Metric,
    source: VectorSource,
    *,
    certified: bool,
) -> Hits:
    """The k nearest of what was found.

    certified  distances are the true ones, and the answer is exact; else they are those of the codes, but for rows set aside
    """
    if certified:
        return answers.settle(queries, source, found.owners, found.rows, k, metric)
    wide = norms.astype(np.float64)[found.owners]
    scores = found.scores.astype(np.float64)
    if metric is Metric.L2:
        distances = np.maximum(wide * wide - 2 * scores, 0)
    else:
        distances = 1 - (np.clip(scores, -1, 1) if metric is Metric.COSINE else scores * wide)
    aside = np.flatnonzero(np.isneginf(found.scores))
    if len(aside):
        distances[aside] = scoring.distances(queries[found.owners[aside]], source.gather(found.rows[aside]), metric)
    return answers.ranked(found.owners, found.rows, distances.astype(np.float32), len(queries), k, exact=False)


class Shards:
    """The rows of one table: chunk c is on device c modulo their number. One thread adds, any search."""

    def __init__(
        self, devices: Sequence[str], dim: int, metric: Metric, layout: Layout, norms: Growing, ledger: Ledger,
        budgets: Sequence[int], *, certified: bool = True,
    ) -> None:  # fmt: skip
        self.layout, self.certified = layout, certified
        self.aside = Aside(metric, norms)
        self.snapshot = _NOTHING
        itself = weakref.WeakMethod(self.release)  # no cycle: memory goes with the last who has this

        def freed() -> None:
            if (release := itself()) is not None:
                release()

        self.holders = tuple(
            DeviceRows(device, dim, metric, layout, ledger, budget, number, len(devices), freed)
            for number, (device, budget) in enumerate(zip(devices, budgets, strict=True))
        )
        self._metric = metric
        self._pool = ThreadPoolExecutor(len(devices), "chroma-gpu-shard") if len(devices) > 1 else None

    @property
    def released(self) -> bool:
        """Whether a device has let go of its rows: then nothing is to be found any more."""
        return any(holder.released for holder in self.holders)

    def add(
        self, source: VectorSource, stop: int, expected: int, searched_before: int | None = None, offered: Offered = NOTHING
    ) -> None:
        """Append rows up to ``stop``, whose norms are there; each chunk can be found when it is uploaded.

        offered  what devices may have of these vectors already
        Raises  as ``DeviceRows.add``; what is here has to be released then
        """
        from chroma_gpu.kernels.buffer import CHUNK

        first = self.snapshot.rows
        while first < stop:
            last = min(stop, (first // CHUNK + 1) * CHUNK)
            aside, late = self.aside.take(last)
            for holder in self.holders:
                holder.set_aside(late)
                if holder.mine(first // CHUNK):
                    holder.add(first, source.block(first, last), aside, expected, searched_before, offered)
            parts = [holder.part(certified=self.certified) for holder in self.holders]
            self.snapshot = Snapshot(last, tuple(part for part in parts if part is not None), self.aside.longest)
            if self.released:
                self.snapshot = _NOTHING
                raise Released
            first = last

    def search(
        self, snapshot: Snapshot, queries: Vectors, norms: npt.NDArray[np.float32], k: int, mask: RowSet | None, *, listed: bool,
        passing: int | None = None,
    ) -> Found:  # fmt: skip
        """What may be among the k nearest rows of each query in a snapshot.

        norms    [q] of the queries, all ordinary
        listed   rows that pass the mask are read one by one, else all rows in their order
        passing  how many rows of the snapshot pass, if that is known and there is one device
        """
        halved = self.layout.codes is not Codes.FLOAT32 and len(queries) >= bounds.HALVED

        def of(part: Part) -> Found:
            return self._of_part(part, snapshot, queries, norms, k, mask, listed=listed, passing=passing, halved=halved)

        several = self._pool is not None and len(snapshot.parts) > 1
        parts = list(self._pool.map(of, snapshot.parts) if several and self._pool else map(of, snapshot.parts))
        return self._with_aside(parts, snapshot.rows, len(queries), mask)

    def release(self) -> None:
        """Let go of all devices. Idempotent; searches that are under way keep what they need until they are done."""
        for holder in self.holders:
            holder.let_go()
        self.snapshot = _NOTHING

    def _of_part(
        self, part: Part, snapshot: Snapshot, queries: Vectors, norms: npt.NDArray[np.float32], k: int, mask: RowSet | None,
        *, listed: bool, passing: int | None, halved: bool,
    ) -> Found:  # fmt: skip
        import torch

        from chroma_gpu.kernels.gather import gather
        from chroma_gpu.kernels.scan import scan

        buffer = part.codes
        with on(buffer.device):
            part.wait()
            found = self._by_faiss(part, snapshot, queries, norms, k) if mask is None else None
            if found is None:
                units, lengths, slack = self._asked(part, snapshot, queries, norms, self.layout.codes, halved=halved)
                if mask is None:
                    found = scan(units, buffer, k, slack, lengths=lengths)
                elif listed:
                    found = gather(units, buffer, self._listed(part, snapshot, mask), k, slack, lengths=lengths)
                else:
                    found = scan(units, buffer, k, slack, self._words(part, snapshot, mask), lengths=lengths, passing=passing)
            if part.vectors is not None and len(found.rows) > NARROWED + KEPT * k * len(queries) and self.certified:
                found = self._narrowed(part, snapshot, queries, norms, k, found)
            both = torch.stack([found.owners, found.rows]).cpu().numpy()
            scores = np.empty(0, np.float32) if self.certified else found.scores.cpu().numpy()
            return Found(both[0], both[1].astype(np.uint32), scores)

    def _by_faiss(
        self, part: Part, snapshot: Snapshot, queries: Vectors, norms: npt.NDArray[np.float32], k: int
    ) -> Survivors | None:
        """The survivors among the float32 rows of a part by FAISS, where that was measured to be faster on this card; else None."""
        rows = part.codes if self.layout.codes is Codes.FLOAT32 else part.vectors
        if rows is None or not self.certified or not batches.pays(rows, str(self.layout), self._metric, len(queries), k):
            return None
        units, lengths, slack = self._asked(part, snapshot, queries, norms, Codes.FLOAT32, halved=False)
        return batches.found(units, rows, k, slack, self._metric, lengths=lengths)

    def _asked(
        self, part: Part, snapshot: Snapshot, queries: Vectors, norms: npt.NDArray[np.float32], codes: Codes, *, halved: bool
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """(directions, lengths, slack) on the device."""
        import torch

        device = part.codes.device
        asked = bounds.asked(queries, norms, self._metric, codes, snapshot.longest, device, halved=halved)
        lengths = None if asked.lengths is None else torch.from_numpy(asked.lengths).to(device)
        slack = asked.slack if self.certified else np.zeros_like(asked.slack)
        return torch.from_numpy(asked.units).to(device), lengths, torch.from_numpy(slack).to(device)

    def _words(self, part: Part, snapshot: Snapshot, mask: RowSet) -> Tensor:
        """[n] int32: the words of a mask. Rows that came after it do not pass."""
        words = MASKS.words(mask, part.name)
        if mask.size >= snapshot.rows:
            return words
        words = words[: -(-mask.size // 32)].clone()
        if mask.size % 32:
            words[-1] &= (1 << mask.size % 32) - 1
        return words

    def _listed(self, part: Part, snapshot: Snapshot, mask: RowSet) -> Tensor:
        """[n] int64: the rows of a part that pass."""
        import torch

        from chroma_gpu.kernels.buffer import CHUNK

        numbers = {chunk.start // CHUNK for chunk in part.codes.chunks}
        of = len(self.holders)
        rows = MASKS.rows(mask, part.name, CHUNK, min(numbers) % of, of)
        return rows if mask.size <= snapshot.rows else rows[: int(torch.searchsorted(rows, snapshot.rows))]

    def _narrowed(
        self, part: Part, snapshot: Snapshot, queries: Vectors, norms: npt.NDArray[np.float32], k: int, found: Survivors
    ) -> Survivors:
        """What is left of survivors when their vectors are looked at."""
        import torch

        from chroma_gpu.kernels.gather import gather

        if part.vectors is None:
            return found
        units, lengths, slack = self._asked(part, snapshot, queries, norms, Codes.FLOAT32, halved=False)
        sizes = torch.bincount(found.owners, minlength=len(queries)).cumsum(0)
        return gather(units, part.vectors, found.rows, k, slack, [0, *sizes.tolist()], lengths=lengths)

    def _with_aside(self, parts: Sequence[Found], rows: int, n_queries: int, mask: RowSet | None) -> Found:
        """All parts together with the rows that no scan is to find, each once."""
        owners, found, scores = (
            np.concatenate([np.empty(0, kind), *(getattr(part, name) for part in parts)])
            for name, kind in (("owners", np.intp), ("rows", np.uint32), ("scores", np.float32))
        )
        # Read after the scan: a row that an add set aside meanwhile may be missing from what was found.
        aside = self.aside.among(rows, mask)
        if not len(aside):
            return Found(owners, found, scores)
        other = np.isin(found, aside, invert=True)
        more = n_queries * len(aside)
        return Found(
            np.concatenate([owners[other], np.repeat(np.arange(n_queries), len(aside))]),
            np.concatenate([found[other], np.tile(aside, n_queries)]),
            scores if self.certified else np.concatenate([scores[other], np.full(more, -np.inf, np.float32)]),
        )
