"""ByteCache: what was read or computed is kept while it fits into so many bytes; the least recently used goes first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any


class ByteCache:
    """A budget of bytes that many sections share.  Safe for many threads."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._lock = threading.Lock()
        self._held: OrderedDict[tuple[Section, Hashable], tuple[Any, int]] = OrderedDict()
        self._nbytes = 0

    @property
    def nbytes(self) -> int:
        """Bytes held, never above the capacity."""
        return self._nbytes

    def section(self) -> Section:
        """A new section: keys of its own, dropped together."""
        return Section(self)


class Section:
    """The entries of one owner in one state: what they are computed from must never change while the section lives."""

    def __init__(self, cache: ByteCache) -> None:
        self._cache = cache
        self._keys: set[Hashable] | None = set()

    def successor(self) -> Section:
        """An empty section of the same cache, for the next state. This one is dropped."""
        self.drop()
        return Section(self._cache)

    def get(self, key: Hashable) -> Any:
        """What was put under a key, or None."""
        cache = self._cache
        with cache._lock:
            entry = cache._held.get((self, key))
            if entry is None:
                return None
            cache._held.move_to_end((self, key))
            return entry[0]

    def put(self, key: Hashable, value: Any, nbytes: int) -> None:
        """Keep a value that takes so many bytes together with its key. One that is larger than the cache, or of a dropped section, is not kept."""
        cache = self._cache
        nbytes += _ENTRY
        with cache._lock:
            if self._keys is None or nbytes > cache.capacity:
                return
            old = cache._held.pop((self, key), None)
            cache._nbytes += nbytes - (0 if old is None else old[1])
            cache._held[self, key] = value, nbytes
            self._keys.add(key)
            while cache._nbytes > cache.capacity:
                (section, gone), (_, freed) = cache._held.popitem(last=False)
                cache._nbytes -= freed
                if section._keys is not None:
                    section._keys.discard(gone)

    def drop(self) -> None:
        """Forget every entry, and take no more.  Cost: O(entries)"""
        cache = self._cache
        with cache._lock:
            keys, self._keys = self._keys, None
            for key in keys or ():
                cache._nbytes -= cache._held.pop((self, key))[1]


_ENTRY = 500
"""Bytes that keeping an entry costs by itself."""
