"""All pairs above a threshold, every way of finding them, against the definition in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from chroma_gpu.kernels import join as module
from chroma_gpu.kernels.buffer import Buffer, Chunk
from chroma_gpu.kernels.join import join
from chroma_gpu.kernels.tuning import Config, trying
from chroma_gpu.rowset import RowSet

WAYS = ("plain", "split", "fused")
TYPES = {"float32": torch.float32, "float16": torch.float16, "int8": torch.int8}
TILE = Config(64, 32, 16, 4, 1, "dot")


def need(way):
    if way != "plain":
        pytest.importorskip("triton", reason="Triton is for Linux only")


def table(n, dim, device, dtype="float16", gain=True, error=False, pieces=(0.3, 1.0), start=0, seed=0):
    """Chunks of small whole numbers, and their vectors and errors in float64."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(-3, 4, (n, dim))
    gains = rng.choice([0.0, 0.5, 1, 2], n) if gain else np.ones(n)
    errors = rng.choice([0, 0.25], n) if error else np.zeros(n)
    chunks, first = [], 0
    for piece in pieces:
        stop = n if piece == 1 else min(n, round(n * piece) // 32 * 32)
        if stop > first:
            columns = [
                torch.from_numpy(column[first:stop].astype(np.float32)).to(device) if wanted else None
                for column, wanted in ((gains, gain), (errors, error))
            ]
            vectors = torch.from_numpy(codes[first:stop]).to(device, TYPES[dtype])
            chunks.append(Chunk(start + first, vectors, columns[0], None, columns[1]))
        first = max(first, stop)
    return chunks, codes * gains[:, None], errors


def check(found, vectors, errors, threshold, allowed=None, start=0, least=0):
    """Exactly the pairs whose score and margin reach the threshold; the margin holds what the errors can do, and little more."""
    scores = vectors @ vectors.T
    lengths = np.linalg.norm(vectors, axis=1)
    margins = errors[:, None] * (lengths + errors) + lengths[:, None] * errors
    rounding = 1e-3 * (1 + lengths[:, None] * lengths)  # no score lies that near to a threshold: they are multiples of 1/4
    later = np.triu(np.ones(scores.shape, bool), 1)
    if allowed is not None:
        later &= allowed[:, None] & allowed
    must = set(zip(*np.nonzero(later & (scores + margins >= threshold)), strict=True))
    may = set(zip(*np.nonzero(later & (scores + margins + rounding >= threshold)), strict=True))
    left, right = (found.left - start).tolist(), (found.right - start).tolist()
    pairs = set(zip(left, right, strict=True))
    assert len(pairs) == len(left), "a pair came twice"
    assert must <= pairs <= may
    assert len(must) >= least
    np.testing.assert_array_equal(found.scores.cpu(), scores[left, right])
    own = found.margins.cpu().numpy()
    assert (own >= margins[left, right]).all()
    assert (own <= (margins + rounding)[left, right]).all()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("n", "dim", "threshold"), [(1, 1, -1.0), (2, 3, -100.0), (70, 7, 5.5), (300, 17, 60.25), (257, 40, 150.5)]
)
def test_join(device, way, n, dim, threshold):
    need(way)
    chunks, vectors, errors = table(n, dim, device)
    with trying("join", TILE):
        check(join(Buffer.of(chunks), threshold, variant=way), vectors, errors, threshold, least=n // 70)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("gain", [True, False])
@pytest.mark.parametrize("error", [True, False])
def test_types_and_columns(device, way, dtype, gain, error):
    need(way)
    chunks, vectors, errors = table(150, 20, device, dtype, gain, error)
    with trying("join", TILE):
        check(join(Buffer.of(chunks), 50.125, variant=way), vectors, errors, 50.125, least=5)


@pytest.mark.parametrize("way", ["plain", "split"])
def test_float32_vectors(device, way):
    need(way)
    chunks, vectors, errors = table(150, 20, device, "float32")
    check(join(Buffer.of(chunks), 50.125, variant=way), vectors, errors, 50.125, least=5)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("threshold", [-20.125, -0.125, 0.125])
def test_thresholds_that_most_pairs_reach(device, way, threshold):
    need(way)
    chunks, vectors, errors = table(100, 6, device, error=True)
    with trying("join", TILE):
        check(join(Buffer.of(chunks), threshold, variant=way), vectors, errors, threshold, least=1_000)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("size", [150, 300])
def test_masks(device, monkeypatch, way, share, size):
    need(way)
    monkeypatch.setattr(module, "CHUNK", 64)  # rows of several chunks are put together, and more than one part comes of it
    chunks, vectors, errors = table(200, 5, device, pieces=(0.2, 0.4, 0.6, 1.0), start=64)
    flags = np.random.default_rng(1).random(size) < share
    words = torch.from_numpy(RowSet.where(np.concatenate([np.zeros(64, bool), flags])).words.view(np.int32).copy()).to(device)
    allowed = np.zeros(200, bool)
    allowed[: min(size, 200)] = flags[:200]
    with trying("join", TILE):
        found = join(Buffer.of(chunks), 3.125, words=words, variant=way)
    check(found, vectors, errors, 3.125, allowed, 64, least=round(100 * share * share))


@pytest.mark.parametrize("way", WAYS)
def test_rows_far_from_the_first(device, way):
    need(way)
    chunks, vectors, errors = table(200, 9, device, start=1 << 33, pieces=(0.2, 0.5, 1.0))
    with trying("join", TILE):
        check(join(Buffer.of(chunks), 30.125, variant=way), vectors, errors, 30.125, start=1 << 33, least=5)


@pytest.mark.parametrize("way", WAYS)
def test_equal_rows_and_rows_set_aside(device, way):
    need(way)
    vectors = torch.ones(100, 3, device=device).half()
    bias = torch.zeros(100, device=device)
    bias[40:] = torch.inf
    with trying("join", TILE):
        found = join(Buffer.of([Chunk(0, vectors, None, bias)]), 3.0, variant=way)
    assert sorted(zip(found.left.tolist(), found.right.tolist(), strict=True)) == [
        (i, j) for i in range(40) for j in range(i + 1, 40)
    ]


@pytest.mark.parametrize("way", WAYS[1:])
def test_pairs_that_run_over(device, monkeypatch, way):
    need(way)
    from chroma_gpu.kernels import join_triton

    monkeypatch.setattr(module, "PAIRS", 10)
    rooms = []
    owner = {"split": join_triton.SplitTiles, "fused": join_triton.FusedTiles}[way]
    pairs = owner.pairs
    monkeypatch.setattr(owner, "pairs", lambda *given: rooms.append(given[-1]) or pairs(*given))
    chunks, vectors, errors = table(150, 5, device)
    with trying("join", TILE):
        check(join(Buffer.of(chunks), 3.125, variant=way), vectors, errors, 3.125, least=1_000)
    assert rooms[0] == 10
    assert len(rooms) > 3
    assert sorted(rooms) == rooms


@pytest.mark.parametrize("way", ["split", "fused"])
def test_pairs_whose_places_would_not_fit(device, monkeypatch, way):
    need(way)
    from chroma_gpu.kernels import join_triton

    monkeypatch.setattr(module, "PAIRS", 10)
    monkeypatch.setattr(join_triton, "MOST", 100)
    chunks, _, _ = table(150, 5, device)
    with trying("join", TILE), pytest.raises(OverflowError, match="more than 100: ask for a higher threshold"):
        join(Buffer.of(chunks), 3.125, variant=way)


@pytest.mark.parametrize("way", WAYS)
def test_limit(device, way):
    need(way)
    chunks, _, _ = table(100, 5, device, pieces=(1.0,))
    with trying("join", TILE):
        n = len(join(Buffer.of(chunks), 3.125, variant=way).left)
        assert len(join(Buffer.of(chunks), 3.125, limit=n, variant=way).left) == n
        with pytest.raises(OverflowError, match=f"more than {n - 1} pairs"):
            join(Buffer.of(chunks), 3.125, limit=n - 1, variant=way)


def test_tiles_of_plain_torch(device, monkeypatch):
    monkeypatch.setattr(module, "TILE", 32)
    chunks, vectors, errors = table(150, 5, device, error=True)
    check(join(Buffer.of(chunks), 10.125), vectors, errors, 10.125, least=100)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_no_true_pair_is_missing(device, way, dtype):
    """Real codes of real vectors: whatever is as near as the threshold in float64 is returned, and certain pairs are."""
    need(way)
    rng = np.random.default_rng(0)
    base = rng.standard_normal((60, 24))
    vectors = np.concatenate([base, base + 0.4 * rng.standard_normal((60, 24)), base + 0.1 * rng.standard_normal((60, 24))])
    vectors /= np.linalg.norm(vectors, axis=1)[:, None]
    scale = np.abs(vectors).max(axis=1) / 127 if dtype == "int8" else np.ones(len(vectors))
    codes = torch.from_numpy(vectors / scale[:, None])
    codes = codes.round().char() if dtype == "int8" else codes.half()
    error = np.linalg.norm(vectors - codes.double().numpy() * scale[:, None], axis=1) * (1 + 1e-5) + 1e-7
    gain, error = (torch.from_numpy(each).float().to(device) for each in (scale, error))
    with trying("join", TILE):
        found = join(Buffer.of([Chunk(0, codes.to(device), gain, None, error)]), 0.9, variant=way)
    true = vectors @ vectors.T
    pairs = set(zip(found.left.tolist(), found.right.tolist(), strict=True))
    assert pairs >= {(i, j) for i, j in zip(*np.nonzero(true >= 0.9), strict=True) if i < j}
    left, right = found.left.cpu(), found.right.cpu()
    off = np.abs(found.scores.cpu().numpy() - true[left, right])
    assert (off <= found.margins.cpu().numpy()).all()
    certain = (found.scores - found.margins >= 0.9).cpu().numpy()
    assert (true[left, right][certain] >= 0.9).all()
    assert 20 < certain.sum() <= len(pairs) < 400


def test_nothing_to_join(device):
    for chunks in ([], [Chunk(0, torch.empty(0, 3, device=device))]):
        found = join(Buffer.of(chunks), 0.5)
        assert len(found.left) == len(found.right) == len(found.scores) == len(found.margins) == 0


def test_what_cannot_be_asked(device):
    buffer = Buffer.of([Chunk(0, torch.ones(4, 3))])
    with pytest.raises(ValueError, match="no variant 'fast'"):
        join(buffer, 0.5, variant="fast")
    with pytest.raises(ValueError, match="a number"):
        join(buffer, float("nan"))
    need("fused")
    with pytest.raises(ValueError, match="split"):
        join(buffer, 0.5, variant="fused")
