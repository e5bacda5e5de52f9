"""What patterns require of a text: nothing that a matching text lacks, and enough to be of use."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from chroma_gpu.errors import InvalidFilter
from chroma_gpu.filter import DocumentContains, DocumentMatches, DocumentNotContains, DocumentNotMatches
from chroma_gpu.filter.grams import MOST_GRAMS, MOST_LOOKUPS, Both, Every, OneOf, required, strings
from chroma_gpu.rowset import RowSet


def grams_in(text):
    return {text[at : at + 3] for at in range(len(text) - 2)}


def admits(tree, text):
    """Whether the only row, which has a text, is a candidate."""
    present = grams_in(text)
    return 0 in tree.candidates(lambda grams: RowSet.where(np.array([present.issuperset(grams)])))


def shown(tree):
    """A tree as text: & within and between, | for one of."""
    if tree is None:
        return None
    if isinstance(tree, Every):
        return "&".join(gram.decode(errors="replace") for gram in tree.grams)
    return f"({('&' if isinstance(tree, Both) else '|').join(sorted(map(shown, tree.parts)))})"


LETTERS = st.sampled_from(
    ["a", "b", "c", "A", "B", "k", "s", "é", "Ü", " ", "1", "\n", "\u017f", "\u212a", r"\.", r"\x61", r"\u{e9}", "-"]
)
CLASSES = st.sampled_from(
    ["[ab]", "[^a]", "[a-c]", r"\w", r"\d", r"\s", ".", r"\pL", "[aé]", r"[\x61b]", "[[:alpha:]]", "[]a]", r"[\W1]"]
)
ASSERTIONS = st.sampled_from(["^", "$", r"\b", r"\B", r"\A", r"\z"])
COUNTS = st.sampled_from(["*", "+", "?", "{2}", "{0,2}", "{1,}", "{0}", "{1,3}", "{3}", "*?", "+?", "??", "{2}?", "{17}"])
FLAGS = st.sampled_from(["(?i)", "(?-i)", "(?s)", "(?m)", "(?x)", "(?U)", "(?is-m)"])
GROUPS = st.sampled_from(["(", "(?:", "(?i:", "(?-i:", "(?P<n>", "(?s-i:", "(?x:"])


def combined(inner):
    return st.one_of(
        st.lists(inner, min_size=1, max_size=5).map("".join),
        st.lists(st.one_of(inner, st.just("")), min_size=2, max_size=4).map("|".join).map("(?:{})".format),
        st.tuples(GROUPS, inner).map(lambda pair: f"{pair[0]}{pair[1]})"),
        st.tuples(inner, COUNTS).map(lambda pair: f"(?:{pair[0]}){pair[1]}"),
        st.tuples(FLAGS, inner).map("".join),
    )


LITERALS = st.lists(LETTERS, min_size=2, max_size=6).map("".join)
ATOMS = st.one_of(LITERALS, LETTERS, CLASSES, ASSERTIONS, st.tuples(LETTERS, COUNTS).map("".join))
PATTERNS = st.recursive(ATOMS, combined, max_leaves=8)
TEXTS = st.text("abcABCkKsSéÉüÜ 1.-\n\u017f\u212a", max_size=14)


@settings(max_examples=300)
@given(pattern=PATTERNS, data=st.data())
def test_every_text_that_matches_has_what_is_required(pattern, data):
    try:
        operator = DocumentMatches(pattern)
    except InvalidFilter:  # a space that is counted, with the flag x
        reject()
    tree = required(operator)
    for text in data.draw(st.lists(st.one_of(TEXTS, likely(pattern)), min_size=4, max_size=8)):
        encoded = text.encode()
        if tree is not None and operator.matches(encoded):
            assert admits(tree, encoded), shown(tree)


@settings(max_examples=300)
@given(pattern=PATTERNS, data=st.data())
def test_a_pattern_of_a_few_texts_matches_where_one_of_them_is(pattern, data):
    try:
        operator = DocumentMatches(pattern)
    except InvalidFilter:
        reject()
    texts = strings(operator)
    if texts:
        around = st.tuples(TEXTS, st.sampled_from([text.decode() for text in texts]), TEXTS).map("".join)
        for text in data.draw(st.lists(st.one_of(TEXTS, around, likely(pattern)), min_size=4, max_size=8)):
            encoded = text.encode()
            assert operator.matches(encoded) == any(each in encoded for each in texts)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("django", [b"django"]),
        ("(?:foo|ba[rz])", [b"bar", b"baz", b"foo"]),
        ("(?i)go", [b"GO", b"Go", b"gO", b"go"]),
        ("a{2}b?", [b"aa", b"aab"]),
        ("^a", []),
        (r"web\b", []),
        (r"\Aa|b", []),
        ("a$", []),
        ("a*", []),
        ("a|", []),
        ("a.c", []),
    ],
)
def test_texts_of_a_pattern(pattern, expected):
    assert list(strings(DocumentMatches(pattern))) == expected
    assert strings(DocumentMatches(pattern)) == strings(DocumentNotMatches(pattern))


def likely(pattern):
    """Texts that often match: what the standard library makes of the pattern, where it reads it alike."""
    try:
        return st.from_regex(re.compile(pattern)).filter(lambda text: not any("\ud800" <= char < "\ue000" for char in text))
    except (re.error, Warning):
        return TEXTS


@given(part=st.one_of(st.text("abé€ ", max_size=40), st.text(max_size=20)), before=st.text(max_size=4), after=st.text(max_size=4))
def test_every_text_that_contains_a_part_has_what_is_required(part, before, after):
    part, text = part.encode(errors="ignore").decode(), f"{before}{part}{after}".encode(errors="ignore")
    tree = required(DocumentContains(part))
    assert (tree is None) == (len(part.encode()) < 3)
    if tree is not None and DocumentContains(part).matches(text):
        assert admits(tree, text)
        assert len(tree.grams) <= MOST_GRAMS
        assert set(tree.grams) <= grams_in(part.encode())


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("django", "dja&jan&ang&ngo"),
        ("^django$", "dja&jan&ang&ngo"),
        (r"\bweb\b", "web"),
        ("foo.*bar", "(bar&foo)"),
        ("foo|bar", "(bar|foo)"),
        ("(foo|bar)baz", "(bar&arb&rba&baz|foo&oob&oba&baz)"),
        ("colou?r", "(col&olo&lor|col&olo&lou&our)"),
        ("[Pp]ython", "(Pyt&yth&tho&hon|pyt&yth&tho&hon)"),
        ("(?i)web", "(WEB|WEb|WeB|Web|wEB|wEb|weB|web)"),
        ("a{3}", "aaa"),
        ("(abc){2}", "abc&bca&cab"),
        ("(?:abc)+", "abc"),
        ("(?:abc)*", None),
        ("(?:abc)?", None),
        ("abc{0}d", "abd"),
        ("xab{0}cd", "xac&acd"),
        ("abc|d", None),
        ("abc|", None),
        (r"\w+", None),
        ("", None),
        ("ab", None),
        ("a.c", None),
        ("(?x) a b c # not this", "abc"),
        (r"1\.2", "1.2"),
        ("https?://", "(htt&ttp&tp:&p:/&://|htt&ttp&tps&ps:&s:/&://)"),
    ],
)
def test_what_is_required(pattern, expected):
    tree = required(DocumentMatches(pattern))
    assert shown(tree) == expected


def test_strings_are_of_bytes_not_of_characters():
    assert required(DocumentMatches("é€")) == required(DocumentContains("é€"))
    assert required(DocumentContains("é€")).grams == (b"\xc3\xa9\xe2", b"\xa9\xe2\x82", b"\xe2\x82\xac")


def test_the_kelvin_sign_and_the_long_s_are_cases_of_k_and_s():
    for pattern, text in (("(?i)kit", "\u212ait"), ("(?i)SIT", "\u017fit")):
        assert DocumentMatches(pattern).matches(text.encode())
        assert admits(required(DocumentMatches(pattern)), text.encode())


def test_negations_require_what_they_negate():
    assert required(DocumentNotContains("abcd")) == required(DocumentContains("abcd")) == Every((b"abc", b"bcd"))
    assert required(DocumentNotMatches("abcd")) == required(DocumentMatches("abcd")) == Every((b"abc", b"bcd"))


@pytest.mark.parametrize(
    "pattern",
    [
        "(?i)extraordinary",
        "|".join(f"word{n}" for n in range(24)),
        "(?i)(alpha|beta|gamma) (one|two) (three|four) five",
        "(?i:a)" * 60,
        "(a|b)" * 100,
        "x" * 4_000,
        "(?:" * 200 + "abc" + ")" * 200,
    ],
)
def test_large_patterns_ask_for_little(pattern):
    tree = required(DocumentMatches(pattern))
    assert tree is not None
    assert tree.lookups <= MOST_LOOKUPS


def test_too_many_alternatives_are_a_scan():
    assert required(DocumentMatches("|".join(f"word{n}" for n in range(60)))) is None


def test_an_empty_answer_ends_the_asking():
    asked = []

    def containing(grams):
        asked.append(grams)
        return RowSet.empty(3)

    tree = Both((Every((b"abc",)), OneOf((Every((b"xyz",)), Every((b"123",))))))
    assert not tree.candidates(containing)
    assert len(asked) == 1
    assert tree.lookups == 3


def test_groups_may_lie_deeper_in_each_other_than_calls_may():
    pattern = "(" * 250 + "abc" + "|x)" * 249 + ")+d"

    def called(depth):
        return called(depth - 1) if depth else (required(DocumentMatches(pattern)), strings(DocumentMatches(pattern)))

    assert called(400) == (None, ())
    assert strings(DocumentMatches("(?i:" * 250 + "abc" + ")" * 250)) == strings(DocumentMatches("(?i)abc"))
