"""The scans of the kernels against the definition: everything within the slack of the k-th best, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from chroma_gpu.kernels import scan as scan_module
from chroma_gpu.kernels.buffer import Buffer, Chunk
from chroma_gpu.kernels.gather import gather
from chroma_gpu.kernels.scan import SPARSE, blocks, product_error, scan
from chroma_gpu.rowset import RowSet


def table(n, dim, n_queries, device, pieces=(0.3, 1.0), seed=0, whole=True):
    """Queries and chunks of small whole numbers, whose products float32 holds exactly: scores have no error, and many are equal."""
    rng = np.random.default_rng(seed)
    vectors, queries = (rng.integers(-4, 5, (rows, dim)).astype(np.float32) for rows in (n, n_queries))
    gain = rng.choice(np.array([0.5, 1, 2], np.float32), n)
    bias = rng.integers(-3, 4, n).astype(np.float32)
    if not whole:
        vectors, queries = (rng.standard_normal(each.shape).astype(np.float32) for each in (vectors, queries))
    chunks, start = [], 0
    for piece in pieces:
        stop = min(n, -(-round(n * piece) // 32) * 32) if piece < 1 else n
        chunks.append(Chunk(start, *(torch.from_numpy(each[start:stop]).to(device) for each in (vectors, gain, bias))))
        start = stop
    scores = (queries.astype(np.float64) @ vectors.T) * gain - bias
    return torch.from_numpy(queries).to(device), chunks, scores


def expected(scores, k, slack, allowed=None):
    """{(query, row)} by the definition; scores [q, n] float64, allowed [n] bool or one row of them for each query."""
    found = set()
    for i, line in enumerate(scores):
        rows = np.arange(len(line)) if allowed is None else np.flatnonzero(allowed if allowed.ndim == 1 else allowed[i])
        floor = -np.inf if len(rows) < k else np.sort(line[rows])[-k]
        found |= {(i, int(row)) for row in rows[line[rows] >= floor - slack[i]]}
    return found


def pairs(survivors):
    owners, rows = survivors.owners.tolist(), survivors.rows.tolist()
    assert owners == sorted(owners)
    found = set(zip(owners, rows, strict=True))
    assert len(found) == len(owners), "a pair came twice"
    return found


@pytest.mark.parametrize(
    ("n", "dim", "n_queries", "k"), [(1, 1, 1, 1), (33, 7, 2, 5), (1_000, 17, 5, 10), (4_099, 33, 3, 100), (77, 5, 4, 200)]
)
@pytest.mark.parametrize("slack", [0.0, 2.0])
def test_scan(device, n, dim, n_queries, k, slack):
    queries, chunks, scores = table(n, dim, n_queries, device)
    slacks = torch.full((n_queries,), slack, device=device)
    found = scan(queries, Buffer.of(chunks), k, slacks)
    assert pairs(found) == expected(scores, k, [slack] * n_queries)
    np.testing.assert_array_equal(found.scores.cpu(), scores[found.owners.cpu(), found.rows.cpu()])


@pytest.mark.parametrize("limit", [1, 32 * 3, 500 * 3])
def test_scan_in_many_blocks(device, limit):
    queries, chunks, scores = table(3_001, 9, 3, device, pieces=(0.1, 0.15, 0.8, 1.0))
    assert len(list(blocks(chunks, 3, limit))) > 2 * len(chunks)
    found = scan(queries, Buffer.of(chunks), 10, torch.zeros(3, device=device), limit=limit)
    assert pairs(found) == expected(scores, 10, [0] * 3)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("size", [3_001, 2_000, 5_000])
def test_scan_under_a_mask(device, share, size):
    queries, chunks, scores = table(3_001, 9, 3, device)
    flags = np.random.default_rng(1).random(size) < share
    words = torch.from_numpy(RowSet.where(flags).words.view(np.int32).copy()).to(device)
    allowed = np.zeros(3_001, np.bool_)
    allowed[: min(size, 3_001)] = flags[:3_001]
    for limit in (None, 600):
        assert pairs(scan(queries, Buffer.of(chunks), 10, torch.ones(3, device=device), words, limit=limit)) == expected(
            scores, 10, [1] * 3, allowed
        )


def test_dense_and_sparse_masks_take_different_ways(device, monkeypatch):
    queries, chunks, _ = table(3_001, 9, 1, device, pieces=(1.0,))
    products = []
    product = torch.Tensor.__matmul__
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: products.append(b.shape[1]) or product(a, b))
    for share in (SPARSE / 2, SPARSE * 2):
        flags = np.random.default_rng(1).random(3_001) < share
        words = torch.from_numpy(RowSet.where(flags).words.view(np.int32).copy()).to(device)
        scan(queries, Buffer.of(chunks), 10, torch.zeros(1, device=device), words)
    assert products[0] < SPARSE * 3_001
    assert products[1] == 3_001


@pytest.mark.parametrize("rising", [True, False])
def test_rows_in_the_order_of_their_scores(device, rising):
    """Where rows come worst first, a sample gives no floor: the block itself must, and no row may be lost or kept needlessly."""
    n = 5_000
    vectors = np.arange(n, dtype=np.float32)[:, None]
    vectors = vectors if rising else vectors[::-1].copy()
    chunks = [Chunk(0, torch.from_numpy(vectors).to(device))]
    found = scan(torch.ones(1, 1, device=device), Buffer.of(chunks), 10, torch.zeros(1, device=device))
    assert sorted(found.rows.tolist()) == (list(range(n - 10, n)) if rising else list(range(10)))


def test_rows_at_minus_infinity_are_kept_only_while_there_are_fewer_others(device):
    vectors = torch.arange(40, dtype=torch.float32, device=device)[:, None]
    bias = torch.zeros(40, device=device)
    bias[5:] = torch.inf
    chunk = Chunk(0, vectors, None, bias)
    query, none = torch.ones(1, 1, device=device), torch.zeros(1, device=device)
    assert set(scan(query, Buffer.of([chunk]), 5, none).rows.tolist()) == set(range(5))
    assert set(scan(query, Buffer.of([chunk]), 6, none).rows.tolist()) == set(range(40))


@pytest.mark.parametrize("dim", [3, 64, 1_000])
def test_the_error_of_a_product_is_bounded(device, dim):
    queries, chunks, _ = table(2_000, dim, 4, device, whole=False)
    vectors = torch.cat([chunk.vectors for chunk in chunks])
    products = (queries @ vectors.T).cpu().numpy()
    wide = queries.cpu().numpy().astype(np.float64), vectors.cpu().numpy().astype(np.float64)
    bound = product_error(dim, torch.device(device)) * np.linalg.norm(wide[0], axis=1)[:, None] * np.linalg.norm(wide[1], axis=1)
    assert (np.abs(products - wide[0] @ wide[1].T) <= bound).all()


def test_the_bound_follows_the_precision_that_torch_was_told(device):
    before = torch.get_float32_matmul_precision()
    full = product_error(64, torch.device(device))
    try:
        torch.set_float32_matmul_precision("medium")
        assert product_error(64, torch.device(device)) > 2.0**-10 > full
        test_the_error_of_a_product_is_bounded(device, 1_000)
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("k", [1, 10, 300])
def test_gather_of_the_same_rows_for_all(device, k):
    queries, chunks, scores = table(3_001, 9, 3, device, pieces=(0.1, 0.5, 1.0))
    rows = np.random.default_rng(2).permutation(3_001)[:250]
    allowed = np.isin(np.arange(3_001), rows)
    found = gather(queries, Buffer.of(chunks), torch.from_numpy(rows).to(device), k, torch.ones(3, device=device))
    assert pairs(found) == expected(scores, k, [1] * 3, allowed)
    np.testing.assert_array_equal(found.scores.cpu(), scores[found.owners.cpu(), found.rows.cpu()])


def test_gather_of_other_rows_for_each(device):
    queries, chunks, scores = table(3_001, 9, 4, device, pieces=(0.1, 0.5, 1.0))
    rng = np.random.default_rng(2)
    sets = [rng.permutation(3_001)[:size] for size in (250, 0, 1, 1_500)]
    offsets = np.cumsum([0, *(len(each) for each in sets)]).tolist()
    allowed = np.stack([np.isin(np.arange(3_001), each) for each in sets])
    rows = torch.from_numpy(np.concatenate(sets)).to(device)
    found = gather(queries, Buffer.of(chunks), rows, 10, torch.zeros(4, device=device), offsets)
    assert pairs(found) == expected(scores, 10, [0] * 4, allowed)


def test_nothing_to_scan(device):
    queries, none = torch.ones(2, 3, device=device), torch.zeros(2, device=device)
    empty = torch.empty(0, dtype=torch.int64, device=device)
    buffer = Buffer.of([])
    for found in (scan(queries, buffer, 10, none), gather(queries, buffer, empty, 10, none)):
        assert len(found.owners) == len(found.rows) == len(found.scores) == 0


@pytest.mark.parametrize("codes", [torch.float32, torch.float16, torch.int8])
@pytest.mark.parametrize("share", [None, 0.05, 0.6])
def test_codes_errors_and_lengths(device, codes, share):
    """What survives is every row whose highest score reaches the k-th best lowest one."""
    rng = np.random.default_rng(3)
    queries, chunks, _ = table(3_001, 9, 3, device, pieces=(0.1, 0.5, 1.0))
    errors = rng.choice(np.array([0, 0.5, 4], np.float32), 3_001)
    lengths = torch.tensor([0.5, 1, 2], device=device)
    coded = [
        Chunk(c.start, c.vectors.to(codes), c.gain, c.bias, torch.from_numpy(errors[c.start : c.start + len(c)]).to(device))
        for c in chunks
    ]
    vectors, gain, bias = (
        torch.cat([getattr(c, each) for c in chunks]).cpu().double().numpy() for each in ("vectors", "gain", "bias")
    )
    wide = lengths.cpu().double().numpy()[:, None]
    scores = wide * (queries.cpu().double().numpy() @ vectors.T) * gain - bias
    allowed = np.ones(3_001, np.bool_) if share is None else rng.random(3_001) < share
    words = None if share is None else torch.from_numpy(RowSet.where(allowed).words.view(np.int32).copy()).to(device)
    rows = np.flatnonzero(allowed)
    floor = np.sort((scores - wide * errors)[:, rows], axis=1)[:, -10]
    expected = {(i, int(r)) for i in range(3) for r in rows if (scores + wide * errors)[i, r] >= floor[i] - 1}
    ones = torch.ones(3, device=device)
    for limit in (None, 600):
        found = scan(queries.half(), Buffer.of(coded), 10, ones, words, lengths=lengths, limit=limit)
        assert pairs(found) == expected
    listed = torch.from_numpy(rows).to(device)
    assert pairs(gather(queries, Buffer.of(coded), listed, 10, ones, lengths=lengths)) == expected
    each = gather(queries, Buffer.of(coded), listed.repeat(3), 10, ones, [len(rows) * i for i in range(4)], lengths=lengths)
    assert pairs(each) == expected


@pytest.mark.parametrize("way", [scan, lambda *given: gather(*given[:2], torch.arange(4), *given[2:])])
def test_a_k_below_one(way):
    with pytest.raises(ValueError, match="at least 1"):
        way(torch.ones(1, 3), Buffer.of([Chunk(0, torch.ones(4, 3))]), 0, torch.zeros(1))


@pytest.fixture
def card(monkeypatch):
    """A CUDA device that nobody knows yet."""
    scan_module._starts.cache_clear()
    monkeypatch.setattr(scan_module, "_WITHOUT", set())
    yield torch.device("cuda", 99)
    scan_module._starts.cache_clear()


def test_torch_serves_a_card_on_which_triton_cannot_start_kernels(card, monkeypatch):
    lists = pytest.importorskip("chroma_gpu.kernels.lists_triton", reason="Triton is for Linux only")

    def fails(device):
        raise RuntimeError("Failed to find C compiler.")

    monkeypatch.setattr(lists, "tried", fails)
    before = product_error(64, card, torch.float16)
    with pytest.warns(RuntimeWarning, match="Failed to find C compiler.*slower, by torch alone.*gcc or clang"):
        assert not scan_module.has_triton(card)
    assert not scan_module.has_triton(card), "and says so once: warnings are errors here"
    assert product_error(64, card, torch.float16) < before, "float32 products are exact to more than tensor cores are"
    torch.set_float32_matmul_precision("high")
    try:
        assert product_error(64, card, torch.float16) > 2.0**-10, "they are what torch multiplies"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_a_card_that_fails_is_not_taken_for_one_without_triton(card, monkeypatch):
    lists = pytest.importorskip("chroma_gpu.kernels.lists_triton", reason="Triton is for Linux only")

    def fails(device):
        raise RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered")

    monkeypatch.setattr(lists, "tried", fails)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        scan_module.has_triton(card)


def test_what_is_tried_runs(device):
    lists = pytest.importorskip("chroma_gpu.kernels.lists_triton", reason="Triton is for Linux only")
    lists.tried(torch.device(device))
