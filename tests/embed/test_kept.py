"""Vectors that stay on the device that made them: the same as the host's, in the order of the texts, or not there at all."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from embed import tiny_models

from chroma_gpu.embed import embed_texts
from chroma_gpu.embed.encoders.layout import read
from chroma_gpu.embed.encoders.transformer import TransformerEncoder
from chroma_gpu.embed.local import LocalEmbeddingFunction, SentenceTransformerEmbeddingFunction
from chroma_gpu.embed.stream.kept import Kept
from chroma_gpu.embed.stream.pipeline import Prompt, stream
from chroma_gpu.kernels import scan


class Tokens:
    def __init__(self, texts):
        self.texts = texts
        self.lengths = np.array([len(text) for text in texts])


class Fake:
    """The vector of a text is made of its length and its first letter; it is on a device."""

    dim = 3

    def __init__(self, device="cpu", fits=lambda texts: True, cpu=None):
        self.budget, self.fits, self.device, self.cpu = 120, fits, device, cpu

    def pre(self, texts, prompt):
        return Tokens(list(texts))

    def core(self, tokens, places):
        texts = [tokens.texts[place] for place in places]
        if not self.fits(texts):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return torch.tensor([[len(text) / 3, ord(text[0]), 0.1] for text in texts], device=self.device)

    def post(self, vectors):
        return vectors if isinstance(vectors, np.ndarray) else vectors.cpu().numpy()

    def on_device(self, vectors):
        return None if isinstance(vectors, np.ndarray) else vectors

    def on_cpu(self):
        return self.cpu


class Host(Fake):
    """The same on the host."""

    def core(self, tokens, places):
        return super().core(tokens, places).cpu().numpy()


class Function(LocalEmbeddingFunction):
    stored = "kept"

    def __init__(self, encoder):
        self._encoder = encoder

    def encoder(self):
        return self._encoder


@pytest.fixture
def texts():
    random = np.random.default_rng(2)
    return ["".join(chr(97 + n) for n in random.integers(0, 26, random.integers(1, 5))) for _ in range(700)]


def run(encoder, texts, kept, window=8_192):
    got = np.concatenate([block for _, block in stream(encoder, texts, kept=kept, window=window)])
    np.testing.assert_array_equal(got[:, 1], [ord(text[0]) for text in texts])
    return got


def assert_same(kept, vectors, spans):
    assert [(block.first, block.first + len(block)) for block in kept.blocks] == spans
    for block in kept.blocks:
        assert block.vectors.is_contiguous()
        got = block.vectors.cpu().numpy()
        np.testing.assert_array_equal(got.view(np.uint32), vectors[block.first : block.first + len(block)].view(np.uint32))


@pytest.mark.parametrize("window", [8_192, 300])
def test_blocks_are_in_the_order_of_texts_that_repeat(device, texts, window):
    assert len(set(texts)) < len(texts)
    kept = Kept([device])
    got = run(Fake(device), texts, kept, window)
    steps = [*range(0, 700, window), 700]
    assert_same(kept, got, list(pairwise(steps)))


def test_a_block_is_there_before_it_is_yielded(device, texts):
    kept = Kept([device])
    for start, block in stream(Fake(device), texts, kept=kept, window=100):
        assert kept.blocks[-1].first == start
        assert len(kept.blocks[-1]) == len(block)


def test_what_goes_past_the_bound_is_left_out(device, texts):
    sized = [len(set(texts[start : start + 100])) * 12 for start in range(0, 700, 100)]
    kept = Kept([device], most=sum(sized[:2]) + 20)
    got = run(Fake(device), texts, kept, window=100)
    assert_same(kept, got, [(0, 100), (100, 200)])


def test_other_devices_and_encoders_of_the_host_keep_nothing(device, texts):
    kept = Kept(["cuda:7"])
    run(Fake(device), texts, kept)
    assert kept.blocks == ()
    kept = Kept([device])
    run(Host(device), texts, kept)
    assert kept.blocks == ()


def test_memory_that_runs_out_costs_what_was_kept_first(device, texts):
    kept, seen = Kept([device]), []

    def fits(some):
        seen.append(len(kept.blocks))
        return not any(seen) or len(some) < 5

    run(Fake(device, fits), texts, kept, window=100)
    first = next(i for i, blocks in enumerate(seen) if blocks)
    assert set(seen[first + 1 :]) == {0}
    assert kept.blocks == ()


def test_a_text_that_only_the_cpu_can_embed_leaves_out_its_window(device, texts):
    def fits(some):
        return "xyz" not in some

    texts[150] = "xyz"
    kept = Kept([device])
    with pytest.warns(RuntimeWarning, match="embedded on the CPU"):
        run(Fake(device, fits, cpu=Fake("cpu")), texts, kept, window=100)
    assert kept.blocks == ()


def test_no_memory_to_put_them_in_order_is_no_failure(device, texts, monkeypatch):
    def short(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    kept = Kept([device])
    monkeypatch.setattr(torch, "cat", short)
    run(Fake(device), texts, kept)
    assert kept.blocks == ()


def test_a_function_hands_on_what_it_keeps(device, texts):
    kept = Kept([device])
    got = embed_texts(Function(Fake(device)), texts, kept=kept)
    assert_same(kept, got, [(0, 700)])
    kept = Kept([device], most=100)  # not all of the distinct texts
    embed_texts(Function(Fake(device)), texts, kept=kept)
    assert kept.blocks == ()


def test_what_the_host_changes_is_not_kept(device, texts):
    class Halved(Function):
        def finished(self, vectors):
            return vectors / 2

    kept = Kept([device])
    embed_texts(Halved(Fake(device)), texts, kept=kept)
    assert kept.blocks == ()


@pytest.mark.parametrize("pooling", ["mean", "cls", ["mean", "max"]])
@pytest.mark.parametrize("given", [{}, {"normalize": False}, {"dense": 8}], ids=str)
def test_a_transformer_keeps_what_it_gives(device, tmp_path, pooling, given):
    if "dense" in given and isinstance(pooling, list):
        given = {"normalize": True}
    directory = tiny_models.transformer(tmp_path / "model", pooling=pooling, **given)
    encoder = TransformerEncoder(read(directory), device)
    texts = ["the cat sits", "dog", "", "the cat sits", "a red company fell on the rug"] * 20
    kept = Kept([device])
    got = np.concatenate([block for _, block in stream(encoder, texts, Prompt(), kept=kept, window=64)])
    assert_same(kept, got, [(0, 64), (64, 100)])


def test_pooling_and_normalising_are_one_call_where_they_follow(device, tmp_path, monkeypatch):
    from chroma_gpu.kernels import encode, pooling

    asked, pool = [], pooling.pool

    def asking(hidden, mask, mode, *, normalise=True, skipped=0):
        asked.append(normalise)
        return pool(hidden, mask, mode, normalise=normalise, skipped=skipped)

    monkeypatch.setattr(encode, "pool", asking)
    layout = read(tiny_models.transformer(tmp_path / "model"))
    encoder = TransformerEncoder(layout, "cpu")
    steps, encoder._steps = encoder._steps, [None]  # which would fail if it were called
    tokens = encoder.pre(["the cat", "dog"], Prompt())
    got = encoder.post(encoder.core(tokens, np.arange(2)))
    assert set(asked) == {True}
    encoder._steps = steps
    np.testing.assert_array_equal(got, encoder.post(encoder.core(tokens, np.arange(2))))


@pytest.mark.parametrize("given", [{}, {"truncate_dim": 8}, {"normalize_embeddings": True}], ids=str)
def test_a_cut_or_normalised_vector_is_kept_as_the_host_gets_it(device, tmp_path, given):
    directory = tiny_models.transformer(tmp_path / "model", normalize=False)
    kept = Kept([device])
    got = embed_texts(
        SentenceTransformerEmbeddingFunction(str(directory), device=device, **given), ["the cat", "a dog"], kept=kept
    )
    assert_same(kept, got, [(0, 2)])
    whole = embed_texts(SentenceTransformerEmbeddingFunction(str(directory), device=device), ["the cat", "a dog"])
    want = whole[:, : given.get("truncate_dim")]
    want = want / np.linalg.norm(want, axis=1, keepdims=True) if given.get("normalize_embeddings") else want
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken", "max", ["mean", "max"]], ids=str)
def test_the_kernel_serves_the_encoder(device, tmp_path, monkeypatch, pooling):
    encoder = TransformerEncoder(read(tiny_models.transformer(tmp_path / "model", pooling=pooling)), device)
    tokens = encoder.pre(["the cat", "a red company fell", ""], Prompt())
    monkeypatch.setattr(scan, "has_triton", lambda where: False)
    want = encoder.post(encoder.core(tokens, np.arange(3)))
    monkeypatch.setattr(scan, "has_triton", lambda where: True)  # without a card its interpreter
    got = encoder.post(encoder.core(tokens, np.arange(3)))
    np.testing.assert_allclose(got, want, atol=1e-6)
