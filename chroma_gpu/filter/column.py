"""One column: the metadata values of one field and one type, and which of them equal something or lie between two bounds.

Numbers compare by their exact values: 2**53 + 1 is not 2.0**53, and no int equals 1.5.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from chroma_gpu.records import Rows
from chroma_gpu.values import INT_MAX, INT_MIN, Kind, Scalar, nearest_float

Flags: TypeAlias = npt.NDArray[np.bool_]

Bounds: TypeAlias = tuple[int | float | None, int | float | None, bool, bool]
"""The least and the greatest number, None where there is no bound, and whether each is inside."""


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """The values of one field and type, by ascending row. A value, but for room behind it that the next one may use.

    array    the values are elements of arrays, which share a row; otherwise each row is there once
    n        how many places of the buffers are filled
    _rows    [>= n] uint32
    _values  [>= n] bool, int64, float64, or int32 codes of strings
    _codes   the number of each string there ever was, shared by all successors
    """

    kind: Kind
    array: bool
    n: int
    _rows: Rows
    _values: npt.NDArray[Any]
    _codes: _Codes | None

    @classmethod
    def empty(cls, kind: Kind, array: bool) -> Self:
        """No values yet."""
        codes = _Codes() if kind is Kind.STR else None
        return cls(kind, array, 0, np.empty(0, np.uint32), np.empty(0, _DTYPES[kind]), codes)

    @property
    def rows(self) -> Rows:
        """[n] uint32, ascending."""
        return self._rows[: self.n]

    @property
    def nbytes(self) -> int:
        """Bytes held, room for growth and the strings included."""
        codes = 0 if self._codes is None else sys.getsizeof(self._codes) + self._codes.text_bytes
        return self._rows.nbytes + self._values.nbytes + codes

    def appended(self, rows: Rows, values: Sequence[Scalar]) -> Self:
        """With the values of rows past the last one. Only the newest column may be appended to: successors share its buffers."""
        stop = self.n + len(rows)
        buffers = self._rows, self._values
        if stop > len(self._rows):
            buffers = _grown(self._rows, self.n, stop), _grown(self._values, self.n, stop)
        buffers[0][self.n : stop] = rows
        buffers[1][self.n : stop] = self._encoded(values)
        return replace(self, n=stop, _rows=buffers[0], _values=buffers[1])

    def rewritten(self, targets: Rows, rows: Rows, values: Sequence[Scalar]) -> Self:
        """Without the values of targets, and with the values of rows, which are some of the targets. Both ascend.

        Cost  O(len(targets) log n), and a copy of the column if anything of it changes
        """
        starts, stops = np.searchsorted(self.rows, targets), np.searchsorted(self.rows, targets, "right")
        held = stops > starts
        if not held.any() and not len(rows):
            return self
        if not self.array and np.array_equal(targets[held], rows):
            changed = self._values.copy()
            changed[starts[held]] = self._encoded(values)
            return replace(self, _values=changed)
        keep = np.ones(self.n, np.bool_)
        for start, stop in zip(starts[held], stops[held], strict=True):
            keep[start:stop] = False
        kept = self.rows[keep]
        places = np.searchsorted(kept, rows)
        all_rows = np.insert(kept, places, rows)
        all_values = np.insert(self._values[: self.n][keep], places, self._encoded(values))
        return replace(self, n=len(all_rows), _rows=all_rows, _values=all_values)

    def fill(self, numbers: npt.NDArray[np.float64]) -> None:
        """Put ints or floats to the places of their rows in numbers [size], as floats."""
        numbers[self.rows] = self._values[: self.n]

    def mark(self, hits: Flags, passed: Flags) -> None:
        """Set hits [size] at the rows of the values that passed [n]."""
        rows = self.rows
        if self.n and not self.array and int(rows[-1]) - int(rows[0]) + 1 == self.n:
            hits[int(rows[0]) : int(rows[-1]) + 1] |= passed
        else:
            hits[rows[np.flatnonzero(passed)]] = True

    def among(self, wanted: Sequence[Scalar]) -> Flags:
        """[n] bool: which values equal one of the wanted ones, of any type.  Cost: one pass, a few if many values are wanted."""
        values = self._values[: self.n]
        held = self._held(wanted)
        if len(held) > _FEW and self._codes is not None:
            chosen = np.zeros(len(self._codes), np.bool_)
            chosen[held] = True
            return np.take(chosen, values)
        if len(held) > _FEW:
            return np.isin(values, np.array(held, values.dtype))
        hits = np.zeros(self.n, np.bool_)
        for value in held:
            hits |= values == value
        return hits

    def between(self, low: int | float | None, high: int | float | None, include_low: bool, include_high: bool) -> Flags:
        """[n] bool: which numbers lie between two bounds, of which None is none; no string or bool does, and nothing for NaN."""
        bounds = interval(self.kind, low, high, include_low, include_high)
        values = self._values[: self.n]
        if bounds is None:
            return np.zeros(self.n, np.bool_)
        start, stop = bounds
        passed: Flags = values >= start if stop is None else (values >= start) & (values < stop)
        return passed

    def _encoded(self, values: Sequence[Scalar]) -> npt.NDArray[Any]:
        if self._codes is not None:
            return np.fromiter(map(self._codes.__getitem__, values), np.int32, len(values))
        return np.array(values, self._values.dtype)

    def _held(self, wanted: Sequence[Scalar]) -> list[Any]:
        """The wanted values as this column would hold them, without those it cannot: as ints, 2.0 is 2, and 2.5 nothing."""
        if self._codes is not None:
            return [code for value in wanted if (code := self._codes.get(value)) is not None]
        if self.kind is Kind.BOOL:
            return [value for value in wanted if isinstance(value, bool)]
        return held_numbers(self.kind, wanted)


def interval(
    kind: Kind, low: int | float | None, high: int | float | None, include_low: bool, include_high: bool
) -> tuple[Any, Any] | None:
    """The values of a column that lie between two bounds, of which None is none, as [start, stop) in the column's type.

    A stop of None is past every value. None for what no value can satisfy: bounds of NaN, strings and bools.
    """
    if any(isinstance(bound, float) and math.isnan(bound) for bound in (low, high)):
        return None
    if kind is Kind.INT:
        return _interval_of_ints(low, high, include_low, include_high)
    return _interval_of_floats(low, high, include_low, include_high) if kind is Kind.FLOAT else None


def held_numbers(kind: Kind, wanted: Sequence[Scalar]) -> list[Any]:
    """The wanted values that a column of ints, or of floats, can hold, in its type: as ints, 2.0 is 2, and 2.5 nothing."""
    numbers = [value for value in wanted if isinstance(value, int | float) and not isinstance(value, bool)]
    if kind is Kind.INT:
        whole = [int(number) for number in numbers if isinstance(number, int) or number.is_integer()]
        return [number for number in whole if INT_MIN <= number <= INT_MAX]
    return [nearest for number in numbers if (nearest := nearest_float(number)) == number]


class _Codes(dict[Any, int]):
    """Strings to consecutive numbers. Asked for a new string by ``[]``, it gives it the next one."""

    text_bytes = 0

    def __missing__(self, text: Any) -> int:
        code = self[text] = len(self)
        self.text_bytes += sys.getsizeof(text)
        return code


_FEW: Final = 8
_DTYPES: Final[Mapping[Kind, npt.DTypeLike]] = {
    Kind.BOOL: np.bool_,
    Kind.INT: np.int64,
    Kind.FLOAT: np.float64,
    Kind.STR: np.int32,
}


def _interval_of_ints(
    low: int | float | None, high: int | float | None, include_low: bool, include_high: bool
) -> tuple[Any, Any] | None:
    first = INT_MIN if low is None or low == -math.inf else INT_MAX + 1 if low == math.inf else math.ceil(low)
    last = INT_MAX if high is None or high == math.inf else INT_MIN - 1 if high == -math.inf else math.floor(high)
    first += first == low and not include_low
    last -= last == high and not include_high
    first = max(first, INT_MIN)
    if first > min(last, INT_MAX):
        return None
    return first, last + 1 if last < INT_MAX else None


def _interval_of_floats(
    low: int | float | None, high: int | float | None, include_low: bool, include_high: bool
) -> tuple[Any, Any] | None:
    """For a bound that is no float, the nearest float stands; it is inside or outside itself."""
    start, stop = -math.inf, None
    if low is not None:
        start = nearest_float(low)
        if not (start > low or (start == low and include_low)):
            if start == math.inf:
                return None
            start = math.nextafter(start, math.inf)
    if high is not None:
        stop = nearest_float(high)
        if stop < high or (stop == high and include_high):
            stop = None if stop == math.inf else math.nextafter(stop, math.inf)
    return start, stop


def _grown(array: npt.NDArray[Any], n: int, needed: int) -> npt.NDArray[Any]:
    """A copy of the first n places, with room for what is needed and a quarter more."""
    grown = np.empty(needed + needed // 4, array.dtype)
    grown[:n] = array[:n]
    return grown
