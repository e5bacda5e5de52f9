"""Instructor models: the vectors of sentence-transformers' native way, in both styles of calling."""

from __future__ import annotations

import json

import numpy as np
import pytest
from embed import tiny_models

from chroma_gpu.embed import embed_texts
from chroma_gpu.embed.encoders.transformer import TransformerEncoder
from chroma_gpu.embed.local import InstructorEmbeddingFunction
from chroma_gpu.errors import EmbeddingFailed, ModelNotFound

TEXTS = ["a cat sits on the mat", " steel company ", "", "a cat sits on the mat", "the red dog rests on one rug"]
TITLE, QUESTION = "the red doc :", "one blue query :"


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """hkunlp's layout: T5, mean pooling, a dense layer without bias and activation, normalising."""
    made = tiny_models.transformer(tmp_path_factory.mktemp("instructor") / "model", family="t5", dense=12)
    config = made / "2_Dense" / "config.json"
    given = json.loads(config.read_text("utf-8"))
    config.write_text(json.dumps(given | {"bias": False, "activation_function": "torch.nn.modules.linear.Identity"}), "utf-8")
    from safetensors.numpy import load_file, save_file

    weights = made / "2_Dense" / "model.safetensors"
    save_file({"linear.weight": load_file(weights)["linear.weight"].copy()}, weights)
    return made


@pytest.fixture(scope="module")
def native(directory):
    """SentenceTransformer's own way: the prompt is read, and left out of the mean."""
    sentence_transformers = pytest.importorskip("sentence_transformers", reason="the reference these tests compare with")
    model = sentence_transformers.SentenceTransformer(str(directory), device="cpu")
    model.set_pooling_include_prompt(False)

    def encode(texts, instruction=None):
        return model.encode([text.strip() for text in texts], prompt=instruction, show_progress_bar=False)

    return encode


def close(device):
    return {"atol": 2e-6, "rtol": 1e-5} if device == "cpu" else {"atol": 5e-3, "rtol": 1e-2}


@pytest.mark.parametrize("instruction", [None, TITLE, f"  {TITLE} "], ids=str)
def test_an_instruction_for_all_texts(directory, native, instruction, device):
    function = InstructorEmbeddingFunction(str(directory), device, instruction)
    want = native(TEXTS, instruction and instruction.strip())
    np.testing.assert_allclose(function(TEXTS), want, **close(device))
    np.testing.assert_allclose(function.embed_query(TEXTS), want, **close(device))
    np.testing.assert_allclose(embed_texts(function, TEXTS), want, **close(device))
    assert isinstance(function._encoder, TransformerEncoder)
    np.testing.assert_allclose(np.linalg.norm(function(TEXTS), axis=1), 1, atol=1e-6)


def test_pairs_of_instruction_and_text(directory, native, device):
    function = InstructorEmbeddingFunction(str(directory), device)
    pairs = [[TITLE, TEXTS[0]], [QUESTION, TEXTS[1]], (f" {TITLE}", TEXTS[2]), [QUESTION, TEXTS[3]], [TITLE, TEXTS[4]]]
    want = np.stack([native([text], instruction.strip())[0] for instruction, text in pairs])
    for embed in (function, function.embed_query):
        np.testing.assert_allclose(embed(pairs), want, **close(device))
    assert not np.allclose(want[0], want[3], atol=0.01)  # one text with two instructions


def test_pairs_among_texts_that_have_the_functions_instruction(directory, native):
    function = InstructorEmbeddingFunction(str(directory), "cpu", QUESTION)
    got = function([TEXTS[0], [TITLE, TEXTS[1]], TEXTS[3], ["", TEXTS[4]]])
    want = [native([TEXTS[0]], QUESTION), native([TEXTS[1]], TITLE), native([TEXTS[3]], QUESTION), native([TEXTS[4]])]
    np.testing.assert_allclose(got, np.concatenate(want), **close("cpu"))
    alone = InstructorEmbeddingFunction(str(directory), "cpu", QUESTION)
    np.testing.assert_allclose(alone([[TITLE, TEXTS[1]]]), want[1], **close("cpu"))  # with no text before it


@pytest.mark.parametrize("bad", [[["only one"]], [["a", "b", "c"]], [["a", 3]], ["text", None]], ids=str)
def test_what_is_neither_text_nor_pair(directory, bad):
    with pytest.raises(ValueError, match=r"Expected documents to be strings or pairs \[instruction, text\]"):
        InstructorEmbeddingFunction(str(directory), "cpu")(bad)


def test_bulk_jobs_stream_it_but_not_a_subclass_that_embeds_by_itself(directory):
    class Mine(InstructorEmbeddingFunction):
        def __call__(self, input):
            return [[1.0] for _ in input]

    assert InstructorEmbeddingFunction.streams
    assert not Mine.streams
    assert embed_texts(Mine(str(directory)), ["a"]).tolist() == [[1]]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(directory, native, dtype):
    from chroma_gpu.embed.encoders.layout import read
    from chroma_gpu.embed.stream.pipeline import Prompt, stream

    encoder = TransformerEncoder(read(directory), "cpu", dtype)
    got = np.concatenate([block for _, block in stream(encoder, [text.strip() for text in TEXTS], Prompt(TITLE, pooled=False))])
    assert (got * native(TEXTS, TITLE)).sum(axis=1).min() >= 0.999


def test_weights_as_pickles_are_converted_as_the_error_says(directory, native, tmp_path):
    """The hub's directories of this kind have pickles, of the transformer and of the dense layer."""
    import shutil

    import torch
    from safetensors.torch import load_file
    from sentence_transformers import SentenceTransformer

    old, new = tmp_path / "old", tmp_path / "new"
    shutil.copytree(directory, old)
    for folder in (old / "2_Dense", old):  # the dense layer alone, then both
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
        function = InstructorEmbeddingFunction(str(old), "cpu", TITLE)
        with pytest.raises((EmbeddingFailed, ModelNotFound), match=r"SentenceTransformer\(\w+\)\.save_pretrained\(\w+\)"):
            function(TEXTS)
    shutil.copy(directory / "model.safetensors", old)
    (old / "2_Dense" / "pytorch_model.bin").rename(tmp_path / "kept.bin")  # as if only safetensors had been fetched from the hub
    with pytest.raises(
        EmbeddingFailed, match=r"2_Dense has no weights as safetensors.*SentenceTransformer\(old\)\.save_pretrained\(new\)"
    ):
        function(TEXTS)
    (tmp_path / "kept.bin").rename(old / "2_Dense" / "pytorch_model.bin")
    SentenceTransformer(str(old), device="cpu").save_pretrained(str(new))
    np.testing.assert_allclose(InstructorEmbeddingFunction(str(new), "cpu", TITLE)(TEXTS), native(TEXTS, TITLE), **close("cpu"))


def test_the_configuration_is_chromas(directory):
    function = InstructorEmbeddingFunction(instruction="i")
    assert function.get_config() == {"model_name": "hkunlp/instructor-base", "device": "auto", "instruction": "i"}
    given = {"model_name": str(directory), "device": "cpu", "instruction": None}
    assert InstructorEmbeddingFunction.build_from_config(given).get_config() == given
