"""Whether and how the rows of a table are on devices: which codes, when they go and come back, and what happens when memory runs out.

The host can always answer: it has the vectors. So whatever a device cannot do costs time, never an answer.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from chroma_gpu import device as devices
from chroma_gpu.errors import DeviceError
from chroma_gpu.index import answers, exact
from chroma_gpu.index.gpu.codes import LADDERS, Layout, chosen, search_of
from chroma_gpu.index.gpu.ledger import LEDGER, Ledger, NoRoom
from chroma_gpu.index.gpu.masks import MASKS
from chroma_gpu.index.gpu.offered import Offered
from chroma_gpu.index.gpu.rows import Released
from chroma_gpu.index.gpu.shards import Shards, Snapshot, settled
from chroma_gpu.index.gpu_cost import Card, listed_pays
from chroma_gpu.index.growing import Growing
from chroma_gpu.records import DeviceBlock, Hits, Metric, Vectors, VectorSource
from chroma_gpu.rowset import RowSet


class Residence:
    """The rows of one table, wherever they are.  Safe for many threads.

    A table that has to make room for others is searched by the host, and comes back when it is searched again while they are not.

    names      of the devices, over which chunks are dealt
    codes      "auto", "float32", "float16", "int8": what is tried first, see ``codes.LADDERS``
    certified  answers equal brute force; otherwise distances are those of the codes
    limit      as ``Settings.vram_limit``, for each device
    rerank     whether the vectors are kept beside the codes; None where there is ample room
    Raises     DeviceError for a device that cannot be used
    """

    def __init__(
        self, names: Sequence[str], source: VectorSource, metric: Metric, norms: Growing, *, codes: str = "auto",
        certified: bool = True, limit: str = "80%", rerank: bool | None = None, ledger: Ledger = LEDGER,
    ) -> None:  # fmt: skip
        self.names, self.certified = tuple(map(_checked, names)), certified
        self._source, self._metric, self._norms = source, metric, norms
        self._ladder, self._rerank = LADDERS[codes], rerank
        self._limit, self._ledger = limit, ledger
        self._budgets = tuple(ledger.budget(name, limit) for name in self.names)
        self._offered = Offered(ledger, dict(zip(self.names, self._budgets, strict=True)))
        self._card = Card.of(devices.model(self.names[0]))
        self._filling = threading.Lock()
        self._shards: Shards | None = None
        self._evicted = self._closed = False
        self._asked = 0
        self._coming: threading.Thread | None = None
        self._failure: DeviceError | None = None

    @property
    def layout(self) -> Layout | None:
        """What is kept of the rows; None while no device has them."""
        shards = self._shards
        return None if shards is None or shards.released else shards.layout

    @property
    def over(self) -> bool:
        """Whether no device will have the rows any more."""
        return not self._ladder

    def offer(self, block: DeviceBlock) -> None:
        """Vectors of rows to come, ``block.first`` on, that a device has already: ``fill`` need not upload them, if they are still there."""
        if self._ladder and not self._closed:
            self._offered.put(block)

    def fill(self, stop: int, searched_before: int | None = None) -> None:
        """Bring rows up to ``stop`` to the devices, if that is possible. A table that had to go comes back with a search, not here.

        searched_before  only tables that were last searched before this moment have to make room
        Raises           DeviceError if a device failed
        """
        with self._filling:
            try:
                self._fill(stop, searched_before)
            finally:
                self._offered.passed(stop)

    def search(
        self, queries: Vectors, norms: npt.NDArray[np.float32], n: int, k: int, mask: RowSet | None, passing: int
    ) -> Hits | None:
        """The k nearest rows below n among those of a mask; None if the host had better answer.

        queries  [q, dim] float32; norms: [q], theirs, all of them ordinary
        mask     of n rows; passing: how many pass
        Raises   DeviceError if a device failed; later searches are answered by the host
        """
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        shards = self._shards
        before, self._asked = self._asked, self._ledger.searched(*(() if shards is None else shards.holders))
        if shards is None or shards.released:
            self._come_back(n, before)
            return None
        snapshot = shards.snapshot
        if 2 * snapshot.rows < n:  # they are on their way
            return None
        hits = self._found(shards, snapshot, queries, norms, n, k, mask, passing)
        if snapshot.rows < n:
            known = self._norms.view(n)
            rest = exact.search_block(queries, self._source, snapshot.rows, n, mask, k, self._metric, known)
            hits = answers.merge(hits, rest, k)
        return hits

    def wait(self) -> None:
        """Return when no rows are on their way back."""
        coming = self._coming
        if coming is not None and coming is not threading.current_thread():
            coming.join()

    def close(self) -> None:
        """Give the memory back at once; the host answers from now on. Idempotent."""
        self._closed, self._ladder = True, ()
        self._let_go()
        self._offered.clear()
        self.wait()
        with self._filling:
            self._let_go()

    def _fill(self, stop: int, searched_before: int | None) -> None:
        shards = self._shards
        if shards is not None and shards.released:
            self._let_go()
            self._evicted = True
        if self._evicted and searched_before is None:
            return
        while self._ladder and not self._closed:
            shards = self._shards  # which a search or ``close`` may take away meanwhile
            layout = shards.layout if shards else self._layout(searched_before)
            if layout is None:
                if searched_before is None and self._ladder:
                    self._give_up()
                return
            try:
                self._shards = shards = shards or self._new(layout)
                shards.add(self._source, stop, len(self._source), searched_before, self._offered)
                self._evicted = False
                return
            except Released:
                self._let_go()
                self._evicted = True
                return
            except NoRoom:
                self._let_go()
                if searched_before is not None:
                    return
                self._step_down(layout, warn=False)
            except Exception as error:
                self._leave() if devices.is_lost(error) else self._let_go()
                self._fail(error, layout)

    def _found(
        self, shards: Shards, snapshot: Snapshot, queries: Vectors, norms: npt.NDArray[np.float32], n: int, k: int, mask: RowSet | None,
        passing: int,
    ) -> Hits:  # fmt: skip
        """The answer among the rows of a snapshot, in as many parts as memory asks for."""
        asked = search_of(n, queries.shape[1], str(shards.layout), len(queries), passing)
        listed = mask is not None and listed_pays(self._card, asked)
        known = passing if snapshot.rows == n and len(self.names) == 1 else None
        short = False

        def run(few: npt.NDArray[np.intp]) -> Hits:
            found = shards.search(snapshot, queries[few], norms[few], min(k, passing), mask, listed=listed, passing=known)
            return settled(found, queries[few], norms[few], k, self._metric, self._source, certified=self.certified)

        def on_host(few: npt.NDArray[np.intp]) -> Hits:
            nonlocal short
            short = True
            return exact.search_block(
                queries[few], self._source, 0, snapshot.rows, mask, k, self._metric, self._norms.view(snapshot.rows)
            )

        try:
            parts = [hits for _, hits in devices.with_smaller_batches(run, np.arange(len(queries)), on_host)]
        except Exception as error:
            if devices.is_lost(error):
                self._leave()
                self._fail(error, shards.layout)
            raise
        if short:
            with self._filling:
                if self._shards is shards:
                    self._let_go()
                    self._step_down(shards.layout, warn=True)
            self._start(lambda: self.fill(n))
        return answers.stacked(parts, k)

    def _layout(self, searched_before: int | None) -> Layout | None:
        """What there is room for."""
        from chroma_gpu.kernels.buffer import CHUNK

        rows, many = len(self._source), len(self.names)
        each = min(rows, -(-rows // (CHUNK * many)) * CHUNK)
        pairs = list(zip(self.names, self._budgets, strict=True))
        free = min(self._ledger.free(name, budget, searched_before) for name, budget in pairs)
        budget = min(self._budgets) if searched_before is None else free
        return chosen(self._ladder, each, self._source.dim, self._metric, free, budget, self._rerank)

    def _new(self, layout: Layout) -> Shards:
        dim, metric = self._source.dim, self._metric
        return Shards(
            self.names, dim, metric, layout, self._norms, self._ledger, self._budgets, certified=self.certified
        )  # fmt: skip

    def _let_go(self) -> None:
        shards, self._shards = self._shards, None
        if shards is not None:
            shards.release()

    def _leave(self) -> None:
        """Go on without a device that failed. Its memory stays as it is: torch asks the device before it frees what uploads and searches
        had together, and where that fails the process ends."""
        shards, self._shards = self._shards, None
        if shards is not None:
            _LEFT.append(shards)
            for holder in shards.holders:
                self._ledger.give_back(holder)

    def _come_back(self, n: int, before: int) -> None:
        """Begin to upload again, if the tables that would have to go were not searched since this one was searched before."""
        if self._ladder and not self._closed and self._layout(before) is not None:
            self._start(lambda: self.fill(n, before))

    def _start(self, job: Callable[[], None]) -> None:
        """Run a job in a thread, unless one is running."""

        def run() -> None:
            try:
                job()
            except DeviceError as error:
                self._failure = error  # the next search tells

        if self._coming is None or not self._coming.is_alive():
            self._coming = threading.Thread(target=run, name="chroma-gpu-upload", daemon=True)
            self._coming.start()

    def _fail(self, error: Exception, layout: Layout) -> None:
        """Go on with less, or raise what cannot be gone on from."""
        if devices.is_out_of_memory(error):
            error.__traceback__ = None  # its frames hold tensors
            MASKS.clear()
            self._offered.clear()
            devices.free_cached_memory()
            self._step_down(layout, warn=True)
        elif devices.is_lost(error):
            self._ladder = ()
            raise DeviceError(
                f"the device {', '.join(self.names)} failed: {error}",
                hint="The data is on disk and safe, and searches go on on the CPU; start the process again to use the device.",
            ) from error
        else:
            raise error

    def _step_down(self, layout: Layout, *, warn: bool) -> None:
        """Try what takes less than a layout from now on."""
        rerank, self._rerank = layout.rerank, False
        if rerank:
            return
        if layout.codes not in self._ladder:  # closed, or failed, meanwhile
            return
        self._ladder = self._ladder[self._ladder.index(layout.codes) + 1 :]
        if not self._ladder:
            self._give_up()
        elif warn:
            self._warn(
                f"the memory of {', '.join(self.names)} ran out for {len(self._source):,} vectors as {layout.codes}: "
                f"they are kept as {self._ladder[0]}, and answers stay as they are"
            )

    def _give_up(self) -> None:
        self._ladder = ()
        self._warn(
            f"{len(self._source):,} vectors of {self._source.dim} dimensions do not fit on {', '.join(self.names)}: the CPU searches them"
        )

    def _warn(self, what: str) -> None:
        warnings.warn(
            f"{what}. Settings.vram_limit is {self._limit!r}; what else uses the device counts too.", RuntimeWarning, stacklevel=2
        )


_LEFT: Final[list[Shards]] = []
"""What lies on devices that failed."""


def _checked(name: str) -> str:
    """A device that can be used, by the one name that the books have for it."""
    import torch

    try:
        found = torch.empty(1, device=torch.device(name)).device
    except (RuntimeError, AssertionError) as error:
        raise DeviceError(f"the device {name!r} cannot be used: {error}", hint='Use "cpu".') from error
    return str(found) if found.type == "cuda" else name
