"""What the inverted index costs, how damage in it is found and mended, and that it goes where the records go."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from store.model import apply, random_write
from store.naive_index import differences, rows_as_they_are

from chroma_gpu.errors import CorruptRecord
from chroma_gpu.records import Mode, RecordBatch
from chroma_gpu.store.encoding import INVERTED, STATE, STATE_KEY, SUMMED, Summary, read_summary
from chroma_gpu.store.inverted import fold
from chroma_gpu.store.inverted.layout import REPAIR
from chroma_gpu.store.ledger import Ledger
from chroma_gpu.store.record_store import RecordStore
from chroma_gpu.store.seal import seal
from chroma_gpu.values import Kind

FOLD_ROWS = 64


@pytest.fixture(autouse=True, scope="module")
def small_folds():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fold, "FOLD_ROWS", FOLD_ROWS)
        yield


def batch(first, stop):
    """Rows of which some values are few and some are each row's own."""
    metadatas = [
        {"color": f"c{n % 5}", "own": f"value {n}", "n": n % 9, "x": n / 3, "tags": ["t", f"t{n % 4}"]}
        for n in range(first, stop)
    ]
    documents = [f"the document with number {n % 10}" for n in range(first, stop)]
    vectors = np.zeros((stop - first, 2), np.float32)
    return RecordBatch([f"id-{n}" for n in range(first, stop)], vectors, documents, metadatas)


def change(*rows):
    return RecordBatch([f"id-{row}" for row in rows], None, None, [{"color": "other", "n": -1, "own": None}] * len(rows))


class Counting:
    """A transaction that counts what is put and deleted."""

    def __init__(self, txn):
        self._txn = txn
        self.put_keys = []
        self.deleted = []
        self.read = 0

    def __getattr__(self, name):
        return getattr(self._txn, name)

    def get(self, table, key):
        self.read += 1
        return self._txn.get(table, key)

    def get_many(self, table, keys):
        keys = list(keys)
        self.read += len(keys)
        return self._txn.get_many(table, keys)

    def scan(self, *args, **settings):
        for item in self._txn.scan(*args, **settings):
            self.read += 1
            yield item

    def put(self, table, key, value):
        self.put_keys.append((table, key))
        self._txn.put(table, key, value)

    def put_many(self, table, items):
        items = list(items)
        self.put_keys += [(table, key) for key, _ in items]
        self._txn.put_many(table, items)

    def append(self, table, items):
        items = list(items)
        self.put_keys += [(table, key) for key, _ in items]
        self._txn.append(table, items)

    def delete(self, table, key):
        self.deleted.append((table, key))
        return self._txn.delete(table, key)


def counted(store, work):
    """What a write does to its transaction."""
    transactions, write = [], store._keyvalue.write

    def counting(job):
        def watched(txn):
            transactions.append(Counting(txn))
            return job(transactions[-1])

        return write(watched)

    store._keyvalue.write = counting
    work()
    store._keyvalue.write = write
    return transactions[-1]


def test_a_fold_costs_what_it_takes_in(new_store):
    costs = []
    for before in (10, 100):
        store = new_store()
        for n in range(before):
            store.write(batch(n * FOLD_ROWS, (n + 1) * FOLD_ROWS), Mode.ADD)
        end = before * FOLD_ROWS
        folds = store.state().folds
        added = counted(store, lambda store=store, end=end: store.write(batch(end, end + FOLD_ROWS), Mode.ADD))
        one = counted(store, lambda store=store, end=end: store.write(batch(end + FOLD_ROWS, end + FOLD_ROWS + 1), Mode.ADD))
        assert store.state().folds == folds + 1
        assert len(set(added.put_keys)) == len(added.put_keys), "a key is put once in a transaction"
        assert not set(added.put_keys) & set(added.deleted)
        costs.append([len(added.put_keys), len(added.deleted), len(one.put_keys), one.read])
    (puts, *rest), (later_puts, *later_rest) = costs
    assert later_rest == rest
    assert puts <= later_puts + 5, "blocks of documents may fall into pages in another way"
    assert abs(later_puts - puts) <= 5
    assert later_puts <= 6 * FOLD_ROWS + 60
    assert rest[1] <= 7, "a single add writes its records and nothing of the index"


def test_changes_are_folded_for_what_they_are(store):
    for n in range(50):
        store.write(batch(n * FOLD_ROWS, (n + 1) * FOLD_ROWS), Mode.ADD)
    rows = list(range(0, 50 * FOLD_ROWS, 50))
    store.write(change(*rows[: FOLD_ROWS - 1]), Mode.UPDATE)
    assert len(store.pending()) == FOLD_ROWS - 1
    last = counted(store, lambda: store.write(change(rows[FOLD_ROWS - 1]), Mode.UPDATE))
    assert len(store.pending()) == 0
    # Each loses a value of its own, and the others are few.
    assert len(last.put_keys) <= 200
    assert len(last.deleted) <= 2 * FOLD_ROWS + 10
    assert last.read <= 12 * FOLD_ROWS + 100
    assert store.verify() == []


def index_of(store, **parts):
    with store._keyvalue.read() as txn:
        return {table: list(txn.scan(table)) for table in INVERTED}


@pytest.fixture
def folded(store):
    for n in range(3):
        store.write(batch(n * FOLD_ROWS, (n + 1) * FOLD_ROWS), Mode.ADD)
    store.write(change(1, 2), Mode.UPDATE)
    store.delete(np.array([5, 6], np.uint32))
    assert store.verify() == []
    return store


@pytest.mark.parametrize("table", INVERTED)
def test_damage_is_found_and_mended(folded, table):
    key, value = index_of(folded)[table][-1]
    folded._keyvalue.write(lambda txn: txn.put(table, key, value[:-1] + bytes([value[-1] ^ 1])))
    found = folded.verify()
    assert found
    assert all(REPAIR in finding for finding in found)
    folded.refold()
    assert folded.verify() == []
    assert differences(folded, rows_as_they_are(folded)) == []


@pytest.mark.parametrize("table", INVERTED)
def test_a_lost_key_is_found_and_mended(folded, table):
    for key, value in index_of(folded)[table][:: max(len(index_of(folded)[table]) // 5, 1)]:
        before = index_of(folded)

        def lose(txn, key=key, value=value):
            ledger = Ledger(txn)
            ledger.remove(table, [(key, value)])
            txn.put(STATE, STATE_KEY, seal(STATE_KEY, msgspec.msgpack.encode(ledger.summary)))

        folded._keyvalue.write(lose)
        found = folded.verify()
        if table not in ("grams", "words"):  # of documents only some are looked at
            assert found, key
        assert all(REPAIR in finding for finding in found)
        folded.refold()
        assert folded.verify() == []
        assert index_of(folded).keys() == before.keys()


def test_damage_is_said_where_it_is_met(folded):
    state = folded.state()
    key, value = next(item for item in index_of(folded)["postings"] if item[0].endswith(b"=c3"))
    folded._keyvalue.write(lambda txn: txn.put("postings", key, value[:-1] + b"?"))
    index = folded.inverted(state.folds)
    assert index.among("color", Kind.STR, False, ["c4"])
    with pytest.raises(CorruptRecord, match="chroma-gpu repair"):
        index.among("color", Kind.STR, False, ["c3"])
    with pytest.raises(CorruptRecord, match="chroma-gpu repair"):
        folded.write(batch(1000, 1000 + FOLD_ROWS), Mode.ADD)
    assert folded.state() == state, "the write did not happen"
    folded.refold()
    folded.write(batch(1000, 1000 + FOLD_ROWS), Mode.ADD)
    assert folded.verify() == []


def test_values_that_are_not_there_are_found(folded):
    """Sealed and counted as they should be, but wrong."""
    key, value = next(item for item in index_of(folded)["postings"] if item[0].endswith(b"=c3"))
    other = next(item for item in index_of(folded)["postings"] if item[0].endswith(b"=c4"))

    def lie(txn):
        ledger = Ledger(txn)
        ledger.replace("postings", key, other[1][5:], value)
        txn.put(STATE, STATE_KEY, seal(STATE_KEY, msgspec.msgpack.encode(ledger.summary)))

    folded._keyvalue.write(lie)
    (found,) = folded.verify()
    assert "b'c3'" in found
    assert "'color'" in found
    folded.refold()
    assert folded.verify() == []


def test_a_state_that_does_not_say_which_chunks_have_changed(folded):
    """As earlier versions leave it: every chunk may have, at each fold."""

    def forget(txn):
        payload = msgspec.msgpack.decode(txn.get(STATE, STATE_KEY)[5:])
        payload.pop()
        txn.put(STATE, STATE_KEY, seal(STATE_KEY, msgspec.msgpack.encode(payload)))

    for folds in (3, 4):
        assert list(folded.inverted(folds).changed) == [folds]
        folded._keyvalue.write(forget)
        assert list(folded.inverted(folds).changed) == [folds]
        folded.write(change(10 + folds), Mode.UPDATE)
        folded.fold()
    assert list(folded.inverted(5).changed) == [5]


MALFORMED = (b"", b"\xc1", b"r\1", b"a\1", b"\xff" * 40, msgspec.msgpack.encode([1, 2]), b"\x94\xa2id\x81\xa1a\xc1\xc0\0")


@pytest.mark.parametrize("table", ["records", "documents", *INVERTED])
def test_what_is_sealed_but_cannot_be_read_is_a_finding(folded, table):
    with folded._keyvalue.read() as txn:
        key, value = next(iter(txn.scan(table)))

    def put(payload):
        def lie(txn):
            ledger = Ledger(txn)
            ledger.replace(table, key, payload, txn.get(table, key))
            txn.put(STATE, STATE_KEY, seal(STATE_KEY, msgspec.msgpack.encode(ledger.summary)))

        folded._keyvalue.write(lie)

    for payload in MALFORMED:
        put(payload)
        found = folded.verify()
        if table in INVERTED:
            assert found, payload
            assert all(REPAIR in finding for finding in found)
        elif table == "records" or payload[:1] in (b"\xc1", b"\xff", b"\x94"):
            assert any("Restore it from a copy" in finding for finding in found), payload
    put(value[5:])
    assert folded.verify() == []


def test_a_store_without_an_index_gets_one_at_the_next_write(new_store):
    store = new_store()
    for n in range(2):
        store.write(batch(n * FOLD_ROWS, (n + 1) * FOLD_ROWS - 1), Mode.ADD)
    store.write(change(3), Mode.UPDATE)
    before = rows_as_they_are(store)

    def forget(txn):
        """As it was before there was an index."""
        for table in INVERTED:
            txn.clear(table)
        summary = read_summary(txn)
        kept = SUMMED.index(INVERTED[0])  # nor were there the tables that came later
        summary.counts, summary.digests = summary.counts[:kept], summary.digests[:kept]
        fields = msgspec.to_builtins(summary)[: Summary.__struct_fields__.index("folds")]
        txn.put(STATE, STATE_KEY, seal(STATE_KEY, msgspec.msgpack.encode(fields)))

    store._keyvalue.write(forget)
    assert (store.state().folds, store.state().folded) == (0, 0)
    assert store.pending().tolist() == []
    assert store.verify() == []
    store.write(change(7), Mode.UPDATE)
    assert (store.state().folds, store.state().folded) == (1, 2 * FOLD_ROWS - 2)
    after = rows_as_they_are(store)
    assert before.keys() == after.keys()
    assert differences(store, after) == []
    assert store.verify() == []


def test_an_old_directory_is_opened(tmp_path):
    from chroma_gpu.store.lmdb import open_lmdb

    old_tables = ("ids", "records", "documents", "births", "dead", "changes", "state")
    keyvalue = open_lmdb(tmp_path / "records", old_tables)
    keyvalue.close()
    store = RecordStore.open(tmp_path)
    store.write(batch(0, FOLD_ROWS), Mode.ADD)
    assert store.state().folded == FOLD_ROWS
    assert store.verify() == []
    store.close()


def test_a_clone_has_the_index(tmp_path):
    store = RecordStore.open(tmp_path / "source")
    store.write(batch(0, FOLD_ROWS), Mode.ADD)
    store.write(change(1), Mode.UPDATE)
    taken = rows_as_they_are(store)
    with store.exclusive():
        RecordStore.clone(tmp_path / "source", tmp_path / "clone", store.state())
    clone = RecordStore.open(tmp_path / "clone")
    assert clone.state() == store.state()
    assert clone.pending().tolist() == [1]
    clone.write(change(2), Mode.UPDATE)
    assert store.pending().tolist() == [1], "they go apart"
    clone.fold()
    assert differences(clone, rows_as_they_are(clone)) == []
    assert rows_as_they_are(store) == taken
    assert clone.verify() == store.verify() == []
    store.close()
    clone.close()


@given(seed=st.integers(0, 2**32), steps=st.integers(1, 12))
def test_a_compacted_copy_has_everything_in_its_index(seed, steps):
    store, copy = RecordStore.in_memory(), RecordStore.in_memory()
    for step in range(steps):
        apply(store, *random_write(seed, step), by_row=True)
    store.copy_live(copy)
    assert copy.state().folded == copy.state().rows == store.state().live
    assert copy.totals() == store.totals()
    assert len(copy.pending()) == 0
    assert differences(copy, rows_as_they_are(copy)) == []
    assert copy.verify() == []
