"""A FAISS for GPUs on a machine without one: the real module of the host, with the names that a GPU build adds, as its sources have them."""

from __future__ import annotations

import ctypes
import sys

import faiss
import numpy as np

MOST = 2048


class StandardGpuResources:
    def __init__(self):
        self.stream = "of faiss"

    def setTempMemory(self, size):
        assert size > 0

    def getDefaultStream(self, device):
        return self.stream

    def setDefaultStream(self, device, stream):
        self.stream = stream


class GpuDistanceParams:
    __slots__ = (
        "device", "dims", "ignoreOutDistances", "k", "metric", "metricArg", "numQueries", "numVectors", "outDistances", "outIndices",
        "outIndicesType", "queries", "queriesRowMajor", "queryType", "use_cuvs", "vectorNorms", "vectorType", "vectors", "vectorsRowMajor",
    )  # fmt: skip


class SearchParametersCagra:
    __slots__ = ("itopk_size", "sel")


class Config:
    """GpuIndexFlatConfig and GpuIndexCagraConfig."""

    __slots__ = ("device", "graph_degree", "intermediate_graph_degree")


class GpuFaiss:
    """honours: whether selectors are, as with cuVS; selected: how often one was given; fails: what searches raise"""

    def __init__(self, honours=False):
        self.honours, self.selected, self.fails = honours, 0, None
        self.StandardGpuResources, self.GpuDistanceParams = StandardGpuResources, GpuDistanceParams
        self.GpuIndexFlatConfig = Config
        self.DistanceDataType_F32, self.DistanceDataType_F16, self.IndicesDataType_I64 = "f32", "f16", "i64"
        if honours:
            self.GpuIndexCagraConfig, self.SearchParametersCagra = Config, SearchParametersCagra

    def __getattr__(self, name):
        if name in {"GpuIndexCagra", "GpuIndexCagraConfig", "SearchParametersCagra"} and not self.honours:
            raise AttributeError(name)
        return getattr(faiss, name)

    def get_num_gpus(self):
        return 1

    def cast_integer_to_cudastream_t(self, stream):
        return f"stream {stream}"

    def index_cpu_to_gpu(self, resources, device, index):
        assert isinstance(resources, StandardGpuResources)
        assert device == 0
        return GpuIndex(self, faiss.clone_index(index))

    def index_gpu_to_cpu(self, index):
        return faiss.clone_index(index.host)

    def GpuIndexFlatL2(self, resources, dim, config):
        assert config.device == 0
        return faiss.IndexFlatL2(dim)

    def GpuIndexFlatIP(self, resources, dim, config):
        return faiss.IndexFlatIP(dim)

    @property
    def GpuIndexCagra(self):
        if not self.honours:
            raise AttributeError("GpuIndexCagra")
        return lambda resources, dim, metric, config: Cagra(self, faiss.IndexFlat(dim, metric))

    def bfKnn(self, resources, asked):
        """By brute force over the memory that the addresses name."""
        assert resources.stream == "stream 0", "not queued where torch queues"
        assert asked.k <= MOST
        assert asked.device == 0
        vectors = _read(asked.vectors, (asked.numVectors, asked.dims), asked.vectorType)
        queries = _read(asked.queries, (asked.numQueries, asked.dims), asked.queryType)
        assert asked.vectorType == asked.queryType, "both vectorType and queryType must currently be the same"
        found, rows = faiss.knn(queries.astype(np.float32), vectors.astype(np.float32), asked.k, metric=asked.metric)
        _read(asked.outDistances, found.shape, "f32")[:] = found
        _read(asked.outIndices, rows.shape, "i64")[:] = rows


class GpuIndex:
    def __init__(self, made, host):
        self.made, self.host = made, host

    @property
    def ntotal(self):
        return self.host.ntotal

    def add(self, vectors):
        self.host.add(vectors)

    def search(self, queries, k, params=None):
        if self.made.fails:
            raise RuntimeError(self.made.fails)
        assert isinstance(params, faiss.SearchParametersIVF), "GPU IVF index: passed unhandled SearchParameters"
        if k > MOST or params.nprobe > MOST:
            raise RuntimeError(f"GPU index only supports min/max-K selection up to {MOST} (requested {k})")
        self.made.selected += params.sel is not None
        kept = params if self.made.honours else faiss.SearchParametersIVF(nprobe=params.nprobe)
        return self.host.search(queries, k, params=kept)


class Cagra:
    def __init__(self, made, host):
        self.made, self.host = made, host

    @property
    def ntotal(self):
        return self.host.ntotal

    def train(self, vectors):
        self.host.add(vectors)

    def search(self, queries, k, params=None):
        assert isinstance(params, SearchParametersCagra)
        if params.itopk_size > 512 or k > params.itopk_size:
            raise RuntimeError("itopk_size does not fit")
        return self.host.search(queries, k, params=faiss.SearchParameters(sel=params.sel))


def _read(pointer, shape, kind):
    dtype = {"f32": np.float32, "f16": np.float16, "i64": np.int64}[kind]
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(int(pointer)), dtype).reshape(shape)


def install(patch, honours=False):
    """Have it in place of FAISS for as long as the patch lasts."""
    from chroma_gpu.index import capabilities, faiss_gpu

    made = GpuFaiss(honours)
    patch.setitem(sys.modules, "faiss", made)
    for each in (capabilities.capabilities, capabilities.tested, faiss_gpu.card_of):
        each.cache_clear()
    return made
