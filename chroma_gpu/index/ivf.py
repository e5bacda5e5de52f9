"""Search through inverted lists (FAISS IVF), on the CPU or a CUDA device, reranked exactly, with a guard.

How many lists are read is not a setting but found out: after training, and whenever the rows have doubled, stored rows whose
neighbours are known are asked for until the recall that is wanted is reached, for 10 neighbours and for 100; in between, and beyond, the
number is a power of k. A mask that passes one row in ten is as if ten times as many neighbours were asked for. It is handed to FAISS
only where a self-test has shown that it is honoured; elsewhere more rows are asked for and looked at. What is found is scored
exactly, and every answer is checked against a sample (``guard``); where that is cheaper, or FAISS cannot return so many rows, everything is
scanned exactly by the CPU.
"""

from __future__ import annotations

import threading
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from chroma_gpu.errors import DeviceError, InvalidArgumentError
from chroma_gpu.index import IndexSpec, Traits, capabilities, checkpoint, exact, lists, scoring
from chroma_gpu.index.cost import SHIPPED, Costs
from chroma_gpu.index.effort import Effort, Reached, Trial, doubling
from chroma_gpu.index.faiss_library import in_own_thread, load_faiss
from chroma_gpu.index.gpu.ledger import LEDGER, NoRoom
from chroma_gpu.index.growing import Growing
from chroma_gpu.index.guard import EXTREME, Guard
from chroma_gpu.index.lists import PQ, Lists
from chroma_gpu.records import Hits, Metric, Vectors, VectorSource
from chroma_gpu.rowset import RowSet

_DEFAULTS: Final = {"device": "cpu", "recall": 0.99, "limit": "80%"}

_FIRST: Final = 4096
"""Rows from which there are lists; below, the exact scan is as fast."""

_REFRESH: Final = 4
"""Growth after which lists are made anew."""

_SLICE: Final = 1024
"""Rows added at once."""

_DEEP: Final = (4, 16, 64, 128)
"""Rows that are reranked for each neighbour that is asked for where codes are read, fewest first."""


class IvfIndex:
    """Inverted lists of vectors (kind "ivf") or of codes of a byte for 8 coordinates (kind "ivf_pq"); needs FAISS.

    params   device: "cpu" or a CUDA device that FAISS can use. recall: what reading lists must reach. limit: as ``Settings.vram_limit``
    Memory   on the device ``lists.row_bytes`` a row, 4 dim + 8 or 56 for 384 dimensions, and the centres; 4 bytes a row on the host
    Cost     training: ``lists.train``, once, and again when the table has grown fourfold. All of 50,000 rows of 384 took 3 s, codes
             14 s, on two busy cores
    """

    def __init__(self, spec: IndexSpec, source: VectorSource) -> None:
        load_faiss()
        params: dict[str, Any] = {**_DEFAULTS, **spec.params}
        unknown = params.keys() - _DEFAULTS.keys()
        if unknown:
            raise InvalidArgumentError(
                f"the index kind {spec.kind} has no parameter {unknown.pop()}; it has {', '.join(_DEFAULTS)}."
            )
        recall = params["recall"]
        if not isinstance(recall, int | float) or not 0 < recall <= 1:
            raise InvalidArgumentError(f"the parameter recall must be above 0 and at most 1, got {recall!r}.")
        self.spec = spec
        self.device = str(params["device"])
        capabilities.require(spec.kind, self.device)
        self._recall, self._limit = float(recall), str(params["limit"])
        self._source = source
        self._adding = threading.Lock()
        self._norms = Growing()
        self._extreme = np.empty(0, np.uint32)
        self._guard = Guard(source, spec.metric)
        self._count = 0
        self._lists: Lists | None = None
        self._effort: Effort | None = None
        self._trained = 0

    @property
    def traits(self) -> Traits:
        """As of now."""
        held, effort = self._lists, self._effort
        if held is None or effort is None:
            return Traits(exact=False, concurrent_add=True, device=self.device)
        return Traits(
            exact=False,
            concurrent_add=True,
            device=self.device,
            codes=f"bytes[{lists.groups_of(self.spec.dim)}]" if self.spec.kind == PQ else "float32",
            filters_inside=held.filters_inside,
            largest_k=held.largest_k,
            reads=effort.level / held.lists,
            recall=effort.recall,
        )

    def __len__(self) -> int:
        return self._count

    def add(self, stop: int) -> None:
        """Take in rows [len(self), stop) from the source. Searches go on meanwhile and see them slice by slice.  Raises DeviceError"""
        with self._adding:
            in_own_thread(lambda: self._grow(stop))

    def search(self, queries: Vectors, k: int, mask: RowSet | None = None, costs: Costs = SHIPPED) -> Hits:
        """As ``Index.search``.

        Returns  Hits whose guard is None where the exact scan was the cheaper way from the start, or the only one, else the worst of
                 the batch: "passed" or "exact" (failed, so that everything was scanned)
        """
        queries = exact.checked(queries, self.spec.dim)
        n = self._count  # before the lists: those that replace them hold as many rows
        held, effort = self._lists, self._effort
        mask, passing = exact.narrowed(mask, n)
        if not (len(queries) and k and passing):
            return Hits.empty(len(queries), k)
        norms = self._norms.view(n)
        if held is not None and effort is not None and passing > k:
            probes = min(held.lists, effort.needed(k * n / passing))
            fetch = effort.deep * k + k // 8 + 8
            asked = costs.lists(n, self.spec.dim, self._code, held.lists, probes, fetch, self.device)
            if len(queries) * asked < costs.exact_block(n, passing, self.spec.dim, len(queries)):
                lengths = scoring.norms(queries)
                LEDGER.searched(self)
                found = held.search(self._asked(queries, lengths), fetch, probes, mask, passing)
                if found is not None:
                    visited = n * probes / held.lists
                    return self._guard.settled(queries, lengths, found, self._extreme, k, mask, norms, visited)
        return exact.search_block(queries, self._source, 0, n, mask, k, self.spec.metric, norms)

    def lengths(self, stop: int) -> npt.NDArray[np.float32] | None:
        """As ``Index.lengths``."""
        return self._norms.view(stop) if stop <= self._count else None

    def close(self) -> None:
        """Give the memory of a device back; the exact scan answers from now on. Idempotent."""
        self.release()

    def release(self) -> None:
        """As ``gpu.ledger.Holder``: others need the memory. The next rows that are added bring the lists back."""
        if self.device != "cpu":
            self._lists = self._effort = None
            LEDGER.give_back(self)

    def save(self, path: Path) -> None:
        """As ``Index.save``. Vectors are not written again: what is kept of them is the list that each lies in."""
        with self._adding:
            held, effort = self._lists, self._effort
            arrays: dict[str, npt.NDArray[Any]] = {"norms": self._norms.view()}
            if held is None or effort is None:
                checkpoint.write(path, self.spec, checkpoint.Checkpoint(self._count, {"trained": 0}, arrays))
                return
            extra = {"trained": self._trained, "effort": asdict(effort)}
            if self.spec.kind == PQ:
                checkpoint.write(path, self.spec, checkpoint.Checkpoint(self._count, extra, arrays, held.on_host()))
            else:
                arrays |= {"numbers": held.numbers(), "centres": held.centres()}
                checkpoint.write(path, self.spec, checkpoint.Checkpoint(self._count, extra, arrays))

    @classmethod
    def load(cls, path: Path, spec: IndexSpec, source: VectorSource) -> IvfIndex:
        """As ``Index.load``; of the kind ivf it reads the vectors once."""
        index = cls(spec, source)
        held = checkpoint.read(path, spec, source)
        index._norms, index._count = Growing(held.column("norms")), held.count
        index._extreme = np.flatnonzero(~(index._norms.view() < EXTREME)).astype(np.uint32)
        index._guard.follow(index._norms.view(), anew=True)
        index._trained = int(held.extra["trained"])
        if index._trained:
            made = index._codes_of(held) if spec.kind == PQ else index._vectors_of(held)
            index._lists = in_own_thread(lambda: index._placed_lists(made))
            effort = held.extra.get("effort")
            held.require(isinstance(effort, dict) and effort.keys() == Effort.__dataclass_fields__.keys(), "what recall needs")
            index._effort = Effort(**held.extra["effort"])
            if index._effort.wanted != index._recall:
                in_own_thread(index._try)
        return index

    def _codes_of(self, held: checkpoint.Checkpoint) -> Any:
        held.require(isinstance(held.faiss, load_faiss().IndexIVFPQ), "lists of codes")
        held.require(held.faiss.d == lists.width_of(PQ, self.spec.dim) and held.faiss.ntotal == held.count, "all codes")
        held.faiss.use_precomputed_table = -1
        return held.faiss

    def _vectors_of(self, held: checkpoint.Checkpoint) -> Any:
        numbers, centres = held.arrays.get("numbers"), held.arrays.get("centres")
        fits = numbers is not None and numbers.dtype == np.int32 and numbers.shape == (held.count,)
        held.require(fits and centres is not None and centres.dtype == np.float32, "the list of every row")
        return lists.restored(
            self.spec.metric, self.spec.dim, held.arrays["centres"], held.arrays["numbers"], lambda *of: self._prepared(*of)[0]
        )

    @property
    def _code(self) -> int | None:
        """Bytes of a code; None where vectors are read."""
        return lists.groups_of(self.spec.dim) if self.spec.kind == PQ else None

    def _asked(self, queries: Vectors, lengths: npt.NDArray[np.float32]) -> Vectors:
        return scoring.normalised(queries, lengths) if self.spec.metric is Metric.COSINE else queries

    def _prepared(self, first: int, stop: int) -> tuple[Vectors, npt.NDArray[np.float32]]:
        """(vectors as FAISS gets them, their norms) of some rows; extreme ones are zero there."""
        vectors = self._source.block(first, stop)
        norms = scoring.norms(vectors)
        extreme = np.flatnonzero(~(norms < EXTREME))
        if self.spec.metric is Metric.COSINE:
            vectors = scoring.normalised(vectors, norms)
        elif len(extreme):
            vectors = vectors.copy()
            vectors[extreme] = 0
        return vectors, norms

    def _grow(self, stop: int) -> None:
        if stop >= _FIRST and (self._lists is None or stop >= _REFRESH * self._trained):
            self._train(max(stop, len(self._source)))
        while self._count < stop:
            last = min(self._count + _SLICE, stop)
            vectors, norms = self._prepared(self._count, last)
            self._norms.append(norms)
            extreme = np.flatnonzero(~(norms < EXTREME))
            self._extreme = np.concatenate([self._extreme, (extreme + self._count).astype(np.uint32)])
            held = self._lists
            if held is not None:
                self._reserve(len(vectors))
                held.add(vectors)
            self._count = last
            self._guard.follow(self._norms.view())
        if self._lists is not None and (self._effort is None or self._count >= 2 * self._effort.rows):
            self._try()

    def _train(self, rows: int) -> None:
        """New lists, for so many rows, with the rows that are in already."""
        number = lists.lists_for(rows)
        wanted = max(number * lists.SAMPLED, 32 * 256 if self.spec.kind == PQ else 0)
        drawn = np.unique(np.random.default_rng(rows).integers(0, rows, min(rows, wanted))).astype(np.uint32)
        sample = self._source.gather(drawn)
        norms = scoring.norms(sample)
        sample = self._asked(sample, norms)[norms < EXTREME]
        number = max(1, min(number, len(sample) // 2))
        if len(sample) < 256:  # too few to train on: everything is scanned
            return
        held = self._placed_lists(lists.train(self.spec.kind, self.spec.metric, sample, number, self.device))
        for first in range(0, self._count, _SLICE):
            last = min(first + _SLICE, self._count)
            self._reserve(last - first)
            held.add(self._prepared(first, last)[0])
        self._lists, self._trained = held, rows
        self._effort = None

    def _placed_lists(self, index: Any) -> Lists:
        tested = capabilities.tested(self.spec.kind, self.device)
        if self.device != "cpu":
            LEDGER.give_back(self)
            self._reserve(index.ntotal)
        return Lists(index, self.spec.kind, self.device, filters_inside=tested.filters_inside, largest_k=tested.largest_k)

    def _reserve(self, rows: int) -> None:
        if self.device == "cpu":
            return
        budget = LEDGER.budget(self.device, self._limit)
        try:
            LEDGER.reserve(self, self.device, rows * lists.row_bytes(self.spec.kind, self.spec.dim), budget)
        except NoRoom as error:
            self.release()
            raise DeviceError(
                f"the index {self.spec.kind} does not fit on {self.device}: {error}",
                hint="Raise Settings.vram_limit, or use index='ivf_pq', or 'flat'.",
            ) from error

    def _try(self) -> None:
        """Find out how much work the recall takes that is wanted."""
        held, n = self._lists, self._count
        if held is None or not n:
            return
        norms = self._norms.view(n)
        ten, hundred = (Trial(self._source, self.spec.metric, norms, k, self._extreme) for k in (10, 100))

        def found(trial: Trial, deep: int, probes: int) -> npt.NDArray[np.int64]:
            rows = held.search(self._asked(trial.queries, trial.lengths), deep * trial.k + 16, probes)
            return np.empty((len(trial.queries), 0), np.int64) if rows is None else rows

        best, depth = Reached(1, -1.0), 1
        for deep in _DEEP if self.spec.kind == PQ else (1,):
            reached = ten.least(doubling(held.lists), partial(found, ten, deep), self._recall)
            done = best.recall >= self._recall
            if done and 3 * reached.level > 2 * best.level:  # reranking more would hardly save lists
                break
            if done or reached.recall > best.recall:
                best, depth = reached, deep
        levels = (level for level in doubling(held.lists) if level >= best.level)
        more = hundred.least(levels, partial(found, hundred, depth), self._recall)
        self._effort = Effort.between(n, self._recall, best, more, depth)
