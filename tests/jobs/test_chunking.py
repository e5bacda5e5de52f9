"""Chunks: pieces of the text as it stands, none too large, nothing left out but white space, overlaps as asked."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chroma_gpu.errors import InvalidArgumentError
from chroma_gpu.jobs import markdown, sentences
from chroma_gpu.jobs.chunking import Chunker
from chroma_gpu.jobs.options import EmbedOptions
from chroma_gpu.jobs.rows import Cursor, Item, Row

WORDS = [
    "a",
    "of",
    "the",
    "model.",
    "It",
    "e.g.",
    "3.14",
    "Überraschung",
    "naïve",
    "日本語。",
    "e\u0301te\u0301",
    "👩‍👩‍👧",
    "stone!",
    "x" * 70,
    "(yes)",
]
SPACES = [" ", "  ", "\n", "\n\n", "\t", " \n \n", "\u00a0", "\r\n"]
LINES = [
    "# Title",
    "## Part",
    "plain words here. And more.",
    "```",
    "code  here",
    "| a | b |",
    "|---|---|",
    "- item",
    "",
    "Under",
    "-----",
]

PROSE = st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from(SPACES)), max_size=60).map(
    lambda pairs: "".join(word + space for word, space in pairs)
)
MARKDOWN = st.lists(st.sampled_from(LINES), max_size=30).map("\n".join)
TEXTS = PROSE | MARKDOWN | st.text(max_size=200)


def chunker(chunk, size, overlap=0, tokenizer=None):
    options = EmbedOptions(inputs=("-",), collection="c", chunk=chunk, chunk_size=size, chunk_overlap=overlap)
    return Chunker.of(options, tokenizer)


def item(text, metadata=None, name="doc"):
    row = Row("here", 1, Cursor(), Cursor(row=1), {})
    return Item(row, name, text, metadata)


@pytest.fixture(scope="module")
def word_pieces():
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    pieces = ["[UNK]", "[CLS]", "[SEP]", "##s", "##ing", "the", "cat", "sit", "on", "mat", ".", "and", "dog", "run"]
    pieces += [chr(at) for at in range(97, 123)] + [f"##{chr(at)}" for at in range(97, 123)]
    made = Tokenizer(models.WordPiece({piece: at for at, piece in enumerate(pieces)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    made.enable_truncation(4)
    return made


@pytest.fixture(scope="module")
def byte_pairs():
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        ["the cat sits on the mat and the dog runs. " * 5],
        trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False),
    )
    return made


def check(text, spans, fits):
    """What holds of all ways of cutting."""
    for span in spans:
        piece = text[span.start : span.stop]
        assert piece == piece.strip()
        assert piece
        assert fits(piece)
    for before, after in pairwise(spans):
        assert before.start < after.start
        assert before.stop < after.stop
        assert not text[before.stop : after.start].strip()
    assert not text[: spans[0].start].strip()
    assert not text[spans[-1].stop :].strip()


@settings(max_examples=300, deadline=None)
@given(TEXTS.filter(str.strip), st.sampled_from(["chars", "sentences", "markdown"]), st.integers(1, 120), st.data())
def test_pieces_fit_and_cover_the_text(text, kind, size, data):
    overlap = data.draw(st.integers(0, size - 1))
    made = chunker(kind, size, overlap)
    spans = made.spans(text)
    check(text, spans, lambda piece: len(piece) <= size)
    assert spans == made.spans(text)
    for before, after in pairwise(spans):
        assert max(0, before.stop - after.start) <= overlap


@settings(max_examples=200, deadline=None)
@given(TEXTS.filter(str.strip), st.sampled_from(["chars", "markdown"]), st.integers(1, 120))
def test_words_are_cut_only_if_they_do_not_fit(text, kind, size):
    for span in chunker(kind, size).spans(text):
        for at in (span.start, span.stop):
            if 0 < at < len(text) and not text[at - 1].isspace() and not text[at].isspace() and text[at - 1] not in "。":
                word = text[:at].split()[-1] + text[at:].split()[0]
                assert len(word) > size or "。" in word


def test_the_overlap_is_as_much_as_fits_in_whole_words():
    text = " ".join(f"w{at:03}" for at in range(40))
    spans = chunker("chars", 24, 10).spans(text)
    assert text[spans[0].start : spans[0].stop] == "w000 w001 w002 w003 w004"
    assert text[spans[1].start : spans[1].stop] == "w003 w004 w005 w006 w007"


def test_characters_end_with_paragraphs_lines_and_sentences_if_they_can():
    text = "One two three four.\n\nFive six seven eight nine ten. Eleven twelve\nthirteen fourteen fifteen."
    pieces = [text[span.start : span.stop] for span in chunker("chars", 36).spans(text)]
    assert pieces == ["One two three four.", "Five six seven eight nine ten.", "Eleven twelve\nthirteen fourteen", "fifteen."]


def test_marks_and_joined_signs_stay_together():
    text = "e\u0301" * 10 + "👩‍👩‍👧" * 4
    for size in range(6, 14):
        for span in chunker("chars", size).spans(text):
            assert text[span.start] not in "\u0301\u200d"
            assert text[span.stop - 1] != "\u200d"


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from(["the", "cats", "sitting", "dog.", "zebra", "mats", "runs\n", "日本"]), min_size=1, max_size=60),
    st.integers(3, 20),
    st.data(),
)
def test_tokens_are_counted_as_the_model_does(word_pieces, words, size, data):
    text = " ".join(words)
    overlap = data.draw(st.integers(0, size - 3))
    made = chunker("tokens", size, overlap, word_pieces)
    spans = made.spans(text)
    whole = type(word_pieces).from_str(word_pieces.to_str())
    whole.no_truncation()
    check(text, spans, lambda piece: len(whole.encode(piece).ids) <= size)
    for before, after in pairwise(spans):
        if after.start < before.stop:
            assert len(whole.encode(text[after.start : before.stop], add_special_tokens=False).ids) <= overlap
        elif before.stop < after.start:
            # As many words as fit: the next one would have been too much.
            assert (
                len(whole.encode(text[before.start : before.stop] + " " + text[after.start :].split()[0]).ids) > size or overlap
            )


@settings(max_examples=150, deadline=None)
@given(TEXTS.filter(str.strip), st.integers(4, 30), st.data())
def test_tokens_of_parts_of_characters(byte_pairs, text, size, data):
    overlap = data.draw(st.integers(0, size - 1))
    spans = chunker("tokens", size, overlap, byte_pairs).spans(text)
    check(text, spans, lambda piece: len(byte_pairs.encode(piece).ids) <= size)


def test_tokens_need_a_tokenizer_and_room():
    with pytest.raises(InvalidArgumentError, match="no tokenizer"):
        chunker("tokens", 10)
    with pytest.raises(InvalidArgumentError, match="cannot overlap by 10"):
        chunker("chars", 10, 10)
    with pytest.raises(InvalidArgumentError, match="cannot be placed"):
        chunker("tokens", 10, 0, object())


def test_the_models_tokens_around_a_text_need_room(word_pieces):
    with pytest.raises(InvalidArgumentError, match="with 2 tokens around each"):
        chunker("tokens", 10, 8, word_pieces)


def test_the_truncation_of_the_model_is_left_alone(word_pieces):
    chunker("tokens", 10, 0, word_pieces)
    assert word_pieces.truncation["max_length"] == 4


SENTENCES = [
    "Dr. Smith paid 3.14 dollars, i.e. nothing, to Mr. J. S. Bach.",
    "Was that all?",
    '"No," he said.',
    "See fig. 3 and eq. 4 in the U.S. Army report vs. Others!",
    "It was in 1999.",
    "Already cut into words .",
    "as some collections are .",
    "Then came the end… but not for long.",
    "これは文です。",
    "次の文です\uff01",
    "1. A point of a list.",
    "Heading without a stop",
    "The last (and shortest.)",
]


def test_sentences_end_where_readers_end_them():
    text = " ".join(SENTENCES[:8]) + " " + "".join(SENTENCES[8:10]) + "\n" + SENTENCES[10] + "\n\n" + "\n\n".join(SENTENCES[11:])
    cuts = [0, *(at for gap in sentences.gaps(text, 0, len(text)) for at in gap), len(text)]
    assert [text[start:stop] for start, stop in zip(cuts[::2], cuts[1::2], strict=True)] == SENTENCES


def test_sentences_are_packed_whole_and_overlap_whole(word_pieces):
    text = "The cat sits. The dog runs. The mat and the dog. The cat runs on the mat. The dog sits."
    whole = [text[span.start : span.stop] for span in chunker("sentences", 30, 0).spans(text)]
    assert whole == ["The cat sits. The dog runs.", "The mat and the dog.", "The cat runs on the mat.", "The dog sits."]
    lapped = [text[span.start : span.stop] for span in chunker("sentences", 30, 15).spans(text)]
    assert lapped[:2] == ["The cat sits. The dog runs.", "The mat and the dog."] or lapped[1].startswith("The dog runs.")
    counted = [text[span.start : span.stop] for span in chunker("sentences", 14, 0, word_pieces).spans(text)]
    assert counted == ["The cat sits. The dog runs.", "The mat and the dog.", "The cat runs on the mat.", "The dog sits."]


def test_long_runs_are_cut_in_no_more_time_than_they_need():
    for text in ("." * 50_000 + "x", " " * 50_000 + "x", "。" * 50_000, "\n" * 50_000 + "x", "x" * 50_000):
        for kind in ("chars", "sentences", "markdown"):
            assert len(chunker(kind, 100, 10).spans(text)) <= 1_000


GUIDE = """---
title: no heading
---
Before all.

# Guide

## Install

Run this:

```sh
# not a heading
pip install it
```

| a | b |
|---|---|
| 1 | 2 |

Linux
-----
Words for Linux.

# Use #
"""


def test_sections_stand_under_their_headings():
    spans = chunker("markdown", 120).spans(GUIDE)
    found = [(" > ".join(span.heading), GUIDE[span.start : span.stop].splitlines()[0]) for span in spans]
    assert found == [("", "---"), ("Guide > Install", "# Guide"), ("Guide > Linux", "Linux"), ("Use", "# Use #")]


def test_code_and_tables_are_kept_whole_where_they_fit():
    for size in range(45, 100):
        pieces = [GUIDE[span.start : span.stop] for span in chunker("markdown", size, 20).spans(GUIDE)]
        assert sum("```sh\n# not a heading\npip install it\n```" in piece for piece in pieces) == 1
        assert sum("pip install" in piece for piece in pieces) == 1
        assert sum("|---|" in piece for piece in pieces) == 1
    assert any(
        piece.endswith("# not a heading") for piece in (GUIDE[s.start : s.stop] for s in chunker("markdown", 30).spans(GUIDE))
    )


def test_what_is_almost_the_rule_of_a_table_is_told_at_once():
    """Trying all ways to share the white space out would take hours."""
    for rule in (" " * 1_000_000 + "x|", "-" + " " * 1_000_000 + "x|", "|-" * 500_000 + "x"):
        (section,) = markdown.sections(f"| a |\n{rule}")
        assert not section.whole


@pytest.mark.parametrize(
    ("rule", "is_table"),
    [
        ("|-|", True),
        ("-|-", True),
        (" | :-: | --- | ", True),
        ("|--- |", True),
        ("|-|-", True),
        ("| |", False),
        ("|-||", False),
        ("|- -|", False),
    ],
)
def test_rules_of_tables(rule, is_table):
    (section,) = markdown.sections(f"| a |\n{rule}\n| b |")
    assert bool(section.whole) == is_table


@given(MARKDOWN)
def test_sections_leave_nothing_out(text):
    found = markdown.sections(text)
    assert "".join(text[each.start : each.stop] for each in found) == text


def test_chunks_tell_their_place_and_keep_what_the_row_had():
    made = chunker("chars", 20, 0)
    text = "one two three four five six seven"
    first, second = made.items(item(text, {"lang": "en", "start": "mine"}))
    assert (first.id, second.id) == ("doc#0", "doc#1")
    assert first.metadata == {
        "lang": "en",
        "metadata_start": "mine",
        "document_id": "doc",
        "chunk": 0,
        "chunks": 2,
        "start": 0,
        "end": 18,
    }
    assert second.metadata["start"] == 19
    assert text[second.metadata["start"] : second.metadata["end"]] == second.text
    assert first.after == Cursor(chunks=1)
    assert second.after == Cursor(row=1)
    assert (first.last, second.last) == (False, True)


def test_a_text_that_fits_is_chunk_0_of_1():
    (only,) = chunker("chars", 100).items(item("short"))
    assert (only.id, only.text, only.last) == ("doc#0", "short", True)
    assert only.metadata["chunks"] == 1


def test_nothing_is_cut_where_nothing_is_to_be():
    import numpy as np

    text = item("one two three four five six seven", {"a": 1})
    assert chunker("none", 1).items(text) == [text]
    no_text = Item(text.row, "doc", None, vector=np.ones(2, np.float32))
    assert chunker("chars", 5).items(no_text) == [no_text]
    both = Item(text.row, "doc", text.text, vector=np.ones(2, np.float32))
    assert chunker("chars", 5).items(both) == [both]


def test_headings_are_metadata():
    found = chunker("markdown", 100).items(item("# A\n\n## B\n\nwords"))
    assert [each.metadata["heading"] for each in found] == ["A > B"]
