"""Codes and their errors against float64, and the kernel against the reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from chroma_gpu.kernels import quantise as module
from chroma_gpu.kernels.buffer import Buffer, Chunk
from chroma_gpu.kernels.quantise import allocate, norm_error, quantise, row_bytes
from chroma_gpu.records import Metric

CODES = [torch.float16, torch.int8]
TYPES = [torch.float32, *CODES]


def kernel():
    pytest.importorskip("triton", reason="Triton is for Linux only")
    from chroma_gpu.kernels import quantise_triton

    return quantise_triton


def ordinary(n, dim, seed=0):
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


def hard(dim):
    """Vectors of every kind that has a score; cosine of codes has no smallest norm."""
    rng = np.random.default_rng(1)
    v = ordinary(24, dim)
    spread = v * 2.0 ** rng.integers(-40, 1, v.shape)
    wide = v.copy()
    wide[:, 1:] *= 2.0**-70
    largest = v / np.linalg.norm(v, axis=1, keepdims=True) * 2.0**60
    parts = [
        v,
        largest,
        v * 2.0**-40,
        v * 2.0**-90,
        v * 2.0**-140,
        np.full((1, dim), 2.0**-149),
        np.eye(dim)[:5] * 3.3,
        np.full((3, dim), 0.37),
        np.full((1, dim), -1.0),
        rng.integers(-9, 10, (9, dim)),
        np.zeros((2, dim)),
        spread,
        wide,
        np.nextafter(np.full((1, dim), 2.0), 0.0),
    ]
    return np.concatenate([part.astype(np.float32) for part in parts])


def both(vectors, chunk_of, first, metric, aside=None, device="cpu"):
    """The same rows by the reference and by the kernel."""
    chunks = chunk_of(), chunk_of()
    given = torch.from_numpy(vectors).to(device)
    flags = None if aside is None else torch.from_numpy(aside).to(device)
    module.reference(given, chunks[0], first, metric, flags)
    kernel().quantise(given, chunks[1], first, metric, flags)
    return chunks


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("dim", [1, 2, 33, 384])
@pytest.mark.parametrize("way", ["reference", "kernel"])
def test_the_error_bounds_every_score(device, metric, dtype, dim, way):
    """No query can do worse than one along the residual, whose length is compared; then scores themselves, with their bias."""
    vectors = hard(dim)
    chunk = allocate(len(vectors), dim, dtype, metric, device, 0)
    run = module.reference if way == "reference" else kernel().quantise
    run(torch.from_numpy(vectors).to(device), chunk, 0, metric)
    wide = vectors.astype(np.float64)
    norms = np.sqrt((wide**2).sum(axis=1))
    if metric is Metric.COSINE:
        true = np.divide(wide, norms[:, None], out=np.zeros_like(wide), where=norms[:, None] > 0)
    else:
        true = wide
    codes, gain, bias, error = (each.double().cpu().numpy() for each in (chunk.vectors, chunk.gain, chunk.bias, chunk.error))
    coded = codes * gain[:, None]
    residual = np.sqrt(((true - coded) ** 2).sum(axis=1))
    assert (residual <= error).all(), np.flatnonzero(residual > error)
    half = norms**2 / 2 if metric is Metric.L2 else np.zeros_like(norms)
    assert (np.abs(bias - half) <= 2 * norm_error(dim) * half + 2.0**-120).all()
    for length in (1.0, 1e-3, 1e4):
        query = np.random.default_rng(2).standard_normal(dim)
        query /= np.linalg.norm(query)
        difference = np.abs(length * (true @ query) - length * (coded @ query))
        assert (difference <= length * error * (1 + 1e-12)).all()
    # What was proved must also be of use: little above what the codes leave.
    some = slice(0, 24)
    floor = (4 * norm_error(dim) + 2.0**-21) * (1 if metric is Metric.COSINE else norms[some])
    assert (error[some] <= 1.01 * residual[some] + floor).all()


@pytest.mark.parametrize("metric", list(Metric))
def test_int8_codes_use_their_range(device, metric):
    vectors = ordinary(50, 384)
    chunk = allocate(50, 384, torch.int8, metric, device, 0)
    quantise(torch.from_numpy(vectors).to(device), chunk, 0, metric)
    assert (chunk.vectors.abs().amax(dim=1) == 127).all()
    assert not (chunk.vectors == -128).any()
    relative = chunk.error.cpu().numpy() / (1 if metric is Metric.COSINE else np.linalg.norm(vectors, axis=1))
    assert (relative < 0.011).all()


def test_halves_and_whole_numbers_stay_what_they_are(device):
    vectors = np.random.default_rng(0).integers(-1000, 1001, (20, 64)).astype(np.float32)
    chunk = allocate(20, 64, torch.float16, Metric.IP, device, 0)
    quantise(torch.from_numpy(vectors).to(device), chunk, 0, Metric.IP)
    np.testing.assert_array_equal((chunk.vectors.float() * chunk.gain[:, None]).cpu().numpy(), vectors)
    assert (chunk.error < 1e-11).all()


@pytest.mark.parametrize("metric", list(Metric))
def test_float32_rows_are_the_vectors(device, metric):
    vectors = np.concatenate([ordinary(7, 5) * 100, np.zeros((1, 5), np.float32)])
    chunk = allocate(8, 5, torch.float32, metric, device, 64)
    quantise(torch.from_numpy(vectors).to(device), chunk, 0, metric)
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    np.testing.assert_array_equal(chunk.vectors.cpu().numpy(), vectors)
    assert chunk.start == 64
    assert chunk.error is None
    if metric is Metric.COSINE:
        np.testing.assert_allclose(chunk.gain.cpu().numpy(), [*(1 / norms[:7]), 0], rtol=1e-6)
    else:
        assert chunk.gain is None
    np.testing.assert_allclose(chunk.bias.cpu().numpy(), norms**2 / 2 if metric is Metric.L2 else 0 * norms, rtol=1e-6)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("dim", [1, 31, 160])
def test_the_kernel_equals_the_reference(device, monkeypatch, dtype, metric, dim):
    """Tiles of 16 rows, the last one not full; what is set aside is NaN; rows before and after stay."""
    triton = kernel()
    monkeypatch.setattr(triton, "tile", lambda dim, device: (64, 256 if dim > 32 else 32, 4))
    vectors = hard(dim)
    if dtype == torch.float32 and metric is Metric.COSINE:
        vectors = vectors[(np.abs(vectors).max(axis=1) > 1e-15) | ~vectors.any(axis=1)]
    aside = np.zeros(len(vectors), np.bool_)
    aside[[3, len(vectors) - 1]] = True
    vectors[aside] = np.nan
    first = 5

    def chunk():
        made = allocate(len(vectors) + first + 2, dim, dtype, metric, device, 0)
        for column in (made.vectors, made.gain, made.bias, made.error):
            if column is not None:
                column.fill_(7)
        return made

    reference, made = both(vectors, chunk, first, metric, aside, device)
    assert torch.equal(made.vectors, reference.vectors)
    for ours, theirs in ((made.gain, reference.gain), (made.bias, reference.bias), (made.error, reference.error)):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)
    row = made.vectors.stride(0)
    assert not made.vectors.as_strided((len(made), row), (row, 1))[:, dim:].any(), "what pads a row must stay 0"
    for column in (made.vectors, made.gain, made.bias, made.error):
        if column is not None:
            assert (column[:first] == 7).all()
            assert (column[-2:] == 7).all()
    assert torch.isposinf(made.bias[first:-2][torch.from_numpy(aside)]).all()
    assert torch.isposinf(made.bias).sum() == 2
    assert not made.vectors[first:-2][torch.from_numpy(aside)].any()


def test_a_device_with_triton_gets_the_kernel(device, monkeypatch):
    triton, called = kernel(), []
    monkeypatch.setattr(module.scan, "has_triton", lambda device: True)
    monkeypatch.setattr(triton, "quantise", lambda *given: called.append(given))
    for dim in (8, module.MAX_DIM, module.MAX_DIM + 1):
        quantise(torch.zeros(1, dim, device=device), allocate(1, dim, torch.int8, Metric.IP, device, 0), 0, Metric.IP)
    assert [given[0].shape[1] for given in called] == [8, module.MAX_DIM], "a longer row does not fit one program"


def test_blocks_of_the_reference_do_not_show(device, monkeypatch):
    vectors = torch.from_numpy(ordinary(50, 16)).to(device)
    aside = torch.zeros(50, dtype=torch.bool, device=device)
    aside[[0, 33]] = True
    whole, parts = (allocate(50, 16, torch.int8, Metric.L2, device, 0) for _ in range(2))
    module.reference(vectors, whole, 0, Metric.L2, aside)
    monkeypatch.setattr(module, "_BLOCK", 16 * 7)
    module.reference(vectors, parts, 0, Metric.L2, aside)
    for ours, theirs in zip(
        (whole.vectors, whole.gain, whole.bias, whole.error), (parts.vectors, parts.gain, parts.bias, parts.error), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_a_new_chunk_shows_no_row(device):
    chunk = allocate(96, 8, torch.int8, Metric.COSINE, device, 32)
    assert torch.isposinf(chunk.bias).all()
    assert not chunk.vectors.any()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("metric", list(Metric))
def test_row_bytes(dtype, metric):
    for dim in (1, 24, 33):
        chunk = allocate(10, dim, dtype, metric, "cpu", 0)
        columns = [each for each in (chunk.vectors, chunk.gain, chunk.bias, chunk.error) if each is not None]
        assert sum(each.untyped_storage().nbytes() for each in columns) == 10 * row_bytes(dim, dtype, metric)
        assert Buffer.of([chunk]).aligned


def test_what_cannot_be_written_is_refused(device):
    vectors = torch.zeros(4, 8, device=device)
    chunk = allocate(8, 8, torch.int8, Metric.L2, device, 0)
    before = chunk.bias.clone()
    wrong = [
        (vectors, chunk, 5, None),
        (vectors, chunk, -1, None),
        (vectors.half(), chunk, 0, None),
        (vectors[:, :7], chunk, 0, None),
        (vectors, chunk, 0, torch.zeros(5, dtype=torch.bool, device=device)),
        (vectors, chunk, 0, torch.zeros(4, device=device)),
        (vectors, Chunk(0, chunk.vectors), 0, None),
        (vectors, Chunk(0, chunk.vectors.to(torch.int32), chunk.gain, chunk.bias, chunk.error), 0, None),
        (vectors, Chunk(0, vectors), 0, None),
    ]
    for given, into, first, aside in wrong:
        for run in (module.reference, kernel().quantise):
            with pytest.raises(ValueError, match=r"must be|are not|no codes|need a chunk|past"):
                run(given, into, first, Metric.L2, aside)
    assert torch.equal(chunk.bias, before)
