"""Recorded searches: never but where that was measured to pay, equal to others, gone with their snapshot, safe among threads."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest
import torch

pytest.importorskip("triton", reason="needs triton")

from chroma_gpu import device as devices
from chroma_gpu.kernels import launch, replays, scan_triton
from chroma_gpu.kernels.buffer import Buffer, Chunk
from chroma_gpu.kernels.tuning import Config, assuming, trying

N, DIM = 1_200, 16
ONE = Config(512, 1, 16, 4, 1, "fma")
SEVERAL = Config(512, 4, 16, 4, 1, "fma")


class Tape:
    """What ``launch.Replay`` promises, without a card: inputs are copied, outputs lie where they lay and are overwritten by the next call."""

    made = 0
    fails: Exception | None = None

    def __init__(self, work, inputs, keeps=None):
        type(self).made += 1
        self.lock = threading.Lock()
        if self.fails:
            raise self.fails
        self._work = work
        self._inputs = [each.clone() for each in inputs]
        self._outputs = tuple(each.clone() for each in work(*self._inputs))

    def __call__(self, *inputs):
        assert self.lock.locked()
        for to, given in zip(self._inputs, inputs, strict=True):
            to.copy_(given)
        for to, made in zip(self._outputs, self._work(*self._inputs), strict=True):
            to.copy_(made)
        return self._outputs


@pytest.fixture(autouse=True)
def tape(monkeypatch, device):
    """Recordings are fakes where there is no card; and few programs, of large tiles."""
    made = type("OneTape", (Tape,), {})
    if device == "cpu":
        monkeypatch.setattr(launch, "Replay", made)
        monkeypatch.setattr(scan_triton, "WAVES", 3)
    monkeypatch.setattr(replays, "_FAILED", set())
    return made


def table(device, seed=0, n=N):
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randint(-4, 5, (n, DIM), generator=generator).float()
    cut = n // 64 * 32
    return Buffer.of([Chunk(0, vectors[:cut].to(device)), Chunk(cut, vectors[cut:].to(device))])


def asked(device, n=1, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-4, 5, (n, DIM), generator=generator).float().to(device), torch.zeros(n, device=device)


def found(buffer, given, k=5, how=ONE, **more):
    with trying("scan", how):
        survivors = scan_triton.scan(given[0], buffer, k, given[1], **more)
    return survivors


def same(got, want):
    """The same pairs with the same scores; lists have no order of rows."""

    def pairs(survivors):
        return sorted(zip(*(each.tolist() for each in (survivors.owners, survivors.rows, survivors.scores)), strict=True))

    assert pairs(got) == pairs(want)
    assert len(got.rows)


def recordings(buffer):
    return [each for each in buffer.kept.values() if not isinstance(each, int)]


def test_nothing_is_recorded_that_was_not_measured(device):
    buffer = table(device)
    for _ in range(3):
        found(buffer, asked(device))
    assert not buffer.kept


@pytest.mark.parametrize("small", [4096, 0], ids=["every", "sample"])
@pytest.mark.parametrize(("n", "how"), [(1, ONE), (3, SEVERAL)], ids=["one query", "three"])
def test_the_same_answers(device, monkeypatch, small, n, how):
    monkeypatch.setattr(scan_triton, "SMALL", small)
    buffer, kept = table(device), []
    lengths = torch.full((n,), 2.0, device=device)
    for seed in (1, 2):
        given = asked(device, n, seed)
        with assuming("replay", 0):
            kept.append((found(buffer, given, how=how, lengths=lengths), found(table(device), given, how=how, lengths=lengths)))
    assert len(recordings(buffer)) == 1
    for got, want in kept:  # the first was not overwritten by what came later
        same(got, want)


def test_lists_that_run_over_are_collected_again(device, monkeypatch):
    """All rows alike: more reach the floor than a recording has room for."""
    monkeypatch.setattr(scan_triton, "SMALL", 0)
    monkeypatch.setattr(scan_triton, "planned", lambda *given: scan_triton.Plan(False, 64, 2, 1))
    alike = Buffer.of([Chunk(0, torch.ones(N, DIM, device=device))])
    with assuming("replay", 0):
        for _ in range(2):
            assert len(found(alike, asked(device)).rows) == N
    assert recordings(alike)


def test_recorded_after_as_many_searches_as_it_costs(device):
    buffer = table(device)
    with assuming("replay", 2):
        for wanted in (0, 0, 1, 1):
            found(buffer, asked(device))
            assert len(recordings(buffer)) == wanted
        found(buffer, asked(device), k=6)
        assert len(recordings(buffer)) == 1, "another k is another search"


def test_masks_and_large_batches_are_never_recorded(device, monkeypatch):
    buffer = table(device)
    words = torch.full((-(-N // 32),), -1, dtype=torch.int32, device=device)
    monkeypatch.setattr(replays, "QUERIES", 2)
    with assuming("replay", 0):
        found(buffer, asked(device), words=words, passing=N)
        found(buffer, asked(device, 3), how=SEVERAL)
        monkeypatch.setattr(replays, "ROOM", 100)
        found(buffer, asked(device))
    assert not buffer.kept


def test_so_many_and_no_more(device, monkeypatch):
    monkeypatch.setattr(replays, "MOST", 2)
    buffer = table(device, n=200)
    with assuming("replay", 0):
        for k in (1, 2, 1, 3):
            found(buffer, asked(device), k)
    assert [key[4] for key in buffer.kept] == [1, 3]


def test_a_recording_goes_with_its_snapshot(device, monkeypatch):
    gone = []
    if device == "cpu":  # the fake, unlike a recording, works again each time, and so has to know the rows
        monkeypatch.setattr(launch, "Replay", type("Once", (Tape,), {"__call__": lambda self, *inputs: self._outputs}))
        init = launch.Replay.__init__

        def forgetful(self, work, inputs, keeps=None):
            init(self, work, inputs)
            self._work = None

        monkeypatch.setattr(launch.Replay, "__init__", forgetful)
    buffer = table(device)
    with assuming("replay", 0):
        want = found(buffer, asked(device))
        newer = Buffer.of(buffer.chunks)
        assert not newer.kept
        same(found(newer, asked(device)), want)
    (recorded,) = recordings(buffer)
    weakref.finalize(recorded, gone.append, 1)
    del recorded
    gc.disable()  # no cycle may keep the memory of a snapshot
    try:
        del buffer
        assert gone == [1]
    finally:
        gc.enable()


def test_two_threads(device, tape):
    buffer = table(device, n=400)
    wanted = {seed: found(buffer, asked(device, seed=seed)) for seed in range(4)}
    failed = []

    def search(seed):
        try:
            with assuming("replay", 0):
                for _ in range(3):
                    same(found(buffer, asked(device, seed=seed)), wanted[seed])
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=search, args=(seed,)) for seed in wanted]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not failed
    assert len(recordings(buffer)) == 1
    assert device != "cpu" or tape.made == 1


def test_whoever_finds_the_outputs_being_read_does_without(device):
    buffer = table(device, n=400)
    with assuming("replay", 0):
        want = found(buffer, asked(device))
        (recorded,) = recordings(buffer)
        with recorded.lock:
            same(found(buffer, asked(device)), want)


def test_a_recording_that_fails_is_not_tried_again(device, tape, monkeypatch):
    monkeypatch.setattr(launch, "Replay", tape)
    tape.fails = RuntimeError("CUDA error: operation not permitted when stream is capturing")
    buffer = table(device)
    with assuming("replay", 0):
        with pytest.warns(RuntimeWarning, match="cannot be recorded.*capturing"):
            got = found(buffer, asked(device))
        same(got, found(table(device), asked(device)))
        found(buffer, asked(device))
    assert tape.made == 1


@pytest.mark.parametrize("lost", [True, False], ids=["lost", "out of memory"])
def test_a_device_that_fails_is_not_hidden(device, tape, monkeypatch, lost):
    monkeypatch.setattr(launch, "Replay", tape)
    monkeypatch.setattr(devices, "serves", lambda device: not lost)
    tape.fails = RuntimeError("CUDA error: an illegal memory access") if lost else torch.OutOfMemoryError("CUDA out of memory")
    with assuming("replay", 0), pytest.raises(RuntimeError, match=r"illegal|memory"):
        found(table(device), asked(device))
    assert not replays._FAILED
    assert replays._RECORDING.acquire(blocking=False)
    replays._RECORDING.release()
