"""Duplicates: of texts in a counted set of digests, of vectors by their cosines; each against a plain reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chroma_gpu.errors import InvalidArgumentError
from chroma_gpu.jobs import dedupe
from chroma_gpu.jobs.digests import Digests
from chroma_gpu.jobs.options import EmbedOptions
from chroma_gpu.jobs.rows import Cursor, Item, Row


def item(id, text):
    return Item(Row("test", 1, Cursor(), Cursor(row=1), {}), id, text)


def made(client, wanted, space="cosine"):
    collection = client.create_collection("texts", configuration={"hnsw": {"space": space}})
    return collection, dedupe.of(EmbedOptions(collection="texts", dedupe=wanted), collection)


def keys(rng, n):
    return rng.integers(0, 2**63, (n, 2), dtype=np.uint64)


def test_the_set_counts_as_a_dict_does():
    rng, seen, reference = np.random.default_rng(1), Digests(), {}
    pool = keys(rng, 30_000)
    for _ in range(40):
        some = pool[rng.integers(0, len(pool), 2_000)]
        by = rng.integers(-1, 3, len(some)).astype(np.int32)
        for key, count in zip(some | np.array([1, 0], np.uint64), by, strict=True):
            reference[key.tobytes()] = reference.get(key.tobytes(), 0) + int(count)
        seen.add(some, by)
    expected = [reference.get(key.tobytes(), 0) for key in pool | np.array([1, 0], np.uint64)]
    assert seen.counts(pool).tolist() == expected
    assert len(seen) == len(reference)
    assert not seen.counts(keys(rng, 5_000)).any()


def test_the_set_is_small():
    rng, seen = np.random.default_rng(2), Digests()
    for _ in range(50):
        seen.add(keys(rng, 4_000), np.ones(4_000, np.int32))
        assert seen.nbytes <= 36 * max(len(seen), 800)


def test_equal_texts_are_left_out_within_a_block_and_across_blocks(client):
    _, exact = made(client, "exact")
    assert exact.texts([item("a", "one"), item("b", "two"), item("c", "one"), item("v", None)]) == [True, True, False, True]
    assert exact.texts([item("d", "two"), item("e", "three"), item("w", None)]) == [False, True, True]
    assert exact.vectors([item("e", "three")], np.ones((1, 3), np.float32)) == [True]


def test_texts_that_are_there_already_count_and_not_against_themselves(client, monkeypatch):
    monkeypatch.setattr(dedupe, "PAGE", 3)
    collection = client.create_collection("texts")
    collection.add(ids=list("abcdefgh"), embeddings=np.eye(8), documents=[*(f"text {at}" for at in range(7)), "text 0"])
    collection.add(ids=["bare"], embeddings=np.eye(8)[:1])
    exact = dedupe.of(EmbedOptions(collection="texts", dedupe="exact"), collection)
    asked = [("a", "text 0"), ("h", "text 0"), ("x", "text 0"), ("y", "text 6"), ("g", "text 6"), ("z", "another"), ("a", "new")]
    assert exact.texts([item(*each) for each in asked]) == [True, True, False, False, True, True, True]


def test_a_text_that_was_replaced_counts_no_more(client):
    collection, exact = made(client, "exact")
    collection.add(ids=["a", "b"], embeddings=np.eye(2), documents=["one", "two"])
    exact = dedupe.of(EmbedOptions(collection="texts", dedupe="exact"), collection)
    assert exact.texts([item("a", "other"), item("c", "one"), item("d", "one")]) == [True, True, False]
    # What was kept a moment ago is replaced too, before and after it is committed.
    assert exact.texts([item("c", "third"), item("e", "one")]) == [True, True]
    collection.upsert(ids=["a", "c", "e"], embeddings=np.eye(3)[:, :2] + 1, documents=["other", "third", "one"])
    exact.vectors([item("a", "other"), item("c", "third"), item("e", "one")], np.ones((3, 2), np.float32))
    exact.committed()
    assert not exact._kept.keys() & {"a", "c", "e"}
    assert exact.texts([item("e", "fourth"), item("f", "one"), item("g", "third")]) == [True, True, False]


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 6)), max_size=40),
    st.lists(st.integers(1, 9), min_size=1, max_size=9),
    st.booleans(),
)
def test_exact_is_what_a_dict_of_records_would_keep(rows, sizes, commits):
    import chroma_gpu

    client = chroma_gpu.EphemeralClient(chroma_gpu.Settings(allow_reset=True))
    client.reset()
    collection, exact = made(client, "exact")
    records, start = {}, 0
    for at in range(len(rows)):
        part = rows[start : start + sizes[at % len(sizes)]]
        start += len(part)
        expected = []
        for id, text in part:
            keep = all(other != text or each == id for each, other in records.items())
            expected.append(keep)
            records |= {id: text} if keep else {}
        items = [item(str(id), str(text)) for id, text in part]
        assert exact.texts(items) == expected
        if commits and items:
            kept = {each.id: each.text for each, keep in zip(items, expected, strict=True) if keep}
            if kept:
                collection.upsert(ids=list(kept), documents=list(kept.values()), embeddings=np.ones((len(kept), 2)))
            exact.vectors(items, np.ones((len(items), 2), np.float32))
            exact.committed()


def clusters(rng, n, dim=16):
    """Vectors of which many are near to others, and some nearly as near as 0.9."""
    middles = rng.standard_normal((n // 8, dim))
    spread = rng.choice([0.05, 0.2, 0.33, 0.5], n)[:, None]
    return (middles[rng.integers(0, len(middles), n)] + spread * rng.standard_normal((n, dim))).astype(np.float32)


def greedy(vectors, ids, threshold, kept=()):
    """Which stay, one by one in float64; ``kept`` are pairs of ids and vectors that are there."""
    unit = vectors.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    there, stay = list(kept), []
    for own, vector in zip(ids, unit, strict=True):
        near = any(each != own and other @ vector >= threshold for each, other in there)
        stay.append(not near)
        if not near:
            there.append((own, vector))
    return stay


@pytest.mark.parametrize("space", ["cosine", "l2", "ip"])
@pytest.mark.parametrize("sizes", [(400,), (7, 150, 243), (100, 100, 200)])
def test_near_is_what_one_by_one_would_keep(client, space, sizes):
    rng = np.random.default_rng(5)
    collection, near = made(client, 0.9, space)
    vectors = clusters(rng, sum(sizes))
    if space != "cosine":
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = [f"i{at}" for at in range(len(vectors))]
    expected, found, start = greedy(vectors, ids, 0.9), [], 0
    for number, size in enumerate(sizes):
        part = slice(start, start + size)
        items = [item(each, None) for each in ids[part]]
        keep = near.vectors(items, vectors[part])
        found, start = found + keep, start + size
        if number % 2 == 0 and any(keep):
            own = [each for each, stays in zip(ids[part], keep, strict=True) if stays]
            collection.add(ids=own, embeddings=vectors[part][keep])
            near.committed()
    assert found == expected
    assert 0 < sum(found) < len(found)


def test_near_leaves_a_record_itself_out_of_account(client):
    collection, near = made(client, 0.99)
    vectors = np.array([[1, 0], [0, 1]], np.float32)
    collection.add(ids=["a", "b"], embeddings=vectors)
    turned = np.array([[1, 0.01], [0.01, 1], [1, 0.02]], np.float32)
    assert near.vectors([item("a", None), item("c", None), item("a", None)], turned) == [True, False, True]


def test_near_begins_with_equal_texts(client):
    _, near = made(client, 0.5)
    assert near.texts([item("a", "one"), item("b", "one")]) == [True, False]


def test_rows_without_a_vector_are_kept_and_rule_nothing_out(client):
    _, near = made(client, 0.9)
    vectors = np.array([[np.nan, 1], [1, 0], [0, 0], [np.nan, 1], [0, 0], [2, 0]], np.float32)
    assert near.vectors([item(str(at), None) for at in range(6)], vectors) == [True, True, True, True, True, False]


def test_near_without_a_collection_remembers_all_by_itself():
    near = dedupe.of(EmbedOptions(collection="texts", dedupe=0.9), None)
    assert near.vectors([item("a", None)], np.array([[1, 0]], np.float32)) == [True]
    near.committed()
    assert near.vectors([item("b", None), item("c", None)], np.array([[5, 1], [0, 1]], np.float32)) == [False, True]


def test_what_cannot_be_done_is_refused(client):
    _, near = made(client, 0.9, "l2")
    with pytest.raises(InvalidArgumentError, match="norm of 1"):
        near.vectors([item("a", None)], np.array([[3, 4]], np.float32))
    for wrong in (0.0, 1.5, "near"):
        with pytest.raises(InvalidArgumentError, match="above 0 and at most 1"):
            dedupe.of(EmbedOptions(collection="texts", dedupe=wrong), None)


def test_nothing_asked_keeps_everything(client):
    _, every = made(client, None)
    items = [item("a", "one"), item("b", "one")]
    assert every.texts(items) == every.vectors(items, np.ones((2, 2), np.float32)) == [True, True]
    every.committed()
