"""Rows in inverted lists: each lies in the list of the centre that is nearest to it, and a search reads the lists of the nearest centres.

"ivf" keeps the vectors, "ivf_pq" a byte for each group of coordinates (a product quantiser). FAISS does the work, on the CPU or on a
CUDA device, by the same index: it is trained on the host, and copied to the device before the rows are added.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from chroma_gpu.errors import StoreError
from chroma_gpu.index.faiss_gpu import OnCard, card_of, number_of, using
from chroma_gpu.index.faiss_library import Shared, load_faiss, selector
from chroma_gpu.index.masked import asked_for, kept
from chroma_gpu.records import Metric, Vectors
from chroma_gpu.rowset import RowSet

FLAT: Final = "ivf"
PQ: Final = "ivf_pq"

SAMPLED: Final = 40
"""Rows for each list that centres are trained on; FAISS asks for 39."""

_GROUPS: Final = (1, 2, 3, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 96)
"""Numbers of groups that FAISS has kernels for."""

_COORDINATES: Final = 8
"""Of a group, about."""

_TRAINED: Final = 32
"""Rows for each of the 256 values of a group. FAISS's own 256, and 25 rounds, took two minutes for 48 groups on a busy core."""

_ROUNDS: Final = 10
"""Rounds of k-means, for centres and for groups."""


def lists_for(rows: int) -> int:
    """How many lists a table of so many rows gets: twice the root, as long as that leaves enough rows to train them."""
    return max(1, min(round(2 * math.sqrt(rows)), rows // SAMPLED))


def groups_of(dim: int) -> int:
    """Bytes of a code."""
    return max(each for each in _GROUPS if each <= max(1, dim // _COORDINATES))


def width_of(kind: str, dim: int) -> int:
    """Coordinates of a row as FAISS gets it: zeros are added until groups are of one size."""
    groups = groups_of(dim)
    return -(-dim // groups) * groups if kind == PQ else dim


def row_bytes(kind: str, dim: int) -> int:
    """Of a row and its number."""
    return 8 + (groups_of(dim) if kind == PQ else 4 * dim)


class Lists:
    """Trained lists and the rows in them. One thread adds, any search.

    filters_inside  whether a mask may be handed to FAISS here
    largest_k       most rows and lists that may be asked for
    """

    def __init__(self, index: Any, kind: str, device: str, *, filters_inside: bool, largest_k: int | None) -> None:
        """index: a trained one of the host."""
        self.kind, self.device = kind, device
        self.filters_inside, self.largest_k = filters_inside, largest_k
        self.lists = int(index.nlist)
        self._width = int(index.d)
        self._rows: Shared | OnCard = Shared(index) if device == "cpu" else OnCard.copy(index, device)

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, vectors: Vectors) -> None:
        """Append vectors. On the CPU their lists are found while searches go on."""
        vectors = self._wide(vectors)
        if isinstance(self._rows, OnCard):
            self._rows.add(vectors)
            return
        lists = self._rows.index.quantizer.assign(vectors, 1).reshape(-1)
        self._rows.change(lambda index: _put(index, vectors, lists))

    def search(
        self, queries: Vectors, fetch: int, probes: int, mask: RowSet | None = None, passing: int | None = None
    ) -> npt.NDArray[np.int64] | None:
        """[q, m] rows that look nearest, all in the mask, -1 for none; None where more would have to be asked for than may.

        queries  of unit length for cosine
        probes   lists that are read; passing: rows of the mask
        """
        asked = fetch if mask is None or self.filters_inside else asked_for(fetch, len(self), passing or len(self))
        if self.largest_k is not None and max(asked, probes) > self.largest_k:
            return None
        inside = None if mask is None or not self.filters_inside else selector(mask)
        params = load_faiss().SearchParametersIVF(nprobe=probes, sel=inside)
        found = self._rows.search(self._wide(queries), asked, params)[1]
        return found if mask is None or self.filters_inside else kept(found, mask)

    def centres(self) -> Vectors:
        """[lists, width] float32."""
        index = self.on_host()  # owns the quantiser
        centres: Vectors = index.quantizer.reconstruct_n(0, self.lists)
        return centres

    def numbers(self) -> npt.NDArray[np.int32]:
        """[n] the list of each row."""
        faiss, index = load_faiss(), self.on_host()
        numbers = np.empty(index.ntotal, np.int32)
        for number in range(self.lists):
            size = index.invlists.list_size(number)
            if size:
                ids = index.invlists.get_ids(number)
                numbers[faiss.rev_swig_ptr(ids, size)] = number
                index.invlists.release_ids(number, ids)
        return numbers

    def on_host(self) -> Any:
        """The index of FAISS, for a checkpoint: a copy if it is on a device."""
        return self._rows.on_host() if isinstance(self._rows, OnCard) else self._rows.index

    def _wide(self, vectors: Vectors) -> Vectors:
        if vectors.shape[1] == self._width:
            return np.ascontiguousarray(vectors)
        wide = np.zeros((len(vectors), self._width), np.float32)
        wide[:, : vectors.shape[1]] = vectors
        return wide


def train(kind: str, metric: Metric, sample: Vectors, lists: int, device: str = "cpu") -> Any:
    """A trained index of the host without rows.

    sample   [n, dim] of at least as many rows as lists, and 256 for ivf_pq; of unit length for cosine
    device   where k-means runs
    Cost     n * lists * dim * 20 operations; measured on a busy core at dim 384: 0.8 s for 447 lists of 18,000 rows
    """
    index = _blank(kind, metric, sample.shape[1], lists)
    wide = np.zeros((len(sample), index.d), np.float32)
    wide[:, : sample.shape[1]] = sample
    helping = None
    if device != "cpu":
        faiss = load_faiss()
        card = card_of(number_of(device))
        config = faiss.GpuIndexFlatConfig()
        config.device = card.number
        make = faiss.GpuIndexFlatL2 if metric is Metric.L2 else faiss.GpuIndexFlatIP
        helping = make(card.resources, index.d, config)
        index.clustering_index = helping
        with using(card):
            index.train(wide)
        index.clustering_index = None
        return index
    index.train(wide)
    return index


def restored(
    metric: Metric, dim: int, centres: Vectors, numbers: npt.NDArray[np.int32], block: Callable[[int, int], Vectors]
) -> Any:
    """The index of vectors on the host that had these centres and rows in these lists.  block: the vectors of rows, as they were added

    Raises   StoreError if they do not fit each other
    """
    fit = centres.ndim == 2 and centres.shape[1] == dim and len(centres)
    if not fit or (len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(centres)):
        raise StoreError("the checkpoint's centres do not fit its lists.", hint="Delete it: the index is built again.")
    index = _blank(FLAT, metric, dim, len(centres))
    index.quantizer.add(np.ascontiguousarray(centres))
    index.is_trained = True
    step = 1 << 14
    for first in range(0, len(numbers), step):
        few = numbers[first : first + step]
        _put(index, np.ascontiguousarray(block(first, first + len(few))), few.astype(np.int64))
    return index


def _blank(kind: str, metric: Metric, dim: int, lists: int) -> Any:
    faiss = load_faiss()
    width = width_of(kind, dim)
    by, quantiser = (
        (faiss.METRIC_L2, faiss.IndexFlatL2) if metric is Metric.L2 else (faiss.METRIC_INNER_PRODUCT, faiss.IndexFlatIP)
    )
    centres = quantiser(width)
    if kind == PQ:
        index = faiss.IndexIVFPQ(centres, width, lists, groups_of(dim), 8, by)
        index.pq.cp.niter, index.pq.cp.min_points_per_centroid, index.pq.cp.max_points_per_centroid = _ROUNDS, 1, _TRAINED
        index.use_precomputed_table = -1  # for l2 it would be larger than the codes of a million rows
    else:
        index = faiss.IndexIVFFlat(centres, width, lists, by)
    centres.this.disown()
    index.own_fields = True
    index.cp.niter, index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = _ROUNDS, 1, 2 * SAMPLED
    return index


def _put(index: Any, vectors: Vectors, lists: npt.NDArray[np.int64]) -> None:
    faiss = load_faiss()
    index.add_core(len(vectors), faiss.swig_ptr(vectors), None, faiss.swig_ptr(lists))
