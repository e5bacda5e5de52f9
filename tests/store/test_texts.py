"""The index of documents against loops over all of them, whatever blocks they were taken in by."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plain_words import hash_of, words_of

from chroma_gpu.errors import CorruptRecord
from chroma_gpu.roaring import CHUNK
from chroma_gpu.store.encoding import GRAMS, SUMMED, TABLES, TEXTS, WORDS
from chroma_gpu.store.inverted import pages
from chroma_gpu.store.inverted.lexicon import DIRECTORY
from chroma_gpu.store.inverted.texts import block_of, containing, lengths, taken, word_postings
from chroma_gpu.store.inverted.texts import put as put_in
from chroma_gpu.store.ledger import Ledger
from chroma_gpu.store.lmdb import open_lmdb
from chroma_gpu.store.memory import MemoryKeyValue
from chroma_gpu.words import Indexing, hashes


@pytest.fixture
def tables(kind, tmp_path):
    made = open_lmdb(tmp_path / "env", TABLES, map_size=1 << 24) if kind == "lmdb" else MemoryKeyValue(TABLES)
    yield made
    made.close()


def put(tables, chunk, block, documents, **given):
    """documents: text or None by place."""
    places = np.array(sorted(documents), np.uint16)
    texts = [None if documents[place] is None else documents[place].encode() for place in places.tolist()]
    tables.write(lambda txn: put_in(Ledger(txn), block_of(chunk, block, places, texts, **given)))


def candidates(tables, rows, *grams):
    with tables.read() as txn:
        found = containing(txn, rows, [gram.encode() for gram in grams])
    assert found.size == rows
    return found.rows().tolist()


def having(tables, rows, word):
    """{row: how often}"""
    with tables.read() as txn:
        found = word_postings(txn, rows, hashes(word)[0])
    (some, counts) = found[0]
    assert some.tolist() == sorted(set(some.tolist()))
    return dict(zip(some.tolist(), counts.tolist(), strict=True))


def lengths_of(tables, rows):
    with tables.read() as txn:
        return lengths(txn, rows)


def test_every_gram_has_to_be_in_one_text(tables):
    put(tables, 0, 0, {0: "abcd", 1: "abc bcd", 2: "xabc", 3: "bcd", 4: None, 5: ""})
    assert candidates(tables, 6, "abc", "bcd") == [0, 1]
    assert candidates(tables, 6, "abc") == [0, 1, 2]
    assert candidates(tables, 6, "abc", "zzz") == []
    assert candidates(tables, 6) == [0, 1, 2, 3, 4, 5]


def test_rows_that_were_not_taken_in_are_candidates(tables):
    put(tables, 0, 0, {1: "abc", 2: "xyz"})
    assert candidates(tables, 5, "abc") == [0, 1, 3, 4]
    assert candidates(tables, 2, "abc") == [0, 1]
    assert candidates(tables, 0, "abc") == []
    assert candidates(tables, 1, "abc") == [0]
    known, unknown = lengths_of(tables, 5)
    assert known.tolist() == [0, 1, 1, 0, 0]
    assert unknown.rows().tolist() == [0, 3, 4]


def test_the_last_block_of_a_row_counts(tables):
    put(tables, 0, 0, {0: "old one", 1: "old two", 2: "old"})
    put(tables, 0, 1, {1: "new two two"})
    put(tables, 1, 0, {0: "old far", 5: "old old"})
    put(tables, 0, 2, {1: "newer", 9: "old nine"})
    rows = CHUNK + 6
    assert [row for row in candidates(tables, rows, "old") if row in (0, 1, 2, 9, CHUNK, CHUNK + 5)] == [
        0,
        2,
        9,
        CHUNK,
        CHUNK + 5,
    ]
    assert having(tables, rows, "old") == {0: 1, 2: 1, 9: 1, CHUNK: 1, CHUNK + 5: 2}
    assert having(tables, rows, "two") == having(tables, rows, "new") == {}
    assert having(tables, rows, "newer") == {1: 1}
    assert having(tables, CHUNK + 1, "old") == {0: 1, 2: 1, 9: 1, CHUNK: 1}
    assert having(tables, 2, "old") == {0: 1}
    known, unknown = lengths_of(tables, rows)
    assert known[[0, 1, 2, 9, CHUNK, CHUNK + 5]].tolist() == [2, 1, 1, 2, 2, 2]
    assert len(unknown) == rows - 6


def test_a_row_that_loses_its_words_has_none(tables):
    put(tables, 0, 0, {0: "some words", 1: "more words"})
    put(tables, 0, 1, {0: "some", 2: "other words"}, indexing=Indexing.GRAMS)
    put(tables, 0, 2, {1: None})
    assert having(tables, 3, "words") == {}
    assert candidates(tables, 3, "som") == [0]
    with tables.read() as txn:
        known, unknown = lengths(txn, 3)
        assert not [key for key, _ in txn.scan(WORDS, prefix=b"\0\0\0\1")]
    assert known.tolist() == [0, 0, 0]
    assert unknown.rows().tolist() == [0, 2]


@pytest.mark.parametrize("n", [CHUNK, 5_000])
def test_a_large_block(tables, n):
    rng = np.random.default_rng(n)
    vocabulary = [f"w{number}x" for number in range(3_000)]
    picked = (rng.random((n, 4)) ** 3 * len(vocabulary)).astype(int)
    documents = {place: " ".join(vocabulary[at] for at in each) for place, each in enumerate(picked.tolist())}
    put(tables, 3, 7, documents)
    first = 3 * CHUNK
    for word in ("w0x", "w1x", "w77x", "w2999x"):
        expected = {first + place: text.split().count(word) for place, text in documents.items() if word in text.split()}
        assert having(tables, first + n, word) == expected
        grams = [word[at : at + 3] for at in range(len(word) - 2)]
        likely = [first + place for place, text in documents.items() if all(gram in text for gram in grams)]
        assert candidates(tables, first + n, *grams)[first:] == likely
    with tables.read() as txn:
        assert lengths(txn, first + n)[0][first:].tolist() == [4] * n
        sizes = [
            len(value)
            for table in (GRAMS, WORDS)
            for key, value in txn.scan(table)
            if 0 < int.from_bytes(key[4:], "big") < DIRECTORY
        ]
    assert np.median(sizes) <= pages.PAGE + 5


BLOCKS = st.lists(
    st.tuples(
        st.sampled_from([0, 1]),
        st.dictionaries(st.integers(0, 12), st.none() | st.text("ab c", max_size=9) | st.text("é東京 a", max_size=6), min_size=1),
        st.sampled_from(Indexing),
    ),
    max_size=7,
)


@given(
    blocks=BLOCKS,
    parts=st.lists(st.text("ab c", min_size=3, max_size=3), min_size=1, max_size=3),
    page=st.sampled_from([1, 30, 1_900]),
)
def test_any_blocks_are_answered_as_dictionaries_would(blocks, parts, page):
    tables, known, words = MemoryKeyValue(TABLES), {}, set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "PAGE", page)
        for number, (chunk, documents, indexing) in enumerate(blocks):
            put(tables, chunk, number, documents, indexing=indexing)
            known |= {chunk * CHUNK + place: (text, indexing) for place, text in documents.items()}
            words |= {word for text in documents.values() for word in words_of(text or "")}
    rows = CHUNK + 7
    missing = sorted(set(range(rows)) - set(known))
    likely = [
        row
        for row, (text, indexing) in known.items()
        if row < rows and (indexing is Indexing.NONE or (text is not None and all(part in text for part in parts)))
    ]
    assert candidates(tables, rows, *parts) == sorted(likely + missing)
    wanted = np.array(sorted({hash_of(word) for word in words} | {5, 2**48 - 1}), np.uint64)
    with tables.read() as txn:
        found = word_postings(txn, rows, wanted)
        assert taken(txn, rows).rows().tolist() == sorted(row for row in known if row < rows)
        counted, unknown = lengths(txn, rows)
    expected = {key: {} for key in wanted.tolist()}
    for row, (text, indexing) in sorted(known.items()):
        if row < rows and indexing is Indexing.FULL and text is not None:
            for word, count in Counter(words_of(text)).items():
                expected[hash_of(word)][row] = count
            assert counted[row] == len(words_of(text))
        elif row < rows:
            assert counted[row] == 0
    assert [dict(zip(*map(np.ndarray.tolist, each), strict=True)) for each in found] == list(expected.values())
    assert unknown.rows().tolist() == sorted(
        missing + [row for row, (_, indexing) in known.items() if row < rows and indexing is not Indexing.FULL]
    )


def asked(tables):
    return candidates(tables, 1, "abc"), having(tables, 1, "abc")


def replace(tables, table, key, value):
    tables.write(lambda txn: txn.delete(table, key) if value is None else txn.put(table, key, value))


def test_damage_is_found(tables):
    put(tables, 0, 0, {0: "abc"})
    assert asked(tables) == ([0], {0: 1})
    with tables.read() as txn:
        found = [(table, key, value) for table in (TEXTS, GRAMS, WORDS) for key, value in txn.scan(table)]
    found = [each for each in found if each[0] != GRAMS or int.from_bytes(each[1][4:], "big") < DIRECTORY]
    for table, key, value in found:
        replace(tables, table, key, value[:-1] + bytes([value[-1] ^ 1]))
        with pytest.raises(CorruptRecord, match="damaged") as raised:
            asked(tables), lengths_of(tables, 1)
        assert "repair" in raised.value.hint
        if table is not TEXTS:
            replace(tables, table, key, None)
            with pytest.raises(CorruptRecord, match="missing"):
                asked(tables), lengths_of(tables, 1)
        replace(tables, table, key, value)
    assert asked(tables) == ([0], {0: 1})


def test_everything_is_counted(tables):
    def write(txn):
        ledger = Ledger(txn)
        put_in(ledger, block_of(0, 0, np.arange(3, dtype=np.uint16), [b"one two", b"three", None]))
        return {table: ledger.summary.counts[SUMMED.index(table)] for table in (GRAMS, WORDS, TEXTS)}

    counts = tables.write(write)
    with tables.read() as txn:
        assert counts == {table: len(list(txn.scan(table))) for table in counts}
