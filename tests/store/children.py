"""What other processes do in these tests."""

from __future__ import annotations

import traceback


def report(pipe, function, args):
    """Send (whether it went well, what the function returned or its traceback)."""
    try:
        pipe.send((True, function(*args)))
    except BaseException:
        pipe.send((False, traceback.format_exc()))
    pipe.close()


def open_numbers(path, **settings):
    """The environment of these tests: table a from numbers to their text."""
    from chroma_gpu.store.lmdb import open_lmdb

    return open_lmdb(path, ("a",), **settings)


def put_numbers(keyvalue, start, stop):
    """Some kilobytes for each number, so that maps fill up."""
    keyvalue.write(lambda txn: txn.put_many("a", ((number_key(n), b"%d" % n * 500) for n in range(start, stop))))


def numbers(keyvalue):
    """The numbers that are there; their values are checked."""
    with keyvalue.read() as txn:
        items = list(txn.scan("a"))
    found = [int.from_bytes(key, "big") for key, _ in items]
    assert [value for _, value in items] == [b"%d" % n * 500 for n in found]
    return found


def number_key(number):
    return number.to_bytes(4, "big")


def write_numbers(path, start, stop, batch, map_size):
    """Write numbers in batches, and close."""
    keyvalue = open_numbers(path, map_size=map_size)
    for first in range(start, stop, batch):
        put_numbers(keyvalue, first, min(first + batch, stop))
    keyvalue.close()


def forked(work):
    """Fork, run ``work`` in the child within five seconds: how the child ended, 0 if ``work`` returned true."""
    import os
    import signal

    child = os.fork()
    if child == 0:
        signal.alarm(5)
        try:
            os._exit(0 if work() else 1)
        except BaseException:
            traceback.print_exc()
            os._exit(2)
    return os.waitpid(child, 0)[1]


def fork_and_use(path):
    """Parent and child go on with the same environment; the child opened nothing itself."""
    keyvalue = open_numbers(path)
    put_numbers(keyvalue, 0, 10)

    def in_child():
        assert numbers(keyvalue) == list(range(10))
        put_numbers(keyvalue, 10, 20)
        again = open_numbers(path)
        put_numbers(again, 20, 30)
        again.close()
        return numbers(keyvalue) == list(range(30))

    ended = forked(in_child)
    put_numbers(keyvalue, 30, 40)
    return ended, numbers(keyvalue) == list(range(40))


def fork_while_others_work(path):
    """Threads read and write without a pause while the process forks, again and again."""
    import threading

    keyvalue = open_numbers(path, map_size=1 << 18)
    put_numbers(keyvalue, 0, 10)
    done, failures = threading.Event(), []

    def busy(step):
        try:
            n = 0
            while not done.is_set():
                step(n)
                n += 1
        except BaseException:
            failures.append(traceback.format_exc())

    def write(n):
        put_numbers(keyvalue, 10 + n, 11 + n)

    threads = [threading.Thread(target=busy, args=(step,)) for step in (write, lambda _: numbers(keyvalue))]
    for thread in threads:
        thread.start()

    def in_child():
        there = numbers(keyvalue)
        keyvalue.write(lambda txn: txn.put("a", number_key(1_000_000), b"1000000" * 500))
        return numbers(keyvalue)[: len(there)] == there

    ended = []
    for _ in range(10):
        ended.append(forked(in_child))
        keyvalue.write(lambda txn: txn.delete("a", number_key(1_000_000)))
    done.set()
    for thread in threads:
        thread.join()
    return ended, failures


def fork_inside_a_transaction(path):
    """The child cannot give up the parent's opening without ending the parent's snapshot."""
    from chroma_gpu.errors import StoreError

    keyvalue = open_numbers(path)
    put_numbers(keyvalue, 0, 10)

    def in_child():
        try:
            numbers(keyvalue)
        except StoreError as error:
            keyvalue.close()
            return "forked" in str(error)

    with keyvalue.read() as txn:
        ended = forked(in_child)
        write_elsewhere = forked(lambda: True)
        still = txn.get("a", number_key(1)) == b"1" * 500
        registered = str(keyvalue._environment._lmdb.readers())
    return ended, write_elsewhere, still, "no active readers" not in registered


def fill_a_disk(path, limit):
    """Write until files may not grow: the error, what is there after it, and what can be deleted and written then."""
    import resource

    from chroma_gpu.errors import DiskFull

    keyvalue = open_numbers(path)
    put_numbers(keyvalue, 0, 50)
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, unlimited[1]))
    try:
        for first in range(50, 10_000, 50):
            put_numbers(keyvalue, first, first + 50)
    except DiskFull as full:
        stopped, error = first, str(full)
    there = numbers(keyvalue)
    keyvalue.write(lambda txn: [txn.delete("a", number_key(n)) for n in range(50)])
    put_numbers(keyvalue, 20_000, 20_010)
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    put_numbers(keyvalue, 30_000, 30_500)
    expected = [*range(50, stopped), *range(20_000, 20_010), *range(30_000, 30_500)]
    return error, there == list(range(stopped)), numbers(keyvalue) == expected, keyvalue.verify()


def open_with_little_address_space(path):
    """Ask for a map that cannot be had; and then for growth that cannot be had."""
    import resource

    from chroma_gpu.errors import StoreError

    with open("/proc/self/statm") as statm:
        used = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 27), resource.RLIM_INFINITY))
    keyvalue = open_numbers(path, map_size=1 << 40)
    put_numbers(keyvalue, 0, 10)
    try:
        for first in range(10, 1_000_000, 1000):
            put_numbers(keyvalue, first, first + 1000)
    except StoreError as error:
        message = str(error)
    deleted = keyvalue.write(lambda txn: txn.delete("a", number_key(1)))
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return message, numbers(keyvalue) == [0, *range(2, first)], deleted


def fill_a_store(path):
    """Write batches until the files may not grow: (the error came, acknowledged records are there and writable, findings)."""
    import resource

    import numpy as np

    from chroma_gpu.errors import DiskFull
    from chroma_gpu.records import Column, Mode, RecordBatch
    from chroma_gpu.store.record_store import RecordStore

    def batch(n):
        return RecordBatch([f"{n}-{at}" for at in range(20)], np.full((20, 256), n, np.float32), ["text"] * 20)

    store = RecordStore.open(path)
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700_000, unlimited[1]))
    acknowledged, full = 0, False
    try:
        for n in range(1000):
            store.write(batch(n), Mode.ADD)
            acknowledged = n + 1
    except DiskFull:
        full = True
    sound = store.state().live == 20 * acknowledged > 0
    store.delete(store.rows_of(batch(0).ids))
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    for n in range(acknowledged, acknowledged + 3):
        store.write(batch(n), Mode.ADD)
    read = store.read(store.live().rows(), frozenset({Column.VECTOR}))
    expected = [float(id_.split("-")[0]) for id_ in read.ids]
    sound = sound and len(read) == 20 * (acknowledged + 2) and read.vectors[:, 0].tolist() == expected
    return full, sound, store.verify()


def fork_with_a_store(path):
    """Parent, child, parent again write one record each."""
    import numpy as np

    from chroma_gpu.records import Mode, RecordBatch
    from chroma_gpu.store.record_store import RecordStore

    def write(id_):
        store.write(RecordBatch([id_], np.ones((1, 4), np.float32)), Mode.ADD)

    store = RecordStore.open(path)
    write("parent")

    def in_child():
        write("child")
        store.close()
        return True

    ended = forked(in_child)
    write("later")
    return ended, store.read(store.live().rows(), frozenset()).ids, store.verify()


def inspect_and_read(directory, count):
    """(what an inspection finds, whether a store without findings holds what ``test_damage`` has put there)."""
    import numpy as np

    from chroma_gpu.records import Column
    from chroma_gpu.store.record_store import RecordStore

    findings = RecordStore.inspect(directory)
    if findings:
        return findings, False
    store = RecordStore.open(directory)
    read = store.read(np.arange(count, dtype=np.uint32), frozenset(Column))
    documents = [f"text-{n:06d}" for n in range(count)]
    metadatas = [{"key": f"value-{n:06d}"} for n in range(count)]
    intact = (read.documents, read.metadatas) == (documents, metadatas)
    store.close()
    return findings, intact


def write_until_killed(directory, seed, step, pipe):
    """Write random batches from a step on, and acknowledge each when it is written. Every few of them change the inverted index."""
    from store.model import apply, random_write

    from chroma_gpu.store.inverted import fold
    from chroma_gpu.store.record_store import RecordStore

    fold.FOLD_ROWS = 32
    store = RecordStore.open(directory, map_size=1 << 18)
    pipe.send("open")
    while True:
        apply(store, *random_write(seed, step), by_row=True)
        pipe.send(step)
        step += 1


BATCH = 50


def batch_of(tag):
    """A batch that can be told by its tag: ids, vectors and metadata follow from it."""
    import numpy as np

    from chroma_gpu.records import RecordBatch

    vectors = np.random.default_rng(tag).standard_normal((BATCH, 16)).astype(np.float32)
    metadatas = [{"tag": tag, "at": at} for at in range(BATCH)]
    return RecordBatch([f"{tag}-{at}" for at in range(BATCH)], vectors, [f"text {tag}"] * BATCH, metadatas)


def write_batches(directory, writer, rows):
    """Write rows in batches whose tags are the writer's own."""
    from chroma_gpu.records import Mode
    from chroma_gpu.store.record_store import RecordStore

    store = RecordStore.open(directory, map_size=1 << 18)
    for number in range(rows // BATCH):
        store.write(batch_of(1000 * writer + number), Mode.ADD)
    store.close()


def read_batches(directory, rows):
    """Read until all rows are there; never part of a batch, never a wrong vector."""
    from chroma_gpu.store.record_store import RecordStore

    store = RecordStore.open(directory, map_size=1 << 18)
    seen = -1
    while seen < rows // BATCH:
        complete = complete_batches(store)
        assert complete >= seen
        seen = complete
    store.close()


def complete_batches(store):
    """How many batches a store holds; every one of them is checked."""
    from collections import Counter

    import numpy as np

    from chroma_gpu.records import Column

    read = store.read(store.live().rows(), frozenset(Column))
    tags = Counter(metadata["tag"] for metadata in read.metadatas)
    assert set(tags.values()) <= {BATCH}
    expected = {tag: batch_of(tag) for tag in tags}
    for at, (id_, metadata) in enumerate(zip(read.ids, read.metadatas, strict=True)):
        batch = expected[metadata["tag"]]
        assert id_ == batch.ids[metadata["at"]]
        assert np.array_equal(read.vectors[at], batch.vectors[metadata["at"]])
    return len(tags)


NOTED = 7


def noted_batch(step):
    """What ``write_noted`` writes at a step: some rows, every third time none, and how far it is."""
    import numpy as np

    from chroma_gpu.records import Note, RecordBatch

    ids = [] if step % 3 == 2 else [f"{step}-{at}" for at in range(NOTED)]
    note = Note("job", b"%d" % (step + 1), None if step == 0 else b"%d" % step)
    return RecordBatch(ids, np.full((len(ids), 4), step, np.float32) if ids else None, ["text"] * len(ids), note=note)


def write_noted(directory, pipe):
    """Go on where the note says, until killed."""
    from chroma_gpu.records import Mode
    from chroma_gpu.store.inverted import fold
    from chroma_gpu.store.record_store import RecordStore

    fold.FOLD_ROWS = 32
    store = RecordStore.open(directory, map_size=1 << 18)
    step = int(store.note("job") or 0)
    pipe.send("open")
    while True:
        store.write(noted_batch(step), Mode.ADD)
        step += 1
        pipe.send(step)
