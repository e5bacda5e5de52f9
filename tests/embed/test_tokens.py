from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from embed import tiny_models
from embed.bert_tokenizers import bert

from chroma_gpu.embed.tokens import tokeniser as tokens_module
from chroma_gpu.embed.tokens.tokeniser import TokenIds, Tokeniser

MANY = ["the cat", "", "\u4e2d\u6587 caf\u00e9", "unbelievable [SEP] it", "a\x01b", "of the \u201ccat\u201d", "\U0001f600"] * 20


def listed(found):
    return [found.ids[start:stop].tolist() for start, stop in pairwise(found.offsets)]


def wanted(tokenizer, texts, special=True):
    return [tokenizer.encode(text, add_special_tokens=special).ids for text in texts]


@pytest.fixture(params=["bert", "other"])
def tokenizer(request):
    return bert() if request.param == "bert" else tiny_models.tokenizer(special=True).backend_tokenizer


def test_only_known_tokenizers_have_a_fast_way():
    assert Tokeniser(bert()).fast
    assert Tokeniser(bert()).why_not is None
    other = Tokeniser(tiny_models.tokenizer(special=True).backend_tokenizer)
    assert not other.fast
    assert "normalizer" in other.why_not


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("prefix", ["", "query: ", "\u4e2d "])
def test_tokens_are_in_the_order_of_the_texts(tokenizer, special, prefix):
    found = Tokeniser(tokenizer).tokens(MANY, prefix, special=special, skipped=3)
    assert listed(found) == wanted(tokenizer, [prefix + text for text in MANY], special)
    assert found.ids.dtype == np.int32
    assert found.offsets.dtype == np.int64
    assert found.skipped == 3


@pytest.mark.parametrize("texts", [[], [""], ["the cat"], ["the", "cat"], ["", ""], ["the cat " * 400], ["the cat"] * 100])
def test_few_and_many_texts(tokenizer, texts):
    assert listed(Tokeniser(tokenizer).tokens(texts)) == wanted(tokenizer, texts)


def test_single_and_short_texts_are_left_to_the_library(monkeypatch):
    tokeniser = Tokeniser(bert())
    monkeypatch.setattr(tokeniser, "_words", _Refusing())
    tokeniser.tokens(["the cat " * 400])
    tokeniser.tokens(["the", "cat"])
    with pytest.raises(AssertionError):
        tokeniser.tokens(["the cat " * 100] * 2)


def test_merging_when_every_text_or_none_is_left_to_the_library(monkeypatch):
    monkeypatch.setattr(tokens_module, "FEW", 0)
    tokenizer = bert()
    for texts in (["\u4e2d", "\u4e2d a"], ["a", "b"], ["\u4e2d", "a"], ["a", "\u4e2d"], ["", "\u4e2d", ""]):
        assert listed(Tokeniser(tokenizer).tokens(texts)) == wanted(tokenizer, texts)


@pytest.mark.parametrize("left", [True, False])
def test_padding(left):
    found = TokenIds(np.arange(1, 7, dtype=np.int32), np.array([0, 1, 1, 4, 6]))
    ids, mask = found.padded(np.array([2, 1, 0]), 99, left)
    assert ids.tolist() == ([[2, 3, 4], [99, 99, 99], [99, 99, 1]] if left else [[2, 3, 4], [99, 99, 99], [1, 99, 99]])
    assert mask.tolist() == (ids != 99).tolist()
    assert found.lengths.tolist() == [1, 0, 3, 2]


class _Refusing:
    def tokens(self, *given, **named):
        raise AssertionError
