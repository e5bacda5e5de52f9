"""Indexes of every kind over the same rows, as they choose their way and forced off the exact one."""

from __future__ import annotations

import pytest
from index.fake_cuvs import install
from neighbours import ArraySource

from chroma_gpu.index import INDEX_KINDS, IndexSpec, capabilities, cost, create
from chroma_gpu.records import Metric

METRICS = tuple(Metric)


@pytest.fixture
def dear_exact(monkeypatch):
    """Make the exact scan look so expensive that an approximate index never begins with it."""
    monkeypatch.setattr(cost.Costs, "exact_block", lambda *given, **more: 1e12)


@pytest.fixture(scope="module")
def fake_cuvs():
    """The cuvs package on the host, for the kind cagra."""
    with pytest.MonkeyPatch.context() as patch:
        for each in (capabilities.capabilities, capabilities.tested):
            each.cache_clear()
        yield install(patch)
    for each in (capabilities.capabilities, capabilities.tested):
        each.cache_clear()


@pytest.fixture(params=[*INDEX_KINDS, "flat on a device"])
def kind(request, device, fake_cuvs):
    """(kind, params): every kind of the table, and the flat index with a copy of the rows on the device under test."""
    if request.param == "flat on a device":
        return "flat", {"device": device, "resident": True}
    if request.param in {"ivf", "ivf_pq"}:
        return request.param, {"recall": 0.999}
    return request.param, {"M": 12, "ef_construction": 40, "ef_search": 100} if request.param == "hnsw" else {}


@pytest.fixture(scope="session")
def kept():
    """Indexes that were built before, by what they were built with; no test may change one."""
    return {}


@pytest.fixture(params=METRICS)
def metric(request):
    return request.param


@pytest.fixture
def build(kind, metric, kept):
    """An index of all given vectors, taken in at once or in pieces; shared by the tests that ask for the same."""

    def made(vectors, pieces=1):
        spec = IndexSpec(kind[0], metric, vectors.shape[1], kind[1])
        key = (str(spec), hash(vectors.tobytes()), pieces)
        if key not in kept:
            kept[key] = create(spec, ArraySource(vectors))
            for piece in range(pieces):
                kept[key].add(len(vectors) * (piece + 1) // pieces)
        return kept[key]

    return made
