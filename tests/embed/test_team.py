"""One model on several devices: everybody works, nothing is lost, and who fails hands its work over."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest
from embed import tiny_models
from embed.fake_encoders import FakeEncoder, expected, some_texts, workers

from chroma_gpu import device as devices
from chroma_gpu.embed.local import SentenceTransformerEmbeddingFunction
from chroma_gpu.embed.stream.failures import Failures
from chroma_gpu.embed.stream.kept import Kept
from chroma_gpu.embed.stream.pipeline import Prompt, stream
from chroma_gpu.embed.stream.stats import Stats
from chroma_gpu.embed.stream.team import Team
from chroma_gpu.errors import EmbeddingFailed

TEXTS = some_texts(600)
LONG = 30.0


def run(team, **given):
    got = np.concatenate([block for _, block in stream(team, TEXTS, window=100, **given)])
    assert workers() == []
    return got


@pytest.mark.parametrize("n", [2, 3])
def test_all_work_and_order_is_kept(n):
    together, calls = threading.Barrier(n), itertools.count()

    def meet(texts):
        if next(calls) < n:
            together.wait(LONG)  # none may do all the work alone

    members = [FakeEncoder(50 * (number + 1), meet, device=f"cuda:{number}") for number in range(n)]
    stats = Stats()
    np.testing.assert_array_equal(run(Team(members), stats=stats), expected(TEXTS))
    assert all(member.batches for member in members)
    assert set(stats.busy) == {f"cuda:{number}" for number in range(n)}


def test_a_fast_one_takes_what_a_slow_one_leaves():
    slow_may_go = threading.Event()

    def fast_works(texts):
        if len(fast.batches) >= 20:
            slow_may_go.set()

    fast = FakeEncoder(before=fast_works)
    slow = FakeEncoder(before=lambda texts: slow_may_go.wait(LONG))
    np.testing.assert_array_equal(run(Team([slow, fast])), expected(TEXTS))
    assert slow_may_go.is_set()
    assert slow.batches


def losing(after, error):
    calls = itertools.count()

    def before(texts):
        if next(calls) >= after:
            raise error

    return before


@pytest.mark.parametrize("after", [0, 1, 5])
@pytest.mark.parametrize("window", [100, 600])
@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_a_lost_device_hands_its_batches_to_the_others(after, window, device):
    lost = FakeEncoder(before=losing(after, RuntimeError("CUDA error: unspecified launch failure")), device=device)
    other = FakeEncoder()
    team = Team([lost, other])
    failures = Failures()
    with pytest.warns(RuntimeWarning, match="works no more, and others do its work: RuntimeError: CUDA error"):
        got = np.concatenate([block for _, block in stream(team, TEXTS, window=window, failures=failures)])
    np.testing.assert_array_equal(got, expected(TEXTS))
    assert len(failures) == 0
    assert team.members == (other,)
    np.testing.assert_array_equal(run(team), expected(TEXTS))


def test_the_last_device_says_itself_that_it_is_lost():
    error = RuntimeError("CUDA error: unspecified launch failure")
    team = Team([FakeEncoder(before=losing(3, error)), FakeEncoder(before=losing(5, error))])
    with pytest.warns(RuntimeWarning, match="works no more"), pytest.raises(EmbeddingFailed, match="unspecified launch"):
        run(team, failures=Failures())
    assert len(team.members) == 1


def test_one_that_fails_at_what_others_do_gets_no_more():
    failing = FakeEncoder(before=losing(0, ValueError("odd driver")))
    team = Team([failing, FakeEncoder()])
    with pytest.warns(RuntimeWarning) as caught:
        got = np.concatenate([block for _, block in stream(team, TEXTS)])
    np.testing.assert_array_equal(got, expected(TEXTS))
    assert any("which another device gets: ValueError: odd driver" in str(each.message) for each in caught)


def test_a_bad_text_fails_on_all_of_them_and_costs_none():
    def refuse(texts):
        if TEXTS[333] in texts:
            raise IndexError("bad")

    team = Team([FakeEncoder(before=refuse), FakeEncoder(before=refuse)])
    with pytest.warns(RuntimeWarning, match="which another device gets"), pytest.raises(EmbeddingFailed, match="IndexError: bad"):
        run(team)
    failures = Failures()
    with pytest.warns(RuntimeWarning, match="which another device gets"):
        got = run(team, failures=failures)
    assert list(failures.found) == np.flatnonzero(np.isnan(got[:, 0])).tolist()
    assert {TEXTS[position] for position in failures.found} == {TEXTS[333]}
    assert len(team.members) == 2


@pytest.mark.parametrize("seed", range(5))
def test_devices_that_fail_at_random(seed):
    random = np.random.default_rng(seed)
    lock = threading.Lock()

    def chance(texts):
        with lock:
            drawn = random.random()
        if drawn < 0.1:
            raise RuntimeError("CUDA out of memory" if len(texts) > 1 else "hiccup")
        if drawn < 0.2:
            raise ValueError("hiccup")

    steady = FakeEncoder(60)
    team = Team([FakeEncoder(80, chance, lanes=2), FakeEncoder(200, chance, device="cuda:1"), steady])
    with pytest.warns(RuntimeWarning):
        np.testing.assert_array_equal(run(team), expected(TEXTS))
    assert steady in team.members


def test_rows_on_several_devices_are_not_kept():
    import torch

    class Tensors(FakeEncoder):
        def __init__(self, device, **given):
            super().__init__(**given)
            self.device = device

        def on_device(self, result):
            return torch.from_numpy(expected(result)).to(self.device)

    meet, calls = threading.Barrier(2), itertools.count()
    members = [Tensors(device, before=lambda texts: meet.wait(LONG) if next(calls) < 2 else None) for device in ("cpu", "meta")]
    kept = Kept(["cpu", "meta"])
    np.testing.assert_array_equal(
        np.concatenate([block for _, block in stream(Team(members), TEXTS[:110], window=100, kept=kept)]), expected(TEXTS[:110])
    )
    assert [block.first for block in kept.blocks] in ([], [100])
    kept = Kept(["cpu"])
    list(stream(Team([Tensors("cpu"), Tensors("cpu")]), TEXTS, window=100, kept=kept))
    assert [block.first for block in kept.blocks] == list(range(0, 600, 100))


def test_a_team_is_an_encoder_by_itself():
    one, two = FakeEncoder(budget=7, fingerprint="a"), FakeEncoder(fingerprint="a", window=5)
    team = Team([one, two])
    assert (team.dim, team.budget, team.window, team.fingerprint, team.padded, team.lanes) == (2, 7, 8_197, "a", True, 1)
    tokens = team.pre(["abc"], Prompt())
    assert team.post(team.core(tokens, np.arange(1))).tolist() == expected(["abc"]).tolist()
    assert team.on_cpu() is None
    assert team.peak(1, 1) is None
    assert Team([one, FakeEncoder(fingerprint="b")]).fingerprint is None
    with pytest.raises(ValueError, match="one dimension"):
        Team([one, FakeEncoder(dim=3)])


@pytest.mark.parametrize("given", [{}, {"truncate_dim": 8}])
def test_a_function_on_several_devices(tmp_path, monkeypatch, given):
    directory = tiny_models.transformer(tmp_path / "model")
    monkeypatch.setattr(devices, "several", lambda names: ("cpu", "meta") if names == "cpu,other" else ("cpu",))
    loaded = []

    def load(layout, place, dtype, arguments):
        from chroma_gpu.embed.encoders.transformer import TransformerEncoder

        loaded.append(place)
        return TransformerEncoder(layout, "cpu", dtype)

    monkeypatch.setattr("chroma_gpu.embed.local.load", load)
    texts = ["the cat sits", "dog", "a red company"] * 30
    both = SentenceTransformerEmbeddingFunction(str(directory), device="cpu,other", **given)
    got = np.stack(both(texts))
    assert loaded == ["cpu", "meta"]
    assert isinstance(both._encoder, Team)
    assert len(both._encoder.members) == 2
    one = SentenceTransformerEmbeddingFunction(str(directory), device="all", **given)
    np.testing.assert_allclose(got, np.stack(one(texts)), atol=1e-6)
    assert not isinstance(one._encoder, Team)
