"""Where batches end: never over the budget, little padding, no crumbs."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from chroma_gpu.embed.stream.batches import SHARE, TAIL, WASTE, Sorted, padding


def cut(lengths, budget, padded=True):
    ordered = Sorted.of(np.array(lengths, np.int64))
    ends = [0]
    while ends[-1] < len(ordered):
        ends.append(ordered.end(ends[-1], budget, padded))
    return ordered, [ordered.order[a:b] for a, b in pairwise(ends)]


@given(some.lists(some.integers(0, 300), min_size=1, max_size=200), some.integers(1, 5_000), some.booleans())
def test_every_text_is_in_one_batch_that_fits(lengths, budget, padded):
    ordered, batches = cut(lengths, budget, padded)
    assert np.concatenate(batches).tolist() == sorted(range(len(lengths)), key=lambda i: -lengths[i])
    for batch in batches:
        tokens = padding(np.array(lengths)[batch], padded)[1]
        assert len(batch) >= 1
        assert tokens <= budget or len(batch) == 1 or max(lengths) == 0
    assert ordered.sums[-1] == sum(lengths)


@given(some.lists(some.integers(1, 300), min_size=2, max_size=200), some.integers(400, 5_000))
def test_a_batch_ends_early_only_for_padding_and_with_its_share(lengths, budget):
    ordered, batches = cut(lengths, budget)
    start = 0
    for batch in batches[:-1]:
        tokens, padded = padding(np.array(lengths)[batch], True)
        longest = int(ordered.lengths[start])
        start += len(batch)
        following = padded + longest
        if following <= budget:
            assert 1 - (tokens + ordered.lengths[start]) / following > WASTE
            assert following > budget // SHARE


def test_even_texts_fill_the_budget():
    _, batches = cut([10] * 100, 250)
    assert [len(batch) for batch in batches] == [25] * 4


def test_padding_ends_a_batch():
    _, batches = cut([100] * 20 + [50] * 40, 4_000)
    assert [len(batch) for batch in batches] == [22, 38], "the text that goes over the bound of waste begins the next"


def test_a_small_batch_does_not_end_for_padding():
    _, batches = cut([100, 50, 20, 10, 1], 100_000)
    assert len(batches) == 1


def test_crumbs_go_along():
    assert [len(batch) for batch in cut([100] * 30 + [1] * 3, 4_000)[1]] == [33]
    assert [len(batch) for batch in cut([100] * 40 + [1] * 3, 4_000)[1]] == [40, 3], "there is no room for them"
    for crumbs, batches in ((10, 1), (14, 2)):
        taken = 22  # as in the test of padding
        assert ((20 + crumbs - taken) * 50 < 4_000 / TAIL) == (batches == 1)
        assert len(cut([100] * 20 + [50] * crumbs, 4_000)[1]) == batches


def test_without_padding_the_budget_counts_tokens():
    _, batches = cut([100, 50, 20, 10, 1, 0], 100, padded=False)
    assert [len(batch) for batch in batches] == [1, 5]


def test_equal_lengths_stay_in_order():
    assert Sorted.of(np.array([3, 5, 3, 5, 4])).order.tolist() == [1, 3, 4, 0, 2]


@pytest.mark.parametrize("padded", [True, False])
def test_nothing_to_pad(padded):
    assert padding(np.empty(0, np.int64), padded) == (0, 0)
