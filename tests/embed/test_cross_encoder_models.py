"""The scores of pairs are those of sentence-transformers' CrossEncoder."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest
from embed import tiny_models
from embed.tiny_models import WORDS

from chroma_gpu.embed import cross_encoder
from chroma_gpu.embed.cross_encoder import CrossEncoder
from chroma_gpu.embed.encoders.heads import read_head
from chroma_gpu.embed.encoders.pairs import PairEncoder, scores
from chroma_gpu.embed.stream.pipeline import Prompt
from chroma_gpu.errors import EmbeddingFailed

DOCUMENTS = ["a cat sits on the mat", "", "steel company", " ".join(WORDS * 2), "the red dog", "a cat sits on the mat"]
PAIRS = [(query, each) for query in ("a kitten", " ".join(WORDS), "two dog") for each in DOCUMENTS]


def reference(directory, pairs=PAIRS):
    sentence_transformers = pytest.importorskip("sentence_transformers", reason="the reference these tests compare with")
    return sentence_transformers.CrossEncoder(str(directory), device="cpu").predict(pairs, show_progress_bar=False)


def settings(directory, **given):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | given), "utf-8")


CASES = {
    "bert": {},
    "roberta": {"family": "roberta"},
    "no activation": {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}},
    "its older name": {"sbert_ce_default_activation_function": "torch.nn.modules.activation.Tanh"},
}


@pytest.mark.parametrize("case", CASES)
def test_scores_are_the_librarys(case, tmp_path, device):
    directory = tiny_models.cross_encoder(tmp_path / "model", **CASES[case])
    want = reference(directory)
    assert np.ptp(want) > 0.05
    function = CrossEncoder(str(directory), device)
    exact = {"atol": 2e-6, "rtol": 1e-5} if device == "cpu" else {"atol": 5e-3, "rtol": 1e-2}
    got = function.scores(PAIRS)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, want, **exact)
    np.testing.assert_allclose(function("a kitten", DOCUMENTS), want[: len(DOCUMENTS)], **exact)
    assert isinstance(cross_encoder._load(directory, device), PairEncoder)


def test_a_directory_that_the_library_saved(tmp_path):
    from sentence_transformers import CrossEncoder as Model

    plain = tiny_models.cross_encoder(tmp_path / "plain")
    Model(str(plain), device="cpu", max_length=9).save_pretrained(str(tmp_path / "saved"))
    assert isinstance(cross_encoder._load(tmp_path / "saved", "cpu"), PairEncoder)
    np.testing.assert_allclose(
        CrossEncoder(str(tmp_path / "saved"), "cpu").scores(PAIRS), reference(tmp_path / "saved"), atol=2e-6
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(tmp_path, dtype):
    directory = tiny_models.cross_encoder(tmp_path / "model")
    got = scores(PairEncoder(read_head(directory, "sequence-classification"), "cpu", dtype), PAIRS)
    want = reference(directory)
    assert got @ want / np.linalg.norm(got) / np.linalg.norm(want) >= 0.999
    np.testing.assert_allclose(got, want, atol=0.03)


def test_pairs_keep_their_places_in_small_batches_and_when_memory_runs_out(tmp_path, monkeypatch):
    directory = tiny_models.cross_encoder(tmp_path / "model")
    encoder = PairEncoder(read_head(directory, "sequence-classification"), "cpu")
    encoder.budget, core, sizes = 60, encoder.core, []

    def short(tokens, places):
        if len(places) > 2:
            raise RuntimeError("CUDA out of memory.")
        sizes.append(len(places))
        return core(tokens, places)

    monkeypatch.setattr(encoder, "core", short)
    np.testing.assert_allclose(scores(encoder, PAIRS), reference(directory), atol=2e-6)
    assert sum(sizes) == len(PAIRS)
    assert max(sizes) == 2


def test_the_longer_text_of_a_pair_is_cut_first(tmp_path):
    encoder = PairEncoder(read_head(tiny_models.cross_encoder(tmp_path / "model"), "sequence-classification"), "cpu")
    from chroma_gpu.embed.tokens.items import items

    tokens = encoder.pre(list(items([("a kitten", " ".join(WORDS * 2))])), Prompt())
    assert tokens.lengths.tolist() == [20]
    assert tokens.types.ids.tolist() == [0] * 4 + [1] * 16


def test_what_cannot_rank(tmp_path):
    directory = tiny_models.cross_encoder(tmp_path / "three", labels=3)
    with pytest.raises(EmbeddingFailed, match=r"gives 3 scores for a pair; a cross-encoder that ranks gives one\."):
        CrossEncoder(str(directory), "cpu")("a", ["b"])


def test_unusual_models_go_to_the_library(tmp_path):
    """A prompt before each pair, and an activation that is none of torch's, which the library leaves out."""
    saved = tiny_models.cross_encoder(tmp_path / "model")
    path = saved / "config_sentence_transformers.json"
    given = {"model_type": "CrossEncoder", "activation_fn": "mine.Activation", "prompts": {}}
    path.write_text(json.dumps(given), "utf-8")
    (saved / "modules.json").write_text(
        json.dumps([{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}]),
        "utf-8",
    )
    (saved / "sentence_bert_config.json").write_text(json.dumps({"transformer_task": "sequence-classification"}), "utf-8")
    assert isinstance(cross_encoder._load(saved, "cpu"), cross_encoder._Library)
    np.testing.assert_allclose(CrossEncoder(str(saved), "cpu").scores(PAIRS), reference(saved), atol=2e-6)


def test_threads_share_a_model(tmp_path):
    directory = tiny_models.cross_encoder(tmp_path / "model")
    function, found = CrossEncoder(str(directory), "cpu"), {}
    want = function.scores(PAIRS)
    threads = [threading.Thread(target=lambda n=n: found.update({n: function.scores(PAIRS)})) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for got in found.values():
        np.testing.assert_allclose(got, want, atol=1e-6)
    assert len(found) == 4
