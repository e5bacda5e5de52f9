"""Logs of vectors: on disk and in memory."""

from __future__ import annotations

import gc
import os

import numpy as np
import pytest

from chroma_gpu.errors import ClosedError, CorruptRecord
from chroma_gpu.store.memory import MemoryVectors
from chroma_gpu.store.vectors import VectorFile


@pytest.fixture
def log(kind, tmp_path):
    made = VectorFile(tmp_path / "vectors.f32") if kind == "lmdb" else MemoryVectors()
    yield made
    made.close()


def rows(first, stop, dim=5):
    return np.random.default_rng(0).standard_normal((1000, dim)).astype(np.float32)[first:stop]


def fill(log, first, stop):
    log.append(first, rows(first, stop))
    log.commit(stop, 5)


def test_rows_come_back(log):
    assert (len(log), log.dim) == (0, 0)
    assert log.block(0, 0).shape[0] == 0
    for first, stop in ((0, 1), (1, 70), (70, 500)):
        fill(log, first, stop)
        assert (len(log), log.dim) == (stop, 5)
        assert np.array_equal(log.block(0, stop), rows(0, stop))
    assert np.array_equal(log.block(13, 400), rows(13, 400))
    assert log.block(7, 7).shape == (0, 5)
    wanted = np.array([499, 0, 17, 17], np.uint32)
    assert np.array_equal(log.gather(wanted), rows(0, 500)[wanted])
    assert log.gather(np.empty(0, np.uint32)).shape == (0, 5)


def test_a_log_that_knows_only_its_length(log):
    log.commit(0, 5)
    assert log.block(0, 0).shape == (0, 5)
    assert log.gather(np.empty(0, np.uint32)).shape == (0, 5)
    fill(log, 0, 3)
    log.commit(1, 5)
    assert len(log) == 3


def test_blocks_are_read_only_and_gathered_rows_are_copies(log):
    fill(log, 0, 10)
    with pytest.raises(ValueError, match="read-only"):
        log.block(0, 10)[0, 0] = 1
    log.gather(np.array([1], np.uint32))[:] = 0
    assert np.array_equal(log.block(0, 10), rows(0, 10))


def test_a_block_outlives_growth_and_closing(log):
    fill(log, 0, 10)
    block = log.block(0, 10)
    fill(log, 10, 900)
    log.block(0, 900)
    log.close()
    gc.collect()
    assert np.array_equal(block, rows(0, 10))


def test_leftovers_of_a_failed_write_are_written_over(log):
    fill(log, 0, 10)
    log.append(10, rows(500, 700))
    assert len(log) == 10
    fill(log, 10, 12)
    fill(log, 12, 20)
    assert np.array_equal(log.block(0, 20), rows(0, 20))


@pytest.mark.parametrize("layout", [np.asfortranarray, lambda given: np.repeat(given, 2, axis=1)[:, ::2]])
def test_any_layout_is_taken(log, layout):
    log.append(0, layout(rows(0, 10)))
    log.commit(10, 5)
    assert np.array_equal(log.block(0, 10), rows(0, 10))


def test_rows_that_are_not_there(log):
    fill(log, 0, 10)
    with pytest.raises(IndexError):
        log.block(0, 2000)
    with pytest.raises(IndexError):
        log.gather(np.array([2000], np.uint32))


def test_what_another_opening_appends_is_read(tmp_path):
    mine, theirs = VectorFile(tmp_path / "v"), VectorFile(tmp_path / "v")
    fill(mine, 0, 10)
    theirs.commit(10, 5)
    assert np.array_equal(theirs.block(0, 10), rows(0, 10))
    fill(mine, 10, 300)
    theirs.commit(300, 5)
    assert np.array_equal(theirs.gather(np.arange(300, dtype=np.uint32)), rows(0, 300))
    mine.close()
    theirs.close()


def test_a_file_that_lost_rows_is_neither_read_nor_written(tmp_path):
    fill(log := VectorFile(tmp_path / "v"), 0, 10)
    os.truncate(tmp_path / "v", 5 * 5 * 4)
    with pytest.raises(CorruptRecord, match="ends before row 10"):
        log.block(0, 10)
    with pytest.raises(CorruptRecord):
        log.append(10, rows(10, 11))
    log.close()


def test_a_closed_file_says_so(tmp_path):
    fill(log := VectorFile(tmp_path / "v"), 0, 10)
    log.close()
    log.close()
    with pytest.raises(ClosedError):
        log.block(0, 1)
    with pytest.raises(ClosedError):
        log.append(10, rows(10, 11))
