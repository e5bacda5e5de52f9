"""Encoding against a loop over texts in float64, and the codes against those of the vectors that come back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from chroma_gpu.kernels import encode as module
from chroma_gpu.kernels import quantise
from chroma_gpu.kernels.pooling import Pooling
from chroma_gpu.kernels.quantise import allocate
from chroma_gpu.records import Metric

LENGTHS = [13, 1, 5, 0, 40, 2, 17]
COLUMNS = ("vectors", "gain", "bias", "error")


@pytest.fixture(params=["reference", "kernel"])
def encode(request):
    if request.param == "reference":
        return module.reference
    pytest.importorskip("triton", reason="Triton is for Linux only")
    from chroma_gpu.kernels import encode_triton

    return encode_triton.encode


def texts(h, dtype, seed=0):
    rng = np.random.default_rng(seed)
    return [torch.from_numpy(rng.standard_normal((n, h)).astype(np.float32) * 3).to(dtype) for n in LENGTHS]


def expected(tokens, pooling, normalise):
    result = np.zeros((len(tokens), tokens[0].shape[1]))
    for i, text in enumerate(tokens):
        wide = text.double().numpy()
        if len(wide):
            result[i] = {
                Pooling.MEAN: wide.mean(axis=0),
                Pooling.CLS: wide[0],
                Pooling.LAST: wide[-1],
                Pooling.MAX: wide.max(axis=0),
                Pooling.WEIGHTED: np.average(wide, axis=0, weights=1 + np.arange(len(wide))),
                Pooling.ROOT: wide.sum(axis=0) / np.sqrt(len(wide)),
            }[pooling]
        length = np.linalg.norm(result[i])
        if normalise and length:
            result[i] /= length
    return result


def packed(tokens, device, before=0, kind=torch.int32):
    """With tokens of nobody before and after, which are NaN."""
    h = tokens[0].shape[1]
    nobody = torch.full((before, h), torch.nan, dtype=tokens[0].dtype)
    offsets = torch.tensor([0, *np.cumsum(LENGTHS)], dtype=kind) + before
    return torch.cat([nobody, *tokens, nobody]).to(device), offsets.to(device)


def padded(tokens, device, side, kind):
    t, h = max(LENGTHS) + 3, tokens[0].shape[1]
    hidden = torch.full((len(tokens), t, h), torch.nan, dtype=tokens[0].dtype)
    mask = torch.zeros(len(tokens), t, dtype=kind)
    for i, text in enumerate(tokens):
        at = slice(0, len(text)) if side == "right" else slice(t - len(text), t)
        hidden[i, at], mask[i, at] = text, 1
    return hidden.to(device), mask.to(device)


@pytest.mark.parametrize("pooling", list(Pooling))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("form", ["packed", "right", "left"])
def test_vectors_and_rows(device, encode, pooling, dtype, form):
    h, first = 37, 6
    tokens = texts(h, dtype)
    normalise = form != "left"
    metric = {"packed": Metric.COSINE, "right": Metric.IP, "left": Metric.L2}[form]
    kind = {torch.float32: torch.int64, torch.float16: torch.bool, torch.bfloat16: torch.int32}[dtype]
    if form == "packed":
        hidden, where = packed(tokens, device, 5, torch.int64 if dtype == torch.float32 else torch.int32)
    else:
        hidden, where = padded(tokens, device, form, kind)
    codes = torch.float16 if dtype == torch.float32 else torch.int8
    chunk, other = (allocate(16, h, codes, metric, device, 0) for _ in range(2))
    staging = torch.empty(len(tokens), h, device=device)
    got = encode(hidden, where, pooling, chunk, first, metric, staging, normalise=normalise)
    assert got is staging
    np.testing.assert_allclose(got.cpu().numpy(), expected(tokens, pooling, normalise), atol=2e-6, rtol=1e-5)
    assert not got[3].any()
    # The rows are those of the very vectors that came back, and no others are touched.
    quantise.reference(got, other, first, metric)
    assert torch.equal(chunk.vectors, other.vectors)
    for name in COLUMNS[1:]:
        torch.testing.assert_close(getattr(chunk, name), getattr(other, name), rtol=1e-5, atol=0)


@pytest.mark.parametrize("pooling", list(Pooling))
@pytest.mark.parametrize("form", ["packed", "right", "left"])
def test_what_is_skipped_does_not_count(device, encode, pooling, form):
    """Weights go on counting: the first token that counts has the weight of its place."""
    tokens = texts(24, torch.float32)
    hidden, where = packed(tokens, device, 2) if form == "packed" else padded(tokens, device, form, torch.bool)
    got = encode(hidden, where, pooling, normalise=False, skipped=2).cpu().numpy()
    for row, text in zip(got, tokens, strict=True):
        rest = text[2:].double().numpy()
        if pooling is Pooling.WEIGHTED and len(rest):
            want = np.average(rest, axis=0, weights=3 + np.arange(len(rest)))
        else:
            want = expected([torch.from_numpy(rest)], pooling, False)[0]
        np.testing.assert_allclose(row, want, atol=2e-6, rtol=1e-5)


def test_without_a_chunk_the_vectors_come_alone(device, encode):
    tokens = texts(64, torch.float16)
    got = encode(*packed(tokens, device), Pooling.MEAN)
    np.testing.assert_allclose(got.cpu().numpy(), expected(tokens, Pooling.MEAN, True), atol=2e-6)


@pytest.mark.parametrize("pooling", list(Pooling))
def test_a_vector_that_is_not_finite_is_set_aside(device, encode, pooling):
    tokens = texts(16, torch.float32)
    tokens[0][-1 if pooling is Pooling.LAST else 0, 3] = torch.nan
    tokens[4][-1 if pooling is Pooling.LAST else 0, 5] = torch.inf
    chunk = allocate(7, 16, torch.int8, Metric.IP, device, 0)
    got = encode(*packed(tokens, device), pooling, chunk, 0, Metric.IP, normalise=False)
    aside = torch.isposinf(chunk.bias).cpu().tolist()
    assert aside == [i in {0, 4} for i in range(7)]
    assert torch.isnan(got[0, 3])
    assert torch.isinf(got[4, 5])
    assert not chunk.vectors[[0, 4]].any()
    assert torch.isfinite(chunk.gain).all()


def test_long_texts(device, encode):
    """More tokens than a block of the mask, the only one of text behind it."""
    t = 2_500
    hidden = torch.full((2, t, 8), torch.nan, device=device)
    mask = torch.zeros(2, t, dtype=torch.bool, device=device)
    hidden[0, 2_200:2_300], mask[0, 2_200:2_300] = torch.arange(100.0, device=device)[:, None], True
    hidden[1, 1_024:1_026], mask[1, 1_024:1_026] = 3.0, True
    for pooling, wanted in {
        **{Pooling.MEAN: 49.5, Pooling.MAX: 99.0, Pooling.CLS: 0.0, Pooling.LAST: 99.0},
        **{Pooling.WEIGHTED: 66.0, Pooling.ROOT: 495.0},
    }.items():
        got = encode(hidden, mask, pooling, normalise=False)
        np.testing.assert_allclose(got[0].cpu(), wanted, rtol=1e-6)
        np.testing.assert_allclose(got[1].cpu(), 3 * 2**0.5 if pooling is Pooling.ROOT else 3, rtol=1e-6)


def test_no_texts_and_no_tokens(device, encode):
    nothing = torch.zeros(1, dtype=torch.int32, device=device)
    assert encode(torch.zeros(0, 8, device=device), nothing, Pooling.MEAN).shape == (0, 8)
    assert not encode(torch.zeros(0, 8, device=device), torch.zeros(4, dtype=torch.int32, device=device), Pooling.LAST).any()
    assert not encode(torch.zeros(2, 0, 8, device=device), torch.zeros(2, 0, dtype=torch.bool, device=device), Pooling.MEAN).any()


def test_what_does_not_fit_is_refused(device, encode):
    hidden, where = torch.zeros(5, 8, device=device), torch.tensor([0, 2, 5], dtype=torch.int32, device=device)
    chunk = allocate(4, 8, torch.int8, Metric.IP, device, 0)
    wrong = [
        (hidden.to(torch.int32), where, Pooling.MEAN),
        (hidden, where.float(), Pooling.MEAN),
        (hidden, where[None], Pooling.MEAN),
        (hidden[None], where, Pooling.MEAN),
        (hidden, where, Pooling.MEAN, chunk, 3, Metric.IP),
        (hidden, where, Pooling.MEAN, allocate(4, 9, torch.int8, Metric.IP, device, 0), 0, Metric.IP),
        (hidden, where, Pooling.MEAN, chunk, 0, Metric.IP, torch.zeros(3, 8, device=device)),
        (hidden, where, Pooling.MEAN, chunk, 0, Metric.IP, torch.zeros(2, 8, device=device).half()),
    ]
    before = chunk.bias.clone()
    for given in wrong:
        with pytest.raises(ValueError, match=r"must be|are not"):
            encode(*given)
    assert torch.equal(chunk.bias, before)


def test_a_device_with_triton_gets_the_kernel(device, monkeypatch):
    pytest.importorskip("triton", reason="Triton is for Linux only")
    from chroma_gpu.kernels import encode_triton

    monkeypatch.setattr(module.scan, "has_triton", lambda device: True)
    monkeypatch.setattr(encode_triton, "encode", lambda *given, **named: (*given, named))
    offsets = torch.zeros(3, dtype=torch.int32, device=device)
    got = module.encode(torch.zeros(0, 8, device=device), offsets, Pooling.MAX, None, 4, Metric.L2, normalise=False)
    assert got[1:] == (offsets, Pooling.MAX, None, 4, Metric.L2, None, {"normalise": False, "skipped": 0})
