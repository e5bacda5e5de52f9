"""Conditions on CUDA: a test becomes a few numbers, which one kernel interprets for every block of rows.

An instruction is eight int64. A leaf looks at one column and joins what it finds to the top of a stack; AND and OR of two nodes join
the two topmost. The stack of a row is the bits of one int32. So another test is another handful of numbers, and nothing is compiled.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import triton
import triton.language as tl
from torch import Tensor

from chroma_gpu.kernels.launch import COMPILING
from chroma_gpu.kernels.predicate import (
    TYPES,
    All,
    Among,
    Any,
    Column,
    Given,
    Has,
    Not,
    Number,
    Range,
    Test,
    check,
    least_and_greatest,
    place,
)
from chroma_gpu.kernels.tuning import Variant

_RANGE32, _RANGE64, _RANGE_FLOAT, _AMONG32, _AMONG64, _AMONG_FLOAT, _HAS, _NOTHING, _AND, _OR, _NOT = range(11)
_PUSH, _INTO_AND, _INTO_OR = range(3)
_WIDTH = 8

# The kernel's names of the same numbers.
RANGE32, RANGE64, RANGE_FLOAT = tl.constexpr(_RANGE32), tl.constexpr(_RANGE64), tl.constexpr(_RANGE_FLOAT)
AMONG32, AMONG_FLOAT = tl.constexpr(_AMONG32), tl.constexpr(_AMONG_FLOAT)
HAS, NOTHING, AND, OR = tl.constexpr(_HAS), tl.constexpr(_NOTHING), tl.constexpr(_AND), tl.constexpr(_OR)
PUSH, INTO_AND, STEP = tl.constexpr(_PUSH), tl.constexpr(_INTO_AND), tl.constexpr(_WIDTH)


def predicate(
    test: Test, columns: Sequence[Column], rows: int, within: Tensor | None = None, masks: Sequence[Tensor] = ()
) -> Tensor:
    """As ``kernels.predicate.predicate``.

    Cost    the rows' values once; the program goes to the card first, some hundred bytes
    """
    check(test, columns, within, masks)
    device = place(columns, within, masks)
    program = _Program(columns, masks, device)
    program.add(test)
    out = torch.empty(-(-rows // 32), dtype=torch.int32, device=device)
    if not rows:
        return out
    numbers = torch.tensor(program.numbers, dtype=torch.int64, device=device)
    words, warps = tile(device.type == "cuda")
    with COMPILING, torch.cuda.device_of(out):
        _predicate_kernel[(triton.cdiv(len(out), words),)](
            numbers,
            len(numbers) // _WIDTH,
            within,
            0 if within is None else len(within),
            out,
            rows,
            words,
            num_warps=warps,
        )
    return out


def tile(device: bool) -> tuple[int, int]:
    """Words of a block and its warps: 8 rows for each thread."""
    return (32, 4) if device else (1024, 4)


@dataclass(slots=True)
class _Program:
    """Instructions as numbers: kind, how it joins, negated, address of values, address of presence, rows, and two operands.

    tables  what instructions point to; must live until the kernel was started, after that torch keeps the memory in order
    """

    columns: Sequence[Column]
    masks: Sequence[Tensor]
    device: torch.device
    numbers: list[int] = field(default_factory=list)
    tables: list[Tensor] = field(default_factory=list)

    def add(self, test: Test, join: int = _PUSH, negated: bool = False) -> None:
        """Append what puts a test's result onto the stack, or joins that of a leaf to the top."""
        while isinstance(test, Not):
            test, negated = test.child, not negated
        if not isinstance(test, All | Any):
            return self._leaf(test, join, negated)
        if not test.children:
            return self._append(_NOTHING, join, negated != isinstance(test, All))
        both, into = (_AND, _INTO_AND) if isinstance(test, All) else (_OR, _INTO_OR)
        first, *others = sorted(test.children, key=_places, reverse=True)
        self.add(first)
        for child in others:
            if _places(child):
                self.add(child)
                self._append(both)
            else:
                self.add(child, into)
        if negated:
            self._append(_NOT)

    def _leaf(self, test: Range | Among | Has | Given, join: int, negated: bool) -> None:
        if isinstance(test, Given):
            mask = self.masks[test.mask]
            self._append(_HAS, join, negated, 0, mask.data_ptr(), 32 * len(mask))
            return
        column = self.columns[test.column]
        kind = TYPES.index(column.values.dtype)
        present = 0 if column.present is None else column.present.data_ptr()
        where = column.values.data_ptr(), present, len(column.values)
        if isinstance(test, Has):
            self._append(_HAS, join, negated, *where)
        elif isinstance(test, Among):
            table = torch.tensor(sorted({_key(value) for value in test.values}), dtype=torch.int64).to(self.device)
            self.tables.append(table)
            self._append(_AMONG32 + kind, join, negated, *where, table.data_ptr(), len(table))
        elif (ends := least_and_greatest(test, column.values.dtype)) is None:
            self._append(_NOTHING, join, negated)
        else:
            self._append(_RANGE32 + kind, join, negated, *where, *(_bits(end) for end in ends))

    def _append(self, *numbers: int) -> None:
        self.numbers += [*map(int, numbers), *[0] * (_WIDTH - len(numbers))]


def _places(test: Test) -> int:
    """How much of the stack a node takes if the greediest child comes first: 0 for a leaf, which joins; at most log2 of the nodes."""
    while isinstance(test, Not):
        test = test.child
    if not isinstance(test, All | Any) or not test.children:
        return 0
    first, second, *_ = [*sorted(map(_places, test.children), reverse=True), 0]
    return max(1, first, second + 1)


def _key(value: Number) -> int:
    """An int64 that is equal for equal numbers of one type: both zeros are one float."""
    return _bits(value + 0.0) if isinstance(value, float) else value


def _bits(value: Number) -> int:
    """A number of 64 bits as an int."""
    return int(struct.unpack("<q", struct.pack("<d", value))[0]) if isinstance(value, float) else value


@triton.jit(do_not_specialize=["count", "limit", "rows"])
def _predicate_kernel(program, count, within, limit, out, rows, WORDS: tl.constexpr):
    base = tl.program_id(0).to(tl.int64) * (32 * WORDS)
    row = tl.arange(0, 32 * WORDS)  # after base; so 32 bits do, whatever the table has
    asked = row < rows - base
    if within is not None:
        alive = tl.load(within + base // 32 + (row >> 5), mask=row < limit.to(tl.int64) * 32 - base, other=0)
        asked = asked & (((alive >> (row & 31)) & 1) != 0)
    stack = tl.zeros([32 * WORDS], tl.int32)
    left = tl.where(tl.max(asked.to(tl.int32), axis=0) > 0, count, 0)
    at = program
    while left > 0:
        kind = tl.load(at)
        join = tl.load(at + 1)
        if kind < AND:
            # Rows that are decided, false under AND or true under OR, are not read.
            wanted = asked & ((join == PUSH) | ((stack & 1) == (join == INTO_AND).to(tl.int32))) & (row < tl.load(at + 5) - base)
            present = tl.load(at + 4)
            if present != 0:
                marks = tl.load(present.to(tl.pointer_type(tl.int32)) + base // 32 + (row >> 5), mask=wanted, other=0)
                wanted = wanted & (((marks >> (row & 31)) & 1) != 0)
            bit = (_passed(at, kind, base, row, wanted) & wanted).to(tl.int32) ^ tl.load(at + 2).to(tl.int32)
            if join == PUSH:
                stack = (stack << 1) | bit
            elif join == INTO_AND:
                stack = stack & (bit | -2)
            else:
                stack = stack | bit
        elif kind == AND:
            stack = (stack >> 1) & ((stack & 1) | -2)
        elif kind == OR:
            stack = (stack >> 1) | (stack & 1)
        else:
            stack = stack ^ 1
        at += STEP
        left -= 1
    found = tl.where(asked, stack & 1, 0) << (row & 31)
    words = tl.arange(0, WORDS)
    tl.store(out + base // 32 + words, tl.sum(tl.reshape(found, [WORDS, 32]), axis=1), mask=words * 32 < rows - base)


@triton.jit
def _passed(at, kind, base, row, wanted):
    """[ROWS] int1: whether values pass; anything where they are not wanted."""
    values = tl.load(at + 3)
    low = tl.load(at + 6)
    high = tl.load(at + 7)
    passed = wanted
    if kind == RANGE32:
        narrow = tl.load(values.to(tl.pointer_type(tl.int32)) + base + row, mask=wanted, other=0)
        passed = (narrow >= low.to(tl.int32)) & (narrow <= high.to(tl.int32))
    elif kind == RANGE64:
        wide = tl.load(values.to(tl.pointer_type(tl.int64)) + base + row, mask=wanted, other=0)
        passed = (wide >= low) & (wide <= high)
    elif kind == RANGE_FLOAT:
        real = tl.load(values.to(tl.pointer_type(tl.float64)) + base + row, mask=wanted, other=0.0)
        passed = (real >= low.to(tl.float64, bitcast=True)) & (real <= high.to(tl.float64, bitcast=True))
    elif kind < HAS:
        if kind == AMONG32:
            key = tl.load(values.to(tl.pointer_type(tl.int32)) + base + row, mask=wanted, other=0).to(tl.int64)
        else:
            key = tl.load(values.to(tl.pointer_type(tl.int64)) + base + row, mask=wanted, other=0)
            if kind == AMONG_FLOAT:
                key = tl.where(key << 1 == 0, 0, key)  # -0.0 is 0.0
        passed = _found(key, low.to(tl.pointer_type(tl.int64)), high.to(tl.int32), wanted)
    elif kind == NOTHING:
        passed = wanted & (row < 0)
    return passed


@triton.jit
def _found(key, table, size, wanted):
    """Whether keys are in a sorted table: a binary search of all at once."""
    place = tl.zeros(key.shape, tl.int32)  # entries known to be at most the key
    step = size * 0 + 1
    while step * 2 <= size:
        step *= 2
    while step > 0:
        probe = place + step
        inside = probe <= size
        entry = tl.load(table + probe - 1, mask=wanted & inside, other=0)
        place = tl.where(inside & (entry <= key), probe, place)
        step = step // 2
    last = tl.load(table + place - 1, mask=wanted & (place > 0), other=0)
    return (place > 0) & (last == key)


VARIANTS = tuple(
    Variant(
        f"predicate {name}",
        _predicate_kernel,
        {"program": "*i64", "count": "i32", "limit": "i32", "out": "*i32", "rows": "i32"} | given,
        {"WORDS": tile(True)[0]} | absent,
        tile(True)[1],
        1,
    )
    for name, given, absent in (("of all", {}, {"within": None}), ("within", {"within": "*i32"}, {}))
)
