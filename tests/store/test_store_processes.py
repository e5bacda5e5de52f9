"""Several processes on one store."""

from __future__ import annotations

import pytest
from store import children

from chroma_gpu.store.record_store import RecordStore

WRITERS = 2
ROWS = 3_000


@pytest.fixture
def start(processes):
    started = []

    def run(function, *args):
        mine, theirs = processes.Pipe()
        process = processes.Process(target=children.report, args=(theirs, function, args))
        process.start()
        theirs.close()
        started.append((process, mine))

    def results():
        return [pipe.recv() for _, pipe in started]

    yield run, results
    for process, _ in started:
        process.join(60)
        assert process.exitcode == 0


def test_two_writers_and_a_reader(tmp_path, start):
    run, results = start
    RecordStore.open(tmp_path).close()
    run(children.read_batches, tmp_path, WRITERS * ROWS)
    for writer in range(WRITERS):
        run(children.write_batches, tmp_path, writer, ROWS)
    assert [outcome for outcome in results() if not outcome[0]] == []
    store = RecordStore.open(tmp_path)
    assert store.state().live == WRITERS * ROWS
    assert children.complete_batches(store) == WRITERS * ROWS // children.BATCH
    assert store.verify() == []
    store.close()
