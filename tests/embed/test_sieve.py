"""Texts that a foreign function cannot embed are found by few calls, and not blamed for what is not theirs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from chroma_gpu.embed.stream.failures import Failures
from chroma_gpu.embed.stream.sieve import HOPELESS
from chroma_gpu.embed.stream.stats import Stats
from chroma_gpu.embed.texts import embed_blocks
from chroma_gpu.errors import EmbeddingFailed, RateLimitError


class Picky:
    """Fails at every batch with a text that is longer than 4 characters; gives NaN for "nan"."""

    def __init__(self, error=ValueError):
        self.calls, self.error = 0, error

    def __call__(self, input):
        self.calls += 1
        if any(len(text) > 4 for text in input):
            raise self.error("too long")
        return [[float(len(text)), math.nan if text == "nan" else 1.0] for text in input]


def run(function, texts, batch=1_024, stats=None):
    failures = Failures()
    blocks = list(embed_blocks(function, iter(texts), batch=batch, failures=failures, stats=stats))
    assert [start for start, _ in blocks] == list(range(0, len(texts), batch))
    return blocks, failures


@pytest.mark.parametrize("batch", [1, 7, 64, 1_024])
def test_only_the_texts_that_fail_have_no_vector(batch):
    texts = ["abc"] * 200
    for bad in (0, 63, 64, 199):
        texts[bad] = "too long"
    texts[100] = "nan"
    stats = Stats()
    blocks, failures = run(Picky(), texts, batch, stats)
    assert sorted(failures.found) == [0, 63, 64, 100, 199]
    assert (stats.texts, stats.failed) == (200, 5)
    seen = 0
    for start, block in blocks:
        missing = [position for position in failures.found if start <= position < start + len(block)]
        assert block.shape == (min(batch, 200 - start), 0 if batch == 1 and start == 0 else 2)
        assert (np.flatnonzero(np.isnan(block).all(axis=1)) + start).tolist() == sorted(missing) or not block.size
        seen += len(block)
    assert seen == 200


@pytest.mark.parametrize("position", [0, 500, 1_023])
def test_one_bad_text_costs_few_calls(position):
    texts = ["abc"] * 1_024
    texts[position] = "too long"
    function = Picky()
    _, failures = run(function, texts)
    assert list(failures.found) == [position]
    assert function.calls <= 1 + 2 * 10
    clean = Picky()
    run(clean, ["abc"] * 1_024)
    assert clean.calls == 1


@pytest.mark.parametrize("error", [ConnectionError, RateLimitError, MemoryError, ImportError])
def test_what_is_not_for_the_text_raises_at_once(error):
    function = Picky(error)
    failures = Failures()
    with pytest.raises(error):
        list(embed_blocks(function, ["too long"] * 100, failures=failures))
    assert function.calls == 1
    assert len(failures) == 0


def test_failures_without_end_are_not_the_texts():
    function = Picky()
    with pytest.raises(ValueError, match="too long") as caught:
        list(embed_blocks(function, ["too long"] * 1_000, failures=Failures()))
    assert "it is not the text" in caught.value.__notes__[-1]
    assert function.calls <= 2 * HOPELESS + 2 * 10
    blocks, failures = run(Picky(), (["too long"] * (HOPELESS - 1) + ["abc"]) * 3)
    assert len(failures) == 3 * (HOPELESS - 1)
    assert sum(len(block) for _, block in blocks) == 3 * HOPELESS


def test_without_failures_the_first_raises():
    function = Picky()
    with pytest.raises(ValueError, match="too long"):
        list(embed_blocks(function, ["abc", "too long"]))
    assert function.calls == 1


def test_dimensions_that_change_are_no_failure_of_a_text():
    def grows(input):
        if len(input) > 1:
            raise ValueError("one by one")
        return [[1.0] * len(input[0])]

    with pytest.raises(EmbeddingFailed, match="of 1 dimensions, then of 2"):
        run(grows, ["a", "bb"])
