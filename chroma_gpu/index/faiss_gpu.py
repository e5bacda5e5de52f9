"""FAISS on CUDA devices: its indexes, and its brute force over rows that lie there already.

Facts, read in its sources (1.15); nothing here has run on a card:

- The resources of a device must not be used by two threads at once, so each device has a lock.
- An index that is not of cuVS takes a selector and ignores it. ``capabilities`` finds out.
- ``faiss.contrib.torch_utils`` replaces ``search`` of every index by one that takes no parameters, in the whole process (seen on the
  CPU). So nothing here imports it: tensors are handed over by their addresses.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from chroma_gpu.errors import DeviceError
from chroma_gpu.index.faiss_library import load_faiss, searching
from chroma_gpu.records import Metric, Vectors

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from chroma_gpu.kernels.buffer import Buffer, Chunk
    from chroma_gpu.kernels.scan import Survivors

LARGEST_K: Final = 2048
"""The longest answer of its brute force, and most lists that an index probes, without cuVS."""

_TEMPORARY: Final = 256 << 20
"""Bytes of a device that its resources keep for intermediate results; by default it would be 1.5 GB on a large card."""

_SPARE: Final = 64
"""Rows that ``survivors`` asks for beyond twice k, so that the last one shows that nothing was left out."""


@dataclass(slots=True)
class Card:
    """One CUDA device as FAISS sees it.  lock: held around every call"""

    number: int
    resources: Any
    lock: threading.Lock = field(default_factory=threading.Lock)


def cards() -> int:
    """How many CUDA devices this FAISS can use; 0 for a build without any."""
    faiss = load_faiss()
    return int(faiss.get_num_gpus()) if hasattr(faiss, "StandardGpuResources") else 0


def number_of(device: str) -> int:
    """Of "cuda" or "cuda:1"."""
    return int(device.partition(":")[2] or 0)


@cache
def card_of(number: int) -> Card:
    """The one of a device.  Memory: 256 MiB of it, until the process ends"""
    resources = load_faiss().StandardGpuResources()
    resources.setTempMemory(_TEMPORARY)
    return Card(number, resources)


class OnCard:
    """A FAISS index on a CUDA device that many threads may use; the verbs of ``faiss_library.Shared``.

    Raises   DeviceError for whatever FAISS raises
    """

    def __init__(self, device: str, make: Callable[[Any, int], Any]) -> None:
        """make: the index, from the resources and the number of the device."""
        self._card = card_of(number_of(device))
        with using(self._card):
            self.index = make(self._card.resources, self._card.number)

    @classmethod
    def copy(cls, index: Any, device: str) -> OnCard:
        """One of the host, copied to a device."""
        return cls(device, lambda resources, number: load_faiss().index_cpu_to_gpu(resources, number, index))

    def __len__(self) -> int:
        return int(self.index.ntotal)

    def search(self, queries: Vectors, k: int, params: Any = None) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """As ``Shared.search``."""
        with using(self._card):
            found: tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]] = searching(self.index)(queries, k, params=params)
            return found

    def add(self, vectors: Vectors) -> None:
        """As ``Shared.add``."""
        with using(self._card):
            self.index.add(vectors)

    def on_host(self) -> Any:
        """A copy of the index in the memory of the host."""
        with using(self._card):
            return load_faiss().index_gpu_to_cpu(self.index)


@contextmanager
def using(card: Card) -> Iterator[None]:
    """One thread at a time.  Raises DeviceError for whatever FAISS raises"""
    with card.lock:
        try:
            yield
        except RuntimeError as error:
            raise DeviceError(
                f"FAISS failed on cuda:{card.number}: {error}", hint='Free memory there, or use another device, or index="flat".'
            ) from error


@dataclass(frozen=True, slots=True, eq=False)
class Nearest:
    """What FAISS finds: rows [q, k] int64, -1 where there are fewer; scores [q, k] float32, larger for nearer rows.

    Scores are products for ip and cosine, and half the squared length of the query less half the squared distance for l2.
    """

    rows: Tensor
    scores: Tensor


def nearest(queries: Tensor, buffer: Buffer, k: int, metric: Metric) -> Nearest | None:
    """The k nearest rows of a buffer by FAISS's brute force, which reads them where they lie: a second opinion on our kernels.

    queries  [q, dim] float32, as the user gave them, on the CUDA device of the buffer
    Returns  None where FAISS cannot say: k above 2048, rows of 8 bit or with a gain, which it knows nothing of. It can for ip and l2
             over the float32 rows of an index, and for ip and cosine over any rows of unit length, of 16 bit too. Rows that were set
             aside are found as if they were not
    Raises   DeviceError
    Cost     one pass for every 65,536 rows, on torch's current stream; meant for hundreds of queries: it selects with one block of
             threads for each
    """
    import torch

    if not _can(buffer, k, metric):
        return None
    vectors = buffer.chunks[0].vectors
    given = torch.nn.functional.normalize(queries) if metric is Metric.COSINE else queries
    # What follows the coordinates of a row is zero, so the query is made as wide as the stride, and rows stay where they are.
    wide = torch.zeros(len(queries), vectors.stride(0), dtype=vectors.dtype, device=queries.device)
    wide[:, : queries.shape[1]] = given
    parts = [_of_chunk(wide, chunk, min(k, len(chunk)), metric) for chunk in buffer.chunks]
    scores, rows = torch.cat([part.scores for part in parts], dim=1), torch.cat([part.rows for part in parts], dim=1)
    scores, order = torch.topk(scores, min(k, scores.shape[1]), dim=1)
    rows = rows.gather(1, order)
    missing = k - rows.shape[1]
    if missing > 0:
        rows = torch.nn.functional.pad(rows, (0, missing), value=-1)
        scores = torch.nn.functional.pad(scores, (0, missing), value=-torch.inf)
    if metric is Metric.L2:
        scores = (queries.double().square().sum(1, keepdim=True) / 2 + scores).float()
    return Nearest(rows, scores)


def missed(found: Survivors, queries: Tensor, buffer: Buffer, k: int, metric: Metric, tolerance: float = 1e-4) -> Tensor | None:
    """What survivors of ``kernels.scan`` lack of FAISS's k nearest: [m, 2] int64 of queries and rows, empty if all is well.

    tolerance  share of its score by which a row must beat the last of the k to count, so that rounding does not
    Returns    None where ``nearest`` cannot say
    """
    import torch

    theirs = nearest(queries, buffer, k, metric)
    if theirs is None:
        return None
    least = theirs.scores.masked_fill(theirs.rows < 0, torch.inf).amin(dim=1, keepdim=True)
    sure = (theirs.rows >= 0) & (theirs.scores > least + tolerance * least.abs())
    owners, places = sure.nonzero(as_tuple=True)
    wanted = torch.stack([owners, theirs.rows[owners, places]], dim=1)
    span = 1 + max(chunk.start + len(chunk) for chunk in buffer.chunks)
    there = torch.isin(wanted[:, 0] * span + wanted[:, 1], found.owners * span + found.rows)
    return wanted[~there]


def survivors(
    queries: Tensor, buffer: Buffer, k: int, slack: Tensor, metric: Metric, *, lengths: Tensor | None = None
) -> Survivors | None:
    """What ``kernels.scan.scan`` gives without a mask, by FAISS; None where it cannot, or cannot show that nothing is left out.

    It can for float32 rows without a gain, which are those of ip and l2, and k up to 992.

    queries, slack, lengths  as ``scan`` takes them, queries of float32. The slack is also twice what FAISS's arithmetic may add, which
                             is that of ``scan``: sums of float32 products, for l2 of both squared lengths too
    Raises                   DeviceError
    Cost                     as ``nearest`` for 2 k + 64 rows, which are scored once more; the host waits
    """
    import torch

    from chroma_gpu.kernels.scan import Survivors

    fetched = 2 * k + _SPARE
    # Rounding queries to the type of the rows is in nobody's slack.
    if not buffer.chunks or buffer.chunks[0].vectors.dtype != torch.float32:
        return None
    scaled = queries.float() if lengths is None else queries.float() * lengths[:, None]
    theirs = nearest(scaled, buffer, fetched, metric)
    if theirs is None:
        return None
    scores, errors = _scored(scaled, buffer, theirs.rows)
    if lengths is not None:
        errors = errors * lengths[:, None]
    there = theirs.rows >= 0
    lower = (scores - errors).masked_fill(~there, -torch.inf)
    floor = torch.topk(lower, k, dim=1).values[:, -1] - slack
    worst = max((float(chunk.error.max()) for chunk in buffer.chunks if chunk.error is not None), default=0.0)
    beyond = theirs.scores[:, -1] + (worst if lengths is None else worst * lengths) + slack
    if buffer.rows > fetched and not bool((beyond < floor).all()):
        return None
    owners, places = (there & (scores + errors >= floor[:, None])).nonzero(as_tuple=True)
    return Survivors(owners, theirs.rows[owners, places], scores[owners, places])


def _can(buffer: Buffer, k: int, metric: Metric) -> bool:
    import torch

    if not buffer.chunks or not 0 < k <= LARGEST_K or buffer.chunks[0].gain is not None:
        return False
    return buffer.chunks[0].vectors.dtype in ({torch.float32} if metric is Metric.L2 else {torch.float32, torch.float16})


def _of_chunk(queries: Tensor, chunk: Chunk, k: int, metric: Metric) -> Nearest:
    import torch

    faiss = load_faiss()
    vectors = chunk.vectors
    stride = vectors.stride(0)
    rows = torch.empty(len(queries), k, dtype=torch.int64, device=queries.device)
    found = torch.empty(len(queries), k, dtype=torch.float32, device=queries.device)
    asked = faiss.GpuDistanceParams()
    asked.metric = faiss.METRIC_L2 if metric is Metric.L2 else faiss.METRIC_INNER_PRODUCT
    asked.k, asked.dims = k, stride
    asked.vectors, asked.numVectors, asked.vectorsRowMajor = _pointer(vectors), len(vectors), True
    asked.queries, asked.numQueries, asked.queriesRowMajor = _pointer(queries), len(queries), True
    asked.vectorType = asked.queryType = _type_of(vectors.dtype)
    asked.outDistances, asked.outIndices = faiss.cast_integer_to_float_ptr(found.data_ptr()), _pointer(rows)
    asked.outIndicesType = faiss.IndicesDataType_I64
    card = card_of(queries.device.index or 0)
    asked.device = card.number
    with using(card), _on_stream(card, queries.device):
        faiss.bfKnn(card.resources, asked)
    scores = -found / 2 if metric is Metric.L2 else found
    return Nearest(torch.where(rows >= 0, rows + chunk.start, rows), scores.masked_fill(rows < 0, -torch.inf))


def _pointer(tensor: Tensor) -> Any:
    return load_faiss().cast_integer_to_void_ptr(tensor.data_ptr())


def _type_of(kind: torch.dtype) -> Any:
    import torch

    faiss = load_faiss()
    return faiss.DistanceDataType_F16 if kind == torch.float16 else faiss.DistanceDataType_F32


@contextmanager
def _on_stream(card: Card, device: torch.device) -> Iterator[None]:
    """What FAISS does is queued where torch queues, in order."""
    import torch

    faiss = load_faiss()
    stream: Any = torch.cuda.current_stream(device)
    before = card.resources.getDefaultStream(card.number)
    card.resources.setDefaultStream(card.number, faiss.cast_integer_to_cudastream_t(stream.cuda_stream))
    try:
        yield
    finally:
        card.resources.setDefaultStream(card.number, before)


def _scored(queries: Tensor, buffer: Buffer, rows: Tensor) -> tuple[Tensor, Tensor]:
    """(scores, errors) [q, m] of rows [q, m] of a buffer, by the formula of ``Chunk``; 0 where there is no row."""
    import torch

    scores = torch.zeros(rows.shape, dtype=torch.float32, device=rows.device)
    errors = torch.zeros_like(scores)
    for chunk in buffer.chunks:
        owners, places = ((rows >= chunk.start) & (rows < chunk.start + len(chunk))).nonzero(as_tuple=True)
        at = rows[owners, places] - chunk.start
        product = (queries[owners] * chunk.vectors[at].float()).sum(1)
        score = product if chunk.gain is None else product * chunk.gain[at]
        scores[owners, places] = score if chunk.bias is None else score - chunk.bias[at]
        if chunk.error is not None:
            errors[owners, places] = chunk.error[at]
    return scores, errors
