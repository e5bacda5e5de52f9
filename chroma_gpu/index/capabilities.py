"""What the FAISS and cuVS that are installed can do here, found out by trying, once for each process.

A GPU index may take a selector of rows and ignore it without a word, so a mask is handed over only where a small index of the same kind on
the same device has been seen to honour one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any, Final

import numpy as np

from chroma_gpu.errors import DeviceError, EngineError, MissingDependency
from chroma_gpu.records import Metric, Vectors
from chroma_gpu.rowset import RowSet

LISTS: Final = ("ivf", "ivf_pq")
CAGRA: Final = "cagra"

_ROWS: Final = 1024
_DIM: Final = 16
_K: Final = 10
_ASKED: Final = (16_384, 2_048, 1_024, 512, 256)
"""Lengths of answers that are tried, longest first."""

_CUVS: Final = ("cuvs-cu13", "cuvs-cu12", "cuvs")
"""Names of the distribution."""


@dataclass(frozen=True, slots=True)
class Tested:
    """What one kind of index did on one device.

    filters_inside  it left out what a selector left out, and found what was left
    largest_k       the longest answer that it gave; None on a CPU, where there is no end
    failure         why it cannot be used; None if it can
    """

    kind: str
    device: str
    filters_inside: bool
    largest_k: int | None
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What is installed.

    faiss    version, None without it; options: what it says it was compiled with
    gpus     CUDA devices that it can use; gpu_build: whether it could use any
    faiss_cuvs  whether it was built with cuVS, and so has CAGRA and masks
    cuvs     version of the cuvs package, None without it
    """

    faiss: str | None
    options: str
    gpu_build: bool
    gpus: int
    faiss_cuvs: bool
    cuvs: str | None

    def __str__(self) -> str:
        if self.faiss is None:
            found = "no FAISS"
        else:
            build = f"a GPU build{' with cuVS' if self.faiss_cuvs else ''}, {self.gpus} GPUs" if self.gpu_build else "a CPU build"
            found = f"FAISS {self.faiss}, {build}"
        return f"{found}; cuvs {self.cuvs}" if self.cuvs else found


@cache
def capabilities() -> Capabilities:
    """What is here.  Cost: imports FAISS"""
    cuvs = _version_of_cuvs() if find_spec("cuvs") is not None else None
    if find_spec("faiss") is None:
        return Capabilities(None, "", False, 0, False, cuvs)
    from chroma_gpu.index.faiss_gpu import cards
    from chroma_gpu.index.faiss_library import faiss_version, load_faiss

    faiss = load_faiss()
    options = str(faiss.get_compile_options()).strip()
    return Capabilities(
        faiss_version(), options, hasattr(faiss, "StandardGpuResources"), cards(), hasattr(faiss, "GpuIndexCagra"), cuvs
    )


def require(kind: str, device: str) -> None:
    """Raise unless an index of a kind can be made on a device.

    Raises   MissingDependency naming what to install, DeviceError if the device cannot be used for it
    """
    if kind in LISTS:
        if find_spec("faiss") is None:
            raise MissingDependency(
                f"the index {kind} needs FAISS.", hint="Install it with `pip install 'chroma-gpu[cpu]'`, or use the kind flat."
            )
        if device != "cpu" and not capabilities().gpus:
            raise DeviceError(
                f"the index {kind} cannot be made on {device}: there is {capabilities()}.",
                hint="Install faiss-gpu instead of faiss-cpu, or leave the device to the index: it then takes the CPU.",
            )
    if kind == CAGRA:
        here = capabilities()
        if here.cuvs is None and not (here.faiss_cuvs and here.gpus):
            raise MissingDependency(
                f"the index cagra needs cuVS, and there is {here}.",
                hint="Install `cuvs-cu12` or `cuvs-cu13` from https://pypi.nvidia.com, by the CUDA of your torch, or faiss-gpu-cuvs "
                "instead of other FAISS packages; or use index='flat', which is exact.",
            )
        if not device.startswith("cuda"):
            raise DeviceError("the index cagra needs a CUDA device.", hint="Use index='hnsw' on a CPU.")


def device_for(kind: str, wanted: str) -> str:
    """Where an index of a kind is made if ``wanted`` is where it would best be: lists stay on the CPU without a FAISS for GPUs."""
    return "cpu" if kind in LISTS and (not wanted.startswith("cuda") or not capabilities().gpus) else wanted


@cache
def tested(kind: str, device: str) -> Tested:
    """What a kind does on a device.  Cost: an index of 1,024 rows is made and searched; 50 ms for ivf_pq on a CPU, less for others"""
    rng = np.random.default_rng(1)
    vectors, queries = rng.standard_normal((_ROWS, _DIM), np.float32), rng.standard_normal((4, _DIM), np.float32)
    # What is to be left out is the nearest half of the first query, so that ignoring it cannot go unseen.
    near = vectors @ queries[0]
    mask = RowSet.where(near < np.median(near))
    try:
        index = _cagra(vectors, device) if kind == CAGRA else _lists(kind, vectors, device)
        inside = _honours(index, queries, mask)
        return Tested(kind, device, inside, None if kind in LISTS and device == "cpu" else _largest(index, queries))
    except (EngineError, RuntimeError, AttributeError, TypeError, ImportError) as error:
        return Tested(kind, device, filters_inside=False, largest_k=None, failure=str(error).strip().splitlines()[0])


def _lists(kind: str, vectors: Vectors, device: str) -> Any:
    from chroma_gpu.index.lists import Lists, train

    made = Lists(train(kind, Metric.L2, vectors, 4, device), kind, device, filters_inside=True, largest_k=None)
    made.add(vectors)
    return lambda queries, k, mask: made.search(queries, k, 4, mask)


def _cagra(vectors: Vectors, device: str) -> Any:
    from chroma_gpu.index.cagra_graphs import graph_of

    made = graph_of(device).build(vectors, Metric.L2)
    return lambda queries, k, mask: made.search(queries, k, max(64, k), mask)


def _honours(index: Any, queries: Vectors, mask: RowSet) -> bool:
    found = index(queries, _K, mask)
    flags = mask.flags()
    rows = found[(found >= 0) & (found < _ROWS)]
    return len(rows) == found.size and bool(flags[rows].all())


def _largest(index: Any, queries: Vectors) -> int:
    for k in _ASKED:
        try:
            found = index(queries, k, None)
        except (EngineError, RuntimeError):
            continue
        if (found[:, : min(k, _K)] >= 0).all():
            return k
    raise DeviceError("no answer of any length came")


def _version_of_cuvs() -> str:
    for name in _CUVS:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "of unknown version"
