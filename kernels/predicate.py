"""Conditions on columns that lie on a device, and the mask words of the rows that pass.

A condition is a tree: ranges, lists and presence of single columns, joined by ``All``, ``Any`` and ``Not``. Every comparison of a
number is a range of its column's own type: ``==`` from v to the next value, ``<`` up to v. A row without a value in a column is in
none of its ranges, so ``Not`` passes it; "unequal, and there" is ``All((Has(c), Not(...)))``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from typing import Final, TypeAlias, Union

import torch
from torch import Tensor

from chroma_gpu.kernels import scan

Number: TypeAlias = int | float


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """The values of one field and one type, by row. A field that has values of several types is several columns.

    values   [n] int32 (codes of a dictionary, bools), int64, or float64 without NaN; contiguous. Rows from n on have none
    present  [ceil(n / 32)] int32: bit r % 32 of word r // 32 says whether row r has a value; None where all n have
    """

    values: Tensor
    present: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Range:
    """The column's value v is in [start, stop), both in its type; None is no bound."""

    column: int
    start: Number | None
    stop: Number | None


@dataclass(frozen=True, slots=True)
class Among:
    """The column's value is one of some, which are in its type."""

    column: int
    values: tuple[Number, ...]


@dataclass(frozen=True, slots=True)
class Has:
    """The column has a value."""

    column: int


@dataclass(frozen=True, slots=True)
class Given:
    """Rows that are known, as words: ``masks[mask]`` of ``predicate``; rows past the words do not pass."""

    mask: int


@dataclass(frozen=True, slots=True)
class Not:
    """Rows that do not pass, those without a value among them."""

    child: Test


@dataclass(frozen=True, slots=True)
class All:
    """Rows that pass every child; all rows if there is none."""

    children: tuple[Test, ...]


@dataclass(frozen=True, slots=True)
class Any:
    """Rows that pass a child; no row if there is none."""

    children: tuple[Test, ...]


Test: TypeAlias = Union[Range, Among, Has, Given, Not, All, Any]  # noqa: UP007 - some are named before they are there

TYPES: Final = (torch.int32, torch.int64, torch.float64)


def predicate(
    test: Test, columns: Sequence[Column], rows: int, within: Tensor | None = None, masks: Sequence[Tensor] = ()
) -> Tensor:
    """Which of rows [0, rows) pass: [ceil(rows / 32)] int32, bit r % 32 of word r // 32 for row r; bits past ``rows`` are 0.

    test     its columns and masks are places in ``columns`` and ``masks``
    columns  all on one device; at least one column, mask or ``within`` says which
    within   words of the rows that may pass, such as those that live; rows past them do not
    masks    words, int32
    Raises   ValueError for types and places that do not match, and bounds that no value of the column's type can be
    Cost     on CUDA one launch: the columns are read once, of each only what rows need that are not decided yet, and nothing where
             ``within`` has no row; no compilation for another test. Else a pass and a temporary for every node
    """
    device = place(columns, within, masks)
    if scan.has_triton(device):
        from chroma_gpu.kernels import predicate_triton

        return predicate_triton.predicate(test, columns, rows, within, masks)
    return reference(test, columns, rows, within, masks)


def reference(
    test: Test, columns: Sequence[Column], rows: int, within: Tensor | None = None, masks: Sequence[Tensor] = ()
) -> Tensor:
    """``predicate`` in plain torch, on any device."""
    check(test, columns, within, masks)
    passed = _flags(test, columns, masks, rows, place(columns, within, masks))
    if within is not None:
        passed &= _unpacked(within, rows)
    return _packed(passed)


def place(columns: Sequence[Column], within: Tensor | None, masks: Sequence[Tensor]) -> torch.device:
    """The device of what was given."""
    given = (*(column.values for column in columns), *masks, *(() if within is None else (within,)))
    return given[0].device if given else torch.device("cpu")


def check(test: Test, columns: Sequence[Column], within: Tensor | None, masks: Sequence[Tensor]) -> None:
    """Raises ValueError as ``predicate`` does."""
    for column in columns:
        words = -(-len(column.values) // 32)
        if column.values.dtype not in TYPES or not column.values.is_contiguous():
            raise ValueError(f"a column must be contiguous int32, int64 or float64, not {column.values.dtype}")
        if column.present is not None and (column.present.dtype != torch.int32 or len(column.present) < words):
            raise ValueError(f"the presence of {len(column.values)} rows must be {words} words of int32")
    for mask in (*masks, *(() if within is None else (within,))):
        if mask.dtype != torch.int32 or not mask.is_contiguous():
            raise ValueError(f"words must be contiguous int32, not {mask.dtype}")
    for leaf in _leaves(test):
        if isinstance(leaf, Given):
            if not 0 <= leaf.mask < len(masks):
                raise ValueError(f"there is no mask {leaf.mask}")
        elif not 0 <= leaf.column < len(columns):
            raise ValueError(f"there is no column {leaf.column}")
        elif not isinstance(leaf, Has):
            dtype = columns[leaf.column].values.dtype
            for value in leaf.values if isinstance(leaf, Among) else (leaf.start, leaf.stop):
                if value is not None and not _fits(value, dtype):
                    raise ValueError(f"no value of a column of {dtype} can be {value!r}")


def least_and_greatest(test: Range, dtype: torch.dtype) -> tuple[Number, Number] | None:
    """A range with both ends inside; None if it is empty."""
    least, greatest = _limits(dtype)
    start = least if test.start is None else test.start
    if test.stop is None:
        return start, greatest
    if test.stop == least:
        return None
    if dtype == torch.float64:
        stop: Number = torch.nextafter(torch.tensor(test.stop, dtype=dtype), torch.tensor(-torch.inf, dtype=dtype)).item()
    else:
        stop = test.stop - 1
    return (start, stop) if start <= stop else None


@cache
def _limits(dtype: torch.dtype) -> tuple[Number, Number]:
    return (-torch.inf, torch.inf) if dtype == torch.float64 else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)


def _fits(value: Number, dtype: torch.dtype) -> bool:
    """Whether a number is one of a type, NaN not."""
    if dtype == torch.float64:
        return isinstance(value, float) and value == value  # noqa: PLR0124
    least, greatest = _limits(dtype)
    return isinstance(value, int) and least <= value <= greatest


def _leaves(test: Test) -> Iterator[Range | Among | Has | Given]:
    waiting = [test]
    while waiting:
        node = waiting.pop()
        if isinstance(node, Not):
            waiting.append(node.child)
        elif isinstance(node, All | Any):
            waiting.extend(node.children)
        else:
            yield node


def _flags(test: Test, columns: Sequence[Column], masks: Sequence[Tensor], rows: int, device: torch.device) -> Tensor:
    """[rows] bool: the definition."""
    if isinstance(test, Not):
        return ~_flags(test.child, columns, masks, rows, device)
    if isinstance(test, All | Any):
        found = (_flags(child, columns, masks, rows, device) for child in test.children)
        if isinstance(test, All):
            return reduce(Tensor.__and__, found, torch.ones(rows, dtype=torch.bool, device=device))
        return reduce(Tensor.__or__, found, torch.zeros(rows, dtype=torch.bool, device=device))
    if isinstance(test, Given):
        return _unpacked(masks[test.mask], rows)
    column = columns[test.column]
    values = column.values[:rows]
    passed = torch.zeros(rows, dtype=torch.bool, device=device)
    if isinstance(test, Range):
        ends = least_and_greatest(test, values.dtype)
        if ends is None:
            return passed
        hits = (values >= ends[0]) & (values <= ends[1])
    elif isinstance(test, Among):
        hits = torch.isin(values, torch.tensor(test.values, dtype=values.dtype, device=device))
    else:
        hits = torch.ones_like(values, dtype=torch.bool)
    passed[: len(values)] = hits if column.present is None else hits & _unpacked(column.present, len(values))
    return passed


def _unpacked(words: Tensor, rows: int) -> Tensor:
    """[rows] bool; rows past the words are False."""
    bits = (words[: -(-rows // 32), None] >> torch.arange(32, dtype=torch.int32, device=words.device)) & 1
    flags = bits.flatten()[:rows].to(torch.bool)
    return torch.nn.functional.pad(flags, (0, rows - len(flags)))


def _packed(flags: Tensor) -> Tensor:
    """[ceil(rows / 32)] int32."""
    bits = torch.nn.functional.pad(flags, (0, -len(flags) % 32)).view(-1, 32).to(torch.int32)
    return (bits << torch.arange(32, dtype=torch.int32, device=flags.device)).sum(dim=1, dtype=torch.int32)
