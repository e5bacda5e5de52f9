"""Indexes of every kind over the same rows, as they choose their way and forced off the exact one."""

from __future__ import annotations

import pytest

from chroma_gpu.index import INDEX_KINDS, IndexSpec, cost, create
from chroma_gpu.records import Metric
from neighbours import ArraySource

METRICS = tuple(Metric)


@pytest.fixture
def dear_exact(monkeypatch):
    """Make the exact scan look so expensive that an approximate index never begins with it."""
    monkeypatch.setattr(cost, "exact_block", lambda *given: 1e12)


@pytest.fixture(params=[*INDEX_KINDS, "flat on a device"])
def kind(request, device):
    """(kind, params): every kind of the table, and the flat index with a copy of the rows on the device under test."""
    if request.param == "flat on a device":
        return "flat", {"device": device, "resident": True}
    return request.param, {}


@pytest.fixture(params=METRICS)
def metric(request):
    return request.param


@pytest.fixture
def build(kind, metric):
    """An index of all given vectors, taken in at once or in pieces."""

    def made(vectors, pieces=1, **params):
        index = create(IndexSpec(kind[0], metric, vectors.shape[1], {**kind[1], **params}), ArraySource(vectors))
        for piece in range(pieces):
            index.add(len(vectors) * (piece + 1) // pieces)
        return index

    return made
