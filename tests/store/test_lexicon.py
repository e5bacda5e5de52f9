"""The runs of letters in documents against a search of every document, and what is left to be read."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chroma_gpu.errors import CorruptRecord
from chroma_gpu.roaring import CHUNK
from chroma_gpu.store.encoding import GRAMS, TABLES, TEXTS
from chroma_gpu.store.inverted import lexicon, texts
from chroma_gpu.store.inverted.lexicon import LONGEST, is_run
from chroma_gpu.store.inverted.texts import block_of, containing_text, put
from chroma_gpu.store.ledger import Ledger
from chroma_gpu.store.memory import MemoryKeyValue
from chroma_gpu.store.seal import seal
from chroma_gpu.words import Indexing

SMALL = {"PAGE_RUNS": 12, "PAGE_PLACES": 3}


def filled(blocks, indexing=Indexing.FULL):
    """Tables with blocks: (chunk, {place: text or None}), numbered one after the other."""
    tables = MemoryKeyValue(TABLES)
    for number, (chunk, documents) in enumerate(blocks):
        places = np.array(sorted(documents), np.uint16)
        encoded = [None if documents[place] is None else documents[place].encode() for place in places.tolist()]
        block = block_of(chunk, number, places, encoded, indexing)
        tables.write(lambda txn, block=block: put(Ledger(txn), block))
    return tables


def asked(tables, rows, text):
    """(rows that have it, rows that may have it)"""
    with tables.read() as txn:
        have, may = containing_text(txn, rows, text.encode())
    assert have.size == may.size == rows
    return have.rows().tolist(), may.rows().tolist()


def look_at_runs(patch):
    """Wherever there are any."""
    patch.setattr(texts, "_FEW", -1)
    patch.setattr(texts, "_FEW_TEXTS", -1)
    patch.setattr(texts, "_TEXT", 1 << 60)


@pytest.fixture
def eager(monkeypatch):
    look_at_runs(monkeypatch)


ALPHABET = "abB_1é\u0660ऄ가 .-\u3000東"
TEXT = st.text(ALPHABET, max_size=12) | st.lists(st.sampled_from(["ab", "abb", "b", "éa", "aé", "가ab"]), max_size=4).map(
    " ".join
)
BLOCKS = st.lists(
    st.tuples(st.sampled_from([0, 1]), st.dictionaries(st.integers(0, 9), st.none() | TEXT, min_size=1)), max_size=5
)


@settings(max_examples=200)
@given(blocks=BLOCKS, wanted=st.text(ALPHABET, min_size=1, max_size=4), small=st.booleans(), lazy=st.booleans())
def test_any_text_is_found_where_it_is(blocks, wanted, small, lazy):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SMALL.items() if small else ():
            patch.setattr(lexicon, name, value)
        if not lazy:
            look_at_runs(patch)
        tables, rows = filled(blocks), CHUNK + 8
        known = {chunk * CHUNK + place: text for chunk, documents in blocks for place, text in documents.items()}
        having = sorted(row for row, text in known.items() if row < rows and wanted in (text or ""))
        unknown = set(range(rows)) - set(known)
        have, may = asked(tables, rows, wanted)
    assert set(have) <= set(having) <= set(may)
    assert unknown <= set(may)
    assert set(have).isdisjoint(unknown)
    if len(wanted.encode()) == 3 or (is_run(wanted.encode()) and not lazy):
        assert have == having
        assert set(may) == unknown | set(having)


def test_a_run_is_ascii_words_and_letters_of_scripts_with_spaces():
    for text in ("a", "Snake_case9", "naïve", "Привет", "שלום", "नमस्ते", "한국어", "ß"):
        assert is_run(text.encode()), text
    for text in ("", "a b", "a-b", "東京", "a東", "ひらがな", "“a”", "a\n", "\xa0", "🙂", "½"):
        assert not is_run(text.encode()), text


def test_part_of_a_word_is_found_and_nothing_across_words(eager):
    tables = filled([(0, {0: "one two", 1: "onet wo", 2: "t,wo", 3: None, 4: "", 5: "Two", 6: "TWOtwo"})])
    assert asked(tables, 7, "two") == ([0, 6], [0, 6])
    assert asked(tables, 7, "o") == ([0, 1, 2, 5, 6], [0, 1, 2, 5, 6])
    assert asked(tables, 7, "ne") == ([0, 1], [0, 1])
    assert asked(tables, 7, "onetwo") == ([], [])
    assert asked(tables, 7, "e t") == ([0], [0])
    assert asked(tables, 7, "ne two") == ([], [0])


def test_documents_with_very_long_runs_are_left_to_be_read(eager):
    long = "x" * LONGEST
    tables = filled([(0, {0: f"{long} needle", 1: f"{long}y", 2: f"{long}yneedle", 3: "needles", 4: f"{long}y needle"})])
    assert asked(tables, 5, "needle") == ([0, 3, 4], [0, 2, 3, 4])
    assert asked(tables, 5, long) == ([0], [0, 1, 2, 4])
    assert asked(tables, 5, long + "y") == ([], [1, 2, 4])
    assert asked(tables, 5, "z") == ([], [1, 2, 4])


def test_few_candidates_are_left_to_be_read():
    documents = {place: "common rare" if place < 60 else "common" for place in range(5_000)}
    tables = filled([(0, documents)])
    assert asked(tables, 5_000, "rare") == ([], list(range(60)))
    assert asked(tables, 5_000, "common") == (list(range(5_000)), list(range(5_000)))
    assert asked(tables, 5_000, "common rare") == ([], list(range(60)))


def test_a_large_block_of_random_words(eager):
    rng = np.random.default_rng(3)
    words = ["".join(rng.choice(list("abcdefgh"), int(size))) for size in rng.integers(1, 9, 4_000)]
    documents = {place: " ".join(words[at] for at in (rng.random(6) ** 2 * 4_000).astype(int)) for place in range(6_000)}
    tables = filled([(0, documents)])
    with tables.read() as txn:
        pages = [int.from_bytes(key[4:], "big") for key, _ in txn.scan(GRAMS)]
    assert sum(page >= lexicon.PLACES for page in pages) > 2
    for wanted in ("a", "hg", "ab", "abc", "abcd", "hhhh", words[0], words[-1], max(words, key=len)):
        having = [row for row, text in documents.items() if wanted in text]
        assert asked(tables, 6_000, wanted) == (having, having)


def replace(tables, key, value):
    tables.write(lambda txn: txn.delete(GRAMS, key) if value is None else txn.put(GRAMS, key, value))


def test_damage_is_found(eager):
    tables = filled([(0, {0: "abcd abc", 1: "abcde"})])
    assert asked(tables, 2, "abcd") == ([0, 1], [0, 1])
    with tables.read() as txn:
        pages = [(key, value) for key, value in txn.scan(GRAMS) if int.from_bytes(key[4:], "big") >= lexicon.DIRECTORY]
    assert len(pages) == 3
    for key, value in pages:
        for broken in (value[:-1] + bytes([value[-1] ^ 1]), b"", None):
            replace(tables, key, broken)
            with pytest.raises(CorruptRecord, match=r"damaged|lacks") as raised:
                asked(tables, 2, "abcd")
            assert "repair" in raised.value.hint
        replace(tables, key, value)
    assert asked(tables, 2, "abcd") == ([0, 1], [0, 1])


def test_the_pattern_of_a_run_agrees_with_what_texts_are_cut_into():
    pattern = re.compile(r"[0-9A-Za-z_\u00c0-\u1fff\ua000-\ud7ff]+")
    text = "".join(map(chr, [*range(1, 0x3000), *range(0xA000, 0xD800)]))
    for part in (text, text[:127]):
        assert [run.decode() for run in lexicon.runs_of(part.encode())] == pattern.findall(part)


def test_blocks_that_were_written_before_there_were_runs_give_candidates(eager):
    documents = {place: "some words" if place % 2 else "others" for place in range(200)}
    tables = filled([(0, documents)])

    def forget(txn):
        key, value = next(iter(txn.scan(TEXTS)))
        txn.put(TEXTS, key, seal(key, bytes([value[5] & ~4]) + value[6:]))
        for key, _ in list(txn.scan(GRAMS)):
            if int.from_bytes(key[4:], "big") >= lexicon.DIRECTORY:
                txn.delete(GRAMS, key)

    tables.write(forget)
    assert asked(tables, 200, "words") == ([], list(range(1, 200, 2)))
    assert asked(tables, 200, "wo") == ([], list(range(200)))
    assert asked(filled([(0, documents)], Indexing.NONE), 200, "words") == ([], list(range(200)))
