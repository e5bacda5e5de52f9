"""Nearest rows by vector: the contract of every index, and the table of kinds.

An index knows rows, never ids. Rows are dense: the vector at position r of an index is row r of its table. Nothing is removed
from an index: dead rows and rows that fail a filter are left out by the mask of each search. An index is derived state: it
can be thrown away and rebuilt from its source at any time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from chroma_gpu.errors import InvalidArgumentError
from chroma_gpu.records import DeviceBlock, Hits, Metric, Vectors, VectorSource
from chroma_gpu.rowset import RowSet

if TYPE_CHECKING:
    from chroma_gpu.index.cost import Costs


@dataclass(frozen=True, slots=True)
class IndexSpec:
    """What an index is built with; saved beside it, so that a checkpoint explains itself."""

    kind: str
    metric: Metric
    dim: int
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Traits:
    """What differs between kinds, as data that the planner reads.

    exact           the answer always equals brute force
    concurrent_add  rows may be added while other threads search; otherwise the caller holds searches back
    device          where the work is done: "cpu", "cuda", "cuda:1", ...; several with commas between them
    codes           what a device keeps of the rows, "float16", "int8+float32", ...; None where it keeps nothing
    filters_inside  a mask is honoured while rows are looked for; otherwise more are fetched than asked for, and looked at afterwards
    largest_k       most rows that can be fetched at once; the exact scan answers what needs more. None: no end
    reads           share of its rows that it looks at for one query and ten neighbours
    recall          share of the neighbours that it was seen to find without a mask; None if nobody has looked
    """

    exact: bool
    concurrent_add: bool
    device: str
    codes: str | None = None
    filters_inside: bool = True
    largest_k: int | None = None
    reads: float = 1.0
    recall: float | None = None


class Index(Protocol):
    """Nearest rows of a query among the rows of a mask."""

    spec: IndexSpec
    traits: Traits

    def __len__(self) -> int:
        """Rows [0, len) are in the index."""
        ...

    def add(self, stop: int) -> None:
        """Take in rows [len(self), stop) from the source.  Cost: O(stop - len(self))."""
        ...

    def search(self, queries: Vectors, k: int, mask: RowSet | None = None, costs: Costs = ...) -> Hits:
        """The k nearest rows of each query among the rows of ``mask`` below len(self); None means all of them.

        queries  [q, dim] float32, as the user gave them: what a metric needs (normalising, norms) is done here
        mask     of any size; only rows below len(self) count
        costs    what an index goes by that can search in several ways; the shipped ones by default
        Returns  distances as ``Metric`` defines them, each the correctly rounded float32 of the exact value; ties by row
        Raises   DimensionMismatch
        """
        ...

    def lengths(self, stop: int) -> npt.NDArray[np.float32] | None:
        """[stop] norms of the first rows as ``scoring.norms`` finds them, a view; None if the index does not hold so many rows."""
        ...

    def save(self, path: Path) -> None:
        """Write a checkpoint to one file. The caller owns atomic renaming and checksums."""
        ...

    @classmethod
    def load(cls, path: Path, spec: IndexSpec, source: VectorSource) -> Index:
        """Read a checkpoint that ``save`` wrote. Raises StoreError if it does not fit the spec."""
        ...


INDEX_KINDS: Final[Mapping[str, str]] = {
    "flat": "chroma_gpu.index.flat:FlatIndex",
    "codes": "chroma_gpu.index.codes:CodesIndex",
    "hnsw": "chroma_gpu.index.hnsw:HnswIndex",
    "ivf": "chroma_gpu.index.ivf:IvfIndex",
    "ivf_pq": "chroma_gpu.index.ivf:IvfIndex",
    "cagra": "chroma_gpu.index.cagra:CagraIndex",
}
"""Where each kind lives. A new kind is a file and a line here."""


def create(spec: IndexSpec, source: VectorSource) -> Index:
    """An empty index of the spec's kind over a source.

    Raises   InvalidArgumentError for an unknown kind or parameter, MissingDependency naming the command that installs what the
             kind needs, DeviceError
    """
    index: Index = _kind(spec)(spec, source)
    return index


def load(path: Path, spec: IndexSpec, source: VectorSource) -> Index:
    """An index from the checkpoint that its ``save`` wrote, for the same spec and rows.

    Raises   as ``create``; StoreError if the file cannot be read or was written for something else: build the index again then
    """
    index: Index = _kind(spec).load(path, spec, source)
    return index


def close(index: Index) -> None:
    """Give back at once what an index holds of a device. It can still be asked; nothing happens to kinds that live on the host."""
    if (giving_back := getattr(index, "close", None)) is not None:
        giving_back()


def offer(index: Index, block: DeviceBlock) -> None:
    """Tell of vectors that are on a device, of rows from ``block.first`` on that are in the source and were not added yet.

    A kind with rows on that device takes them from there, unless memory gets short meanwhile, and lets go of the block when ``add`` has
    passed it. Nothing happens to the others.  Cost: waits for nothing
    """
    if (taking := getattr(index, "offer", None)) is not None:
        taking(block)


def _kind(spec: IndexSpec) -> Any:
    place = INDEX_KINDS.get(spec.kind)
    if place is None:
        raise InvalidArgumentError(f"there is no index kind {spec.kind!r}; there are {', '.join(INDEX_KINDS)}.")
    module, name = place.split(":")
    return getattr(import_module(module), name)


def has_faiss() -> bool:
    """Whether the kinds that need FAISS can be made here. Looks, but does not import."""
    return find_spec("faiss") is not None
