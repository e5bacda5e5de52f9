"""Postings as pages: whatever is written is found, in the shortest form."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chroma_gpu.store.inverted import pages
from chroma_gpu.store.inverted.pages import cut, find
from chroma_gpu.words import Postings


def postings(lists, counts=None):
    """From {key: places}, and how often each place has the key."""
    keys = sorted(lists)
    sizes = [len(lists[key]) for key in keys]
    return Postings(
        np.array(keys, np.uint64),
        np.append(0, np.cumsum(sizes)).astype(np.int64),
        np.array([place for key in keys for place in lists[key]], np.uint16),
        None if counts is None else np.array([count for key in keys for count in counts[key]], np.uint8),
    )


def lookup(firsts, found, key, width):
    page = int(np.searchsorted(firsts, np.uint64(key), "right")) - 1
    return None if page < 0 else find(found[page], key, width)


PLACES = st.one_of(
    st.sets(st.integers(0, 65_535), min_size=1, max_size=30),
    st.sets(st.integers(0, 60), min_size=1),
    st.tuples(st.integers(0, 60_000), st.integers(1, 5_000), st.integers(1, 9)).map(
        lambda run: range(run[0], run[0] + run[1], run[2])
    ),
).map(sorted)


@given(
    lists=st.dictionaries(st.integers(0, 2**24 - 1), PLACES, max_size=12),
    counted=st.booleans(),
    page=st.sampled_from([10, 1_950]),
    asked=st.sets(st.integers(0, 65_535), min_size=1),
    data=st.data(),
)
def test_what_is_written_is_found(lists, counted, page, asked, data):
    width = 8 if counted else 4
    often = {
        key: [data.draw(st.sampled_from([1, 1, 7, 255])) for _ in places[:20]] + [1] * len(places[20:])
        for key, places in lists.items()
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "PAGE", page)
        firsts, found = cut(postings(lists, often if counted else None), width)
    assert firsts.tolist() == sorted(firsts.tolist())
    assert set(firsts.tolist()) <= set(lists)
    wanted = np.array(sorted(asked), np.uint16)
    for key, places in lists.items():
        entry = lookup(firsts, found, key, width)
        assert entry.places().tolist() == places
        assert entry.size >= len(places) // 2
        assert entry.among(wanted).tolist() == sorted(asked.intersection(places))
        counts = often[key] if counted else [1] * len(places)
        assert (entry.counts is None) == (set(counts) == {1})
        assert entry.counts is None or entry.counts.tolist() == counts
    for key in {key + 1 for key in lists} | {0} - set(lists):
        assert key in lists or lookup(firsts, found, key, width) is None


@pytest.mark.parametrize(
    ("places", "size"),
    [
        ([65_535], 2),
        ([0, 65_535], 4),
        ([7], 1),
        (range(0, 4_096, 3), 514),
        (range(0, 4_096, 20), 205),
        (range(0, 65_536), 8_194),
        (range(60_000, 60_800), 102),
    ],
)
def test_the_shortest_form_is_taken(places, size):
    (page,) = cut(postings({5: list(places)}), 4)[1]
    assert len(page) == 2 + 4 + 1 + size
    assert find(page, 5, 4).places().tolist() == list(places)


def test_pages_are_full_and_no_longer_than_they_may_be():
    rng = np.random.default_rng(1)
    lists = {key: sorted(rng.choice(4_096, rng.integers(1, 40), replace=False).tolist()) for key in range(0, 40_000, 10)}
    _, found = cut(postings(lists), 4)
    assert max(map(len, found)) <= pages.PAGE
    assert np.mean([len(page) for page in found]) > 0.95 * pages.PAGE


def test_a_key_that_needs_more_has_a_page_of_its_own():
    lists = {1: [1, 2], 2: list(range(0, 65_536, 7)), 3: [3]}
    firsts, found = cut(postings(lists), 4)
    assert firsts.tolist() == [1, 2, 3]
    assert [len(page) < 20 for page in found] == [True, False, True]


def test_nothing():
    firsts, found = cut(postings({}), 8)
    assert (firsts.tolist(), found) == ([], [])
