"""The scan for large batches, every way of it, against the definition in float64."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from chroma_gpu.kernels import product as module
from chroma_gpu.kernels.buffer import Buffer, Chunk
from chroma_gpu.kernels.product import Lists, Part, _parts, product
from chroma_gpu.kernels.scan import product_error
from chroma_gpu.kernels.tuning import Config, trying
from chroma_gpu.rowset import RowSet

WAYS = ("plain", "split", "fused")
TYPES = {"float32": torch.float32, "float16": torch.float16, "int8": torch.int8}


def need(way, device="cpu"):
    if way != "plain":
        pytest.importorskip("triton", reason="Triton is for Linux only")


def table(n, dim, n_queries, device, dtype="float16", columns="gbe", pieces=(0.3, 1.0), start=0, seed=0):
    """Queries, chunks and, in float64, scores and errors of small whole numbers: every product and sum is exact, many are equal."""
    rng = np.random.default_rng(seed)
    vectors, queries = rng.integers(-4, 5, (n, dim)), rng.integers(-4, 5, (n_queries, dim))
    made = {"g": rng.choice([0.5, 1, 2], n), "b": rng.integers(-3, 4, n).astype(float), "e": rng.choice([0, 0.5, 1], n)}
    chunks, first = [], 0
    for piece in pieces:
        stop = n if piece == 1 else min(n, round(n * piece) // 32 * 32)
        if stop > first:
            own = [
                torch.from_numpy(made[name][first:stop].astype(np.float32)).to(device) if name in columns else None
                for name in "gbe"
            ]
            chunks.append(Chunk(start + first, torch.from_numpy(vectors[first:stop]).to(device, TYPES[dtype]), *own))
        first = max(first, stop)
    scores = queries @ vectors.T.astype(float)
    gain, bias, error = (made[name] if name in columns else default for name, default in zip("gbe", (1.0, 0.0, 0.0), strict=True))
    return torch.from_numpy(queries).to(device, torch.float32), chunks, scores * gain, bias, np.broadcast_to(error, n)


def expected(scores, errors, k, slack, allowed=None):
    """{(query, row)} by the definition; scores and errors [q, n] float64, allowed [n] bool."""
    found = set()
    for i, (line, error) in enumerate(zip(scores, errors, strict=True)):
        rows = np.arange(len(line)) if allowed is None else np.flatnonzero(allowed)
        lowest = (line - error)[rows]
        floor = -np.inf if len(rows) < k else np.sort(lowest)[-k]
        found |= {(i, int(row)) for row in rows[(line + error)[rows] >= floor - slack]}
    return found


def pairs(survivors, start=0):
    owners, rows = survivors.owners.tolist(), (survivors.rows - start).tolist()
    assert owners == sorted(owners)
    found = set(zip(owners, rows, strict=True))
    assert len(found) == len(owners), "a pair came twice"
    return found


def check(way, n, dim, q, k, *, device="cpu", slack=1.0, lengths=False, mask=None, how=None, start=0, halves=False, **given):
    need(way)
    queries, chunks, scores, bias, errors = table(n, dim, q, device, start=start, **given)
    long = np.random.default_rng(5).choice([0.5, 1, 2], q) if lengths else np.ones(q)
    scores, errors = long[:, None] * scores - bias, long[:, None] * errors
    words = allowed = None
    if mask is not None:
        size, share = mask
        flags = np.random.default_rng(1).random(size) < share
        words = torch.from_numpy(RowSet.where(np.concatenate([np.zeros(start, bool), flags])).words.view(np.int32).copy()).to(
            device
        )
        allowed = np.zeros(n, bool)
        allowed[: min(size, n)] = flags[:n]
    with trying("product", how or Config(128, 16, 32, 4, 1, "dot")):
        found = product(
            queries if halves else queries.half(),
            Buffer.of(chunks),
            k,
            torch.full((q,), slack, device=device),
            words,
            lengths=torch.from_numpy(long).float().to(device) if lengths else None,
            variant=way,
        )
    assert pairs(found, start) == expected(scores, errors, k, slack, allowed)
    np.testing.assert_array_equal(found.scores.cpu(), scores[found.owners.cpu(), found.rows.cpu() - start])
    return found


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("n", "dim", "q", "k"), [(1, 1, 1, 1), (33, 7, 2, 5), (600, 17, 5, 10), (500, 33, 17, 100), (77, 5, 4, 200), (200, 64, 33, 3)]
)
def test_product(device, way, n, dim, q, k):
    check(way, n, dim, q, k, device=device)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("columns", ["", "g", "ge", "gb"])
@pytest.mark.parametrize("lengths", [True, False])
def test_types_and_columns(device, way, dtype, columns, lengths):
    check(way, 300, 48, 3, 10, device=device, dtype=dtype, columns=columns, lengths=lengths, halves=lengths)


@pytest.mark.parametrize("way", ["plain", "split"])
def test_float32_vectors(device, way):
    check(way, 300, 20, 3, 10, device=device, dtype="float32", halves=True)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9])
@pytest.mark.parametrize("size", [400, 700, 640])
def test_masks(device, way, share, size):
    found = check(way, 640, 9, 3, 10, device=device, mask=(size, share), lengths=True)
    assert share or not len(found.rows)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mask", [None, (300, 0.2), (300, 0.9)])
def test_rows_far_from_the_first(device, way, mask):
    """Row numbers need 64 bits, and chunks begin anywhere."""
    check(way, 300, 9, 3, 5, device=device, start=(1 << 33) if mask is None else 4096, mask=mask, pieces=(0.2, 0.5, 0.9, 1.0))


@pytest.mark.parametrize("way", WAYS)
def test_k_beyond_every_selection_network(device, way):
    check(way, 3_000, 4, 2, 2_500, device=device, how=Config(1024, 16, 16, 4, 1, "dot"))


class Counting:
    """What the ways were asked for."""

    def __init__(self, monkeypatch, tiles):
        self.samples, self.parts = [], []
        sample, collect = tiles.sample, tiles.collect
        monkeypatch.setattr(tiles, "sample", lambda own, size: self.samples.append(size) or sample(own, size))
        monkeypatch.setattr(
            tiles, "collect", lambda own, part, *given: self.parts.append((part, own.count)) or collect(own, part, *given)
        )


def classes(way):
    if way == "plain":
        return module.PlainTiles
    need(way)
    from chroma_gpu.kernels import product_triton

    return {"fused": product_triton.FusedTiles, "split": product_triton.SplitTiles}[way]


def small(monkeypatch, way, rows=64):
    """Samples of 64 rows, tiles of 64: so some hundred rows are enough for every part."""
    monkeypatch.setattr(module, "SAMPLE", (64, 64))
    if way != "fused":
        where = module if way == "plain" else __import__("chroma_gpu.kernels.product_triton", fromlist=["x"])
        monkeypatch.setattr(where, "SCORES", {"cpu": 3 * rows, 75: 3 * rows, 80: 3 * rows, "cuda": 3 * rows})
    return Config(rows, 16, 16, 4, 1, "dot")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mask", [None, (2_400, 0.4), (2_400, 0.8)])
def test_sample_and_parts(device, monkeypatch, way, mask):
    counting = Counting(monkeypatch, classes(way))
    check(way, 2_400, 5, 3, 4, device=device, mask=mask, how=small(monkeypatch, way), pieces=(0.4, 1.0))
    assert counting.samples == [64]
    if mask is None or mask[1] > 0.5:
        assert [part.step for part, _ in counting.parts] == [8, 1]
    seen = sorted(number for part, _ in counting.parts for number in part.numbers())
    assert seen == list(range(counting.parts[0][1])), "every tile once"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("share", [None, 0.2, 0.9])
def test_a_sample_is_of_lower_ends_of_rows_that_may_be_found(device, monkeypatch, way, share):
    queries, chunks, scores, bias, errors = table(700, 5, 3, device)
    how = small(monkeypatch, way)
    words, allowed = None, np.ones(700, bool)
    if share is not None:
        allowed = np.random.default_rng(1).random(700) < share
        words = torch.from_numpy(RowSet.where(allowed).words.view(np.int32).copy()).to(device)
    need(way)
    buffer = Buffer.of(chunks)
    lengths = torch.tensor([0.5, 1.0, 2.0], device=device)
    with trying("product", how):
        tiles = module._tiles(queries.half(), buffer, module._chosen(buffer, words, None), lengths, way)
    long = lengths.cpu().double().numpy()[:, None]
    for line, lowest in zip(tiles.sample(64).tolist(), (long * (scores - errors) - bias)[:, allowed].tolist(), strict=True):
        sampled = Counter(each for each in line if each > -np.inf)
        assert sampled <= Counter(lowest)
        assert sampled.total() >= 20


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("roomy", [True, False])
@pytest.mark.parametrize("rising", [True, False])
def test_lists_that_run_over(device, monkeypatch, way, roomy, rising):
    """Rows in the order of their scores: a sample gives no floor, and the lists are far too short."""
    need(way)
    counting = Counting(monkeypatch, classes(way))
    how = small(monkeypatch, way, 128 if way == "fused" else 64)
    if not roomy:
        monkeypatch.setattr(module, "LISTS", {"cpu": 1, "cuda": 1})
    made = Lists.empty
    all_made = []

    def once(n, capacity, *given):
        lists = made(n, capacity if all_made else 40, *given)
        all_made.append(lists)
        return lists

    monkeypatch.setattr(Lists, "empty", once)
    n = 1_000
    vectors = torch.arange(n, dtype=torch.float16)[:, None].to(device)
    vectors = vectors if rising else vectors.flip(0).contiguous()
    chunks = [Chunk(0, vectors[:512]), Chunk(512, vectors[512:])]
    monkeypatch.setattr(module, "SAMPLE", (1 << 20, 1 << 20))  # none
    with trying("product", how):
        found = product(torch.ones(3, 1, device=device).half(), Buffer.of(chunks), 10, torch.zeros(3, device=device), variant=way)
    best = set(range(n - 10, n)) if rising else set(range(10))
    assert pairs(found) == {(i, row) for i in range(3) for row in best}
    assert len(counting.parts) > 1
    assert (len(counting.parts) > 2) != roomy


@pytest.mark.parametrize("way", WAYS)
def test_equal_rows_all_survive(device, way):
    need(way)
    chunk = Chunk(0, torch.ones(300, 3, device=device).half())
    with trying("product", Config(128, 16, 16, 4, 1, "dot")):
        found = product(torch.ones(2, 3, device=device).half(), Buffer.of([chunk]), 1, torch.zeros(2, device=device), variant=way)
    assert pairs(found) == {(i, row) for i in range(2) for row in range(300)}


@pytest.mark.parametrize("way", WAYS)
def test_rows_at_minus_infinity_are_kept_only_while_there_are_fewer_others(device, way):
    need(way)
    vectors = torch.arange(40, dtype=torch.float16, device=device)[:, None]
    bias = torch.zeros(40, device=device)
    bias[5:] = torch.inf
    query, none = torch.ones(1, 1, device=device).half(), torch.zeros(1, device=device)
    buffer = Buffer.of([Chunk(0, vectors, None, bias)])
    with trying("product", Config(64, 16, 16, 4, 1, "dot")):
        assert set(product(query, buffer, 5, none, variant=way).rows.tolist()) == set(range(5))
        assert set(product(query, buffer, 6, none, variant=way).rows.tolist()) == set(range(40))


@pytest.mark.parametrize("way", WAYS)
def test_the_lines_of_padded_rows(device, way):
    """Rows that are the first columns of a wider tensor, zero in the others."""
    need(way)
    wide = torch.zeros(200, 16, device=device, dtype=torch.float16)
    wide[:, :5] = torch.randint(-4, 5, (200, 5))
    queries = torch.randint(-4, 5, (3, 5)).to(device)
    with trying("product", Config(64, 16, 16, 4, 1, "dot")):
        found = product(queries.half(), Buffer.of([Chunk(0, wide[:, :5])]), 4, torch.zeros(3, device=device), variant=way)
    scores = (queries.double() @ wide[:, :5].double().T).cpu().numpy()
    assert pairs(found) == expected(scores, np.zeros_like(scores), 4, 0)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_float32_queries_keep_their_precision(device, way, dtype):
    """With the slack that ``product_error`` asks for, every true neighbour survives, and little else."""
    need(way)
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((500, 40))
    vectors /= np.linalg.norm(vectors, axis=1)[:, None]
    codes = (
        torch.from_numpy(vectors * (127 if dtype == "int8" else 1)).round().char()
        if dtype == "int8"
        else torch.from_numpy(vectors).half()
    )
    queries = rng.standard_normal((3, 40))
    queries = (queries / np.linalg.norm(queries, axis=1)[:, None]).astype(np.float32)
    scores = queries.astype(np.float64) @ codes.double().numpy().T
    longest = codes.double().norm(dim=1).max().item()
    slack = 2 * product_error(40, torch.device("cuda"), TYPES[dtype]) * longest
    with trying("product", Config(128, 16, 32, 4, 1, "dot")):
        found = product(
            torch.from_numpy(queries).to(device),
            Buffer.of([Chunk(0, codes.to(device))]),
            10,
            torch.full((3,), slack, device=device),
            variant=way,
        )
    for i, line in enumerate(scores):
        best = set(np.argsort(-line)[:10].tolist())
        own = found.rows[found.owners == i].tolist()
        assert best <= set(own)
        assert (line[own] >= np.sort(line)[-10] - 2 * slack).all()
    assert np.abs(found.scores.cpu().numpy() - scores[found.owners.cpu(), found.rows.cpu()]).max() < slack / 2


@pytest.mark.parametrize("way", WAYS)
def test_more_queries_than_lists_fit(device, monkeypatch, way):
    monkeypatch.setattr(module, "LISTS", {"cpu": 1 << 10, "cuda": 1 << 10})
    check(way, 100, 3, 130, 2, device=device, how=Config(128, 64, 16, 4, 1, "dot"), lengths=True)


@pytest.mark.parametrize("way", WAYS)
def test_more_queries_than_are_counted_in_32_bits(device, monkeypatch, way):
    turns = []
    tiles = module._tiles
    monkeypatch.setattr(module, "TOGETHER", 4)
    monkeypatch.setattr(module, "_tiles", lambda queries, *given: turns.append(len(queries)) or tiles(queries, *given))
    check(way, 100, 3, 10, 2, device=device, lengths=True)
    assert turns == [4, 4, 2]


@pytest.mark.parametrize("way", WAYS)
def test_a_bound_that_is_no_number_keeps_everything(device, way):
    """As where a floor and a slack are both infinite: the caller scores what it did not want rather than miss what it did."""
    need(way)
    vectors = torch.arange(200, dtype=torch.float16, device=device)[:, None]
    slack = torch.tensor([0.0, torch.nan], device=device)
    with trying("product", Config(64, 16, 16, 4, 1, "dot")):
        found = product(torch.ones(2, 1, device=device).half(), Buffer.of([Chunk(0, vectors)]), 3, slack, variant=way)
    assert pairs(found) == {(0, row) for row in (197, 198, 199)} | {(1, row) for row in range(200)}


def test_tuning_says_which_way_is_taken(device, monkeypatch):
    pytest.importorskip("triton", reason="Triton is for Linux only")
    from chroma_gpu.kernels import product_triton

    taken = []
    for owner in (product_triton.FusedTiles, product_triton.SplitTiles):
        made = owner.__init__
        monkeypatch.setattr(
            owner, "__init__", lambda own, *given, _made=made: taken.append(type(own).__name__) or _made(own, *given)
        )
    halves, wholes = (Buffer.of([Chunk(0, torch.ones(40, 3, device=device, dtype=t))]) for t in (torch.float16, torch.float32))
    queries, slack = torch.ones(2, 3, device=device).half(), torch.zeros(2, device=device)
    if torch.device(device).type == "cpu":
        product(queries, halves, 1, slack)
        assert not taken  # the interpreter is for tests
    monkeypatch.setattr(module, "has_triton", lambda device: True)
    for buffer, way in ((halves, "dot"), (halves, "split"), (wholes, "dot")):
        with trying("product", Config(64, 16, 16, 4, 1, way)):
            assert len(product(queries, buffer, 1, slack).rows) == 80
    assert taken == ["FusedTiles", "SplitTiles", "SplitTiles"]


def test_nothing_to_scan(device):
    none = torch.zeros(2, device=device)
    empty = Chunk(0, torch.empty(0, 3, device=device))
    words = torch.zeros(0, dtype=torch.int32, device=device)
    some = Chunk(0, torch.ones(4, 3, device=device))
    for buffer, mask in ((Buffer.of([]), None), (Buffer.of([empty]), None), (Buffer.of([some]), words)):
        found = product(torch.ones(2, 3, device=device), buffer, 10, none, mask)
        assert len(found.owners) == len(found.rows) == len(found.scores) == 0
    assert not len(product(torch.ones(0, 3, device=device), Buffer.of([some]), 1, none[:0]).rows)


def test_what_cannot_be_asked(device):
    queries, buffer, slack = torch.ones(1, 3), Buffer.of([Chunk(0, torch.ones(4, 3))]), torch.zeros(1)
    with pytest.raises(ValueError, match="at least 1"):
        product(queries, buffer, 0, slack)
    with pytest.raises(ValueError, match="no variant 'fast'"):
        product(queries, buffer, 1, slack, variant="fast")
    need("fused")
    with pytest.raises(ValueError, match="split"):
        product(queries, buffer, 1, slack, variant="fused")


@pytest.mark.parametrize("count", [1, 2, 7, 8, 15, 16, 17, 63, 64, 65, 128, 500, 513])
@pytest.mark.parametrize("size", [1, 30, 1_000])
def test_parts_are_all_tiles_once(count, size):
    parts = _parts(count, 8, size)
    assert sorted(number for part in parts for number in part.numbers()) == list(range(count))


def test_halves_of_a_part():
    part = Part(3, 20, 2, True)
    assert [n for half in part.halves() for n in half.numbers()] == list(part.numbers())
