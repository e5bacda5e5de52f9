"""A writer that is killed at any moment: what it acknowledged is there, the batch in flight wholly or not at all."""

from __future__ import annotations

import random
import time

import pytest
from store import children
from store.model import UNIVERSE, Model, apply, differs, random_write

from chroma_gpu.store.record_store import RecordStore

ROUNDS = 200
SOAK_ROUNDS = 5_000
VERIFIED_EVERY = 20


def test_kill_9(tmp_path, processes):
    acknowledged = kill_again_and_again(tmp_path, processes, ROUNDS, seed=9)
    assert acknowledged >= ROUNDS // 2


@pytest.mark.soak
def test_kill_9_for_long(tmp_path, processes):
    kill_again_and_again(tmp_path, processes, SOAK_ROUNDS, seed=time.time_ns() % 2**32)


def kill_again_and_again(directory, processes, rounds, seed):
    """Let a process write, kill it, compare with a model, let the next one go on; how many writes were acknowledged."""
    moments = random.Random(seed)
    model, step, acknowledged = Model(), 0, 0
    for number in range(rounds):
        mine, theirs = processes.Pipe(duplex=False)
        process = processes.Process(target=children.write_until_killed, args=(directory, seed, step, theirs))
        process.start()
        theirs.close()
        first = -1
        if number % 4:
            assert mine.recv() == "open", f"seed {seed}, round {number}: the store could not be opened"
        if number % 2:  # in every second round at least one write is done, however slow the machine is
            first = mine.recv()
        time.sleep(moments.uniform(0, 0.06))
        process.kill()
        process.join()
        last = max(first, drain(mine))
        while step <= last:
            apply(model, *random_write(seed, step))
            step, acknowledged = step + 1, acknowledged + 1
        step += settle(directory, model, seed, step, number)
    return acknowledged


def drain(pipe):
    """The last step that was acknowledged, -1 for none."""
    last = -1
    try:
        while True:
            received = pipe.recv()
            last = received if received != "open" else last
    except EOFError:
        return last


def settle(directory, model, seed, step, number):
    """Compare a store with the acknowledged history, and if they differ with one write more; 1 if that was the case."""
    store = RecordStore.open(directory)
    try:
        difference, more = differs(store, model, UNIVERSE), 0
        if difference is not None:
            apply(model, *random_write(seed, step))
            with_flight, more = differs(store, model, UNIVERSE), 1
            assert with_flight is None, f"seed {seed}, round {number}, step {step}: {difference}; {with_flight}"
        if number % VERIFIED_EVERY == 0:
            assert store.verify() == [], f"seed {seed}, round {number}"
    finally:
        store.close()
    return more
