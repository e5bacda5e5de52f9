"""The cache of filters: a budget in bytes, sections that live and go together."""

from __future__ import annotations

import threading

import pytest

from chroma_gpu.bytecache import _ENTRY, ByteCache


@pytest.fixture
def cache():
    return ByteCache(3 * (_ENTRY + 100))


def test_the_least_recently_used_goes_first(cache):
    section = cache.section()
    for name in "abc":
        section.put(name, name.upper(), 100)
    assert section.get("a") == "A"
    section.put("d", "D", 100)
    assert [section.get(name) for name in "abcd"] == ["A", None, "C", "D"]
    assert cache.nbytes == cache.capacity


def test_what_is_larger_than_the_cache_is_not_kept_and_pushes_nothing_out(cache):
    section = cache.section()
    section.put("small", 1, 0)
    section.put("large", 2, cache.capacity)
    assert (section.get("small"), section.get("large")) == (1, None)


def test_a_key_holds_what_was_put_last(cache):
    section = cache.section()
    section.put("a", 1, 100)
    section.put("a", 2, 300)
    assert (section.get("a"), cache.nbytes) == (2, _ENTRY + 300)


def test_sections_share_the_budget_and_nothing_else(cache):
    one, other = cache.section(), cache.section()
    one.put("a", 1, 100)
    other.put("a", 2, 100)
    assert (one.get("a"), other.get("a")) == (1, 2)
    for name in "bcd":
        other.put(name, 0, 100)
    assert one.get("a") is None
    one.drop()
    assert other.get("d") == 0


def test_a_dropped_section_gives_its_bytes_back_and_takes_no_more(cache):
    section = cache.section()
    section.put("a", 1, 100)
    following = section.successor()
    assert cache.nbytes == 0
    section.put("a", 1, 100)
    assert (section.get("a"), following.get("a"), cache.nbytes) == (None, None, 0)
    section.drop()
    following.put("a", 3, 0)
    assert following.get("a") == 3


def test_many_threads_keep_the_account_right():
    cache = ByteCache(50 * _ENTRY)

    def work(seed):
        section = cache.section()
        for n in range(2_000):
            section.put((seed * n) % 97, n, n % 300)
            section.get(n % 97)
            if n % 500 == 499:
                section = section.successor()
        section.drop()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (3, 5, 7, 11)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (cache.nbytes, len(cache._held)) == (0, 0)
