"""Jobs that are killed, or stopped by signals, at random moments: no row is lost, doubled or set apart twice, and little is done twice."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal

import pytest
from jobs import killed_jobs
from jobs.job_cases import CountingFunction, check, embedded, letters, write_rows

import chroma_gpu

ROWS = 5_000
BATCHES = ROWS // killed_jobs.BATCH
SOON = 60
"""Seconds after which a process hangs."""


class Job:
    """A job over 5,000 rows, in processes of its own."""

    def __init__(self, place):
        self.place, self.log = place, place / "log"
        self.good, self.bad = write_rows(place / "rows.jsonl", ROWS)
        with chroma_gpu.PersistentClient(place / "data") as client:
            client.create_collection("rows", embedding_function=CountingFunction(self.log))
        # A server that has everything imported forks each process from itself, in milliseconds.
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(["jobs.killed_jobs"])

    def start(self, pause=0.0, stuck_at=None):
        """(process, what it tells)."""
        arguments = ["embed", str(self.place / "rows.jsonl"), "-c", "rows", "--path", str(self.place / "data")]
        arguments += ["--dead-letter", str(self.place / "bad.jsonl"), "--progress", "none"]
        told, telling = self._processes.Pipe(duplex=False)
        process = self._processes.Process(target=killed_jobs.work, args=(arguments, telling, pause, stuck_at))
        process.start()
        telling.close()
        return process, told

    def hit(self, number, rng, batches):
        """Run it, and send it a signal some time after it has begun one of its next ``batches``; its exit status."""
        process, told = self.start(pause=0.002)
        last = rng.randrange(batches)
        try:
            while told.recv() < last:
                pass
        except EOFError:
            pass  # it came to its end
        process.join(rng.random() * 0.02)
        if process.is_alive():
            os.kill(process.pid, number)
        process.join(SOON)
        return process.exitcode

    def finish(self):
        """Let it come to its end, with bad rows."""
        process, _ = self.start()
        process.join(SOON)
        assert process.exitcode == 3

    def check(self):
        """After the last run: every good row once, every bad one set apart once."""
        with chroma_gpu.PersistentClient(self.place / "data") as client:
            check(client.get_collection("rows"), self.good)
        assert [each["row"] for each in letters(self.place / "bad.jsonl")] == self.bad
        assert set(embedded(self.log)) == set(self.good.values())


@pytest.fixture
def job(tmp_path):
    return Job(tmp_path)


def hit_until_done(job, number, rounds, rng):
    """The statuses of the runs that were hit, until there were enough or the job came to its end."""
    statuses = []
    while len(statuses) < rounds:
        status = job.hit(number, rng, max(2, 2 * BATCHES // rounds))
        if status == 3:
            break
        # Python itself ends by a signal that comes before the job has begun, or after it.
        assert status in (130, -number)
        statuses.append(status)
    job.finish()
    return statuses


def killed(job, rounds, seed):
    kills = len(hit_until_done(job, signal.SIGKILL, rounds, random.Random(seed)))
    job.check()
    counts = embedded(job.log)
    # One batch may be on its way into the collection, and the next one embedded already.
    assert sum(counts.values()) - len(counts) <= 2 * killed_jobs.BATCH * kills
    return kills


def stopped(job, number, rounds, seed):
    statuses = hit_until_done(job, number, rounds, random.Random(seed))
    job.check()
    # A job that is stopped commits what it has embedded.
    again = sum(count > 1 for count in embedded(job.log).values())
    assert again <= 2 * killed_jobs.BATCH * sum(status != 130 for status in statuses)
    return statuses


def test_killed(job):
    assert killed(job, rounds=6, seed=1) > 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped(job, number):
    assert stopped(job, number, rounds=3, seed=2).count(130) > 1


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(4))
def test_killed_a_hundred_times(job, seed):
    assert killed(job, rounds=25, seed=seed) > 10


@pytest.mark.soak
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("seed", range(4))
def test_stopped_a_hundred_times(job, seed, number):
    assert stopped(job, number, rounds=25, seed=seed).count(130) > 5


def test_the_second_signal_does_not_wait(job):
    process, told = job.start(stuck_at=20)
    while told.recv() < 20:
        pass
    os.kill(process.pid, signal.SIGINT)
    process.join(0.5)
    assert process.is_alive()  # it finishes the batch, which takes for ever
    os.kill(process.pid, signal.SIGINT)
    process.join(SOON)
    assert process.exitcode == 130
    with chroma_gpu.PersistentClient(job.place / "data") as client:
        there = client.get_collection("rows").count()
    assert there >= killed_jobs.BATCH
    job.finish()
    job.check()
