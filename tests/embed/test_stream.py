"""Streams of several windows: what overlaps, how far ahead, and how they end."""

from __future__ import annotations

import gc
import itertools
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
from embed.fake_encoders import FakeEncoder, Remembering, expected, some_texts, workers

from chroma_gpu.embed.stream.board import OPEN
from chroma_gpu.embed.stream.crew import ahead
from chroma_gpu.embed.stream.failures import Failures
from chroma_gpu.embed.stream.pipeline import stream
from chroma_gpu.embed.stream.stats import Stats

TEXTS = some_texts(600)
LONG = 30.0
"""Seconds that a test waits for what must come."""

PLACES = pytest.mark.parametrize("device", ["cpu", "cuda:0"], ids=["the caller helps", "a thread does it all"])


class Gate:
    """A ``before`` that stops the model until it is opened; says when it was reached."""

    def __init__(self, at=lambda texts: True):
        self.at, self.reached, self.open = at, threading.Event(), threading.Event()

    def __call__(self, texts):
        if self.at(texts):
            self.reached.set()
            assert self.open.wait(LONG)


@PLACES
def test_the_model_goes_on_while_the_caller_is_busy(device):
    later = Gate(lambda texts: "later" in texts)
    texts = [word for word in ("now", "a", "b", "later", "last") for _ in range(10)]
    blocks = stream(FakeEncoder(before=later, device=device), texts, window=10)
    start, _ = next(blocks)
    assert start == 0
    assert later.reached.wait(LONG), "the next window is in the model, and this thread is in the consumer"
    later.open.set()
    assert [start for start, _ in blocks] == [10, 20, 30, 40]


@PLACES
def test_finished_windows_wait_in_a_bounded_number(device):
    texts = [f"{window}" for window in range(20) for _ in range(10)]
    fourth = threading.Event()
    seen = []

    def before(given):
        seen.append(int(given[0]))
        if seen[-1] == OPEN:
            fourth.set()

    blocks = stream(FakeEncoder(before=before, device=device), texts, window=10)
    next(blocks)
    assert fourth.wait(LONG)
    for number, _ in enumerate(blocks, 1):
        assert max(seen) <= number + OPEN


def test_a_lane_goes_on_to_the_next_window_while_another_is_in_this_one():
    stuck = Gate(lambda texts: "slow" in texts)
    done = threading.Event()

    def before(texts):
        stuck(texts)
        if "b" in texts:
            done.set()

    texts = ["slow", *["a"] * 9, *["b"] * 10, *["c"] * 10]
    blocks = stream(FakeEncoder(budget=4, before=before, lanes=2), texts, window=10)
    waiting = threading.Thread(target=lambda: (done.wait(LONG), stuck.open.set()))
    waiting.start()
    got = np.concatenate([block for _, block in blocks])
    waiting.join()
    assert done.is_set()
    np.testing.assert_array_equal(got, expected(texts))


def test_several_lanes_run_batches_at_once():
    both, calls = threading.Barrier(2), itertools.count()
    encoder = FakeEncoder(budget=40, lanes=2, before=lambda texts: both.wait(LONG) if next(calls) < 2 else None)
    got = np.concatenate([block for _, block in stream(encoder, TEXTS, window=100)])
    np.testing.assert_array_equal(got, expected(TEXTS))
    assert encoder.threads == {"lane cpu/0", "lane cpu/1"}


def test_a_batch_is_fetched_after_the_next_one_was_launched():
    order = []

    class Noting(FakeEncoder):
        def core(self, tokens, places):
            order.append("core")
            return super().core(tokens, places)

        def post(self, result):
            order.append("post")
            return super().post(result)

    list(stream(Noting(), TEXTS))
    assert order[:4] == ["core", "post"] * 2, "a CPU is done when it returns"
    order.clear()
    list(stream(Noting(device="cuda:0"), TEXTS))
    assert order[:4] == ["core"] * 3 + ["post"]
    assert order.count("core") == order.count("post")


def test_tokens_are_made_at_most_so_far_ahead_and_bounded_by_characters(monkeypatch):
    from chroma_gpu.embed.stream import pipeline

    monkeypatch.setattr(pipeline, "CHARACTERS", 500)
    read = []

    def source():
        for number in range(400):
            read.append(number)
            yield f"{number:050}"

    for start, block in stream(FakeEncoder(), source(), window=5):
        assert len(read) <= start + len(block) + 10, f"500 characters are two windows, {ahead()} were allowed"


@pytest.mark.parametrize("n", [0, 1, 5, 6, 11])
@pytest.mark.parametrize("lanes", [1, 3])
def test_any_number_of_texts(n, lanes):
    stats = Stats()
    blocks = list(stream(FakeEncoder(lanes=lanes), TEXTS[:n], window=5, stats=stats))
    assert [start for start, _ in blocks] == list(range(0, n, 5))
    np.testing.assert_array_equal(np.concatenate([np.empty((0, 2)), *(block for _, block in blocks)]), expected(TEXTS[:n]))
    assert stats.texts == n


def test_windows_grow_to_what_the_encoder_likes():
    encoder = FakeEncoder(budget=1 << 20, window=50_000)
    sizes = [len(block) for _, block in stream(encoder, (str(n) for n in range(100_000)))]
    assert sizes == [8_192, 16_384, 32_768, 42_656]
    assert [len(block) for _, block in stream(FakeEncoder(window=30), TEXTS[:70])] == [30, 30, 10]


def test_one_window_needs_no_thread():
    encoder = FakeEncoder(lanes=2)
    list(stream(encoder, TEXTS))
    assert encoder.threads == {threading.current_thread().name}


@PLACES
@pytest.mark.parametrize("reads", [0, 1, 3])
def test_a_stream_that_is_given_up_ends_its_threads(device, reads):
    blocks = stream(FakeEncoder(device=device), TEXTS, window=10)
    for _ in range(reads):
        next(blocks)
    assert bool(workers()) == (reads > 0)
    blocks.close()
    assert workers() == []


@PLACES
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_error_in_the_consumer_ends_the_threads(device, error):
    def consume():
        for _ in stream(FakeEncoder(device=device), TEXTS, window=10):
            raise error

    with pytest.raises(error):
        consume()
    gc.collect()
    assert workers() == []


@PLACES
@pytest.mark.parametrize("verb", ["pre", "core", "post"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("window", [10, 600])
def test_what_is_no_failure_of_a_text_ends_the_stream(device, verb, error, window, monkeypatch):
    class Stopped(FakeEncoder):
        pass

    def stop(*_):
        raise error

    monkeypatch.setattr(Stopped, verb, stop)
    with pytest.raises(error):
        list(stream(Stopped(device=device), TEXTS, window=window, failures=Failures()))
    assert workers() == []


def test_what_reading_raises_comes_after_the_blocks_before():
    def source():
        yield from TEXTS[:25]
        raise OSError("disk gone")

    got = []
    with pytest.raises(OSError, match="disk gone"):
        got.extend(len(block) for _, block in stream(FakeEncoder(), source(), window=10))
    assert got == [10, 10]
    assert workers() == []


@PLACES
def test_a_stream_may_go_on_in_another_thread(device):
    blocks = stream(FakeEncoder(device=device), TEXTS, window=10)
    got = []
    for _ in range(4):
        thread = threading.Thread(target=lambda: got.append(next(blocks)))
        thread.start()
        thread.join()
    got += blocks
    np.testing.assert_array_equal(np.concatenate([block for _, block in got]), expected(TEXTS))


def test_a_stream_that_nobody_closes_lets_the_interpreter_end(tmp_path):
    script = """
    from embed.fake_encoders import FakeEncoder, some_texts
    from chroma_gpu.embed.stream.pipeline import stream
    blocks = stream(FakeEncoder(), some_texts(600), window=10)
    next(blocks)
    raise SystemExit(7)
    """
    path = [*sys.path]
    code = f"import sys; sys.path[:] = {path!r}\n" + textwrap.dedent(script)
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 7


def test_progress_is_told_in_the_callers_thread():
    told, threads = [], set()

    def progress(done, total):
        told.append((done, total))
        threads.add(threading.current_thread())

    texts = TEXTS + TEXTS[:50]
    for window in (10, 8_192):
        told.clear()
        list(stream(FakeEncoder(), texts, window=window, progress=progress))
        assert told[-1] == (650, 650)
        assert [done for done, _ in told] == sorted(done for done, _ in told)
        assert len(told) > 5
    assert threads == {threading.current_thread()}


def test_statistics():
    texts = ["aaaa", "bbb", "aaaa", "c"] * 2
    stats = Stats()
    encoder = FakeEncoder()
    list(stream(encoder, texts, window=4, stats=stats))
    assert (stats.texts, stats.tokens, stats.padded, stats.batches, stats.retries) == (8, 16, 24, 2, 0)
    assert stats.waste == pytest.approx(1 / 3)
    assert set(stats.busy) == {"cpu"}
    unpadded = Stats()
    list(stream(FakeEncoder(padded=False), texts, window=4, stats=unpadded))
    assert (unpadded.tokens, unpadded.padded, unpadded.waste) == (16, 16, 0)
    assert Stats().waste == 0


def test_what_is_remembered_is_not_embedded():
    memory, stats = Remembering(), Stats()
    first = FakeEncoder(fingerprint="model")
    list(stream(first, TEXTS[:300], window=50, memory=memory))
    assert memory.asked == [("model/Prompt(text='', pooled=None)", 2)]
    assert sum(map(len, memory.kept)) == len(set(TEXTS[:300]))
    assert max(map(len, memory.kept)) <= max(map(len, first.batches)), "batch by batch"
    second = FakeEncoder(fingerprint="model")
    got = np.concatenate([block for _, block in stream(second, TEXTS, window=50, memory=memory, stats=stats)])
    np.testing.assert_array_equal(got, expected(TEXTS))
    embedded = [text for batch in second.batches for text in batch]
    assert not set(embedded) & set(TEXTS[:300])
    assert stats.texts == 600
    assert stats.remembered + len(embedded) == sum(len(set(TEXTS[i : i + 50])) for i in range(0, 600, 50))
    third = FakeEncoder(fingerprint="model", pre=None)
    for window in (50, 600):
        again = np.concatenate([block for _, block in stream(third, TEXTS, window=window, memory=memory)])
        np.testing.assert_array_equal(again, expected(TEXTS))
    assert third.batches == []


def test_an_encoder_without_a_fingerprint_remembers_nothing():
    memory = Remembering()
    list(stream(FakeEncoder(), TEXTS, memory=memory))
    assert (memory.asked, memory.kept) == ([], [])


@PLACES
def test_batches_in_flight_are_kept_when_a_stream_is_given_up(device):
    memory = Remembering()
    encoder = FakeEncoder(fingerprint="model", device=device)
    blocks = stream(encoder, TEXTS, window=100, memory=memory)
    next(blocks)
    blocks.close()
    assert sorted(map(sorted, memory.kept)) == sorted(map(sorted, encoder.batches))


@PLACES
@pytest.mark.parametrize("verb", ["find", "keep"])
@pytest.mark.parametrize("window", [50, 600])
def test_a_memory_that_fails_is_no_failure_of_a_text(device, verb, window):
    memory, failures = Remembering(), Failures()

    def fail(*_):
        raise OSError("disk full")

    setattr(memory, verb, fail)
    with pytest.raises(OSError, match="disk full"):
        list(stream(FakeEncoder(fingerprint="model", device=device), TEXTS, window=window, memory=memory, failures=failures))
    assert len(failures) == 0
    assert workers() == []
