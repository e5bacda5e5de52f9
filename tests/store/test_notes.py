"""Notes: what a job keeps beside the records, in the same moment as they are."""

from __future__ import annotations

import random
import time

import msgspec
import numpy as np
import pytest
from store import children
from store.children import NOTED, noted_batch

from chroma_gpu.errors import InvalidArgumentError, NoteChanged
from chroma_gpu.records import Mode, Note, RecordBatch
from chroma_gpu.store.encoding import NOTES, STATE, STATE_KEY, SUMMED, read_summary
from chroma_gpu.store.record_store import RecordStore
from chroma_gpu.store.seal import seal

ROUNDS = 40


def batch(*ids, note=None):
    return RecordBatch(list(ids), np.ones((len(ids), 3), np.float32) if ids else None, note=note)


def ids_of(store):
    return store.listing()[2]


def test_a_note_is_committed_with_the_rows(store):
    assert store.note("job") is None
    assert store.notes() == []
    written = store.write(batch("a", "b", note=Note("job", b"1")), Mode.ADD)
    assert (written.seq, written.added) == (1, 2)
    assert store.note("job") == b"1"
    assert store.notes() == ["job"]
    assert store.verify() == []


@pytest.mark.parametrize("mode", list(Mode))
def test_a_note_alone_is_a_commit_without_a_row(store, mode):
    store.write(batch("a"), Mode.ADD)
    written = store.write(batch(note=Note("job", b"1")), mode)
    assert (written.seq, written.added, written.replaced, written.rewritten) == (2, 0, 0, 0)
    changes = store.changes(1)
    assert (changes.seq, changes.first, changes.stop, len(changes.dead), len(changes.touched)) == (2, 1, 1, 0, 0)
    assert store.state().rows == 1
    assert store.live().rows().tolist() == [0]
    assert store.verify() == []


@pytest.mark.parametrize("mode", list(Mode))
def test_a_note_is_kept_with_a_batch_that_changes_nothing(store, mode):
    store.write(batch("a"), Mode.ADD)
    unchanging = RecordBatch(["a"], note=Note("job", b"1")) if mode is Mode.UPDATE else batch("a", note=Note("job", b"1"))
    assert store.write(unchanging, mode).seq == 2
    assert store.note("job") == b"1"


def test_the_same_note_again_is_no_write(store):
    store.write(batch(note=Note("job", b"1")), Mode.ADD)
    assert store.write(batch(note=Note("job", b"1", b"1")), Mode.ADD).seq == 1


@pytest.mark.parametrize("expected", [None, b"0", b""])
def test_nothing_is_written_where_another_note_is_there(store, expected):
    store.write(batch("a", note=Note("job", b"1")), Mode.ADD)
    with pytest.raises(NoteChanged, match="'job'"):
        store.write(batch("b", note=Note("job", b"2", expected)), Mode.UPSERT)
    assert (store.state().seq, ids_of(store), store.note("job")) == (1, ["a"], b"1")
    assert store.verify() == []


def test_a_note_that_is_gone_is_not_what_was_expected(store):
    with pytest.raises(NoteChanged):
        store.write(batch("a", note=Note("job", b"2", b"1")), Mode.ADD)
    assert store.state().seq == 0


def test_notes_change_go_and_come_again(store):
    store.write(batch(note=Note("job", b"1")), Mode.ADD)
    store.write(batch(note=Note("other", b"")), Mode.ADD)
    store.write(batch(note=Note("job", b"2" * 100_000, b"1")), Mode.ADD)
    assert (store.note("job"), store.note("other")) == (b"2" * 100_000, b"")
    store.write(batch(note=Note("job", None, b"2" * 100_000)), Mode.ADD)
    assert (store.note("job"), store.notes()) == (None, ["other"])
    assert store.write(batch(note=Note("job", None)), Mode.ADD).seq == 4
    store.write(batch(note=Note("job", b"3")), Mode.ADD)
    assert store.note("job") == b"3"
    assert store.verify() == []


@pytest.mark.parametrize("name", ["a", "ü" * 256, "x" * 256, "a\0b", "😀" * 200])
def test_names_of_every_kind(store, name):
    store.write(batch(name[:5], note=Note(name, b"1")), Mode.ADD)
    assert store.notes() == [name]
    assert store.note(name) == b"1"
    assert store.verify() == []


@pytest.mark.parametrize(
    "note",
    [Note("", b"1"), Note("x" * 257, b"1"), Note("\ud800", b"1"), Note("job", bytes((1 << 20) + 1))],
    ids=["no name", "long name", "surrogate", "long value"],
)
def test_limits_are_checked_before_anything_is_written(store, note):
    with pytest.raises(InvalidArgumentError):
        store.write(batch("a", note=note), Mode.ADD)
    assert store.state().seq == 0


def test_a_megabyte_is_taken(store):
    store.write(batch(note=Note("job", bytes(1 << 20))), Mode.ADD)
    assert store.note("job") == bytes(1 << 20)


def test_a_bad_batch_leaves_the_old_note(store):
    store.write(batch("a", note=Note("job", b"1")), Mode.ADD)
    with pytest.raises(InvalidArgumentError):
        store.write(RecordBatch(["new"], note=Note("job", b"2", b"1")), Mode.UPSERT)
    assert store.note("job") == b"1"


def test_copies_have_the_notes(new_store):
    source, target = new_store(), new_store()
    source.write(batch("a", "b", note=Note("job", b"1")), Mode.ADD)
    source.write(batch(note=Note("other", b"2")), Mode.ADD)
    source.delete(source.rows_of(["a"]))
    source.copy_live(target)
    assert (ids_of(target), target.note("job"), target.note("other")) == (["b"], b"1", b"2")
    assert target.verify() == []


def test_a_clone_has_the_notes(tmp_path):
    source = RecordStore.open(tmp_path / "source")
    source.write(batch("a", note=Note("job", b"1")), Mode.ADD)
    with source.exclusive():
        RecordStore.clone(tmp_path / "source", tmp_path / "clone", source.state())
    source.close()
    clone = RecordStore.open(tmp_path / "clone")
    assert clone.note("job") == b"1"
    clone.close()


def test_a_damaged_note_is_found(tmp_path):
    store = RecordStore.open(tmp_path / "store")
    store.write(batch("a", note=Note("job", b"1")), Mode.ADD)
    with store._keyvalue.read() as txn:
        value = txn.get(NOTES, b"job")
    store._keyvalue.write(lambda txn: txn.put(NOTES, b"bob", seal(b"bob", value[5:])))
    found = store.verify()
    assert any("the note 'job' is under the key of another one" in each for each in found)
    assert any("table notes has 2 keys, not 1" in each for each in found)
    store.close()


def test_a_store_from_before_there_were_notes_opens(tmp_path):
    """Its state counts one table less."""
    store = RecordStore.open(tmp_path / "store")
    store.write(batch("a"), Mode.ADD)
    with store._keyvalue.read() as txn:
        summary = read_summary(txn)
    summary.counts, summary.digests = summary.counts[:-1], summary.digests[:-1]
    assert SUMMED[-1] == NOTES
    sealed = seal(STATE_KEY, msgspec.msgpack.encode(summary))
    store._keyvalue.write(lambda txn: txn.put(STATE, STATE_KEY, sealed))
    store.close()
    store = RecordStore.open(tmp_path / "store")
    assert store.verify() == []
    assert store.notes() == []
    store.write(batch("b", note=Note("job", b"1")), Mode.ADD)
    assert (store.note("job"), store.verify()) == (b"1", [])
    store.close()


def test_kill_9(tmp_path, processes):
    """After every kill the note says which rows are there."""
    moments, steps = random.Random(4), 0
    for number in range(ROUNDS):
        mine, theirs = processes.Pipe(duplex=False)
        process = processes.Process(target=children.write_noted, args=(tmp_path / "store", theirs))
        process.start()
        theirs.close()
        assert mine.recv() == "open"
        acknowledged = mine.recv() if number % 2 else steps  # in every second round a write is done, however slow the machine is
        time.sleep(moments.uniform(0, 0.03))
        process.kill()
        process.join()
        try:
            while True:
                acknowledged = mine.recv()
        except EOFError:
            pass
        store = RecordStore.open(tmp_path / "store")
        steps = int(store.note("job") or 0)
        assert steps - acknowledged in (0, 1)
        assert store.state().live == sum(len(noted_batch(step)) for step in range(steps))
        store.close()
    store = RecordStore.open(tmp_path / "store")
    assert ids_of(store) == [f"{step}-{at}" for step in range(steps) if step % 3 != 2 for at in range(NOTED)]
    assert store.verify() == []
    assert steps >= ROUNDS // 2
    store.close()
