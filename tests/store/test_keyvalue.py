"""Every environment behaves as one: transactions, order, isolation, limits."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sortedcontainers import SortedDict

from chroma_gpu.errors import ClosedError, StoreBusy
from chroma_gpu.store.lmdb import open_lmdb
from chroma_gpu.store.memory import MemoryKeyValue


def put(keyvalue, **items):
    def work(txn):
        for key, value in items.items():
            txn.put("a", key.encode(), value)

    keyvalue.write(work)


def everything(keyvalue, table="a"):
    with keyvalue.read() as txn:
        return list(txn.scan(table))


def test_values_come_back_in_the_order_of_keys(keyvalue):
    put(keyvalue, b=b"2", c=b"", a=b"1")
    assert everything(keyvalue) == [(b"a", b"1"), (b"b", b"2"), (b"c", b"")]
    with keyvalue.read() as txn:
        assert txn.get("a", b"c") == b""
        assert txn.get("a", b"d") is None
        assert txn.get("b", b"a") is None
        assert txn.get_many("a", [b"c", b"x", b"a", b"a"]) == [(b"c", b""), (b"a", b"1"), (b"a", b"1")]
        assert (txn.last("a"), txn.last("b")) == (b"c", None)


def test_scan_bounds(keyvalue):
    put(keyvalue, a=b"1", aa=b"2", ab=b"3", b=b"4", c=b"5")
    with keyvalue.read() as txn:

        def keys(*args, **bounds):
            return [key for key, _ in txn.scan("a", *args, **bounds)]

        assert keys(b"ab") == [b"ab", b"b", b"c"]
        assert keys(b"aaa") == [b"ab", b"b", b"c"]
        assert keys(stop=b"b") == [b"a", b"aa", b"ab"]
        assert keys(b"aa", stop=b"aa") == []
        assert keys(prefix=b"a") == [b"a", b"aa", b"ab"]
        assert keys(b"aaz", prefix=b"a") == [b"ab"]
        assert keys(b"b", prefix=b"a") == []
        assert keys(b"d") == []
        assert list(txn.scan("a", b"b", values=False)) == [(b"b", b""), (b"c", b"")]
        assert list(txn.scan("b")) == []


def test_a_write_sees_itself_and_others_see_it_after_the_commit(keyvalue):
    put(keyvalue, a=b"old", b=b"old")
    seen = []

    def elsewhere():
        seen.append(everything(keyvalue))

    def work(txn):
        txn.put("a", b"a", b"new")
        txn.put_many("a", [(b"d", b"4"), (b"c", b"3")])
        assert txn.delete("a", b"b")
        assert not txn.delete("a", b"zz")
        assert list(txn.scan("a")) == [(b"a", b"new"), (b"c", b"3"), (b"d", b"4")]
        assert txn.get("a", b"b") is None
        assert txn.get_many("a", [b"b", b"a"]) == [(b"a", b"new")]
        assert txn.last("a") == b"d"
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        with keyvalue.read() as own:
            seen.append(list(own.scan("a")))
        return "done"

    assert keyvalue.write(work) == "done"
    assert seen == [[(b"a", b"old"), (b"b", b"old")]] * 2
    assert everything(keyvalue) == [(b"a", b"new"), (b"c", b"3"), (b"d", b"4")]


def test_an_exception_rolls_back(keyvalue):
    put(keyvalue, a=b"1", b=b"2")

    def work(txn):
        txn.put("a", b"a", b"changed")
        txn.delete("a", b"b")
        txn.append("a", [(b"z", b"new")])
        txn.put("b", b"k", b"v")
        raise LookupError("no")

    with pytest.raises(LookupError):
        keyvalue.write(work)
    assert everything(keyvalue) == [(b"a", b"1"), (b"b", b"2")]
    assert everything(keyvalue, "b") == []
    put(keyvalue, c=b"3")
    assert everything(keyvalue)[-1] == (b"c", b"3")


def test_a_snapshot_stays_while_others_commit(kind, keyvalue):
    put(keyvalue, a=b"1")
    writer = threading.Thread(target=put, args=(keyvalue,), kwargs={"a": b"2"})
    with keyvalue.read() as txn:
        assert txn.get("a", b"a") == b"1"
        writer.start()
        if kind == "lmdb":
            writer.join()  # in memory the commit waits for the reader
        assert txn.get("a", b"a") == b"1"
    writer.join()
    assert everything(keyvalue) == [(b"a", b"2")]


def test_append_wants_keys_above_the_last(keyvalue):
    keyvalue.write(lambda txn: txn.append("a", [(b"b", b"1"), (b"c", b"2")]))
    for items in ([(b"a", b"x")], [(b"c", b"x")], [(b"e", b"x"), (b"d", b"x")]):
        with pytest.raises(ValueError, match="ascend"):
            keyvalue.write(lambda txn, items=items: txn.append("a", items))
    assert everything(keyvalue) == [(b"b", b"1"), (b"c", b"2")]

    def after_deleting(txn):
        txn.delete("a", b"c")
        txn.append("a", [(b"bb", b"3")])

    keyvalue.write(after_deleting)
    assert everything(keyvalue) == [(b"b", b"1"), (b"bb", b"3")]


@pytest.mark.parametrize("key", [b"", b"k" * 512])
def test_keys_have_limits(keyvalue, key):
    with pytest.raises(ValueError, match="511"):
        keyvalue.write(lambda txn: txn.put("a", key, b""))
    put(keyvalue, **{"k" * 511: b"longest"})
    assert everything(keyvalue) == [(b"k" * 511, b"longest")]


def test_unknown_tables_are_refused(keyvalue):
    with pytest.raises(KeyError):
        keyvalue.write(lambda txn: txn.put("c", b"k", b"v"))
    with pytest.raises(KeyError), keyvalue.read() as txn:
        txn.get("c", b"k")


def test_a_thread_does_not_wait_for_itself(keyvalue):
    with keyvalue.read(), pytest.raises(RuntimeError, match="still open"):
        put(keyvalue, a=b"1")
    with pytest.raises(RuntimeError, match="still open"):
        keyvalue.write(lambda txn: put(keyvalue, a=b"1"))
    put(keyvalue, a=b"1")


def test_hold_keeps_writers_out_and_lets_readers_in(kind, tmp_path):
    made = open_lmdb(tmp_path, ("a",), lock_timeout=0.05) if kind == "lmdb" else MemoryKeyValue(("a",), lock_timeout=0.05)
    put(made, a=b"1")
    outcome = []

    def elsewhere():
        outcome.append(everything(made))
        try:
            put(made, a=b"2")
        except StoreBusy as busy:
            outcome.append(busy)

    with made.hold():
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert everything(made) == [(b"a", b"1")]
        with pytest.raises(RuntimeError):
            put(made, a=b"3")
    assert outcome[0] == [(b"a", b"1")]
    assert isinstance(outcome[1], StoreBusy)
    put(made, a=b"4")
    assert everything(made) == [(b"a", b"4")]
    made.close()


def test_threads_count_together(keyvalue):
    put(keyvalue, n=b"0")

    def step(txn):
        txn.put("a", b"n", b"%d" % (int(txn.get("a", b"n")) + 1))

    threads = [threading.Thread(target=lambda: [keyvalue.write(step) for _ in range(25)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert everything(keyvalue) == [(b"n", b"100")]


def test_a_closed_environment_says_so(keyvalue):
    keyvalue.close()
    keyvalue.close()
    with pytest.raises(ClosedError):
        put(keyvalue, a=b"1")
    with pytest.raises(ClosedError), keyvalue.read():
        pass


def test_a_sound_environment_verifies(keyvalue):
    keyvalue.write(lambda txn: txn.append("a", [(b"%08d" % n, b"v" * n) for n in range(3000)]))
    keyvalue.write(lambda txn: [txn.delete("a", b"%08d" % n) for n in range(0, 3000, 3)])
    assert keyvalue.verify() == []


KEYS = st.binary(min_size=1, max_size=3)
CHANGES = st.lists(st.tuples(KEYS, st.one_of(st.none(), st.binary(max_size=4))), max_size=12)


@given(st.lists(st.tuples(CHANGES, st.booleans()), max_size=8), KEYS, KEYS)
def test_random_transactions_equal_a_dictionary(tmp_path_factory, transactions, low, high):
    opened = [MemoryKeyValue(("a",)), open_lmdb(tmp_path_factory.mktemp("env"), ("a",), map_size=1 << 22)]
    for keyvalue in opened:
        expected = {}
        for changes, commits in transactions:
            inside = dict(expected)

            def work(txn, changes=changes, commits=commits, inside=inside):
                for key, value in changes:
                    if value is None:
                        assert txn.delete("a", key) == (key in inside)
                        inside.pop(key, None)
                    else:
                        txn.put("a", key, value)
                        inside[key] = value
                    assert txn.last("a") == max(inside, default=None)
                assert list(txn.scan("a")) == sorted(inside.items())
                if not commits:
                    raise LookupError

            if commits:
                keyvalue.write(work)
                expected = inside
            else:
                with pytest.raises(LookupError):
                    keyvalue.write(work)
        with keyvalue.read() as txn:
            assert list(txn.scan("a")) == sorted(expected.items())
            assert list(txn.scan("a", low, stop=high)) == sorted(item for item in expected.items() if low <= item[0] < high)
            assert dict(txn.get_many("a", expected)) == expected
        keyvalue.close()


def test_an_interrupted_write_to_memory_is_whole(monkeypatch):
    keyvalue = MemoryKeyValue(("a", "b"))
    keyvalue.write(lambda txn: txn.put_many("a", [(b"old", b"1"), (b"gone", b"1")]))
    added = SortedDict.__setitem__

    def interrupted(table, key, value):
        if key == b"3":
            table._list_add(key)  # as if it came between the two halves of a sorted dictionary
            raise KeyboardInterrupt
        added(table, key, value)

    def work(txn):
        txn.delete("a", b"gone")
        txn.put_many("a", [(b"%d" % n, b"2") for n in range(6)])
        txn.put("b", b"x", b"2")

    with monkeypatch.context() as patched:
        patched.setattr(SortedDict, "__setitem__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            keyvalue.write(work)
    with keyvalue.read() as txn:
        assert [key for key, _ in txn.scan("a")] == [*(b"%d" % n for n in range(6)), b"old"]
        assert list(txn.scan("b")) == [(b"x", b"2")]
