"""Streams that end where nobody planned it: in the collector of garbage, and by Ctrl-C in the middle of anything."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest
from embed.fake_encoders import FakeEncoder, expected, some_texts, workers

from chroma_gpu.embed.stream.crew import tokenisers
from chroma_gpu.embed.stream.pipeline import stream
from chroma_gpu.embed.stream.stats import Stats

TEXTS = some_texts(100)
LONG = 30.0
"""Seconds that a test waits for what must come."""

PLACES = pytest.mark.parametrize("device", ["cpu", "cuda:0"], ids=["the caller helps", "a thread does it all"])


class Cycle:
    """Garbage that only the collector finds."""

    def __init__(self, blocks):
        self.me, self.blocks = self, blocks


def ended():
    """Whether the threads of all streams end by themselves."""
    for thread in workers():
        thread.join(LONG)
    return not workers()


class Stuck:
    """A ``before`` that stops a thread of a stream in its sixth window of ten until ``go``."""

    def __init__(self):
        self.reached, self.go, self.caller = threading.Event(), threading.Event(), threading.current_thread()

    def __call__(self, texts):
        if threading.current_thread() is not self.caller and TEXTS[50] in texts:
            self.reached.set()
            assert self.go.wait(LONG)


def given_up(device, stats=None):
    """What stops a stream that only the collector finds; three blocks were taken of it."""
    stuck = Stuck()
    cycle = Cycle(stream(FakeEncoder(before=stuck, device=device), TEXTS, window=10, stats=stats))
    for _ in range(3):
        next(cycle.blocks)
    assert stuck.reached.wait(LONG)
    return stuck


@PLACES
def test_the_collector_may_close_a_stream_in_its_own_thread_under_its_own_lock(device):
    armed, collected = threading.Event(), threading.Event()

    class Collecting(Stats):
        def __setattr__(self, name, value):
            super().__setattr__(name, value)
            if name == "batches" and armed.is_set() and not collected.is_set():
                gc.collect()
                collected.set()

    gc.disable()
    try:
        stuck = given_up(device, Collecting())
        armed.set()
        stuck.go.set()
        assert collected.wait(LONG)
        assert ended()
    finally:
        gc.enable()


@PLACES
def test_a_stream_closed_by_the_collector_is_not_waited_for(device):
    stuck = given_up(device)
    gc.collect()
    assert workers(), "the collector may be in the hands of a thread with a lock that these wait for"
    stuck.go.set()
    assert ended()


@PLACES
@pytest.mark.parametrize("number", range(tokenisers() + 1))
@pytest.mark.parametrize("started", [False, True])
def test_ctrl_c_while_threads_are_started(device, number, started, monkeypatch):
    start, starts = threading.Thread.start, iter(range(1_000))

    def interrupted(self):
        if next(starts) != number:
            return start(self)
        if started:
            start(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(stream(FakeEncoder(device=device), TEXTS, window=10))
    assert ended()


def test_ctrl_c_before_a_crew_is_closed(monkeypatch):
    from chroma_gpu.embed.stream.crew import Crew

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Crew, "__exit__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(stream(FakeEncoder(device="cuda:0"), TEXTS, window=10))
    gc.collect()
    assert ended()


@PLACES
def test_the_caller_waits_for_nothing_that_ctrl_c_can_break(device, monkeypatch):
    """Interrupted in a condition or an event, it may not have the lock that it then gives back, or have it for ever."""
    caller, blocks = threading.get_ident(), stream(FakeEncoder(device=device), TEXTS, window=10)
    got = [next(blocks)]

    def checked(method):
        def call(self, *given):
            assert threading.get_ident() != caller or starting
            return method(self, *given)

        return call

    starting, start = [], threading.Thread.start

    def begun(self):
        starting.append(self)
        start(self)
        starting.clear()

    monkeypatch.setattr(threading.Thread, "start", begun)
    for name in ("wait", "__enter__"):
        monkeypatch.setattr(threading.Condition, name, checked(getattr(threading.Condition, name)))
    got += blocks
    np.testing.assert_array_equal(np.concatenate([block for _, block in got]), expected(TEXTS))


@PLACES
def test_the_caller_does_not_ask_whether_itself_is_alive(device, monkeypatch):
    """Interrupted by Ctrl-C in that, it would be dead to ``threading``: the threads of all later streams would end at once."""
    caller, asked = threading.current_thread(), []
    alive = caller.is_alive
    monkeypatch.setattr(caller, "is_alive", lambda: asked.append(threading.current_thread()) or alive())
    list(stream(FakeEncoder(device=device), TEXTS, window=10))
    assert caller not in asked
