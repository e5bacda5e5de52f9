"""What LMDB leaves to its user: growing maps, openings, forks, locks, full disks, damage to the environment."""

from __future__ import annotations

import os
import shutil
import stat
import threading
from contextlib import ExitStack

import pytest
from store import children
from store.children import number_key, numbers, open_numbers, put_numbers

from chroma_gpu.errors import CorruptRecord, FormatError, StoreBusy, StoreError
from chroma_gpu.store import lmdb as module
from chroma_gpu.store.lmdb import inspect_file, open_lmdb

TINY = 1 << 18


def map_size(keyvalue):
    return keyvalue._environment._lmdb.info()["map_size"]


def test_a_full_map_grows_and_the_work_is_done_again(tmp_path):
    keyvalue = open_numbers(tmp_path, map_size=TINY)
    runs = []

    def work(txn):
        runs.append(list(txn.scan("a")))
        txn.append("a", ((number_key(n), b"%d" % n * 500) for n in range(2000)))

    keyvalue.write(work)
    assert len(runs) > 2
    assert not any(runs)
    assert numbers(keyvalue) == list(range(2000))
    assert map_size(keyvalue) >= 2000 * 1500
    keyvalue.close()


def test_readers_go_on_while_the_map_grows(tmp_path):
    keyvalue = open_numbers(tmp_path, map_size=TINY)
    put_numbers(keyvalue, 0, 10)
    done, failures, reads = threading.Event(), [], [0]

    def read():
        try:
            while not done.is_set():
                found = numbers(keyvalue)
                assert found == list(range(len(found)))
                assert len(found) % 10 == 0
                reads[0] += 1
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for first in range(10, 1000, 10):
        put_numbers(keyvalue, first, first + 10)
    done.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert reads[0] > 3
    assert map_size(keyvalue) > 4 * TINY
    keyvalue.close()


def test_readers_go_on_while_another_process_grows_the_map(tmp_path, in_child):
    keyvalue = open_numbers(tmp_path, map_size=TINY)
    done, failures = threading.Event(), []

    def read():
        try:
            while not done.is_set():
                found = numbers(keyvalue)
                assert found == list(range(len(found)))
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    in_child(children.write_numbers, tmp_path, 0, 1000, 50, TINY)
    done.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert numbers(keyvalue) == list(range(1000))
    keyvalue.close()


def test_growth_waits_for_readers_with_a_limit(tmp_path):
    keyvalue = open_numbers(tmp_path, map_size=TINY, lock_timeout=0.05)
    entered, leave = threading.Event(), threading.Event()

    def read():
        with keyvalue.read():
            entered.set()
            leave.wait()

    thread = threading.Thread(target=read)
    thread.start()
    entered.wait()
    with pytest.raises(StoreBusy, match="did not end"):
        put_numbers(keyvalue, 0, 2000)
    assert numbers(keyvalue) == []
    leave.set()
    thread.join()
    put_numbers(keyvalue, 0, 2000)
    assert numbers(keyvalue) == list(range(2000))
    keyvalue.close()


def test_growth_by_another_process_is_followed(tmp_path, in_child):
    keyvalue = open_numbers(tmp_path, map_size=TINY)
    put_numbers(keyvalue, 0, 10)
    in_child(children.write_numbers, tmp_path, 10, 2000, 500, TINY)
    assert numbers(keyvalue) == list(range(2000))
    in_child(children.write_numbers, tmp_path, 2000, 6000, 1000, TINY)
    put_numbers(keyvalue, 6000, 6010)
    assert numbers(keyvalue) == list(range(6010))
    assert keyvalue.verify() == []
    keyvalue.close()


def test_processes_write_in_turn(tmp_path, in_child):
    keyvalue = open_numbers(tmp_path)
    release = threading.Event()
    outcome = []

    def elsewhere():
        outcome.append(in_child(children.write_numbers, tmp_path, 1, 2, 1, TINY))

    thread = threading.Thread(target=elsewhere)

    def work(txn):
        thread.start()
        release.wait(0.2)  # the other process has time to overtake, if it could
        assert not outcome
        txn.put("a", number_key(0), b"0" * 500)

    keyvalue.write(work)
    thread.join()
    assert numbers(keyvalue) == [0, 1]
    keyvalue.close()


def test_one_file_is_opened_once_in_a_process(tmp_path):
    first = open_numbers(tmp_path / "env")
    (tmp_path / "link").symlink_to(tmp_path / "env")
    second = open_lmdb(tmp_path / "link", ("a", "more"))
    put_numbers(first, 0, 3)
    second.write(lambda txn: txn.put("more", b"k", b"v"))
    assert numbers(second) == [0, 1, 2]
    first.close()
    first.close()
    assert numbers(second) == [0, 1, 2]
    with pytest.raises(KeyError), second.read() as txn:
        txn.get("none", b"k")
    second.close()
    third = open_numbers(tmp_path / "env")
    assert numbers(third) == [0, 1, 2]
    third.close()


def test_a_directory_made_anew_is_another_environment(tmp_path):
    old = open_numbers(tmp_path / "env")
    put_numbers(old, 0, 3)
    shutil.rmtree(tmp_path / "env")
    new = open_numbers(tmp_path / "env")
    assert numbers(new) == []
    assert numbers(old) == [0, 1, 2]
    old.close()
    put_numbers(new, 5, 6)
    assert numbers(new) == [5]
    new.close()


def test_closing_gives_files_back(tmp_path):
    keyvalue = open_numbers(tmp_path / "env")
    put_numbers(keyvalue, 0, 3)
    keyvalue.close()
    held = [os.path.realpath(f"/proc/self/fd/{each}") for each in os.listdir("/proc/self/fd")]
    assert not [path for path in held if path.startswith(str(tmp_path))]
    with open("/proc/self/maps") as maps:
        assert str(tmp_path) not in maps.read()


def test_files_are_private(tmp_path):
    open_numbers(tmp_path / "env").close()
    modes = [stat.S_IMODE((tmp_path / "env" / name).stat().st_mode) for name in (".", "data.mdb", "lock.mdb")]
    assert modes == [0o700, 0o600, 0o600]


def test_other_files_are_refused(tmp_path):
    (tmp_path / "data.mdb").write_bytes(b"not a database" * 1000)
    with pytest.raises(FormatError, match="not a store"):
        open_numbers(tmp_path)
    assert inspect_file(tmp_path)
    newer = tmp_path / "newer"
    module.lmdb.open(str(newer), lib_version=1).close()
    with pytest.raises(FormatError):
        open_numbers(newer)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be made"):
        open_numbers(tmp_path / "file")


def test_a_truncated_file_is_refused_not_read(tmp_path, in_child):
    in_child(children.write_numbers, tmp_path, 0, 500, 500, TINY)
    os.truncate(tmp_path / "data.mdb", (tmp_path / "data.mdb").stat().st_size // 2)
    with pytest.raises(CorruptRecord, match="damaged"):
        open_numbers(tmp_path)


def test_a_fork_goes_on_with_an_opening_of_its_own(tmp_path, in_child):
    assert in_child(children.fork_and_use, tmp_path) == (0, True)


def test_forks_among_working_threads(tmp_path, in_child):
    ended, failures = in_child(children.fork_while_others_work, tmp_path)
    assert not failures
    assert ended == [0] * 10


def test_a_fork_inside_a_transaction_is_refused_and_leaves_the_parent_alone(tmp_path, in_child):
    ended, second, still, registered = in_child(children.fork_inside_a_transaction, tmp_path)
    assert (ended, second) == (0, 0)
    assert still
    assert registered


def test_a_full_disk(tmp_path, in_child):
    error, kept, went_on, findings = in_child(children.fill_a_disk, tmp_path, 1 << 20)
    assert "no space left" in error
    assert kept
    assert went_on
    assert findings == []


def test_little_address_space(tmp_path, in_child):
    error, kept, writes = in_child(children.open_with_little_address_space, tmp_path)
    assert "ulimit" in error
    assert kept
    assert writes


def test_no_place_for_a_reader(tmp_path):
    keyvalue = open_numbers(tmp_path, lock_timeout=0.05)
    put_numbers(keyvalue, 0, 3)
    with ExitStack() as readers:
        for _ in range(1024):
            readers.enter_context(keyvalue.read())
        with pytest.raises(StoreBusy, match="reader"):
            numbers(keyvalue)
    assert numbers(keyvalue) == [0, 1, 2]
    keyvalue.close()


class Panicking:
    """An environment whose last commit failed in its meta page."""

    def __init__(self, real):
        self.real = real

    def __getattr__(self, name):
        return getattr(self.real, name)

    def begin(self, **_):
        raise module.lmdb.PanicError("MDB_PANIC: Update of meta page failed")


@pytest.mark.parametrize("first", [numbers, lambda keyvalue: put_numbers(keyvalue, 3, 4)])
def test_after_a_failed_meta_page_the_environment_is_opened_again(tmp_path, first):
    keyvalue = open_numbers(tmp_path)
    put_numbers(keyvalue, 0, 3)
    keyvalue._environment._lmdb = Panicking(keyvalue._environment._lmdb)
    first(keyvalue)
    put_numbers(keyvalue, 4, 5)
    assert [n for n in numbers(keyvalue) if n != 3] == [0, 1, 2, 4]
    keyvalue.close()


def test_a_store_that_vanishes_while_it_is_opened_is_not_mistaken_for_a_new_one(tmp_path, monkeypatch):
    def vanishing(path, map_size, opened=module._open):
        environment = opened(path, map_size)
        shutil.rmtree(path)
        return environment

    with monkeypatch.context() as patched:
        patched.setattr(module, "_open", vanishing)
        with pytest.raises(StoreError, match="while it was opened"):
            open_numbers(tmp_path / "gone")
    keyvalue = open_numbers(tmp_path / "new")
    put_numbers(keyvalue, 0, 1)
    keyvalue.close()
    assert (tmp_path / "new" / "data.mdb").exists()
