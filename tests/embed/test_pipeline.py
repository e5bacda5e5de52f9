"""The pipeline over a fake encoder: order, batches, streaming, and every way to fail."""

from __future__ import annotations

import threading
from itertools import islice

import numpy as np
import pytest
import torch

from chroma_gpu.embed.stream.crew import ahead
from chroma_gpu.embed.stream.pipeline import Prompt, stream
from chroma_gpu.errors import DeviceError, EmbeddingFailed


class Tokens:
    def __init__(self, texts):
        self.texts = texts
        self.lengths = np.array([len(text) for text in texts])


class Fake:
    """The vector of a text is its length and its first letter. ``fits`` says which batches fit into memory."""

    dim = 2

    def __init__(self, budget=100, fits=lambda texts: True, cpu=None):
        self.budget = budget
        self.fits = fits
        self.cpu = cpu
        self.batches = []
        self.tokenised = []

    def pre(self, texts, prompt):
        self.tokenised.append((threading.current_thread().name, len(texts)))
        return Tokens([prompt.text + text for text in texts])

    def core(self, tokens, places):
        texts = [tokens.texts[place] for place in places]
        if not self.fits(texts):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        self.batches.append(texts)
        return [[len(text), ord(text[0]) if text else 0] for text in texts]

    def post(self, vectors):
        return np.array(vectors, np.float32)

    def on_cpu(self):
        return self.cpu


def everything(encoder, texts, **given):
    blocks = list(stream(encoder, texts, **given))
    starts = np.cumsum([0] + [len(block) for _, block in blocks])[:-1]
    assert [start for start, _ in blocks] == starts.tolist()
    return np.concatenate([block for _, block in blocks])


def expected(texts):
    return np.array([[len(text), ord(text[0]) if text else 0] for text in texts], np.float32)


@pytest.fixture
def texts():
    random = np.random.default_rng(5)
    return ["".join(chr(97 + n) for n in random.integers(0, 26, random.integers(0, 40))) for _ in range(500)]


@pytest.mark.parametrize("window", [1, 7, 100, 499, 500, 501, 8_192])
@pytest.mark.parametrize("budget", [1, 37, 100_000])
def test_order_is_kept(texts, window, budget):
    np.testing.assert_array_equal(everything(Fake(budget), texts, window=window), expected(texts))


def test_batches_keep_to_the_budget_and_are_even(texts):
    encoder = Fake(budget=200)
    everything(encoder, texts)
    padded = [len(batch) * max(len(text) for text in batch) for batch in encoder.batches]
    assert max(padded) <= 200
    assert sum(padded) < 1.1 * sum(len(text) for text in set(texts))
    assert len(max(encoder.batches[0], key=len)) == max(map(len, texts)), "the longest texts come first"


def test_equal_texts_are_embedded_once():
    encoder = Fake()
    got = everything(encoder, ["b", "aa", "b", "b", "aa"])
    assert got[:, 0].tolist() == [1, 2, 1, 1, 2]
    assert sum(map(len, encoder.batches)) == 2


def test_a_prompt_goes_before_every_text():
    assert everything(Fake(), ["a", "bb"], prompt=Prompt("query: "))[:, 0].tolist() == [8, 9]


def test_no_texts():
    assert list(stream(Fake(), [])) == []
    assert list(stream(Fake(), iter([]))) == []


def test_texts_are_read_in_this_thread_and_only_a_little_ahead(texts):
    read, threads = [], set()

    def source():
        for text in texts:
            read.append(text)
            threads.add(threading.current_thread())
            yield text

    encoder = Fake()
    for start, block in stream(encoder, source(), window=10):
        assert len(read) <= start + len(block) * (ahead() + 1)
    assert threads == {threading.current_thread()}
    assert {name.startswith("tokenise") for name, _ in encoder.tokenised} == {True}


def test_a_single_window_needs_no_thread(texts):
    encoder = Fake()
    everything(encoder, texts)
    assert encoder.tokenised[0][0] == threading.current_thread().name


def test_long_texts_end_a_window_early():
    encoder = Fake(budget=1 << 40)
    everything(encoder, (f"{n}" + "x" * (6 << 20) for n in range(7)))
    assert [n for _, n in encoder.tokenised] == [3, 3, 1]


def test_a_stream_that_is_given_up_ends_its_thread(texts):
    blocks = stream(Fake(), texts, window=10)
    next(blocks)
    blocks.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("tokenise")]


@pytest.mark.parametrize("window", [10, 8_192])
def test_a_failing_tokeniser_raises_here(texts, window):
    class Failing(Fake):
        def pre(self, texts, prompt):
            if "poison" in texts:
                raise UnicodeError("cannot be read")
            return super().pre(texts, prompt)

    texts[444] = "poison"
    blocks = stream(Failing(), texts, window=window)
    good = 440 if window == 10 else 0
    assert sum(len(block) for _, block in islice(blocks, good // window)) == good
    with pytest.raises(EmbeddingFailed, match="tokenised: UnicodeError: cannot be read") as caught:
        next(blocks)
    assert isinstance(caught.value.__cause__, UnicodeError)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("tokenise")]


@pytest.mark.parametrize("verb", ["core", "post"])
def test_a_failing_model_raises_here(texts, verb):
    class Failing(Fake):
        pass

    def fail(*given):
        raise RuntimeError("CUDA error: an illegal memory access")

    setattr(Failing, verb, fail)
    with pytest.raises(EmbeddingFailed, match="the model failed: RuntimeError: CUDA error") as caught:
        everything(Failing(), texts, window=100)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_failing_source_raises_its_own_error():
    def source():
        yield from ["a", "b"]
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        everything(Fake(), source(), window=1)


def test_vectors_that_are_not_finite_are_refused(texts):
    class Damaged(Fake):
        def post(self, vectors):
            return np.where(np.array(vectors, np.float32)[:, :1] == 7, np.nan, np.array(vectors, np.float32))

    bad = sum(len(text) == 7 for text in set(texts))
    with pytest.raises(EmbeddingFailed, match=f"NaN or infinity for {bad} of"):
        everything(Damaged(), texts)


def test_out_of_memory_halves_and_remembers(texts):
    encoder = Fake(budget=4_000, fits=lambda batch: sum(map(len, batch)) <= 300)
    np.testing.assert_array_equal(everything(encoder, texts), expected(texts))
    assert encoder.budget < 4_000 / 4
    encoder.batches.clear()
    before = encoder.budget
    np.testing.assert_array_equal(everything(encoder, texts), expected(texts))
    assert encoder.budget == before, "the second time every batch fits at once"


def test_out_of_memory_at_random(texts):
    random = np.random.default_rng(1)
    encoder = Fake(budget=500, fits=lambda batch: len(batch) == 1 or random.random() < 0.5)
    np.testing.assert_array_equal(everything(encoder, texts), expected(texts))


def test_a_text_that_does_not_fit_alone_goes_to_the_cpu(texts):
    longest = max(map(len, texts))
    cpu = Fake()
    encoder = Fake(budget=4_000, fits=lambda batch: max(map(len, batch)) < longest, cpu=cpu)
    with pytest.warns(RuntimeWarning, match="embedded on the CPU"):
        np.testing.assert_array_equal(everything(encoder, texts), expected(texts))
    assert {len(text) for batch in cpu.batches for text in batch} == {longest}


def test_out_of_memory_on_the_cpu_is_an_error(texts):
    with pytest.raises(DeviceError, match="not enough memory to embed a single text"):
        everything(Fake(fits=lambda batch: False), texts)
