"""The Triton kernels of ``scan`` and ``gather``, against the definition in float64: every way, every kind of codes and of source.

Small whole numbers again: their products are exact in float32, so the sets must be equal, not alike.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton", reason="needs triton")

from chroma_gpu.kernels import gather as gather_module
from chroma_gpu.kernels import gather_triton, scan_triton
from chroma_gpu.kernels import scan as scan_module
from chroma_gpu.kernels.buffer import CHUNK, Buffer, Chunk
from chroma_gpu.kernels.collect_triton import COLLECT, EACH, EVERY, GROUP, LISTED, MASKED, SAMPLE
from chroma_gpu.kernels.quantise import allocate, quantise
from chroma_gpu.kernels.scan import product_error
from chroma_gpu.kernels.tuning import Config, trying
from chroma_gpu.records import Metric
from chroma_gpu.rowset import RowSet

FMA = Config(512, 4, 16, 4, 1, "fma")
ONE = Config(512, 1, 16, 4, 1, "fma")
DOT = Config(512, 16, 16, 4, 1, "dot")
CODES = [torch.float32, torch.float16, torch.int8]
PADDED = 16
"""Columns of a padded row are a multiple of this."""


@pytest.fixture(autouse=True)
def launches(monkeypatch, device):
    """(kernel, SOURCE, MODE) of every launch of a test; and few programs, of large tiles."""
    noted = []
    launch = scan_triton.launch

    def noting(kernel, grid, *given, **named):
        noted.append(
            (kernel.fn.__name__ if hasattr(kernel, "fn") else kernel.__name__, named.get("SOURCE"), named.get("MODE"), grid)
        )
        launch(kernel, grid, *given, **named)

    monkeypatch.setattr(scan_triton, "launch", noting)
    if device == "cpu":
        monkeypatch.setattr(scan_triton, "WAVES", 3)
    return noted


def modes(noted):
    return [mode for kernel, _, mode, _ in noted if kernel == "score"]


def table(n, dim, device, codes=torch.float32, cuts=(0.3,), seed=0, start=0, padded=False, columns=True):
    """A buffer of whole numbers and its parts in float64: vectors, gain, bias, error."""
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-4, 5, (n, dim)).astype(np.float32)
    gain = rng.choice(np.array([0.5, 1, 2], np.float32), n)
    bias = rng.integers(-3, 4, n).astype(np.float32)
    error = rng.choice(np.array([0, 0.5, 3], np.float32), n)
    stops = [0, *(int(n * each) // 32 * 32 for each in cuts), n]
    width = -(-dim // PADDED) * PADDED if padded else dim
    chunks = []
    for first, stop in pairwise(stops):
        held = torch.zeros(stop - first, width, dtype=codes, device=device)
        held[:, :dim] = torch.from_numpy(vectors[first:stop]).to(codes)
        rest = (torch.from_numpy(each[first:stop].copy()).to(device) for each in (gain, bias, error)) if columns else ()
        chunks.append(Chunk(start + first, held[:, :dim], *rest))
    if not columns:
        gain, bias, error = np.ones(n), np.zeros(n), np.zeros(n)
    return Buffer.of(chunks), vectors.astype(np.float64), gain, bias, error


def asked(n_queries, dim, device, seed=1):
    rng = np.random.default_rng(seed)
    queries = torch.from_numpy(rng.integers(-4, 5, (n_queries, dim)).astype(np.float32))
    lengths = torch.from_numpy(rng.choice(np.array([0.5, 1, 2], np.float32), n_queries))
    slack = torch.from_numpy(rng.choice(np.array([0, 2], np.float32), n_queries))
    return queries.to(device), lengths.to(device), slack.to(device)


def definition(queries, lengths, parts, k, slack, allowed=None, start=0):
    """{(query, row): score}; allowed [n] bool or one row of them for each query."""
    vectors, gain, bias, error = parts
    lengths = np.ones(len(queries)) if lengths is None else lengths.cpu().numpy().astype(np.float64)
    found = {}
    for i, query in enumerate(queries.cpu().numpy().astype(np.float64)):
        rows = np.arange(len(vectors)) if allowed is None else np.flatnonzero(allowed if allowed.ndim == 1 else allowed[i])
        scores = (lengths[i] * (vectors[rows] @ query) * gain[rows]) - bias[rows]
        lowest, highest = scores - lengths[i] * error[rows], scores + lengths[i] * error[rows]
        floor = -np.inf if len(rows) < k else np.sort(lowest)[-k]
        keep = ~(highest < floor - slack[i].item())
        found |= {(i, start + int(row)): score for row, score in zip(rows[keep], scores[keep], strict=True)}
    return found


def check(survivors, expected):
    owners, rows = survivors.owners.tolist(), survivors.rows.tolist()
    assert survivors.owners.dtype == survivors.rows.dtype == torch.int64
    assert owners == sorted(owners)
    assert len(set(zip(owners, rows, strict=True))) == len(owners), "a pair came twice"
    assert dict(zip(zip(owners, rows, strict=True), survivors.scores.tolist(), strict=True)) == expected


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("how", [ONE, FMA, DOT], ids=["one", "fma", "dot"])
@pytest.mark.parametrize("small", [8192, 0], ids=["every", "sample"])
def test_all_rows(device, monkeypatch, launches, codes, how, small):
    monkeypatch.setattr(scan_triton, "SMALL", small)
    buffer, *parts = table(1_501, 19, device, codes, cuts=(0.3, 0.7))
    queries, lengths, slack = asked(1 if how is ONE else 5, 19, device)
    with trying("scan", how):
        found = scan_triton.scan(queries, buffer, 10, slack, lengths=lengths)
    check(found, definition(queries, lengths, parts, 10, slack))
    assert modes(launches) == ([EVERY] if small else [SAMPLE, COLLECT])


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("how", [ONE, DOT], ids=["one", "dot"])
def test_float16_queries_and_padded_rows_without_columns(device, monkeypatch, codes, how):
    monkeypatch.setattr(scan_triton, "SMALL", 0)
    buffer, *parts = table(2_000, 40, device, codes, padded=True, columns=False)
    assert buffer.aligned
    assert buffer.stride == 48
    queries, _, slack = asked(3, 40, device)
    with trying("scan", how):
        found = scan_triton.scan(queries.half(), buffer, 7, slack)
    check(found, definition(queries, None, parts, 7, slack))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.9])
@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
@pytest.mark.parametrize("small", [8192, 0], ids=["every", "sample"])
def test_masks(device, monkeypatch, launches, share, known, small):
    monkeypatch.setattr(scan_triton, "SMALL", small)
    buffer, *parts = table(1_501, 9, device)
    queries, lengths, slack = asked(3, 9, device)
    for size in (1_501, 1_000, 2_500):
        flags = np.random.default_rng(1).random(size) < share
        words = torch.from_numpy(RowSet.where(flags).words.view(np.int32).copy()).to(device)
        allowed = np.zeros(1_501, np.bool_)
        allowed[: min(size, 1_501)] = flags[:1_501]
        launches.clear()
        with trying("scan", FMA):
            found = scan_triton.scan(
                queries, buffer, 10, slack, words, lengths=lengths, passing=int(allowed.sum()) if known else None
            )
        check(found, definition(queries, lengths, parts, 10, slack, allowed))
        if share == 0.9 and size >= 1_501 and known:
            assert {source for kernel, source, _, _ in launches if kernel == "score"} == {MASKED}
        elif allowed.any() or not known:
            assert {source for kernel, source, _, _ in launches if kernel == "score"} == {LISTED}
            assert launches[0][0] == "compact"


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("small", [8192, 0], ids=["every", "sample"])
def test_the_same_list_for_all(device, monkeypatch, codes, small):
    monkeypatch.setattr(scan_triton, "SMALL", small)
    buffer, *parts = table(1_501, 19, device, codes, cuts=(0.1, 0.5))
    queries, lengths, slack = asked(3, 19, device)
    rows = np.random.default_rng(2).permutation(1_501)[:900]
    with trying("gather", DOT):
        found = gather_triton.gather(queries, buffer, torch.from_numpy(rows).to(device), 10, slack, lengths=lengths)
    check(found, definition(queries, lengths, parts, 10, slack, np.isin(np.arange(1_501), rows)))


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("small", [8192, 0], ids=["every", "sample"])
def test_another_list_for_each(device, monkeypatch, launches, codes, small):
    monkeypatch.setattr(scan_triton, "SMALL", small)
    buffer, *parts = table(1_501, 19, device, codes, cuts=(0.1, 0.5))
    queries, lengths, slack = asked(5, 19, device)
    rng = np.random.default_rng(2)
    sets = [rng.permutation(1_501)[:size] for size in (700, 0, 1, 1_100, 5)]
    offsets = np.cumsum([0, *(len(each) for each in sets)]).tolist()
    allowed = np.stack([np.isin(np.arange(1_501), each) for each in sets])
    rows = torch.from_numpy(np.concatenate(sets)).to(device)
    with trying("gather", ONE):
        found = gather_triton.gather(queries, buffer, rows, 10, slack, offsets, lengths=lengths)
        check(found, definition(queries, lengths, parts, 10, slack, allowed))
        assert modes(launches) == ([EVERY] if small else [SAMPLE, COLLECT]), "one launch for all queries"
        assert {source for kernel, source, _, _ in launches if kernel == "score"} == {EACH}
        monkeypatch.setattr(scan_triton, "ENTRIES", 2_000)  # not all at once
        check(
            gather_triton.gather(queries, buffer, rows, 10, slack, offsets, lengths=lengths),
            definition(queries, lengths, parts, 10, slack, allowed),
        )


@pytest.mark.parametrize(
    ("n", "dim", "n_queries", "k"), [(1, 1, 1, 1), (1, 3, 2, 5), (33, 7, 2, 33), (77, 5, 3, 200), (2_500, 3, 1, 2_100)]
)
@pytest.mark.parametrize("small", [8192, 0], ids=["every", "sample"])
def test_odd_shapes(device, monkeypatch, n, dim, n_queries, k, small):
    monkeypatch.setattr(scan_triton, "SMALL", small)
    buffer, *parts = table(n, dim, device, cuts=())
    queries, lengths, slack = asked(n_queries, dim, device)
    for how in (FMA, DOT):
        with trying("scan", how):
            check(scan_triton.scan(queries, buffer, k, slack, lengths=lengths), definition(queries, lengths, parts, k, slack))


def test_lists_that_run_over(device, monkeypatch, launches):
    """All rows tie, or most lie beyond what the sample shows: collected again, in more room or in turns, and right all the same."""
    monkeypatch.setattr(scan_triton, "SMALL", 0)
    buffer = Buffer.of([Chunk(0, torch.ones(9_000, 2, device=device))])
    queries, none = torch.ones(2, 2, device=device), torch.zeros(2, device=device)
    tall = Config(2048, 2, 16, 4, 1, "fma")
    with trying("scan", tall):
        found = scan_triton.scan(queries, buffer, 3, none)
    assert modes(launches) == [SAMPLE, COLLECT, COLLECT, COLLECT]
    assert found.owners.tolist() == [0] * 9_000 + [1] * 9_000
    for part in found.rows.view(2, 9_000).tolist():
        assert sorted(part) == list(range(9_000))

    launches.clear()
    vectors = torch.zeros(9_000, 2, device=device)
    vectors[2_048:] = 1
    vectors[7_000, 0] = 9  # one is far ahead and gets into the list before it is full; the sample is of the first rows alone
    monkeypatch.setattr(scan_triton, "planned", lambda *_: scan_triton.Plan(False, 4_096, 1, 10))
    with trying("scan", tall):
        found = scan_triton.scan(queries[:1], Buffer.of([Chunk(0, vectors)]), 1, none[:1])
    if device == "cpu":  # elsewhere tiles come in any order
        assert modes(launches) == [SAMPLE, COLLECT, COLLECT]
    assert found.rows.tolist() == [7_000]

    launches.clear()
    monkeypatch.setattr(scan_triton, "CROWD", 9_000)
    with trying("scan", tall):
        found = scan_triton.scan(queries, buffer, 3, none)
    assert modes(launches) == [SAMPLE, COLLECT, COLLECT] + 2 * [SAMPLE, COLLECT, COLLECT, COLLECT], "both at once, then in turns"
    assert found.owners.tolist() == [0] * 9_000 + [1] * 9_000


def test_many_queries_take_turns(device, monkeypatch, launches):
    monkeypatch.setattr(scan_triton, "ENTRIES", 3_000)
    buffer, *parts = table(1_000, 5, device, cuts=())
    queries, lengths, slack = asked(5, 5, device)
    with trying("scan", Config(1024, 4, 16, 4, 1, "fma")):
        check(scan_triton.scan(queries, buffer, 4, slack, lengths=lengths), definition(queries, lengths, parts, 4, slack))
    assert len(modes(launches)) == 3


def test_rows_far_from_the_first(device, monkeypatch):
    """Gaps between chunks, starts past 2**32: row numbers are int64 all the way, and the chunk of a row is searched for."""
    monkeypatch.setattr(scan_triton, "SMALL", 0)
    near, *parts = table(3_000, 5, device, cuts=(0.1, 0.3, 0.9))
    shift = [0, 1 << 20, (1 << 32) + 64, (1 << 40)]
    chunks = [Chunk(c.start + far, c.vectors, c.gain, c.bias, c.error) for c, far in zip(near.chunks, shift, strict=True)]
    rows = np.concatenate([np.arange(len(c)) + c.start for c in chunks])
    buffer = Buffer.of(chunks)
    queries, lengths, slack = asked(2, 5, device)
    expected = {(i, int(rows[row])): score for (i, row), score in definition(queries, lengths, parts, 10, slack).items()}
    with trying("scan", FMA), trying("gather", FMA):
        check(scan_triton.scan(queries, buffer, 10, slack, lengths=lengths), expected)
        listed = torch.from_numpy(rows[::-1].copy()).to(device)
        check(gather_triton.gather(queries, buffer, listed, 10, slack, lengths=lengths), expected)


def test_a_mask_past_the_reach_of_int32(device, monkeypatch):
    """What is listed counts from the first chunk: int32 where that does, and the words are found by the row itself."""
    start = 1 << 17
    buffer, *parts = table(1_000, 5, device, cuts=(0.5,), start=start)
    flags = np.zeros(start + 1_000, np.bool_)
    flags[start + 5 :: 7] = True
    words = torch.from_numpy(RowSet.where(flags).words.view(np.int32).copy()).to(device)
    queries, lengths, slack = asked(2, 5, device)
    with trying("scan", FMA):
        found = scan_triton.scan(queries, buffer, 10, slack, words, lengths=lengths)
    check(found, definition(queries, lengths, parts, 10, slack, flags[start:], start))


def test_even_chunks_are_not_searched_for(device):
    vectors = torch.arange(2 * CHUNK, dtype=torch.float32, device=device)[:, None] % 1_009
    buffer = Buffer.of([Chunk(0, vectors[:CHUNK]), Chunk(CHUNK, vectors[CHUNK:])])
    assert buffer.even
    assert not Buffer.of([Chunk(0, vectors[:64]), Chunk(64, vectors[64:])]).even
    long = Buffer.of([Chunk(0, vectors)])
    assert not long.even
    rows = torch.tensor([5, CHUNK - 1, CHUNK, 2 * CHUNK - 1], device=device)
    for each in (buffer, long):
        with trying("gather", Config(16, 1, 1, 4, 1, "fma")):
            found = gather_triton.gather(torch.ones(1, 1, device=device), each, rows, 4, torch.zeros(1, device=device))
        assert dict(zip(found.rows.tolist(), found.scores.tolist(), strict=True)) == {
            int(row): float(row % 1_009) for row in rows.tolist()
        }


@pytest.mark.parametrize("small", [8192, 0], ids=["every", "sample"])
def test_rows_at_minus_infinity_and_minus_zero(device, monkeypatch, small):
    monkeypatch.setattr(scan_triton, "SMALL", small)
    vectors = torch.zeros(400, 1, device=device)
    vectors[::2] = -0.0
    bias = torch.zeros(400, device=device)
    bias[50:] = torch.inf
    buffer = Buffer.of([Chunk(0, vectors, None, bias)])
    query, none = torch.ones(1, 1, device=device), torch.zeros(1, device=device)
    with trying("scan", Config(128, 1, 1, 4, 1, "fma")):
        for k in (1, 50):
            assert sorted(scan_triton.scan(query, buffer, k, none).rows.tolist()) == list(range(50))
        assert sorted(scan_triton.scan(query, buffer, 51, none).rows.tolist()) == list(range(400))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("small", [8192, 0], ids=["every", "sample"])
def test_nan_neither_hangs_nor_spills(device, monkeypatch, small):
    """It is refused before; should one come, the other queries have their answer and every row is one of the table."""
    monkeypatch.setattr(scan_triton, "SMALL", small)
    buffer, *parts = table(1_000, 5, device, cuts=())
    queries, lengths, slack = asked(2, 5, device)
    expected = definition(queries, lengths, parts, 10, slack)
    queries[0, 0] = torch.nan
    with trying("scan", Config(512, 2, 16, 4, 1, "fma")):
        found = scan_triton.scan(queries, buffer, 10, slack, lengths=lengths)
    other = found.owners == 1
    assert {(1, row) for row in found.rows[other].tolist()} == {pair for pair in expected if pair[0] == 1}
    assert ((found.rows >= 0) & (found.rows < 1_000)).all()


@settings(max_examples=12)
@given(
    st.sampled_from(list(Metric)),
    st.sampled_from([torch.int8, torch.float16]),
    st.sampled_from(["random", "clustered", "one large", "equal"]),
    st.integers(0, 2**20),
    st.sampled_from([1, 5, 40]),
)
def test_the_certificate_is_never_wrong(device, metric, codes, kind, seed, k):
    """Whatever the vectors: the k nearest by float64 are among the survivors of the codes."""
    rng = np.random.default_rng(seed)
    n, dim = 300, 24
    vectors = rng.standard_normal((n, dim))
    if kind == "clustered":
        vectors = rng.standard_normal((4, dim))[rng.integers(0, 4, n)] + 1e-3 * vectors
    elif kind == "one large":
        vectors[:, 3] *= 1e3
    elif kind == "equal":
        vectors = np.repeat(vectors[:3], n // 3, axis=0) * rng.choice([1, 1 + 1e-6], (n, 1))
    vectors = vectors.astype(np.float32)
    queries = (vectors[:2] + 0.1 * rng.standard_normal((2, dim))).astype(np.float32)
    chunk = allocate(n, dim, codes, metric, device, 0)
    quantise(torch.from_numpy(vectors).to(device), chunk, 0, metric)
    wide, rows = queries.astype(np.float64), vectors.astype(np.float64)
    lengths, norms = np.linalg.norm(wide, axis=1), np.linalg.norm(rows, axis=1)
    units = torch.from_numpy((wide / lengths[:, None]).astype(np.float32)).to(device)
    size = 1.0 if metric is Metric.COSINE else norms.max()
    slack = 4 * (product_error(dim, torch.device("cuda"), codes) + dim * 2.0**-22) * size * lengths + 2.0**-20 * size**2
    true = wide @ rows.T
    true = true / norms if metric is Metric.COSINE else true - norms**2 / 2 if metric is Metric.L2 else true
    for how in (Config(512, 2, 32, 4, 1, "fma"), Config(512, 16, 32, 4, 1, "dot")):
        with trying("scan", how):
            found = scan_triton.scan(
                units,
                Buffer.of([chunk]),
                k,
                torch.from_numpy(slack.astype(np.float32)).to(device),
                lengths=torch.from_numpy(lengths.astype(np.float32)).to(device),
            )
        kept = set(zip(found.owners.tolist(), found.rows.tolist(), strict=True))
        for i in range(2):
            assert {(i, int(row)) for row in np.argsort(-true[i], kind="stable")[:k]} <= kept


def test_the_entries_choose_triton_where_it_serves(device, monkeypatch, launches):
    buffer, *parts = table(500, 5, device, cuts=())
    queries, lengths, slack = asked(1, 5, device)
    monkeypatch.setattr(scan_module, "has_triton", lambda _: True)
    with trying("scan", ONE), trying("gather", ONE):
        check(scan_module.scan(queries, buffer, 5, slack, lengths=lengths), definition(queries, lengths, parts, 5, slack))
        assert len(launches) == 2, "score and prune"
        rows = torch.arange(400, device=device)
        found = gather_module.gather(queries, buffer, rows, 5, slack, lengths=lengths)
        check(found, definition(queries, lengths, parts, 5, slack, np.arange(500) < 400))
        assert len(launches) == 4
    monkeypatch.setattr(scan_module, "has_triton", lambda _: False)
    check(scan_module.scan(queries, buffer, 5, slack, lengths=lengths), definition(queries, lengths, parts, 5, slack))
    assert len(launches) == 4


@pytest.mark.parametrize("n_queries", [1, 3])
def test_nothing_to_find(device, n_queries):
    queries, none = torch.ones(n_queries, 3, device=device), torch.zeros(n_queries, device=device)
    empty = torch.zeros(0, dtype=torch.int64, device=device)
    one = Buffer.of([Chunk(0, torch.ones(40, 3, device=device))])
    no_words = torch.zeros(0, dtype=torch.int32, device=device)
    with trying("scan", FMA), trying("gather", ONE):
        for found in (
            scan_triton.scan(queries, Buffer.of([]), 10, none),
            scan_triton.scan(queries, one, 10, none, no_words),
            scan_triton.scan(queries, one, 10, none, no_words, passing=0),
            gather_triton.gather(queries, one, empty, 10, none),
            gather_triton.gather(queries, one, empty, 10, none, [0] * (n_queries + 1)),
        ):
            assert len(found.owners) == len(found.rows) == len(found.scores) == 0


def test_the_sample_is_spread_and_whole_groups(device):
    """At 10,000,000 rows a sample is a hundredth, and its groups are many times k."""
    buffer, *_ = table(64, 4, device)
    for n_queries, k in ((1, 10), (32, 10), (1, 1_000)):
        plan = scan_triton.planned(k, 10_000_000, buffer, LISTED, ONE, n_queries)
        sample = plan.samples * ONE.rows
        assert 0.001 < sample / 10_000_000 < 0.05
        assert sample // GROUP >= 2 * k
        assert plan.capacity > 3 * k * 10_000_000 / sample


def test_queries_at_once_are_no_more_than_a_kernel_holds_numbers_of(device):
    """However short their lists: else the second axis of the grid, or a block of Triton, would be too long."""
    buffer = Buffer.of([Chunk(0, torch.ones(40, 3, device=device))])
    for kind, most in ((LISTED, 4_096), (EACH, 1_023)):
        assert scan_triton.planned(1, 1, buffer, kind, ONE, 1 << 20).together == most
