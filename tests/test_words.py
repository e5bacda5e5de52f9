"""Grams and words of whole batches against loops over single texts."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plain_words import hash_of, words_of

from chroma_gpu import words

CHARACTERS = "ab CZ_-0é\u0301ßİΣ東京です。ก나²\n\ud7ff\U0001f600\U00020000"
TEXTS = st.lists(st.one_of(st.text("abZ 0_", max_size=8), st.text(CHARACTERS, max_size=8), st.text(max_size=8)), max_size=12)


def placed(n, data):
    return np.array(sorted(data.draw(st.sets(st.integers(0, 65_535), min_size=n, max_size=n))), np.uint16)


def listed(postings):
    """{key: {place: count}}"""
    counts = np.ones(len(postings.places), np.uint8) if postings.counts is None else postings.counts
    assert len(postings.places) == len(counts) == postings.starts[-1]
    found = {}
    for at, key in enumerate(postings.keys.tolist()):
        part = slice(postings.starts[at], postings.starts[at + 1])
        found[key] = dict(zip(postings.places[part].tolist(), counts[part].tolist(), strict=True))
        assert list(found[key]) == sorted(found[key])
        assert found[key]
    assert list(found) == sorted(found)
    return found


@given(texts=TEXTS, data=st.data())
def test_grams_are_those_of_each_text_alone(texts, data):
    places = placed(len(texts), data)
    encoded = [text.encode(errors="replace") for text in texts]
    expected = {}
    for place, text in zip(places.tolist(), encoded, strict=True):
        for at in range(len(text) - 2):
            expected.setdefault(int.from_bytes(text[at : at + 3], "big"), {})[place] = 1
    assert listed(words.grams(encoded, places)) == expected


@given(texts=TEXTS, data=st.data())
def test_words_are_those_of_each_text_alone(texts, data):
    texts = [text.encode(errors="replace").decode() for text in texts]
    places = placed(len(texts), data)
    postings, lengths = words.words([text.encode() for text in texts], places)
    expected = {}
    for place, text in zip(places.tolist(), texts, strict=True):
        for word, count in Counter(words_of(text)).items():
            expected.setdefault(hash_of(word), {})[place] = count
    assert listed(postings) == expected
    assert lengths.tolist() == [len(words_of(text)) for text in texts]


@given(text=st.one_of(st.text(CHARACTERS), st.text()))
def test_a_query_is_hashed_as_texts_are(text):
    text = text.encode(errors="replace").decode()
    hashes, counts = words.hashes(text)
    expected = Counter(map(hash_of, words_of(text)))
    assert dict(zip(hashes.tolist(), counts.tolist(), strict=True)) == expected
    assert hashes.tolist() == sorted(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Snake_case, CamelCase and x86-64", ["snake_case", "camelcase", "and", "x86", "64"]),
        ("don't", ["don", "t"]),
        ("ÜBUNG naïve", ["übung", "naïve"]),
        ("हिन्दी", ["हिन्दी"]),
        ("東京大学", ["東", "京", "東京", "大", "京大", "学", "大学"]),
        ("日本のPython入門", ["日", "本", "日本", "の", "本の", "python", "入", "門", "入門"]),
        ("한국어 문서", ["한국어", "문서"]),
        ("... -- !", []),
    ],
)
def test_what_a_word_is(text, expected):
    assert words_of(text) == expected
    assert sorted(np.repeat(*words.hashes(text)).tolist()) == sorted(map(hash_of, expected))


def test_slices_are_put_together(monkeypatch):
    texts = [f"word{n % 7} and żółw{n % 3}".encode() * (n % 4) for n in range(60)]
    places = np.arange(60, dtype=np.uint16)
    whole = listed(words.grams(texts, places)), listed(words.words(texts, places)[0])
    lengths = words.words(texts, places)[1].tolist()
    monkeypatch.setattr(words, "_FEW", 0)
    assert whole[1] == listed(words.words(texts, places)[0])
    monkeypatch.setattr(words, "_SLICE", 100)
    assert whole == (listed(words.grams(texts, places)), listed(words.words(texts, places)[0]))
    assert lengths == words.words(texts, places)[1].tolist()


@pytest.mark.parametrize("long", ["word and żółw, then Łódź. " * 9, "aaa bb " * 60, "ab" * 40 + " " + "cd" * 40 + "żółw " * 30])
def test_a_long_text_is_read_in_parts(monkeypatch, long):
    texts, places = [b"first", long.encode(), b"", b"last word"], np.array([1, 2, 700, 65_535], np.uint16)
    grams, (found, lengths) = words.grams(texts, places), words.words(texts, places)
    monkeypatch.setattr(words, "_SLICE", 100)
    sizes, words_of_part = [], words._words_of
    monkeypatch.setattr(words, "_words_of", lambda part: sizes.append(sum(map(len, part))) or words_of_part(part))
    assert listed(words.grams(texts, places)) == listed(grams)
    again, lengths_again = words.words(texts, places)
    assert (listed(again), lengths_again.tolist()) == (listed(found), lengths.tolist())
    assert max(sizes) <= 100 < len(texts[1])


def test_a_text_without_spaces_is_cut_between_characters(monkeypatch):
    text, place = "漢字żó" * 100, np.zeros(1, np.uint16)
    whole = words.grams([text.encode()], place)
    monkeypatch.setattr(words, "_SLICE", 100)
    parts = list(words._cut_between_words(text.encode()))
    assert "".join(part.decode() for part in parts) == text
    assert max(map(len, parts)) <= 100
    assert listed(words.grams([text.encode()], place)) == listed(whole)


def test_counts_and_lengths_stop_at_their_limits():
    postings, lengths = words.words([b"a " * 70_000, b"b " * 255, b"c " * 256, b"d " * 65_535], np.arange(4, dtype=np.uint16))
    assert sorted(next(iter(each.values())) for each in listed(postings).values()) == [255] * 4
    assert lengths.tolist() == [65_535, 255, 256, 65_535]


def test_no_two_words_of_many_have_one_hash():
    many = {f"{a}{b}" for a in range(300) for b in "abcdefghijklmnopqrstuvwxyz_0"} | {
        f"{'ab' * n}{c}" for n in range(400) for c in "ab"
    }
    many |= {"".join(pair) for pair in zip("aábcdé" * 40, "xyzßøł" * 40, strict=True)}
    hashes, counts = words.hashes(" ".join(many))
    assert len(hashes) == len(many)
    assert counts.max() == 1


def test_a_long_word_is_a_word():
    text = b"x" * 100_000
    postings, lengths = words.words([text, b"x"], np.arange(2, dtype=np.uint16))
    assert lengths.tolist() == [1, 1]
    assert hash_of("x") in postings.keys.tolist()
    assert words.hashes(text.decode())[0].tolist() == [key for key in postings.keys.tolist() if key != hash_of("x")]
