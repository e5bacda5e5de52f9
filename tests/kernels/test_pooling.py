"""Pooling against a loop over texts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from chroma_gpu.kernels.pooling import Pooling, pool


def reference(hidden, mask, pooling, normalise):
    vectors = np.zeros((hidden.shape[0], hidden.shape[2]))
    for i in range(len(hidden)):
        tokens = hidden[i][mask[i].astype(bool)].astype(np.float64)
        if len(tokens):
            vectors[i] = {
                Pooling.MEAN: tokens.mean(axis=0),
                Pooling.CLS: tokens[0],
                Pooling.LAST: tokens[-1],
                Pooling.MAX: tokens.max(axis=0),
                Pooling.WEIGHTED: np.average(tokens, axis=0, weights=1 + np.arange(len(tokens))),
                Pooling.ROOT: tokens.sum(axis=0) / np.sqrt(len(tokens)),
            }[pooling]
        length = np.linalg.norm(vectors[i])
        if normalise and length:
            vectors[i] /= length
    return vectors


@pytest.mark.parametrize("pooling", list(Pooling))
@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("side", ["right", "left"])
def test_pool(device, pooling, normalise, dtype, side):
    rng = np.random.default_rng(0)
    b, t, h = 7, 13, 37
    hidden = torch.from_numpy(rng.standard_normal((b, t, h)).astype(np.float32)).to(dtype)
    lengths = [13, 1, 5, 0, 12, 2, 7]
    mask = np.zeros((b, t), np.int64)
    for i, length in enumerate(lengths):
        mask[i, :length] = 1
    mask = mask if side == "right" else mask[:, ::-1].copy()
    # What stands in the padding must not matter, not even NaN.
    hidden[torch.from_numpy(mask) == 0] = torch.nan
    got = pool(hidden.to(device), torch.from_numpy(mask).to(device), pooling, normalise=normalise)
    want = reference(np.nan_to_num(hidden.float().numpy()), mask, pooling, normalise)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.cpu().numpy(), want, atol=1e-6, rtol=1e-5)
    assert not got[3].any()


def test_a_mean_is_summed_in_float32(device):
    """4,096 values of 0.1 in float16 would stop growing at 256 if they were summed there."""
    hidden = torch.full((1, 4_096, 3), 0.1, dtype=torch.float16, device=device)
    got = pool(hidden, torch.ones(1, 4_096, dtype=torch.bool, device=device), Pooling.MEAN, normalise=False)
    np.testing.assert_allclose(got.cpu().numpy(), np.float32(np.float16(0.1)), rtol=1e-6)
