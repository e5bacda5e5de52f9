"""Static models: means of table rows."""

from __future__ import annotations

import numpy as np
import pytest
from embed import tiny_models
from embed.tiny_models import WORDS

from chroma_gpu.embed import embed_texts
from chroma_gpu.embed.encoders.static import StaticEncoder, from_files
from chroma_gpu.embed.local import StaticEmbeddingFunction
from chroma_gpu.embed.stream.pipeline import Prompt
from chroma_gpu.errors import EmbeddingFailed


@pytest.fixture
def table():
    return np.random.default_rng(0).standard_normal((len(WORDS) + 6, 5)).astype(np.float32)


def encoder(table, unit=False):
    return StaticEncoder(tiny_models.tokenizer(special=False).backend_tokenizer, table, unit=unit)


@pytest.mark.parametrize("unit", [False, True])
def test_the_mean_of_the_rows(table, unit):
    texts = ["a cat", "", "the the dog", "steel", "", "unheard cat"]
    model = encoder(table, unit)
    places = np.array([5, 1, 0, 2, 4, 3])
    got = model.post(model.core(model.pre(texts, Prompt()), places))
    for vector, place in zip(got, places, strict=True):
        ids = [6 + WORDS.index(word) if word in WORDS else 1 for word in texts[place].split()]
        want = table[ids].mean(axis=0) if ids else np.zeros(5)
        norm = np.linalg.norm(want)
        np.testing.assert_allclose(vector, want / norm if unit and norm else want, rtol=1e-5)


def test_only_texts_without_tokens(table):
    model = encoder(table)
    assert not model.core(model.pre(["", " "], Prompt()), np.arange(2)).any()


def test_model2vec_weights_and_mapping(table, tmp_path):
    from safetensors.numpy import save_file

    random = np.random.default_rng(1)
    mapping = random.integers(0, 7, len(table)).astype(np.int64)
    weights = random.random(len(table)).astype(np.float32)
    small = table[:7].astype(np.float16)
    save_file({"embeddings": small, "mapping": mapping, "weights": weights}, tmp_path / "model.safetensors")
    tiny_models.tokenizer(special=False).backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text('{"model_type": "model2vec", "normalize": false}')
    got = embed_texts(StaticEmbeddingFunction(str(tmp_path)), ["steel"])
    place = 6 + WORDS.index("steel")
    np.testing.assert_allclose(got[0], small[mapping[place]].astype(np.float32) * weights[place], rtol=1e-6)


def test_a_damaged_file_is_an_error(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"not this")
    with pytest.raises(EmbeddingFailed, match=r"model.safetensors cannot be loaded"):
        from_files(tmp_path / "model.safetensors", tmp_path / "tokenizer.json", unit=True)


def test_a_transformer_is_no_static_model(tmp_path):
    directory = tiny_models.transformer(tmp_path / "model")
    with pytest.raises(EmbeddingFailed, match="is not a static one"):
        StaticEmbeddingFunction(str(directory))(["text"])


def test_wordllama_is_the_table_of_its_package():
    pytest.importorskip("wordllama", reason="carries the weights")
    same, other, third = StaticEmbeddingFunction()(
        ["a cat sits on the mat", "a kitten rests on a rug", "quarterly revenue of the steel company fell sharply"]
    )
    assert same.shape == (256,)
    assert same @ other == pytest.approx(0.414, abs=0.002)
    assert same @ third == pytest.approx(0.013, abs=0.002)
