"""Conditions on documents. The expected answers of the tables were recorded from Chroma 1.5.9."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chroma_gpu.errors import InvalidArgumentError, InvalidFilter
from chroma_gpu.filter import DocumentContains, DocumentMatches, DocumentNotContains, DocumentNotMatches
from chroma_gpu.filter.regex import MAX_NESTED, MAX_PATTERN, compiled

DOCUMENT = "a\nb é %_\\"


@pytest.mark.parametrize("part", ["a\nb", "é", "%", "_", "\\", "b é", ""])
def test_a_part_is_found_literally(part):
    assert DocumentContains(part).matches(DOCUMENT.encode())
    assert not DocumentNotContains(part).matches(DOCUMENT.encode())


@pytest.mark.parametrize("part", ["A", "e", "É", "a.b", "a b", "%%"])
def test_case_accents_and_signs_count(part):
    assert not DocumentContains(part).matches(DOCUMENT.encode())
    assert DocumentNotContains(part).matches(DOCUMENT.encode())


def test_a_missing_document_passes_negations_only():
    assert not DocumentContains("").matches(None)
    assert not DocumentMatches("").matches(None)
    assert DocumentNotContains("").matches(None)
    assert DocumentNotMatches("").matches(None)


def test_conditions_are_equal_by_class_and_operand():
    assert len({DocumentContains("a"), DocumentNotContains("a"), DocumentMatches("a"), DocumentMatches("a")}) == 3


@pytest.mark.parametrize(
    ("pattern", "document", "expected"),
    [
        ("a.b", DOCUMENT, False),
        ("(?s)a.b", DOCUMENT, True),
        ("^b", DOCUMENT, False),
        ("(?m)^b", DOCUMENT, True),
        ("é$", DOCUMENT, False),
        (r"a\z", "a\n", False),
        ("a$", "a\n", False),
        (r"\d+", "doc 1", True),
        (r"\p{Lu}", "doc 1", False),
        (r"\pL", "1é", True),
        ("(?i)DOC", "doc 1", True),
        ("DOC", "doc 1", False),
        ("(?i:É)é", "éé", True),
        ("(?i:É)É", "éé", False),
        ("[[:alpha:]]{4}", "doc 1", False),
        (r"\w{2}\s", "doc 1", True),
        ("(?x) d o c # a comment", "doc 1", True),
        (r"(?x)[ d ]\ ", "d ", True),
        ("(?P<n>doc)", "doc 1", True),
        ("(?<n>doc)", "doc 1", True),
        (r"\u{64}oc", "doc 1", True),
        (r"\x{64}oc", "doc 1", True),
        (r"\x64oc", "doc 1", True),
        (r"\u0064oc", "doc 1", True),
        (r"\U00000064oc", "doc 1", True),
        (r"\Adoc", "doc 1", True),
        ("d.c", "d é", False),
        ("]", "a]", True),
        ("}", "a}", True),
        ("[]a]", "]", True),
        ("[^]a]", "]a", False),
        ("[a-]", "-", True),
        (r"[\^\]\\]", "]", True),
        (r"\.\*\+\?\(\)\|\[\]\{\}\^\$\#\&\-\~\ \_\%", ".*+?()|[]{}^$#&-~ _%", True),
        (r"\d", "٣", True),
        (r"\s", "\u3000", True),
        (r"[\s]", "\u3000", True),
        (r"\S", "\u3000", False),
        (r"[\S]", "\u3000", False),
        (r"[\S]", "é", True),
        (r"\w", "é", True),
        (r"\W", "é", False),
        (r"[\W]", "é", False),
        (r"[^\W\d_]", "1_", False),
        (r"[^\W\d_]", "1_é", True),
        (r"[\D]", "٣", False),
        (r"\bdoc\b", "doc 1", True),
        (r"\bdoc\b", "doc1", False),
        (r"\bübung\b", "die übung!", True),
        (r"\bübung\b", "vorübung", False),
        (r"\bbung", "übung", False),
        (r"\Bbung", "übung", True),
        (r"é\b", DOCUMENT, True),
        (r"(?i)\bÜBUNG\b", "die übung!", True),
        (r"(?i:ü)\b", "Ü", True),
        (r"(?-i:ü)\b", "Ü", False),
        (r"ü.\b", "ü\nü", False),
        (r"(?s)ü.\b", "ü\nü", True),
        (r"(?m)^\bü", "a\nü", True),
        (r"^\bü", "a\nü", False),
        (r"(?i:ü)ü\b", "üÜ", False),
        (r"(?i:ü)ü\b", "Üü", True),
        ("(?x: a ) b", "a b", True),
        ("(?x) a (?-x) b", "a b", True),
        (r"\bz", "é", False),
    ],
)
def test_regular_expressions_mean_what_rust_says(pattern, document, expected):
    assert DocumentMatches(pattern).matches(document.encode()) is expected
    assert DocumentNotMatches(pattern).matches(document.encode()) is not expected


@pytest.mark.parametrize(
    ("pattern", "rest"),
    [
        ("(", "\n    (\n    ^\nerror: unclosed group"),
        ("a)", "\n    a)\n     ^\nerror: unopened group"),
        ("(?=a)", "\n    (?=a)\n    ^^^\nerror: look-around, including look-ahead and look-behind, is not supported"),
        ("(?<=a)b", "\n    (?<=a)b\n    ^^^^\nerror: look-around, including look-ahead and look-behind, is not supported"),
        (r"(a)\1", "\n    (a)\\1\n       ^^\nerror: backreferences are not supported"),
        (r"\pé", "\n    \\pé\n    ^^^\nerror: Unicode property not found"),
        (r"\é", "\n    \\é\n    ^^\nerror: unrecognized escape sequence"),
        (r"\Z", "\n    \\Z\n    ^^\nerror: unrecognized escape sequence"),
        (r"\C", "\n    \\C\n    ^^\nerror: unrecognized escape sequence"),
        (r"\Qd.\E", "\n    \\Qd.\\E\n    ^^\nerror: unrecognized escape sequence"),
        ("d{,3}o", "\n    d{,3}o\n      ^\nerror: repetition quantifier expects a valid decimal"),
        ("a{2", "\n    a{2\n     ^^\nerror: unclosed counted repetition"),
        ("\\", "\n    \\\n    ^\nerror: incomplete escape sequence, reached end of pattern prematurely"),
        ("[a", "\n    [a\n    ^\nerror: unclosed character class"),
        ("(?z)a", "\n    (?z)a\n      ^\nerror: unrecognized flag"),
        ("a(?i)*", "\n    a(?i)*\n         ^\nerror: repetition operator missing expression"),
        ("a(?sU){0,1}", "\n    a(?sU){0,1}\n          ^\nerror: repetition operator missing expression"),
        ("(?x)a+ ?", "\n    (?x)a+ ?\n           ^\nerror: a repetition of a repetition is not supported"),
    ],
)
def test_refused_in_chromas_words(pattern, rest):
    with pytest.raises(InvalidArgumentError) as caught:
        DocumentMatches(pattern)
    assert str(caught.value) == "Regex syntax errror: regex parse error:" + rest


@pytest.mark.parametrize(
    "pattern",
    [
        *(
            "*",
            "a|*",
            "{",
            "[z-a]",
            r"(?-u:\xff)",
            "(?R)$",
            "(?<!a)b",
            "(?!a)",
            "(?P=n)",
            "(?>a)",
            r"\h",
            r"\x{d800}",
            r"\x{110000}",
        ),
        *(
            r"[\b]",
            r"\b{start}",
            r"\<a",
            r"[a-\d]",
            r"\p{Foo}",
            "[[:foo:]]",
            "x{1001}",
            r"(?:\w{50}){50}",
            "(x{0,65535}){0,65535}",
        ),
        # RE2 takes these, as something else than Rust.
        *("[a&&b]", "[a--b]", "[a~~b]", "[a[bc]]", r"\0", r"\12", r"\Qa", "a{2,b}"),
        "a" * (MAX_PATTERN + 1),
        "(" * (MAX_NESTED + 1) + "a" + ")" * (MAX_NESTED + 1),
    ],
)
def test_refused(pattern):
    with pytest.raises(InvalidFilter, match=r"Regex syntax errror|4096 at most"):
        DocumentMatches(pattern)


@pytest.mark.parametrize(
    "pattern",
    ["(a+)+$", "(a|aa)+$", "(a|a?)+$", "(.*a){20}$", r"(\w+\s?)*$", r"(?:a*)*(?:a*)*b\b", "(x+x+)+y", "^(a?){60}a{60}$"],
)
def test_hostile_patterns_return(pattern):
    # A backtracking engine takes longer than the age of the universe for each of these texts.
    compiled(pattern)(b"a" * 50_000 + b"!")
    compiled(pattern)(b"a" * 50_000 + "é!".encode())
    compiled(pattern)(b"x" * 50_000)


def test_word_boundaries_with_too_many_different_characters_say_so():
    pattern = r"\b" + "".join(map(chr, range(0x400, 0x450)))
    document = "".join(map(chr, range(0x400, 0x450))).encode()
    with pytest.raises(InvalidFilter, match="too many characters"):
        DocumentMatches(pattern).matches(document)
    assert not DocumentMatches(pattern).matches(b"ascii only")


@pytest.mark.parametrize("first", ["\né", " é"])
def test_line_feeds_stay_apart_beside_word_boundaries(first):
    search = compiled(r"(?m)^\bü")
    assert not search(first.encode())
    assert search("a !\nü".encode())
    assert not search("a ü\n".encode())


LETTERS = st.sampled_from("abé_ 1\n-")
ONE_OF = st.one_of(
    LETTERS.map(re.escape), st.sampled_from([".", r"\w", r"\W", r"\d", r"\s", "[ab]", "[^a]", r"[\wé]", r"[^\W1]", "(?i:É)"])
)
REPEATED = st.builds(lambda what, times: what + times, ONE_OF, st.sampled_from(["", "", "", "*", "+", "?", "{2}", "{1,2}", "*?"]))
PATTERNS = st.recursive(
    st.one_of(REPEATED, st.sampled_from([r"\b", r"\B", r"\A", "(?m:^)"])),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=4).map("".join),
        st.lists(inner, min_size=2, max_size=3).map(lambda branches: f"(?:{'|'.join(branches)})"),
    ),
    max_leaves=8,
)


# Not the empty text: Python alone says that \B does not match there.
@given(PATTERNS, st.lists(st.text(LETTERS, min_size=1, max_size=8), min_size=1, max_size=8))
def test_searching_agrees_with_the_standard_library(pattern, documents):
    condition = DocumentMatches(pattern)
    for document in documents:
        assert condition.matches(document.encode()) == bool(re.search(pattern, document)), (pattern, document)
