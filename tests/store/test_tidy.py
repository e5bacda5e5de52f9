"""Documents that were taken in bit by bit are taken in as one, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest

from chroma_gpu import words
from chroma_gpu.records import Mode, RecordBatch
from chroma_gpu.roaring import CHUNK
from chroma_gpu.store.encoding import TEXTS
from chroma_gpu.store.inverted import tidy
from chroma_gpu.store.record_store import RecordStore

ROWS, BATCH = CHUNK + 2_000, 8_192
ASKED = {"number 7": b"number 7", "a hundred": b"hundred", "absent": b"zebra"}


@pytest.fixture
def store():
    made = RecordStore.in_memory()
    for first in range(0, ROWS, BATCH):
        ids = [str(row) for row in range(first, min(first + BATCH, ROWS))]
        documents = [f"number {id_}" + (" hundred" if id_.endswith("00") else "") for id_ in ids]
        made.write(RecordBatch(ids, np.zeros((len(ids), 1), np.float32), documents), Mode.ADD)
    made.fold()
    yield made
    made.close()


def blocks(store):
    with store._keyvalue.read() as txn:
        return [int.from_bytes(key[:2], "big") for key, _ in txn.scan(TEXTS)]


def told(store):
    """What the index says of the rows that have some texts and words."""
    index = store.inverted(store.state().folds)
    rows = {}
    for name, text in ASKED.items():
        found = index.containing([text[at : at + 3] for at in range(len(text) - 2)]).rows()
        rows[name] = [
            row for row, document in zip(found.tolist(), store.documents(found), strict=True) if text in (document or b"")
        ]
    keys, _ = words.hashes("hundred")
    ((having, often),) = index.word_postings(keys)
    counted, unknown = index.lengths()
    return rows, having.tolist(), often.tolist(), counted.tolist(), unknown.rows().tolist()


def test_a_full_chunk_becomes_one_block_and_says_the_same(store):
    before, many = told(store), blocks(store)
    assert many.count(0) == 8
    assert store.tidy()
    assert blocks(store) == [0, *[chunk for chunk in many if chunk]]
    assert told(store) == before
    assert before[0]["a hundred"] == list(range(100, ROWS, 100))
    assert not store.tidy()
    assert store.verify() == []


def test_what_was_rewritten_or_removed_is_known(store):
    store.write(RecordBatch(["500", "501"], documents=["hundred times hundred", "nothing"]), Mode.UPDATE)
    store.delete(np.array([300], np.uint32))
    assert store.tidy()
    assert store.pending().tolist() == [500, 501]
    store.fold()
    rows, having, often, *_ = told(store)
    assert 500 in rows["a hundred"]
    assert 300 not in rows["a hundred"]
    assert often[having.index(500)] == 2
    assert store.verify() == []


def test_blocks_that_changed_meanwhile_are_left(store):
    with store._keyvalue.read() as txn:
        found = tidy.crowded(txn, store.state().folded, words.Indexing.FULL)
    store.write(RecordBatch(["500"], documents=["hundred times hundred"]), Mode.UPDATE)
    store.fold()
    before = told(store)
    store._keyvalue.write(lambda txn: tidy.replace(txn, found, []))
    assert told(store) == before


def test_it_can_be_stopped(store):
    many = blocks(store)
    assert not store.tidy(lambda: True)
    assert blocks(store) == many
