"""Masks that are on a device already, and parts of masks, are not sent there again."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch

from chroma_gpu.index.gpu.masks import MaskCache
from chroma_gpu.rowset import RowSet

N = 3_000


@pytest.fixture
def mask():
    return RowSet.where(np.random.default_rng(5).random(N) < 0.3)


def on_device(mask, device):
    return torch.from_numpy(mask.words.view(np.int32).copy()).to(device)


def test_words_that_are_there_are_not_sent(device, mask):
    cache = MaskCache()
    words = on_device(mask, device)
    cache.put(mask, device, words)
    assert cache.words(mask, device) is words
    assert cache.rows(mask, device, 1024, 0, 1).tolist() == mask.rows().tolist()
    assert cache.rows(mask, device, 1024, 1, 2).tolist() == [row for row in mask.rows().tolist() if row // 1024 % 2 == 1]
    assert cache.uploads == 0
    assert cache.rows(RowSet(mask.words.copy(), N), device, 1024, 0, 1).tolist() == mask.rows().tolist()
    assert cache.uploads == 1


@pytest.mark.parametrize("size", [0, 1, 64, 2_000, N - 1])
def test_a_part_is_cut_once_and_uses_what_is_there_of_the_whole(device, mask, size):
    cache = MaskCache()
    cache.put(mask, device, on_device(mask, device))
    cut = cache.cut(mask, size)
    assert cut.size == size
    assert cut.rows().tolist() == [row for row in mask.rows().tolist() if row < size]
    assert cache.cut(mask, size) is cut
    assert cache.rows(cut, device, 1024, 0, 1).tolist() == cut.rows().tolist(), "the words go on behind its size"
    assert cache.words(cut, device) is cache.words(mask, device)
    assert cache.uploads == 0
    assert cache.cut(mask, N) is mask


def test_a_part_is_forgotten_with_its_whole():
    cache = MaskCache()
    mask = RowSet.full(N)
    cut = cache.cut(mask, 100)
    other = RowSet.full(N)
    del mask
    gc.collect()
    cache.cut(other, 10)
    assert sorted(size for _, size in cache._cuts) == [10]
    assert len(cut.words) == 2


def test_few_parts_are_remembered(mask):
    cache = MaskCache()
    first = cache.cut(mask, 1)
    for size in range(2, 66):
        cache.cut(mask, size)
    assert cache.cut(mask, 1) is not first
    assert cache.cut(mask, 65) is cache.cut(mask, 65)
