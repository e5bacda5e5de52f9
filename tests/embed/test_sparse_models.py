"""Sparse vectors by models, and text2vec: on tiny models, or on stand-ins for packages that are not a dependency."""

from __future__ import annotations

import sys
import types
import warnings

import numpy as np
import pytest
from embed import tiny_models

from chroma_gpu.errors import EmbeddingFailed, ModelNotFound
from chroma_gpu.records import SparseVector
from chroma_gpu.utils import embedding_functions as ef

TEXTS = ["a cat sits on the mat", "steel company", "a"]


@pytest.fixture(scope="module")
def splade(tmp_path_factory):
    """A random SPLADE model in the layout of sentence-transformers."""
    import torch
    from sentence_transformers import SparseEncoder
    from sentence_transformers.sparse_encoder.modules import MLMTransformer, SpladePooling
    from transformers import BertConfig, BertForMaskedLM

    directory = tmp_path_factory.mktemp("splade")
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = BertForMaskedLM(BertConfig(vocab_size=len(tiny_models.WORDS) + 6, max_position_embeddings=64, **size))
    model.save_pretrained(directory / "plain")
    tiny_models.tokenizer(special=True).save_pretrained(directory / "plain")
    prompts = {"query": "query : ", "document": "doc : "}
    encoder = SparseEncoder(modules=[MLMTransformer(str(directory / "plain")), SpladePooling()], prompts=prompts, device="cpu")
    encoder.save_pretrained(str(directory / "whole"))
    return directory / "whole"


def dense(vectors, dim):
    rows = np.zeros((len(vectors), dim), np.float32)
    for row, vector in zip(rows, vectors, strict=True):
        row[vector.indices] = vector.values
    return rows


def test_splade_gives_the_coordinates_of_the_model(splade):
    from sentence_transformers import SparseEncoder

    model = SparseEncoder(str(splade), device="cpu")
    documents = model.encode_document(TEXTS, convert_to_sparse_tensor=False).numpy()
    queries = model.encode_query(TEXTS, convert_to_sparse_tensor=False).numpy()
    assert not np.allclose(documents, queries)
    function = ef.HuggingFaceSparseEmbeddingFunction(str(splade), "cpu", query_config={"task": "query"})
    got = function(TEXTS)
    assert all(value != 0 for vector in got for value in vector.values)
    assert 0 < len(got[0].indices) < documents.shape[1]
    np.testing.assert_allclose(dense(got, documents.shape[1]), documents, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(dense(function.embed_query(TEXTS), queries.shape[1]), queries, rtol=1e-5, atol=1e-6)
    plain = ef.HuggingFaceSparseEmbeddingFunction(str(splade), "cpu")
    assert plain.embed_query(TEXTS) == plain(TEXTS)


def test_a_sparse_model_that_cannot_be_had(splade, tmp_path):
    with pytest.raises(ModelNotFound):
        ef.HuggingFaceSparseEmbeddingFunction(str(tmp_path / "nothing" / "deep" / "down"), "cpu")(["text"])
    dense_model = tiny_models.transformer(tmp_path / "dense")
    (dense_model / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(EmbeddingFailed, match="sentence-transformers cannot load the sparse model"):
        ef.HuggingFaceSparseEmbeddingFunction(str(dense_model), "cpu")(["text"])


def test_tasks_and_texts_are_checked(splade):
    with pytest.raises(ValueError, match="Invalid task: both"):
        ef.HuggingFaceSparseEmbeddingFunction(str(splade), "cpu", task="both")(["text"])
    with pytest.raises(ValueError, match="Expected documents to be strings, got int at position 1"):
        ef.HuggingFaceSparseEmbeddingFunction(str(splade), "cpu")(["text", 3])
    with pytest.raises(ValueError, match="non-empty list"):
        ef.HuggingFaceSparseEmbeddingFunction(str(splade), "cpu")([])


class Row:
    def __init__(self, text, scale):
        self.indices, self.values = np.array([len(text), 1]), np.array([2.0 * scale, 1.0])


class Model:
    def __init__(self, *args, **kwargs):
        self.given = args, kwargs
        Model.last = self

    def embed(self, texts):
        return (Row(text, 1) for text in texts)

    def query_embed(self, texts):
        return (Row(text, 10) for text in texts)


@pytest.fixture
def fastembed(monkeypatch):
    """A stand-in for the package fastembed."""
    package, bm25 = types.ModuleType("fastembed"), types.ModuleType("fastembed.sparse.bm25")
    package.SparseTextEmbedding = bm25.Bm25 = Model
    for name, module in {"fastembed": package, "fastembed.sparse": types.ModuleType("x"), "fastembed.sparse.bm25": bm25}.items():
        monkeypatch.setitem(sys.modules, name, module)


def test_fastembed(fastembed):
    function = ef.FastembedSparseEmbeddingFunction("m", threads=2, query_config={"task": "query"}, more=1)
    assert function(["four"]) == [SparseVector([1, 4], [1.0, 2.0])]
    assert Model.last.given == (("m",), {"threads": 2, "more": 1})
    assert function.embed_query(["four"]) == [SparseVector([1, 4], [1.0, 20.0])]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        bm25 = ef.Bm25EmbeddingFunction(k=1.5, language="german", task="query")
    assert bm25(["four"]) == bm25.embed_query(["four"]) == [SparseVector([1, 4], [1.0, 20.0])]
    assert Model.last.given == (("Qdrant/bm25",), {"k": 1.5, "language": "german"})


def test_text2vec_runs_a_model_as_sentence_transformers_does(tmp_path):
    directory = str(tiny_models.transformer(tmp_path / "model", normalize=False))
    ours = ef.Text2VecEmbeddingFunction(directory)(TEXTS)
    reference = ef.SentenceTransformerEmbeddingFunction(directory)(TEXTS)
    assert np.array(ours).tolist() == np.array(reference).tolist()


def test_the_onnx_name_is_the_default_function():
    function = ef.ONNXMiniLM_L6_V2(["CPUExecutionProvider"])
    assert isinstance(function, ef.DefaultEmbeddingFunction)
    assert (function.name(), function.max_tokens(), function.default_space()) == ("onnx_mini_lm_l6_v2", 256, "cosine")
    assert np.array(function(TEXTS)).tolist() == np.array(ef.DefaultEmbeddingFunction()(TEXTS)).tolist()
