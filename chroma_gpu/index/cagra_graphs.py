"""CAGRA graphs on a CUDA device, by the cuvs package or by a FAISS that was built with cuVS.

Written by the sources of cuVS 26.10 and FAISS 1.15; neither has run on a card here. Only what both have had for several versions is used:
a graph is built of all rows at once and never extended.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from chroma_gpu.errors import DeviceError
from chroma_gpu.index import capabilities
from chroma_gpu.records import Metric, Vectors
from chroma_gpu.rowset import RowSet

if TYPE_CHECKING:
    from torch import Tensor

DEGREE: Final = 64
"""Links of a row."""

_DRAFT: Final = 128
"""Links of a row before the graph is thinned out."""

_AT_ONCE: Final = 1 << 16
"""Rows that are copied to the device at once."""


class Graph(Protocol):
    """A graph over rows 0 to n. Safe for many threads."""

    def search(self, queries: Vectors, k: int, width: int, mask: RowSet | None) -> npt.NDArray[np.int64]:
        """[q, k] rows that look nearest; what is below 0 or past the last row is none.

        width  candidates that a query keeps, at least k
        mask   handed to the graph, which may ignore it
        Raises DeviceError
        """
        ...

    def links(self) -> npt.NDArray[np.uint32] | None:
        """[n, degree] the links, to be kept; None where they cannot be had or would be of no use."""
        ...


class Builder(Protocol):
    """Makes graphs on one device."""

    def build(self, vectors: Vectors, metric: Metric, links: npt.NDArray[np.uint32] | None = None) -> Graph:
        """A graph over all vectors, unit ones for cosine; with links that an earlier one had, if that is possible.

        Raises  DeviceError
        """
        ...


def graph_of(device: str) -> Builder:
    """Who makes graphs here: the cuvs package if it is installed.  Raises MissingDependency, DeviceError"""
    capabilities.require(capabilities.CAGRA, device)
    return ByCuvs(device) if capabilities.capabilities().cuvs is not None else ByFaiss(device)


class ByCuvs:
    """``cuvs.neighbors.cagra``."""

    def __init__(self, device: str) -> None:
        self.device = device

    def build(self, vectors: Vectors, metric: Metric, links: npt.NDArray[np.uint32] | None = None) -> Graph:
        """As ``Builder.build``."""
        return _CuvsGraph(self.device, vectors, metric, links)


class _CuvsGraph:
    def __init__(self, device: str, vectors: Vectors, metric: Metric, links: npt.NDArray[np.uint32] | None) -> None:
        import torch
        from cuvs.common import Resources
        from cuvs.neighbors import cagra

        self._cagra: Any = cagra
        self._device = torch.device(device)
        self._lock = threading.Lock()
        cuda: Any = torch.cuda
        self._stream: Any = cuda.Stream(self._device) if self._device.type == "cuda" else None
        with self._working():
            self._resources: Any = Resources(stream=None if self._stream is None else self._stream.cuda_stream)
            self._rows = self._uploaded(vectors)  # the graph refers to them
            by = "sqeuclidean" if metric is Metric.L2 else "inner_product"
            if links is not None and hasattr(cagra, "from_graph"):
                given = torch.from_numpy(links.view(np.int32).copy()).to(self._device).view(torch.uint32)
                self._index: Any = cagra.from_graph(given, self._rows, metric=by, resources=self._resources)
                self._given: Any = given
            else:
                params = cagra.IndexParams(metric=by, intermediate_graph_degree=_DRAFT, graph_degree=DEGREE)
                self._index = cagra.build(params, self._rows, resources=self._resources)
            self._finish()

    def search(self, queries: Vectors, k: int, width: int, mask: RowSet | None) -> npt.NDArray[np.int64]:
        """As ``Graph.search``."""
        import torch

        with self._working():
            asked = torch.from_numpy(np.array(queries, np.float32)).to(self._device)
            rows = torch.empty(len(queries), k, dtype=torch.uint32, device=self._device)
            distances = torch.empty(len(queries), k, dtype=torch.float32, device=self._device)
            params = self._cagra.SearchParams(itopk_size=width)
            inside = {} if mask is None else {"filter": self._filter(mask)}
            self._cagra.search(
                params, self._index, asked, k, neighbors=rows, distances=distances, resources=self._resources, **inside
            )
            found: npt.NDArray[np.int64] = rows.view(torch.int32).cpu().numpy().view(np.uint32).astype(np.int64)
            return found

    def links(self) -> npt.NDArray[np.uint32] | None:
        """As ``Graph.links``."""
        if not (hasattr(self._cagra, "from_graph") and hasattr(self._index, "graph")):
            return None
        with self._working():
            links: npt.NDArray[np.uint32] = np.ascontiguousarray(self._index.graph.copy_to_host(), np.uint32)
            return links

    def _filter(self, mask: RowSet) -> Any:
        import torch
        from cuvs.neighbors import filters

        words = mask.words.view(np.int32)[: -(-mask.size // 32)].copy()
        return filters.from_bitset(torch.from_numpy(words).to(self._device).view(torch.uint32))

    def _uploaded(self, vectors: Vectors) -> Tensor:
        import torch

        rows = torch.empty(vectors.shape, dtype=torch.float32, device=self._device)
        for first in range(0, len(vectors), _AT_ONCE):
            part = slice(first, first + _AT_ONCE)
            rows[part] = torch.from_numpy(vectors[part].copy()).to(self._device)
        return rows

    def _finish(self) -> None:
        if self._stream is not None:
            self._stream.synchronize()

    @contextmanager
    def _working(self) -> Iterator[None]:
        """One thread at a time, on the stream of the graph."""
        import torch

        from chroma_gpu.index.gpu.staging import on

        with self._lock, on(self._device), nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
            try:
                yield
            except (RuntimeError, ValueError, AttributeError, TypeError) as error:
                raise DeviceError(
                    f"cuVS failed on {self._device}: {error}", hint="Use index='flat', or another device."
                ) from error


class ByFaiss:
    """``faiss.GpuIndexCagra``, of faiss-gpu-cuvs."""

    def __init__(self, device: str) -> None:
        self.device = device

    def build(self, vectors: Vectors, metric: Metric, links: npt.NDArray[np.uint32] | None = None) -> Graph:
        """As ``Builder.build``; always builds."""
        return _FaissGraph(self.device, vectors, metric)


class _FaissGraph:
    def __init__(self, device: str, vectors: Vectors, metric: Metric) -> None:
        from chroma_gpu.index.faiss_gpu import OnCard
        from chroma_gpu.index.faiss_library import load_faiss

        faiss = load_faiss()

        def made(resources: Any, number: int) -> Any:
            config = faiss.GpuIndexCagraConfig()
            config.device, config.graph_degree, config.intermediate_graph_degree = number, DEGREE, _DRAFT
            by = faiss.METRIC_L2 if metric is Metric.L2 else faiss.METRIC_INNER_PRODUCT
            index = faiss.GpuIndexCagra(resources, vectors.shape[1], by, config)
            index.train(vectors)
            return index

        self._faiss = faiss
        self._rows = vectors  # the index may refer to them
        self._graph = OnCard(device, made)

    def search(self, queries: Vectors, k: int, width: int, mask: RowSet | None) -> npt.NDArray[np.int64]:
        """As ``Graph.search``."""
        from chroma_gpu.index.faiss_library import selector

        params = self._faiss.SearchParametersCagra()
        params.itopk_size = width
        inside = None if mask is None else selector(mask)  # lives until the search is over
        params.sel = inside
        return self._graph.search(np.ascontiguousarray(queries, np.float32), k, params)[1]

    def links(self) -> npt.NDArray[np.uint32] | None:
        """As ``Graph.links``: FAISS builds anew."""
        return None
