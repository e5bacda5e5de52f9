"""Masked pooling against the sum written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from chroma_gpu.kernels.pooling import Pooling, pool


def reference(states, mask, mode):
    rows = []
    for row, kept in zip(states.double().cpu().numpy(), mask.cpu().numpy(), strict=True):
        tokens = row[kept]
        pooled = {"mean": lambda t: t.mean(0), "max": lambda t: t.max(0), "cls": lambda t: t[0], "last": lambda t: t[-1]}
        pooled |= {"weighted": lambda t: np.average(t, axis=0, weights=1 + np.arange(len(t)))}
        pooled |= {"root": lambda t: t.sum(0) / np.sqrt(len(t))}
        rows.append(pooled[mode](tokens) if len(tokens) else np.zeros(row.shape[1]))
    return np.array(rows)


@pytest.mark.parametrize("mode", Pooling)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 7, 13), (3, 64, 384)])
def test_pooling(mode, dtype, shape, device):
    generator = torch.Generator().manual_seed(3)
    states = torch.randn(shape, generator=generator).to(dtype)
    lengths = torch.randint(0, shape[1] + 1, (shape[0],), generator=generator)
    columns = torch.arange(shape[1])
    for mask in (columns < lengths[:, None], columns >= lengths[:, None], torch.ones(shape[:2], dtype=torch.bool)):
        poisoned = states.masked_fill(~mask.unsqueeze(-1), torch.nan)
        got = pool(poisoned.to(device), mask.to(device), mode, normalise=False)
        assert got.dtype == torch.float32
        np.testing.assert_allclose(got.cpu().numpy(), reference(states, mask, mode), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("mode", Pooling)
@pytest.mark.parametrize("left", [False, True])
def test_what_is_skipped_does_not_count_and_keeps_its_place(mode, left):
    states = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(2))
    lengths = [6, 4, 2, 1]
    columns = torch.arange(6)
    mask = torch.stack([columns >= 6 - n if left else columns < n for n in lengths])
    got = pool(states, mask, mode, normalise=False, skipped=2)
    for i, n in enumerate(lengths):
        tokens = states[i][mask[i]][2:].double()
        if not len(tokens):
            assert not got[i].any()
            continue
        want = reference(tokens[None], torch.ones(1, len(tokens), dtype=torch.bool), mode)[0]
        if mode is Pooling.WEIGHTED:
            want = np.average(tokens.numpy(), axis=0, weights=np.arange(3, n + 1))
        np.testing.assert_allclose(got[i], want, rtol=1e-5, atol=1e-6)


def test_sums_are_taken_in_float32():
    states = torch.full((1, 4_096, 1), 3.0, dtype=torch.float16)
    states[0, 0, 0] = 60_000
    assert pool(states, torch.ones(1, 4_096, dtype=torch.bool), Pooling.MEAN, normalise=False).item() == pytest.approx(
        (60_000 + 3 * 4_095) / 4_096, rel=1e-6
    )


def test_normalising():
    states = torch.tensor([[[3.0, 4.0]], [[0.0, 0.0]], [[1e-30, 0.0]]])
    vectors = pool(states, torch.ones(3, 1, dtype=torch.bool), Pooling.CLS)
    assert vectors[0].tolist() == pytest.approx([0.6, 0.8])
    assert not vectors[1].any()
    assert torch.isfinite(vectors).all()
