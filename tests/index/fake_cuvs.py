"""The cuvs package as far as we use it, with the signatures of its sources, on tensors of the host: every search is by brute force."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np
import torch

WIDEST = 512
"""Candidates that a block of threads keeps."""


class Resources:
    def __init__(self, stream=None):
        self.stream = stream


class IndexParams:
    def __init__(
        self,
        *,
        metric="sqeuclidean",
        intermediate_graph_degree=128,
        graph_degree=64,
        build_algo="ivf_pq",
        nn_descent_niter=20,
        ivf_pq_build_params=None,
        ivf_pq_search_params=None,
        ace_params=None,
        refinement_rate=1.0,
    ):
        assert metric in {"sqeuclidean", "inner_product", "cosine"}
        self.metric, self.graph_degree = metric, graph_degree


class SearchParams:
    def __init__(self, *, max_queries=0, itopk_size=64, max_iterations=0, algo="auto", team_size=0, search_width=1):
        self.itopk_size = itopk_size


class Links:
    """What cuVS calls a device_ndarray."""

    def __init__(self, array):
        self.array = array

    def copy_to_host(self):
        return self.array


class Index:
    def __init__(self, dataset, metric, links):
        self.dataset, self.metric = dataset, metric
        self.graph = Links(links)


class Filter:
    def __init__(self, words):
        self.words = words


class Fake:
    """The modules.  honours: whether filters are; builds, restores: how often graphs were made"""

    def __init__(self):
        self.honours, self.builds, self.restores = True, 0, 0

    def build(self, index_params, dataset, resources=None):
        checked(dataset, torch.float32)
        self.builds += 1
        links = np.arange(len(dataset), dtype=np.uint32)[:, None] + np.arange(1, index_params.graph_degree + 1, dtype=np.uint32)
        return Index(dataset, index_params.metric, links % np.uint32(len(dataset)))

    def from_graph(self, graph, dataset, metric="sqeuclidean", resources=None):
        checked(graph, torch.uint32)
        checked(dataset, torch.float32)
        self.restores += 1
        return Index(dataset, metric, graph.numpy())

    def search(self, search_params, index, queries, k, neighbors=None, distances=None, resources=None, filter=None):
        checked(queries, torch.float32)
        checked(neighbors, torch.uint32, (len(queries), k))
        checked(distances, torch.float32, (len(queries), k))
        if k > search_params.itopk_size or search_params.itopk_size > WIDEST:
            raise RuntimeError("CUVS failure: itopk_size does not fit")
        scores = queries.double() @ index.dataset.double().T
        if index.metric == "sqeuclidean":
            scores = 2 * scores - index.dataset.double().square().sum(1)
        if filter is not None and self.honours:
            bits = np.unpackbits(filter.words.view(torch.int32).numpy().view(np.uint8), bitorder="little")
            allowed = torch.from_numpy(bits[: len(index.dataset)].astype(np.bool_))
            scores = scores.masked_fill(~allowed, -torch.inf)
        best = torch.topk(scores, min(k, scores.shape[1]), dim=1)
        rows = torch.where(best.values == -torch.inf, 0xFFFFFFFF, best.indices)
        neighbors.view(torch.int32)[:] = -1
        neighbors.view(torch.int32)[:, : rows.shape[1]] = torch.from_numpy(rows.numpy().astype(np.uint32).view(np.int32))
        return distances, neighbors

    def modules(self):
        """By name."""
        made = {
            name: ModuleType(name)
            for name in ("cuvs", "cuvs.common", "cuvs.neighbors", "cuvs.neighbors.cagra", "cuvs.neighbors.filters")
        }
        for name, module in made.items():
            module.__spec__ = ModuleSpec(name, None)
            module.__path__ = []
        made["cuvs.common"].Resources = Resources
        cagra, filters = made["cuvs.neighbors.cagra"], made["cuvs.neighbors.filters"]
        cagra.IndexParams, cagra.SearchParams = IndexParams, SearchParams
        cagra.build, cagra.search, cagra.from_graph = self.build, self.search, self.from_graph
        filters.from_bitset = from_bitset
        made["cuvs.neighbors"].cagra, made["cuvs.neighbors"].filters = cagra, filters
        return made


def from_bitset(bitset):
    checked(bitset, torch.uint32)
    return Filter(bitset)


def checked(tensor, kind, shape=None):
    assert isinstance(tensor, torch.Tensor)
    assert tensor.dtype == kind
    assert tensor.is_contiguous()
    assert shape is None or tuple(tensor.shape) == shape


def install(patch):
    """Have cuvs for as long as the patch lasts, with the host in place of a card."""
    from chroma_gpu.index import cagra, cagra_graphs

    fake = Fake()
    for name, module in fake.modules().items():
        patch.setitem(sys.modules, name, module)
    patch.setitem(cagra._DEFAULTS, "device", "cpu")
    for module in (cagra, cagra_graphs):
        patch.setattr(module, "graph_of", lambda device: cagra_graphs.ByCuvs(device))
    return fake
