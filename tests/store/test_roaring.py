"""Containers against plain sets, and against those of another implementation of the format."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap

from chroma_gpu import roaring
from chroma_gpu.roaring import CHUNK, WORDS

PAGE = 4096 - 16 - 5 - 1  # of LMDB, without its head, the seal of a value and the kind of a container


@st.composite
def place_sets(draw, low=0, smallest=1):
    """Sets of places of every texture: few and many, scattered and in runs, at both ends."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    span = CHUNK - low
    kind = draw(st.sampled_from(["few", "scattered", "runs", "most", "all", "ends"]))
    if kind == "few":
        places = set(rng.integers(low, CHUNK, rng.integers(1, 12)).tolist())
    elif kind == "scattered":
        places = set((low + np.flatnonzero(rng.random(span) < rng.choice([0.001, 0.03, 0.032, 0.06, 0.3]))).tolist())
    elif kind == "runs":
        starts = rng.integers(low, CHUNK, rng.integers(1, rng.choice([3, 50, 3000])))
        places = {place for start in starts.tolist() for place in range(start, min(start + int(rng.integers(1, 70)), CHUNK))}
    elif kind == "most":
        places = set((low + np.flatnonzero(rng.random(span) < 0.999)).tolist())
    elif kind == "all":
        places = set(range(low, CHUNK))
    else:
        places = {low, CHUNK - 1}
    return places | ({low} if len(places) < smallest else set())


def array(places):
    return np.array(sorted(places), np.uint16)


def bits_of(places):
    flags = np.zeros(CHUNK, np.bool_)
    flags[array(places)] = True
    return np.packbits(flags, bitorder="little").tobytes()


def bits(container):
    words = np.zeros(WORDS, np.uint64)
    roaring.mark(container, words)
    return set(np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little")).tolist())


@given(place_sets())
def test_a_container_holds_what_it_was_given(places):
    container = roaring.encoded(array(places))
    assert roaring.decoded(container).dtype == np.uint16
    assert roaring.decoded(container).tolist() == sorted(places)
    assert roaring.count(container) == len(places)
    assert bits(container) == places


@given(place_sets())
def test_a_container_is_that_of_roaring_bitmaps(places):
    container = roaring.encoded(array(places))
    bitmap = BitMap(places)
    bitmap.run_optimize()
    serialized = bitmap.serialize()
    # One container: a cookie of 12347 says that it is of runs, and their number comes before them.
    runs = int.from_bytes(serialized[:2], "little") == 12347
    theirs = serialized[11:] if runs else serialized[16:]
    if len(theirs) <= PAGE:
        assert container == (b"r" if runs else b"a") + theirs
    else:
        assert container == b"b" + bits_of(places)


@given(place_sets(), place_sets())
def test_marking_keeps_what_is_marked(places, others):
    words = np.zeros(WORDS, np.uint64)
    for each in (places, others):
        roaring.mark(roaring.encoded(array(each)), words)
    assert set(np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little")).tolist()) == places | others


@given(st.lists(st.tuples(st.integers(0, 8), place_sets()), max_size=8), st.booleans())
def test_a_union_of_many_chunks(given, once):
    """Each chunk once, or with several containers, which may have places in common; arrays that are larger than they are made, too."""
    given = sorted(dict(given).items() if once else given, key=lambda pair: pair[0])
    expected = np.zeros(9 * WORDS, np.uint64)
    containers = []
    for chunk, places in given:
        old = b"a" + array(places).astype("<u2").tobytes()
        containers.append((chunk, old if chunk % 2 and len(places) <= 4096 else roaring.encoded(array(places))))
        expected[chunk * WORDS : (chunk + 1) * WORDS] |= np.frombuffer(bits_of(places), np.uint64)
    assert roaring.union(containers, 9).tolist() == expected.tolist()


@pytest.mark.parametrize("values", [1, 2, 40])
@pytest.mark.parametrize("count", [100, 2_000])
def test_a_union_of_arrays_few_and_many(values, count):
    rng = np.random.default_rng(values + count)
    given = [(chunk, rng.choice(CHUNK, count, replace=False)) for chunk in range(9) if chunk != 4 for _ in range(values)]
    expected = sorted({chunk * CHUNK + place for chunk, places in given for place in places.tolist()})
    found = roaring.union([(chunk, roaring.encoded(np.sort(places).astype(np.uint16))) for chunk, places in given], 9)
    assert np.flatnonzero(np.unpackbits(found.view(np.uint8), bitorder="little")).tolist() == expected


@given(place_sets(), place_sets(low=40_000))
def test_containers_of_other_sizes_are_read_and_go_on(places, more):
    """What was written when arrays and runs might have up to 8,192 bytes."""
    places = {place for place in places if place < 40_000} or {7}
    starts = [place for place in sorted(places) if place - 1 not in places]
    lengths = [next(n for n in range(CHUNK) if start + n + 1 not in places) for start in starts]
    olds = [b"b" + bits_of(places)]
    if len(places) <= 4096:
        olds.append(b"a" + array(places).tobytes())
    if 4 * len(starts) < 8192:
        olds.append(b"r" + np.array([starts, lengths], "<u2").T.tobytes())
    for old in olds:
        assert roaring.decoded(old).tolist() == sorted(places)
        assert bits(old) == places
        assert roaring.decoded(roaring.extended(old, array(more))).tolist() == sorted(places | more)
        assert roaring.changed(old, [], sorted(more)) == roaring.encoded(array(places | more))


@given(st.data())
def test_a_container_is_extended(data):
    cut = data.draw(st.integers(1, CHUNK - 1))
    places = {place for place in data.draw(place_sets()) if place < cut} or {0}
    more = data.draw(place_sets(low=cut))
    container = roaring.extended(roaring.encoded(array(places)), array(more))
    assert roaring.decoded(container).tolist() == sorted(places | more)
    assert roaring.count(container) == len(places | more)
    assert bits(container) == places | more


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(0, 30))
def test_a_container_grows_piece_by_piece(lengths, gap):
    """Runs that go on where the last one ended, and runs with a gap between them."""
    container, places, start = b"", [], 0
    for length in lengths:
        more = list(range(start, start + length))
        container = roaring.extended(container, array(more)) if container else roaring.encoded(array(more))
        places += more
        start += length + gap
    assert roaring.decoded(container).tolist() == places
    assert bits(container) == set(places)
    assert len(container) <= 1 + max(512, 4 * (1 if gap == 0 else len(lengths)))


@given(place_sets(), place_sets(), place_sets())
def test_a_container_is_changed(places, removed, added):
    container = roaring.changed(roaring.encoded(array(places)), sorted(removed), sorted(added))
    expected = places - removed | added
    assert container == roaring.encoded(array(expected))
    assert roaring.changed(roaring.encoded(array(places)), sorted(places), ()) is None


@given(st.sets(st.integers(0, CHUNK - 1), min_size=1, max_size=9))
def test_few_places(places):
    container = roaring.few(sorted(places))
    assert roaring.decoded(container).tolist() == sorted(places)
    assert (roaring.count(container), bits(container)) == (len(places), places)


@pytest.mark.parametrize(("places", "size"), [([5], 3), ([1, 2], 5), ([1, 2, 3], 5), ([1, 2, 4], 7), (range(CHUNK), 5)])
def test_the_smaller_container_is_taken(places, size):
    assert len(roaring.encoded(array(places))) == size
