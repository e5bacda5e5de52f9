"""A pattern searched in many texts at once against a search of each."""

from __future__ import annotations

import pytest
from filter.test_grams import PATTERNS, TEXTS, likely
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from chroma_gpu.errors import InvalidFilter
from chroma_gpu.filter import DocumentMatches, DocumentNotMatches, together
from chroma_gpu.filter.regex import compiled, compiled_together


@settings(max_examples=400)
@given(pattern=PATTERNS, data=st.data(), batch=st.sampled_from([1, 2, 5, 1 << 11]), often=st.sampled_from([0, 2, 6]))
def test_the_same_texts_match_at_once_and_one_by_one(pattern, data, batch, often):
    try:
        search = compiled(pattern)
    except InvalidFilter:
        reject()
    documents = data.draw(st.lists(st.one_of(st.none(), st.just(""), TEXTS, likely(pattern)), max_size=12))
    texts = [None if document is None else document.encode() for document in documents]
    try:
        expected = [text is not None and search(text) for text in texts]
    except InvalidFilter:  # too many characters for \b
        reject()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(together, "_BATCH", batch)
        patch.setattr(together, "_OFTEN", often)
        assert compiled_together(pattern, compiled(pattern)).matching(texts) == expected
        assert DocumentMatches(pattern).passing(texts) == expected
        assert DocumentNotMatches(pattern).passing(texts) == [not found for found in expected]


EDGES = ["", "ab", "b", "a", "\n", "a\n", "\na", "a b", "é", "\xff", "ÿab", None, "", "ba", "aab", " ", "a\0b"]


@pytest.mark.parametrize(
    "pattern",
    [
        *("", "a*", "^", "$", "^$", "^a", "a$", "(?m)^a", "(?m)a$", r"\Aa", r"a\z", "^*a", "(?:^a|b$)", "(?m)^$", "a|^b"),
        *(r"\b", r"\B", r"\ba", r"a\b", r"\Bb", r"b\B", r"\b\b", r"^\B$", r"(?s).", "(?s)a.*b", "a(?s:.*b)?", "[^a]", "(?s).{3}"),
        *(
            r"\W",
            r"\S+",
            r"\PL",
            "[^\\n]*",
            r"\n",
            r"\x{ff}",
            "(?i)Ÿ",
            r"[^\x00-\x7f]",
            r"[\x{80}-\x{10ffff}]",
            "(?-s)..",
            "(?U)a*",
        ),
    ],
)
def test_the_ends_of_texts_are_kept(pattern):
    texts = [None if document is None else document.encode() for document in EDGES]
    expected = [text is not None and compiled(pattern)(text) for text in texts]
    assert compiled_together(pattern, compiled(pattern)).matching(texts) == expected
    for text in texts:
        assert compiled_together(pattern, compiled(pattern)).matching([text]) == [text is not None and compiled(pattern)(text)]
    assert compiled_together(pattern, compiled(pattern)).matching([]) == []


def test_only_texts_that_match_take_a_search():
    calls = []

    class Counting:
        def __init__(self, regexp):
            self._regexp = regexp

        def search(self, text, start=0):
            calls.append(start)
            return self._regexp.search(text, start)

    texts = [f"text {n}".encode() for n in range(1_000)]
    made = compiled_together("t 1.7", compiled("t 1.7"))
    counting = together.Together(Counting(made.regexp), made.alone, made.exact, made.plain)
    assert [at for at, found in enumerate(counting.matching(texts)) if found] == list(range(107, 200, 10))
    assert len(calls) == 11


def test_texts_that_often_match_are_searched_alone(monkeypatch):
    monkeypatch.setattr(together, "_BATCH", 10)
    alone = []
    made = compiled_together("x", compiled("x"))
    spying = together.Together(made.regexp, lambda text: alone.append(text) or made.alone(text), made.exact, made.plain)
    often, seldom = [b"x" * 9] * 30, [b"y" * 9] * 30
    assert spying.matching(often + seldom + seldom) == [True] * 30 + [False] * 60
    assert len(alone) == 30
