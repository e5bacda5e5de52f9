"""FAISS, with what must be known to call it safely. The only place that imports it.

Three facts, each found by running it (faiss 1.15):

- A search while another thread adds reads freed memory: SIGSEGV. ``Shared`` holds searches and adds apart.
- OpenMP keeps a team of threads for each calling thread. A child forked from a thread that had one waits for it for ever. So one
  query runs on one thread, where no team is needed, and work for many runs in a thread of its own, whose team ends with it.
- ``omp_set_num_threads`` belongs to the calling thread, not to the process.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import Any, BinaryIO, Final, TypeVar

import numpy as np
import numpy.typing as npt

from chroma_gpu.errors import EngineError, MissingDependency
from chroma_gpu.records import Rows, Vectors
from chroma_gpu.rowset import RowSet
from chroma_gpu.rwlock import ReadWriteLock

_T = TypeVar("_T")

_TEAM: Final = 1 << 21
"""Coordinates from which a thread and its team, some 0.1 ms, pay."""

_LOOPS: Final = 1 << 32
"""Most rounds of any one loop while reading a file."""


def load_faiss() -> Any:
    """The module.  Raises MissingDependency."""
    try:
        import faiss
    except ImportError as error:
        raise MissingDependency(
            "this kind of index needs FAISS.", hint="Install it with `pip install 'chroma-gpu[cpu]'`, or use the kind flat."
        ) from error
    return faiss


def is_loaded() -> bool:
    """Whether an index has loaded FAISS already, so that using it costs nothing more."""
    return "faiss" in sys.modules


def faiss_version() -> str:
    """The version that is installed."""
    return str(load_faiss().__version__)


def write_faiss(index: Any, file: BinaryIO) -> None:
    """Write an index at the position of an open file."""
    faiss = load_faiss()
    faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))


def read_faiss(file: BinaryIO) -> Any:
    """Read an index from the position of an open file.  Raises RuntimeError for a file that is not whole.

    No vector in it may claim more bytes than the file has left: a damaged length must not ask for terabytes.
    """
    faiss = load_faiss()
    left = os.fstat(file.fileno()).st_size - file.tell()
    before = faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit()
    faiss.set_deserialization_vector_byte_limit(max(1, left))
    faiss.set_deserialization_loop_limit(_LOOPS)
    try:
        return faiss.read_index(faiss.PyCallbackIOReader(file.read), faiss.IO_FLAG_SKIP_PRECOMPUTE_TABLE)
    finally:
        faiss.set_deserialization_vector_byte_limit(before[0])
        faiss.set_deserialization_loop_limit(before[1])


def in_own_thread(work: Callable[[], _T]) -> _T:
    """Run FAISS work that may use all cores; what it raises is raised here."""
    result: list[_T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            result.append(work())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run, name="chroma-gpu-faiss")
    thread.start()
    try:
        thread.join()
    except BaseException:
        thread.join()  # FAISS must be done with the arrays before an interrupt unwinds the caller
        raise
    if failure:
        raise failure[0]
    return result[0]


def _on_one_core(work: Callable[[], _T]) -> _T:
    """Run FAISS work in the calling thread, which gets no team."""
    faiss = load_faiss()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        return work()
    finally:
        faiss.omp_set_num_threads(before)


class Shared:
    """A FAISS index that many threads may search while one adds to it.

    A forked child gets a lock of its own and may go on; if rows were being added at the moment of the fork, its copy is half
    changed and every call raises EngineError.
    """

    def __init__(self, index: Any) -> None:
        self.index = index
        self._faiss = load_faiss()
        self._locks = {os.getpid(): ReadWriteLock()}
        self._changing = False
        self.searches = 0
        """How many searches have begun; tells a long add whether anyone is waiting for it."""

    def __len__(self) -> int:
        return int(self.index.ntotal)

    def search(self, queries: Vectors, k: int, params: Any = None) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """(values, rows) of the k best by FAISS's own measure: [q, k] each, rows -1 where there are fewer."""
        self.searches += 1
        if len(queries) > 1:
            return in_own_thread(lambda: self._search(queries, k, params))
        return _on_one_core(lambda: self._search(queries, k, params))

    def add(self, vectors: Vectors) -> None:
        """Append vectors while no search runs, in the calling thread; wrap in ``in_own_thread`` to use all cores."""
        self.change(lambda index: index.add(vectors))

    def change(self, work: Callable[[Any], object]) -> None:
        """Do something to the index while no search runs, in the calling thread."""
        with self._lock().writing():
            self._changing = True
            work(self.index)
            self._changing = False

    def _search(self, queries: Vectors, k: int, params: Any) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        with self._lock().reading():
            found: tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]] = searching(self.index)(queries, k, params=params)
            return found

    def _lock(self) -> ReadWriteLock:
        here = os.getpid()
        lock = self._locks.get(here)
        if lock is None:
            if self._changing:
                raise EngineError(
                    "this process was forked while rows were being added to an index, which is unusable here.",
                    hint="Open the client again in the child process.",
                )
            lock = self._locks.setdefault(here, ReadWriteLock())
        return lock


def searching(index: Any) -> Any:
    """The ``search`` of an index that takes parameters. Whoever imports ``faiss.contrib.torch_utils`` replaces it by one that does not."""
    return getattr(index, "search_numpy", index.search)


def products(query: Vectors, vectors: Vectors, rows: Rows) -> npt.NDArray[np.float32]:
    """[n] float32: the product of a query [dim] with each of the rows [n] of a contiguous array, read where they lie.

    Cost     measured at dim 128 of a million rows: 70 ns a row on one core, 30 while they are in cache; half on two, used from some
             20,000 rows on. Copying the rows together first takes 190 ns a row
    """
    faiss = load_faiss()
    if query.shape != vectors.shape[1:] or not vectors.flags.c_contiguous or (len(rows) and int(rows.max()) >= len(vectors)):
        raise ValueError("rows must lie in a contiguous array of the dimension of the query")
    query = np.ascontiguousarray(query, np.float32)
    found, places, first = np.empty(len(rows), np.float32), rows.astype(np.int64), np.zeros(len(rows), np.int64)
    pointers = [faiss.swig_ptr(each) for each in (query, first, vectors, places, found)]

    def run() -> None:
        faiss.pairwise_indexed_inner_product(len(query), len(rows), *pointers)

    if len(rows) * len(query) >= _TEAM:
        in_own_thread(run)
    else:
        _on_one_core(run)
    return found


def selector(mask: RowSet) -> Any:
    """A FAISS selector over the memory of the mask, which must outlive it."""
    faiss = load_faiss()
    return faiss.IDSelectorBitmap(len(mask.bytes()), faiss.swig_ptr(mask.bytes()))
