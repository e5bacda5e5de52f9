"""What a batch may have: found by measuring, lowered by shortage, raised again."""

from __future__ import annotations

import gc
import threading

import pytest
import torch
from embed.fake_encoders import FakeEncoder
from hypothesis import given
from hypothesis import strategies as some

from chroma_gpu import device as devices
from chroma_gpu.embed.stream import budget as module
from chroma_gpu.embed.stream.budget import CLEAN, Budget, Fit, budget_of, fit, saturating

GB = 1 << 30


@given(some.integers(0, GB), some.integers(1, 100_000), some.integers(0, 1_000))
def test_the_fit_finds_what_made_the_measurements(fixed, per_token, per_pair):
    def taken(tokens, length):
        return tokens, int(fixed + tokens * (per_token + per_pair * length))

    found = fit(taken(4_096, 128), taken(16_384, 128), 128, (*taken(16_384, 512), 512))
    for tokens, length in ((1_000, 128), (60_000, 512), (60_000, 64)):
        want = taken(tokens, length)[1]
        got = found.fixed + tokens * (found.per_token + found.per_pair * length)
        assert got == pytest.approx(want, rel=0.01, abs=20)
        room = max(want, found.fixed)
        fits = found.tokens(length, room)
        assert found.fixed + fits * (found.per_token + found.per_pair * length) <= room + 1


def test_a_fit_without_slope_or_room():
    assert Fit(100, 0).tokens(10, 1_000) > 1 << 60
    assert Fit(100, 1).tokens(10, 50) == 0
    assert fit((4_096, 500), (16_384, 400), 128).per_token == 0, "noise is no slope downwards"
    assert fit((10, 100), (10, 100), 10).per_token == 10


@pytest.mark.parametrize(("gigabytes", "tokens"), [(15, 16_384), (22.1, 65_536), (40, 65_536), (79.1, 131_072), (140, 131_072)])
def test_what_saturates(gigabytes, tokens):
    assert saturating(int(gigabytes * GB)) == tokens


class Card(FakeEncoder):
    """A device that takes 1 MB and 1 kB per token, and with ``pairs`` as many bytes for each pair of tokens of a text."""

    device = "cuda:0"

    def __init__(self, pairs=0, **given):
        super().__init__(budget=16_384, **given)
        self.pairs, self.probes = pairs, []

    def peak(self, batch, length):
        self.probes.append((batch, length))
        return (1 << 20) + batch * length * (1_024 + self.pairs * length)


@pytest.fixture
def card(monkeypatch):
    def set_memory(free, total=80 * GB):
        monkeypatch.setattr(devices, "free_memory", lambda name: free)
        monkeypatch.setattr(devices, "total_memory", lambda name: total)

    set_memory(70 * GB)
    return set_memory


def test_plenty_of_memory_gives_what_saturates(card):
    encoder = Card()
    budget = Budget(encoder)
    budget.prepare(encoder, 200)
    assert encoder.budget == budget.tokens(encoder, 200) == 131_072
    budget.prepare(encoder, 300)
    assert encoder.probes == [(32, 128), (128, 128), (81, 200)], "once, until texts are twice as long"
    budget.prepare(encoder, 500)
    assert len(encoder.probes) == 6


def test_little_memory_bounds_it_and_long_texts_more(card):
    card(40 << 20, 16 * GB)
    encoder = Card(pairs=8)
    budget = Budget(encoder)
    budget.prepare(encoder, 512)
    for length in (64, 128, 512):
        room = 0.8 * (40 << 20) - (1 << 20)
        want = min(16_384, room / (1_024 + 8 * length))
        assert budget.tokens(encoder, length) == pytest.approx(want, rel=0.01)
    card(1 << 10)
    tight = Card()
    Budget(tight).prepare(tight, 10)
    budget = Budget(tight)
    budget.prepare(tight, 10)
    assert budget.tokens(tight, 10) == 1


def test_nothing_is_asked_of_a_cpu_twice():
    asked = []
    encoder = FakeEncoder(budget=50, peak=lambda batch, length: asked.append(batch))
    budget = Budget(encoder)
    for length in (5, 50, 5_000):
        budget.prepare(encoder, length)
    assert len(asked) == 1
    assert encoder.budget == budget.tokens(encoder, 5) == 50


def test_running_out_while_probing_changes_nothing(card):
    def peak(batch, length):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    encoder = Card()
    encoder.peak = peak
    budget = Budget(encoder)
    budget.prepare(encoder, 10)
    assert budget.tokens(encoder, 10) == 16_384


def test_several_threads_probe_once(card):
    encoder = Card()
    budget = Budget(encoder)
    threads = [threading.Thread(target=budget.prepare, args=(encoder, 100)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(encoder.probes) == 2


def test_a_shortage_lowers_and_many_good_batches_raise_up_to_where_it_was():
    encoder = FakeEncoder(budget=1_000)
    budget = Budget(encoder)
    budget.lower(encoder, 800)
    assert encoder.budget == 600
    budget.lower(encoder, 1_000)
    assert encoder.budget == 600, "a larger batch says nothing new"
    for _ in range(CLEAN - 1):
        budget.succeeded(encoder)
    assert encoder.budget == 600
    budget.succeeded(encoder)
    assert encoder.budget == 630
    for _ in range(30 * CLEAN):
        budget.succeeded(encoder)
    assert encoder.budget == 1_000
    budget.lower(encoder, 1)
    assert encoder.budget == 1
    for _ in range(CLEAN):
        budget.succeeded(encoder)
    assert encoder.budget == 2, "also from where five percent are nothing"


def test_who_sets_a_budget_is_obeyed(card):
    encoder = Card()
    budget = Budget(encoder)
    encoder.budget = 500
    budget.prepare(encoder, 100)
    assert encoder.probes == []
    assert budget.tokens(encoder, 100) == 500
    for _ in range(CLEAN):
        budget.succeeded(encoder)
    assert encoder.budget == 500


def test_an_encoder_has_one_budget_and_takes_it_along():
    encoder = FakeEncoder()
    assert budget_of(encoder) is budget_of(encoder)
    assert budget_of(FakeEncoder(budgeted=encoder)) is budget_of(encoder)
    gc.collect()
    before = len(module._BUDGETS)
    del encoder
    gc.collect()
    assert len(module._BUDGETS) == before - 1
