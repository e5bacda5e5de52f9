"""How far a score may be off: the bound holds for every pair, and each part of it is needed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from chroma_gpu.index.gpu.bounds import Aside, asked, ordinary
from chroma_gpu.index.gpu.codes import Codes
from chroma_gpu.index.growing import Growing
from chroma_gpu.index.scoring import norms
from chroma_gpu.kernels.quantise import allocate, quantise
from chroma_gpu.records import Metric
from chroma_gpu.rowset import RowSet

N, Q = 400, 40


def off(queries, vectors, metric, codes, *, halved):
    """([q, n] how far each score is from the true one, [q, n] what the codes allow, [q] what the slack allows), in float64."""
    made, lengths = norms(vectors), norms(queries)
    chunk = allocate(len(vectors), vectors.shape[1], codes.dtype, metric, "cpu", 0)
    quantise(torch.from_numpy(vectors), chunk, 0, metric)
    query = asked(queries, lengths, metric, codes, float(made.max()), torch.device("cpu"), halved=halved)
    wide, q = vectors.astype(np.float64), queries.astype(np.float64)
    if metric is Metric.L2:
        true = q @ wide.T - (wide * wide).sum(axis=1) / 2
        scale = query.lengths
    else:
        assert query.lengths is None
        scale = np.ones(len(queries), np.float32)
        grown = np.where(lengths > 0, lengths * (1 + (vectors.shape[1] + 4) * 2.0**-23), 1).astype(np.float32)
        true = (q / grown[:, None]) @ wide.T
        if metric is Metric.COSINE:
            true /= np.sqrt((wide * wide).sum(axis=1))
    units = torch.from_numpy(query.units).float()
    scores = units @ chunk.vectors.float().T
    if chunk.gain is not None:
        scores = scores * chunk.gain
    scores = scores * torch.from_numpy(scale)[:, None] - chunk.bias
    error = np.zeros(len(vectors)) if chunk.error is None else chunk.error.numpy().astype(np.float64)
    return np.abs(scores.numpy().astype(np.float64) - true), scale[:, None] * error, query.slack.astype(np.float64) / 2


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("codes", list(Codes))
@pytest.mark.parametrize("halved", [False, True])
@pytest.mark.parametrize("dim", [1, 7, 96, 700])
def test_no_score_is_further_off_than_is_said(metric, codes, halved, dim):
    rng = np.random.default_rng(dim)
    vectors = (rng.standard_normal((N, dim)).T * rng.lognormal(0, 2, N)).T.astype(np.float32)
    queries = (rng.standard_normal((Q, dim)).T * rng.lognormal(0, 6, Q)).T.astype(np.float32)
    found, codes_allow, slack_allows = off(queries, vectors, metric, codes, halved=halved)
    assert (found <= codes_allow + slack_allows[:, None]).all()


@pytest.mark.parametrize("metric", list(Metric))
def test_what_rounds_queries_is_in_the_slack(metric):
    """Rows that 16 bit hold exactly: what is off is off because of the queries."""
    rng = np.random.default_rng(1)
    vectors = rng.integers(-3, 4, (N, 64)).astype(np.float32)
    queries = rng.standard_normal((Q, 64)).astype(np.float32)
    found, codes_allow, slack_allows = off(queries, vectors, metric, Codes.FLOAT16, halved=True)
    assert (found <= codes_allow + slack_allows[:, None]).all()
    _, _, without = off(queries, vectors, metric, Codes.FLOAT16, halved=False)
    assert (found > codes_allow + without[:, None]).any()
    assert (slack_allows < 100 * found.max(axis=1)).all()


def test_what_is_ordinary():
    assert ordinary(np.array([0, 1e-30, 1e-10, 1, 1e10, 1e30, np.inf], np.float32)).tolist() == [
        True, False, True, True, True, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize("metric", list(Metric))
def test_extreme_rows_are_set_aside(metric):
    lengths = Growing(np.array([1, 2, 1e20, 0, np.inf, 1e-20], np.float32))
    aside = Aside(metric, lengths)
    marks, late = aside.take(6)
    assert marks.tolist() == [False, False, True, False, True, metric is Metric.COSINE]
    assert not len(late)
    assert aside.longest == (1 if metric is Metric.COSINE else 2.0**60)
    assert aside.among(5, None).tolist() == [2, 4]
    assert aside.among(5, RowSet.of(np.array([0, 4], np.uint32), 70)).tolist() == [4]
