"""Batches that fail: which texts it was, which are embedded all the same, and when it is not the texts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from embed.fake_encoders import FakeEncoder, Remembering, expected, short_of_memory, some_texts, workers

from chroma_gpu.embed.stream.board import HOPELESS
from chroma_gpu.embed.stream.failures import Failures
from chroma_gpu.embed.stream.pipeline import stream
from chroma_gpu.embed.stream.stats import Stats
from chroma_gpu.errors import DeviceError, EmbeddingFailed

TEXTS = some_texts(300)


def poisoned(*positions, word="poison"):
    texts = list(TEXTS)
    for position in positions:
        texts[position] = f"{word} {position}"
    return texts


def refuse(texts):
    if any("poison" in text for text in texts):
        raise IndexError("index out of range in self")


class Picky(FakeEncoder):
    """Its tokeniser refuses too."""

    def pre(self, texts, prompt):
        refuse(texts)
        return super().pre(texts, prompt)


class Damaged(FakeEncoder):
    """NaN for some."""

    def post(self, result):
        return np.where([["poison" in text] for text in result], np.nan, super().post(result))


def run(encoder, texts, window, **given):
    blocks = list(stream(encoder, texts, window=window, **given))
    assert workers() == []
    return np.concatenate([block for _, block in blocks])


@pytest.mark.parametrize("window", [40, 300])
@pytest.mark.parametrize("budget", [30, 400])
@pytest.mark.parametrize("kind", [FakeEncoder, Picky, Damaged])
@pytest.mark.parametrize("lanes", [1, 2])
def test_only_the_texts_that_fail_have_no_vector(kind, window, budget, lanes):
    bad = [0, 41, 42, 150, 299]
    texts = poisoned(*bad)
    texts[160] = texts[150]
    failures, stats, memory = Failures(), Stats(), Remembering()
    encoder = kind(budget, refuse if kind is FakeEncoder else lambda texts: None, lanes=lanes, fingerprint="model")
    got = run(encoder, texts, window, failures=failures, stats=stats, memory=memory)
    want = expected(texts)
    want[[*bad, 160]] = np.nan
    np.testing.assert_array_equal(got, want)
    assert sorted(failures.found) == sorted([*bad, 160]), "a text that repeats fails wherever it is"
    distinct = {(position // window, texts[position]) for position in failures.found}
    assert stats.failed == len(distinct)
    assert set(memory.known) == {text for text in texts if "poison" not in text}
    kinds = {type(error) for error in failures.found.values()}
    assert kinds == ({EmbeddingFailed} if kind is Damaged else {IndexError})


@pytest.mark.parametrize("window", [40, 300])
def test_failures_of_a_block_are_there_with_it(window):
    failures = Failures()
    for start, block in stream(FakeEncoder(before=refuse), poisoned(7, 150), window=window, failures=failures):
        missing = {start + int(row) for row in np.flatnonzero(np.isnan(block[:, 0]))}
        assert missing == {position for position in failures.found if start <= position < start + len(block)}


def test_an_error_names_its_texts():
    texts = poisoned(50, 51, 52)
    texts += [texts[51]]
    good = []
    with pytest.raises(EmbeddingFailed) as caught:
        good.extend(len(block) for _, block in stream(FakeEncoder(10, refuse), texts, window=40))
    assert good == [40]
    assert "the model failed: IndexError: index out of range in self. It was given the text at position" in str(caught.value)
    assert "'poison 5" in str(caught.value)
    assert isinstance(caught.value.__cause__, IndexError)
    with pytest.raises(
        EmbeddingFailed, match=r"It was given \d+ texts, at the positions (\d+, ){4}\d+ and \d+ more; the first is '"
    ):
        run(FakeEncoder(400, refuse), texts, 301)


def test_a_long_text_is_shown_by_its_beginning():
    with pytest.raises(EmbeddingFailed, match=r"the text at position 0: 'poison a{53}'\.\.\.\."):
        run(FakeEncoder(1, refuse), ["poison " + "a" * 1_000], 10)


def test_a_tokeniser_names_the_first_text_that_it_refuses():
    with pytest.raises(EmbeddingFailed, match=r"cannot be tokenised: IndexError: .* at position 151: 'poison 151'"):
        run(Picky(), poisoned(151, 152), 100)


def test_vectors_that_are_not_finite_are_named():
    with pytest.raises(
        EmbeddingFailed, match=r"NaN or infinity for 2 of \d+ texts. It was given 2 texts, at the positions 151, 152;"
    ):
        run(Damaged(), poisoned(151, 152), 100)


@pytest.mark.parametrize("window", [40, 300])
@pytest.mark.parametrize("error", [RuntimeError("weights missing"), RuntimeError("CUDA error: an illegal memory access")])
@pytest.mark.parametrize("verb", ["pre", "core", "post"])
def test_a_model_that_fails_always_is_no_failure_of_the_texts(window, error, verb, monkeypatch):
    class Broken(FakeEncoder):
        pass

    def fail(*_):
        raise error

    monkeypatch.setattr(Broken, verb, fail)
    failures = Failures()
    with pytest.raises(EmbeddingFailed, match=str(error)):
        run(Broken(), TEXTS, window, failures=failures)
    assert len(failures) == 0


def test_a_model_that_gives_nothing_but_nan_is_no_failure_of_the_texts():
    failures = Failures()
    with pytest.raises(EmbeddingFailed, match="NaN or infinity for every text"):
        run(FakeEncoder(post=lambda result: np.full((len(result), 2), np.nan)), TEXTS, 100, failures=failures)
    assert len(failures) == 0


def test_failures_without_end_are_not_the_texts():
    texts = [f"poison {n}" for n in range(HOPELESS + 50)]
    with pytest.raises(EmbeddingFailed, match="the model failed: IndexError"):
        run(FakeEncoder(100, refuse), texts, 1_000, failures=Failures())


def test_errors_of_ours_pass_with_a_note():
    def refuse_ours(texts):
        raise DeviceError("no device")

    with pytest.raises(DeviceError) as caught:
        run(FakeEncoder(before=refuse_ours), ["abc"], 10)
    assert caught.value.__notes__ == ["It was given the text at position 0: 'abc'."]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("verb", ["core", "post"])
def test_nothing_is_lost_when_memory_runs_out_at_random(seed, lanes, verb):
    random = np.random.default_rng(seed)

    class Tight(FakeEncoder):
        """Runs out for more than one text, at random, where the test says."""

        def ran(self, texts, where):
            if where == verb and len(texts) > 1 and random.random() < 0.4:
                raise torch.OutOfMemoryError("CUDA out of memory.")

        def core(self, tokens, places):
            self.ran(places, "core")
            return super().core(tokens, places)

        def post(self, result):
            self.ran(result, "post")
            return super().post(result)

    texts = some_texts(int(random.integers(1, 700)), seed)
    stats = Stats()
    encoder = Tight(int(random.integers(1, 500)), lanes=lanes, device=str(random.choice(["cpu", "cuda:0"])))
    got = run(encoder, texts, int(random.integers(1, 300)), stats=stats, failures=Failures() if seed % 2 else None)
    np.testing.assert_array_equal(got, expected(texts))
    assert stats.texts == len(texts)


@pytest.mark.parametrize("seed", range(4))
def test_shortage_and_bad_texts_together(seed):
    random = np.random.default_rng(seed)
    bad = random.choice(300, 7, replace=False).tolist()
    shortage = short_of_memory(150)

    def before(texts):
        shortage(texts)
        refuse(texts)

    failures = Failures()
    got = run(FakeEncoder(1_000, before), poisoned(*bad), 90, failures=failures)
    want = expected(poisoned(*bad))
    want[bad] = np.nan
    np.testing.assert_array_equal(got, want)
    assert sorted(failures.found) == sorted(bad)


def test_a_text_that_fits_nowhere_is_set_apart():
    def before(texts):
        if max(map(len, texts)) > 100:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    texts = [*TEXTS[:20], "x" * 101, *TEXTS[20:40]]
    failures = Failures()
    got = run(FakeEncoder(before=before), texts, 30, failures=failures)
    assert np.flatnonzero(np.isnan(got[:, 0])).tolist() == list(failures.found) == [20]
    assert isinstance(failures.found[20], DeviceError)


def test_what_the_cpu_made_is_not_remembered():
    memory = Remembering()
    cpu = FakeEncoder()
    encoder = FakeEncoder(before=short_of_memory(38), fingerprint="half", on_cpu=lambda: cpu)
    with pytest.warns(RuntimeWarning, match="embedded on the CPU"):
        got = run(encoder, TEXTS, 300, memory=memory)
    np.testing.assert_array_equal(got, expected(TEXTS))
    assert set(memory.known) == {text for text in TEXTS if len(text) <= 38}


def test_equal_failures_do_not_hold_the_memory_of_their_frames():
    failures = Failures()
    run(FakeEncoder(before=refuse), poisoned(3), 300, failures=failures)
    assert failures.found[3].__traceback__ is None
