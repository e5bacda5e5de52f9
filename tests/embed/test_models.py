"""The cache of loaded models, and what loading does with damaged ones."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest
from embed import tiny_models

from chroma_gpu.embed.encoders.models import ModelCache
from chroma_gpu.embed.encoders.weights import default_dtype
from chroma_gpu.embed.local import DefaultEmbeddingFunction, SentenceTransformerEmbeddingFunction
from chroma_gpu.errors import DeviceError, EmbeddingFailed, ModelNotFound


class Model:
    pass


def test_a_model_is_loaded_once_however_many_ask():
    cache, loads, inside, go = ModelCache(kept=2), [], threading.Event(), threading.Event()

    def load():
        loads.append(1)
        inside.set()
        assert go.wait(10)
        return Model()

    found = []
    threads = [threading.Thread(target=lambda: found.append(cache.get("key", load))) for _ in range(5)]
    for thread in threads:
        thread.start()
    assert inside.wait(10)
    other = cache.get("other", Model)
    go.set()
    for thread in threads:
        thread.join()
    assert len(loads) == 1
    assert len({id(model) for model in found}) == 1
    assert other is not found[0], "another model was loaded meanwhile"


def test_the_last_used_are_kept_and_those_in_use():
    cache = ModelCache(kept=2)
    held = cache.get("held", Model)
    dropped = weakref.ref(cache.get("dropped", Model))
    kept = weakref.ref(cache.get("a", Model)), weakref.ref(cache.get("b", Model))
    gc.collect()
    assert dropped() is None
    assert None not in (kept[0](), kept[1]())
    assert cache.get("held", Model) is held
    cache.clear()
    gc.collect()
    assert kept[0]() is None
    assert cache.get("held", Model) is held


def test_a_failed_load_is_tried_again():
    cache = ModelCache(kept=2)

    def fail():
        raise EmbeddingFailed("not now")

    with pytest.raises(EmbeddingFailed):
        cache.get("key", fail)
    assert isinstance(cache.get("key", Model), Model)


def test_functions_share_a_model(tmp_path):
    directory = tiny_models.transformer(tmp_path / "model")
    one, two, other = (SentenceTransformerEmbeddingFunction(str(directory), device="cpu", **given)
                       for given in ({}, {"normalize_embeddings": True}, {"model_kwargs": {"dtype": "bfloat16"}}))  # fmt: skip
    for function in (one, two, other):
        function(["text"])
    assert one._encoder is two._encoder
    assert one._encoder is not other._encoder


def test_a_function_may_be_used_from_several_threads(tmp_path):
    directory = tiny_models.transformer(tmp_path / "model")
    function = SentenceTransformerEmbeddingFunction(str(directory), device="cpu")
    texts = [f"{word} cat" for word in tiny_models.WORDS]
    results = {}

    def work(number):
        results[number] = [vector.tolist() for vector in function(texts[number:])]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, result in results.items():
        for got, want in zip(result, results[0][number:], strict=True):
            assert got == pytest.approx(want, abs=1e-5)
    assert len(results) == 8


@pytest.mark.parametrize(
    ("half", "family", "want"),
    [
        ((), "bert", "float32"),
        (("float16",), "bert", "float16"),
        (("float16", "bfloat16"), "bert", "float16"),
        (("float16",), "t5", "float32"),
        (("float16", "bfloat16"), "t5", "bfloat16"),
        (("float16", "bfloat16"), "gemma3_text", "bfloat16"),
    ],
)
def test_the_type_follows_device_and_family(half, family, want, monkeypatch):
    monkeypatch.setattr("chroma_gpu.device.half_types", lambda device: half)
    assert default_dtype("cuda", family) == want


def test_a_damaged_model_is_an_error(tmp_path):
    directory = tiny_models.transformer(tmp_path / "model")
    (directory / "model.safetensors").write_bytes(b"not this")
    with pytest.raises(EmbeddingFailed, match="cannot be loaded"):
        SentenceTransformerEmbeddingFunction(str(directory), device="cpu")(["text"])


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"default_prompt_name": "q"}, EmbeddingFailed, "'q' is not among the prompts"),
        ({"model_kwargs": {"dtype": "int4"}}, EmbeddingFailed, "dtype 'int4' is none of"),
        ({"device": "cuda:99"}, DeviceError, "device 'cuda:99' is not there"),
        ({"model_name": "org/nothing"}, ModelNotFound, "no source has the model 'org/nothing'"),
    ],
)
def test_what_is_wrong_is_said_at_the_first_text(tmp_path, given, error, message):
    directory = tiny_models.transformer(tmp_path / "model")
    function = SentenceTransformerEmbeddingFunction(**{"model_name": str(directory), "device": "cpu", **given})
    with pytest.raises(error, match=message):
        function(["text"])


def test_what_is_no_text_is_refused():
    with pytest.raises(ValueError, match="Expected documents to be strings, got int at position 1"):
        DefaultEmbeddingFunction()(["a", 1])
    with pytest.raises(ValueError, match="non-empty list"):
        DefaultEmbeddingFunction()([])
