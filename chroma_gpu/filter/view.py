"""IndexedView: the metadata and documents of a table at one moment, from its inverted index and from what that does not know yet."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial, reduce
from operator import and_, or_
from sys import getsizeof
from typing import Final, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from chroma_gpu import roaring
from chroma_gpu.bytecache import Section
from chroma_gpu.filter.column import Bounds
from chroma_gpu.filter.columns import ColumnView
from chroma_gpu.filter.inverted import Inverted
from chroma_gpu.filter.numbers import Numbers, all_between
from chroma_gpu.filter.overlay import OverlayView
from chroma_gpu.roaring import WORDS, Postings
from chroma_gpu.rowset import RowSet
from chroma_gpu.values import ColumnStatistics, Kind, NumberBlock, Scalar, stored

A = TypeVar("A")
T = TypeVar("T")
Chunks: TypeAlias = Sequence[int] | None
"""Some chunks of rows, or None for all."""


class Lookup(Protocol):
    """What operators and evaluation ask. Row sets cover [0, size), rows that left the table included; the caller masks them."""

    @property
    def size(self) -> int:
        """How many rows are covered."""
        ...

    @property
    def indexed(self) -> int:
        """How many of the first rows the inverted index answers for."""
        ...

    def equal(self, field: str, value: Scalar) -> RowSet:
        """The rows whose scalar equals value: bool and bool, str and str, numbers and numbers. An array equals nothing."""
        ...

    def among(self, field: str, values: Sequence[Scalar]) -> RowSet:
        """The rows whose scalar equals one of values."""
        ...

    def between(
        self,
        field: str,
        low: int | float | None,
        high: int | float | None,
        *,
        include_low: bool = True,
        include_high: bool = True,
    ) -> RowSet:
        """The rows whose int or float lies between two bounds; None is no bound."""
        ...

    def between_all(self, conditions: Sequence[tuple[str, Bounds]]) -> RowSet:
        """The rows of which every one of some fields has an int or float between its bounds; at least one."""
        ...

    def containing(self, field: str, value: Scalar) -> RowSet:
        """The rows whose array has an element of value's very type that equals it. A scalar contains nothing."""
        ...

    def has(self, field: str) -> RowSet:
        """The rows that have a value of any type; sparse vectors are none."""
        ...

    def count(self, field: str) -> int:
        """About how many values a condition on this field looks at."""
        ...

    def documents_with(self, grams: Sequence[bytes]) -> RowSet:
        """A superset of the rows whose document has all of some three-byte strings."""
        ...

    def documents_containing(self, text: bytes) -> tuple[RowSet, RowSet]:
        """The rows whose document is known to have a text of one byte or more, and these with those that may have it."""
        ...

    def restricted(self, within: RowSet) -> Lookup:
        """The same, of which answers need only be right for the rows of ``within``."""
        ...


class KeptIndex:
    """An inverted index whose answers are kept as long as there is room.

    kept     a section of its own, which goes when the index does
    lasting  a section for all indexes of one store: what was found of a chunk holds until the metadata in it changes
    gone     the index was found to have gone on: take a new one
    """

    def __init__(self, inverted: Inverted, kept: Section, lasting: Section) -> None:
        self.rows = inverted.rows
        self.gone = False
        self.columns: dict[str, dict[tuple[Kind | None, bool], int]] = {}
        """How many values each column of a field holds."""
        self._inverted = inverted
        self._kept = kept
        self._lasting = lasting
        self._changed = tuple(inverted.changed)
        for each in self._asked(inverted.statistics):
            self.columns.setdefault(each.field, {})[each.kind, each.array] = each.count

    def among(self, field: str, kind: Kind, array: bool, values: tuple[Scalar, ...]) -> RowSet:
        """``Inverted.among``."""
        if (kind, array) not in self.columns.get(field, ()):
            return RowSet.empty(self.rows)
        key = field, kind, array, values
        return self._rows(key, partial(self._inverted.among, field, kind, array, values), sum(map(getsizeof, values)))

    def having(self, field: str, kind: Kind | None, array: bool) -> RowSet:
        """``Inverted.having``."""
        return self._rows((field, kind, array), partial(self._inverted.having, field, kind, array))

    def numbers(self, field: str) -> list[Numbers]:
        """The ints and the floats of a field, if it has any."""
        kinds = [kind for kind, array in self.columns.get(field, ()) if kind in (Kind.INT, Kind.FLOAT) and not array]
        return [self._numbers(field, kind) for kind in kinds if kind is not None]

    def containing(self, grams: tuple[bytes, ...]) -> RowSet:
        """``Inverted.containing``."""
        found: RowSet | None = self._kept.get(grams)
        if found is None:
            found = self._asked(lambda: self._inverted.containing(grams))
            self._kept.put(grams, found, found.words.nbytes)
        return found

    def containing_text(self, text: bytes) -> tuple[RowSet, RowSet]:
        """``Inverted.containing_text``."""
        found: tuple[RowSet, RowSet] | None = self._kept.get(text)
        if found is None:
            found = self._asked(lambda: self._inverted.containing_text(text))
            self._kept.put(text, found, len(text) + sum(rows.words.nbytes for rows in found))
        return found

    @property
    def changed(self) -> tuple[int, ...]:
        """``Inverted.changed``."""
        return self._changed

    def blocks(self, field: str, kind: Kind, chunks: Sequence[int]) -> Sequence[NumberBlock]:
        """``Inverted.numbers``, which is not kept here."""
        return self._asked(lambda: self._inverted.numbers(field, kind, chunks))

    def values(self, field: str, kind: Kind, chunks: Sequence[int], most: int) -> Sequence[tuple[int, bytes, bytes]] | None:
        """``Inverted.values``."""
        return self._asked(lambda: self._inverted.values(field, kind, chunks, most))

    def value_keys(self, kind: Kind, values: Sequence[Scalar]) -> Sequence[bytes]:
        """``Inverted.value_keys``."""
        return self._inverted.value_keys(kind, values)

    def drop(self) -> None:
        """Give the room back, but for what lasts."""
        self._kept.drop()

    def _rows(self, key: Hashable, ask: Callable[[Chunks], Postings], key_bytes: int = 0) -> RowSet:
        """The rows of postings, which are kept as they are if they are small, and else as a bitmap."""

        def asked(chunks: Chunks) -> Postings | RowSet:
            postings = ask(chunks)
            return postings if _SMALL * _nbytes(postings) <= self.rows // 8 else self._set(postings)

        return self._set(self._lasting_or(key, asked, self._merged, lambda found: key_bytes + _nbytes(found)))

    def _merged(self, old: Postings | RowSet, new: Postings | RowSet, chunks: Sequence[int]) -> Postings | RowSet:
        if isinstance(old, RowSet) or isinstance(new, RowSet):
            return _replaced(self._set(old), self._set(new), chunks)
        return sorted([*(each for each in old if each[0] not in chunks), *new])

    def _set(self, found: Postings | RowSet) -> RowSet:
        if isinstance(found, RowSet):
            return found
        return RowSet(roaring.union(found, len(self._changed))[: (self.rows + 63) // 64], self.rows)

    def _numbers(self, field: str, kind: Kind) -> Numbers:
        def ask(chunks: Chunks) -> Numbers:
            return Numbers.of(kind, self.rows, self._inverted.numbers(field, kind, chunks))

        return self._lasting_or(("#", field, kind), ask, Numbers.replaced, lambda found: found.nbytes)

    def _lasting_or(
        self, key: Hashable, ask: Callable[[Chunks], T], replaced: Callable[[T, T, Sequence[int]], T], nbytes: Callable[[T], int]
    ) -> T:
        """What is kept; what the index says where nothing is, or of those chunks that have changed since.

        replaced  what is kept, with what is new in place of what it had of some chunks
        """
        kept: tuple[tuple[int, ...], T] | None = self._lasting.get(key)
        if kept is None:
            found = self._asked(lambda: ask(None))
        else:
            then, old = kept
            if then == self._changed:
                return old
            chunks = [at for at, changed in enumerate(self._changed) if at >= len(then) or then[at] != changed]
            found = replaced(old, self._asked(lambda: ask(chunks)), chunks)
        self._lasting.put(key, (self._changed, found), nbytes(found))
        return found

    def _asked(self, ask: Callable[[], A]) -> A:
        try:
            return ask()
        except KeyError:
            self.gone = True
            raise


class IndexedView:
    """The metadata of rows [0, size) at one moment; see ``Lookup``.

    Cost  a condition is one row set of the index, which may be kept, and one pass over the overlay
    """

    def __init__(self, size: int, index: KeptIndex, overlay: OverlayView, within: RowSet | None = None) -> None:
        self._size = size
        self._index = index
        self._overlay = overlay
        self._within = within

    @property
    def size(self) -> int:
        return self._size

    @property
    def indexed(self) -> int:
        return self._index.rows

    @property
    def index(self) -> KeptIndex:
        """What answers for the first rows."""
        return self._index

    @property
    def overlay(self) -> OverlayView:
        """The rows that it does not answer for."""
        return self._overlay

    def equal(self, field: str, value: Scalar) -> RowSet:
        return self.among(field, (value,))

    def among(self, field: str, values: Sequence[Scalar]) -> RowSet:
        found = [numbers.among(values, self._within) for numbers in self._numbers_for(field, values)]
        for kind, of in ((Kind.STR, str), (Kind.BOOL, bool)):
            wanted = tuple(value for value in values if isinstance(value, of))
            found += [self._index.among(field, kind, False, wanted)] if wanted else []
        return self._with_overlay(found, lambda columns: columns.among(field, values))

    def between(
        self,
        field: str,
        low: int | float | None,
        high: int | float | None,
        *,
        include_low: bool = True,
        include_high: bool = True,
    ) -> RowSet:
        return self.between_all([(field, (low, high, include_low, include_high))])

    def between_all(self, conditions: Sequence[tuple[str, Bounds]]) -> RowSet:
        fields: dict[str, list[Bounds]] = {}
        for field, bounds in conditions:
            fields.setdefault(field, []).append(bounds)
        together: list[tuple[Numbers, list[Bounds]]] = []
        found: list[RowSet] = []
        for field, several in fields.items():
            columns = [(numbers, several) for numbers in self._index.numbers(field)]
            if len(columns) == 1:
                together += columns
            else:
                rows = [all_between([column], self._within) for column in columns]
                found.append(reduce(or_, rows) if rows else RowSet.empty(self._index.rows))
        if together:
            found.append(all_between(together, self._within))
        return self._with_overlay([reduce(and_, found)], lambda columns: columns.between_all(conditions))

    def containing(self, field: str, value: Scalar) -> RowSet:
        known = stored(value)
        found = [] if known is None else [self._index.among(field, known[0], True, (known[1],))]
        return self._with_overlay(found, lambda columns: columns.containing(field, value))

    def has(self, field: str) -> RowSet:
        columns = [column for column in self._index.columns.get(field, ()) if column[0] is not None]
        return self._with_overlay([self._index.having(field, *column) for column in columns], lambda late: late.has(field))

    def numbers(self, field: str) -> npt.NDArray[np.float64]:
        """[size] float64: the int or float of each row, NaN where there is none."""
        found = np.full(self._size, np.nan)
        for each in self._index.numbers(field):
            each.fill(found)
        late = self._overlay.columns.numbers(field)
        found[self._overlay.rows] = np.nan  # also of rows that the index knew otherwise
        found[self._overlay.rows[: len(late)]] = late
        return found

    def count(self, field: str) -> int:
        held = self._index.columns.get(field, {})
        return sum(count for (kind, _), count in held.items() if kind is not None) + self._overlay.columns.count(field)

    def statistics(self) -> list[ColumnStatistics]:
        """Every column with its counts; rows that left the table, and what others had before they were rewritten, may be among them."""
        counts = {(field, *column): count for field, held in self._index.columns.items() for column, count in held.items()}
        late: dict[tuple[str, Kind | None, bool], int] = {(field, None, False): 1 for field in self._overlay.sparse}
        late |= {(each.field, each.kind, each.array): each.count for each in self._overlay.columns.statistics()}
        for column, count in late.items():
            counts[column] = counts.get(column, 0) + count
        return [ColumnStatistics(*column, count) for column, count in counts.items()]

    def documents_with(self, grams: Sequence[bytes]) -> RowSet:
        found = [self._index.containing(tuple(grams))] if self._index.rows else []
        return self._with_overlay(found, lambda columns: RowSet.full(columns.size))

    def documents_containing(self, text: bytes) -> tuple[RowSet, RowSet]:
        have, may = ([rows] for rows in self._index.containing_text(text)) if self._index.rows else ([], [])
        known = self._with_overlay(have, lambda columns: RowSet.empty(columns.size))
        return known, self._with_overlay(may, lambda columns: RowSet.full(columns.size))

    def restricted(self, within: RowSet) -> IndexedView:
        return IndexedView(self._size, self._index, self._overlay, within.resized(self._index.rows))

    def _numbers_for(self, field: str, values: Sequence[Scalar]) -> list[Numbers]:
        wanted = any(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        return self._index.numbers(field) if wanted else []

    def _with_overlay(self, found: list[RowSet], late: Callable[[ColumnView], RowSet]) -> RowSet:
        """What the index found, but for rows it does not know any more, and what is found in the overlay."""
        indexed = found[0] if found else RowSet.empty(self._index.rows)
        for more in found[1:]:
            indexed = indexed | more
        overlay = self._overlay
        if overlay.stale is not None and found:
            indexed = indexed - overlay.stale
        indexed = indexed.resized(self._size)
        if not len(overlay.rows):
            return indexed
        places = late(overlay.columns)
        return indexed | overlay.spread(places, self._size) if places else indexed


def _nbytes(found: Postings | RowSet) -> int:
    return found.words.nbytes if isinstance(found, RowSet) else sum(len(container) + _CONTAINER for _, container in found)


def _replaced(old: RowSet, new: RowSet, chunks: Sequence[int]) -> RowSet:
    words = new.words.copy()
    words[: len(old.words)] = old.words[: len(words)]
    for chunk in chunks:
        here = slice(chunk * WORDS, (chunk + 1) * WORDS)
        words[here] = new.words[here]
    return RowSet(words, new.size)


_CONTAINER: Final = 130
"""Bytes that a container costs by itself."""
_SMALL: Final = 4
"""Postings are small if they take so many times less than a bitmap."""
