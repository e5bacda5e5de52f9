"""The graph on a card, by fakes of cuVS and of FAISS with cuVS that search by brute force."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest
from index import fake_cuvs, fake_faiss
from neighbours import ArraySource, assert_same_neighbours, brute_force, recall

from benchmarks.datasets import folded
from chroma_gpu.errors import DeviceError, InvalidArgumentError, MissingDependency, StoreError
from chroma_gpu.index import IndexSpec, cagra, cagra_graphs, capabilities, create, load
from chroma_gpu.index.gpu.ledger import LEDGER
from chroma_gpu.records import Metric
from chroma_gpu.rowset import RowSet

N, DIM = 5_000, 24
BOTH = folded(N + 20, DIM)
VECTORS, QUERIES = BOTH[:N], BOTH[N:]


def forget():
    for each in (capabilities.capabilities, capabilities.tested):
        each.cache_clear()


@pytest.fixture(autouse=True)
def clean():
    forget()
    yield
    forget()


@pytest.fixture
def cuvs(monkeypatch):
    return fake_cuvs.install(monkeypatch)


@pytest.fixture
def by_faiss(monkeypatch, cuvs):
    made = fake_faiss.install(monkeypatch, honours=True)
    for module in (cagra, cagra_graphs):
        monkeypatch.setattr(module, "graph_of", lambda device: cagra_graphs.ByFaiss("cuda:0"))
    return made


class Growing:
    """A source of which only the first rows can be read yet."""

    dim = DIM

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return self.rows

    def block(self, start, stop):
        return ArraySource(VECTORS).block(start, stop)

    def gather(self, rows):
        return VECTORS[rows]


def made(metric=Metric.L2, source=None, **params):
    index = create(IndexSpec("cagra", metric, DIM, params), source or ArraySource(VECTORS))
    index.add(len(source) if source else N)
    return index


@pytest.mark.parametrize("metric", Metric)
@pytest.mark.parametrize("maker", ["cuvs", "by_faiss"])
def test_the_graph_answers(request, maker, metric, dear_exact):
    request.getfixturevalue(maker)
    index = made(metric)
    for k in (1, 10, 100):
        got = index.search(QUERIES, k)
        assert not got.exact
        assert recall(got, brute_force(QUERIES, VECTORS, k, metric)) > 0.99
    assert index.traits.recall > 0.99


@pytest.mark.parametrize("honours", [True, False])
@pytest.mark.parametrize("share", [0.5, 0.3])
def test_masks_hold_either_way(cuvs, honours, share, dear_exact):
    cuvs.honours = honours
    index = made()
    assert index.traits.filters_inside == honours
    mask = RowSet.where(np.random.default_rng(1).random(N) < share)
    got = index.search(QUERIES, 10, mask)
    assert all(int(row) in mask for row in got.rows.ravel())
    assert recall(got, brute_force(QUERIES, VECTORS, 10, Metric.L2, mask)) > 0.95


def test_what_would_take_more_candidates_than_there_may_be_is_scanned(cuvs, dear_exact):
    index = made()
    assert index.traits.largest_k == fake_cuvs.WIDEST
    mask = RowSet.where(np.arange(N) % 97 == 0)
    for got, want in (
        (index.search(QUERIES, 600), brute_force(QUERIES, VECTORS, 600, Metric.L2)),
        (index.search(QUERIES, 40, mask), brute_force(QUERIES, VECTORS, 40, Metric.L2, mask)),
    ):
        assert got.exact
        assert_same_neighbours(got, want)


def test_rows_after_the_graph_are_found(cuvs, dear_exact):
    source = Growing(4_500)
    index = made(source=source)
    source.rows = N
    index.add(N)
    assert (cuvs.builds, len(index)) == (2, N)  # one for the self-test
    got = index.search(VECTORS[4_990:], 3)
    np.testing.assert_array_equal(got.rows[:, 0], np.arange(4_990, N))
    assert recall(index.search(QUERIES, 10), brute_force(QUERIES, VECTORS, 10, Metric.L2)) > 0.99


def test_a_quarter_more_and_it_is_built_anew(cuvs, monkeypatch, dear_exact):
    monkeypatch.setattr(cagra, "_FIRST", 1_000)
    source = Growing(3_000)
    index = made(source=source)
    before = cuvs.builds
    source.rows = N
    for stop, builds in ((3_700, 0), (4_400, 0), (N, 1)):  # too few; far from all there is; all
        index.add(stop)
        assert cuvs.builds - before == builds
    assert recall(index.search(QUERIES, 10), brute_force(QUERIES, VECTORS, 10, Metric.L2)) > 0.99


def test_links_are_kept(cuvs, tmp_path, dear_exact):
    index = made()
    index.save(tmp_path / "index")
    builds = cuvs.builds
    again = load(tmp_path / "index", index.spec, ArraySource(VECTORS))
    assert (cuvs.builds, cuvs.restores) == (builds, 1)
    np.testing.assert_array_equal(again.search(QUERIES, 10).rows, index.search(QUERIES, 10).rows)
    whole = (tmp_path / "index").read_bytes()
    (tmp_path / "index").write_bytes(whole[:-8] + b"\xff" * 8)
    with pytest.raises(StoreError, match="links of every row"):
        load(tmp_path / "index", index.spec, ArraySource(VECTORS))


def test_without_links_it_is_built_again(by_faiss, tmp_path, dear_exact):
    index = made()
    index.save(tmp_path / "index")
    assert (tmp_path / "index").stat().st_size < 5 * N
    again = load(tmp_path / "index", index.spec, ArraySource(VECTORS))
    np.testing.assert_array_equal(again.search(QUERIES, 10).rows, index.search(QUERIES, 10).rows)


def test_the_books_of_the_device(cuvs, dear_exact):
    before = LEDGER.held().get("cpu", 0)
    index = made()
    assert LEDGER.held()["cpu"] - before == N * (4 * DIM + 4 * cagra_graphs.DEGREE)
    index.close()
    assert LEDGER.held().get("cpu", 0) == before
    assert index.search(QUERIES, 5).exact
    with pytest.raises(DeviceError, match="does not fit"):
        made(limit="100KB")


def lost(*given, **named):
    raise RuntimeError("lost")


def test_what_cuvs_raises_is_ours(cuvs, monkeypatch, dear_exact):
    index = made()
    monkeypatch.setattr(index._built[0]._cagra, "search", lost)
    with pytest.raises(DeviceError, match="cuVS failed on cpu: lost"):
        index.search(QUERIES, 3)


def test_a_self_test_that_fails_is_told(cuvs, monkeypatch):
    monkeypatch.setattr(sys.modules["cuvs.neighbors.cagra"], "build", None)
    with pytest.raises(DeviceError, match="cannot be used on cpu: cuVS failed"):
        made()


def test_parameters_are_checked(cuvs):
    for wrong in ({"recall": 2}, {"degree": 3}):
        with pytest.raises(InvalidArgumentError, match=next(iter(wrong))):
            made(**wrong)


def test_without_cuvs_it_says_what_to_install():
    assert importlib.util.find_spec("cuvs") is None
    with pytest.raises(MissingDependency, match=r"needs cuVS.*cuvs-cu13"):
        create(IndexSpec("cagra", Metric.L2, DIM), ArraySource(VECTORS))


def test_without_a_card_it_says_so(monkeypatch):
    monkeypatch.setattr(capabilities, "capabilities", lambda: capabilities.Capabilities(None, "", False, 0, False, "26.10"))
    with pytest.raises(DeviceError, match="needs a CUDA device"):
        create(IndexSpec("cagra", Metric.L2, DIM, {"device": "cpu"}), ArraySource(VECTORS))
