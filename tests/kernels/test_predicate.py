"""Conditions on columns against numpy, and against what the operators of filters mean for one record."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chroma_gpu.filter.column import held_numbers, interval
from chroma_gpu.filter.operators import OPERATORS, Comparison
from chroma_gpu.kernels import predicate as module
from chroma_gpu.kernels.predicate import All, Among, Any, Column, Given, Has, Not, Range
from chroma_gpu.values import INT_MAX, INT_MIN, Kind, stored


@pytest.fixture(params=["reference", "kernel"])
def predicate(request, monkeypatch):
    return way(request.param, monkeypatch)


def way(name, monkeypatch=None):
    if name == "reference":
        return module.reference
    pytest.importorskip("triton", reason="Triton is for Linux only")
    from chroma_gpu.kernels import predicate_triton

    if monkeypatch:
        monkeypatch.setattr(predicate_triton, "tile", lambda device: (16, 4))
    return predicate_triton.predicate


def words_of(flags, device="cpu"):
    bits = np.packbits(np.pad(flags, (0, -len(flags) % 32)), bitorder="little")
    return torch.from_numpy(bits.view(np.int32).copy()).to(device)


def column_of(values, present=None, device="cpu"):
    return Column(torch.from_numpy(values).to(device), None if present is None else words_of(present, device))


def check(got, flags):
    assert got.dtype == torch.int32
    assert torch.equal(got.cpu(), words_of(flags))


@pytest.mark.parametrize("rows", [1, 32, 513, 1000])
@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.float64])
@pytest.mark.parametrize("gaps", [False, True])
def test_leaves(device, predicate, rows, dtype, gaps):
    rng = np.random.default_rng(rows)
    values = rng.integers(-5, 6, rows).astype(dtype)
    present = rng.random(rows) < 0.6 if gaps else None
    there = np.ones(rows, np.bool_) if present is None else present
    columns = [column_of(values, present, device)]
    kind = float if dtype == np.float64 else int
    three, minus = kind(3), kind(-2)
    cases = {
        Has(0): there,
        Range(0, None, None): there,
        Range(0, minus, three): there & (values >= -2) & (values < 3),
        Range(0, three, None): there & (values >= 3),
        Range(0, None, minus): there & (values < -2),
        Range(0, three, minus): np.zeros(rows, np.bool_),
        Among(0, (kind(0), three, minus, kind(99))): there & np.isin(values, [0, 3, -2]),
        Among(0, tuple(map(kind, range(-4, 4)))): there & (values >= -4) & (values < 4),
        Among(0, ()): np.zeros(rows, np.bool_),
    }
    for test, wanted in cases.items():
        check(predicate(test, columns, rows), wanted)
        check(predicate(Not(test), columns, rows), ~wanted)


def test_the_ends_of_types(device, predicate):
    ints = np.array([INT_MIN, INT_MIN + 1, -1, 0, 2**53, 2**53 + 1, INT_MAX - 1, INT_MAX])
    floats = np.array([-np.inf, -1e308, -5e-324, -0.0, 0.0, 5e-324, 1e308, np.inf])
    codes = np.array([-(2**31), -1, 0, 1, 2, 3, 2**31 - 2, 2**31 - 1], np.int32)
    columns = [column_of(ints, None, device), column_of(floats, None, device), column_of(codes, None, device)]
    after = math.nextafter(0.0, 1)
    cases = {
        Range(0, INT_MIN, INT_MIN + 1): [0],
        Range(0, INT_MAX, None): [7],
        Range(0, None, INT_MIN): [],
        Range(0, 2**53 + 1, 2**53 + 2): [5],
        Among(0, (INT_MIN, 2**53 + 1, INT_MAX)): [0, 5, 7],
        Range(1, 0.0, after): [3, 4],
        Range(1, -0.0, after): [3, 4],
        Range(1, None, -0.0): [0, 1, 2],
        Range(1, None, -math.inf): [],
        Range(1, None, math.inf): [0, 1, 2, 3, 4, 5, 6],
        Range(1, -math.inf, -1.5e308): [0],
        Range(1, math.inf, None): [7],
        Among(1, (-0.0,)): [3, 4],
        Among(1, (0.0, 5e-324, math.inf)): [3, 4, 5, 7],
        Among(1, (-math.inf, -5e-324)): [0, 2],
        Range(2, -(2**31), 0): [0, 1],
        Range(2, 2**31 - 1, None): [7],
        Range(2, None, -(2**31)): [],
        Among(2, (-1, 2**31 - 1)): [1, 7],
    }
    for test, wanted in cases.items():
        check(predicate(test, columns, 8), np.isin(np.arange(8), wanted))


def test_columns_and_words_of_other_lengths(device, predicate):
    """A column that stopped earlier, one with room for more, and masks shorter and longer than the rows."""
    rng = np.random.default_rng(0)
    rows = 500
    short, long = rng.integers(0, 3, 290), rng.integers(0, 3, 900)
    present = rng.random(290) < 0.5
    masks = rng.random(320) < 0.5, rng.random(640) < 0.5
    columns = [column_of(short, present, device), column_of(long, None, device)]
    given_words = [words_of(mask, device) for mask in masks]
    first = np.pad(present & (short == 1), (0, rows - 290))
    second = long[:rows] == 1
    lived = np.pad(masks[0], (0, rows - 320))
    check(predicate(Range(0, 1, 2), columns, rows), first)
    check(predicate(Not(Range(0, 1, 2)), columns, rows), ~first)
    check(predicate(Any((Range(0, 1, 2), Range(1, 1, 2))), columns, rows, given_words[0]), (first | second) & lived)
    check(predicate(Not(Range(1, 1, 2)), columns, rows, given_words[1]), ~second & masks[1][:rows])
    check(predicate(All((Given(0), Not(Given(1)))), [], rows, None, given_words), lived & ~masks[1][:rows])
    check(predicate(Not(Given(0)), [], rows, None, given_words), ~lived)
    check(predicate(All(()), [], rows, given_words[0]), lived)
    nothing = torch.zeros(16, dtype=torch.int32, device=device)
    check(predicate(Not(Has(0)), columns, rows, nothing), np.zeros(rows, np.bool_))
    assert predicate(Has(0), columns, 0).shape == (0,)


def test_a_missing_value_and_an_unequal_one(device, predicate):
    values, present = np.array([1, 1, 2, 2]), np.array([True, False, True, False])
    columns = [column_of(values, present, device)]
    check(predicate(Not(Range(0, 1, 2)), columns, 4), np.array([False, True, True, True]))
    check(predicate(All((Has(0), Not(Range(0, 1, 2)))), columns, 4), np.array([False, False, True, False]))


def trees():
    leaf = st.one_of(
        st.builds(Range, st.integers(0, 1), st.none() | st.integers(-3, 3), st.none() | st.integers(-3, 3)),
        st.builds(Among, st.integers(0, 1), st.lists(st.integers(-3, 3), max_size=4).map(tuple)),
        st.builds(Has, st.integers(0, 1)),
        st.just(Given(0)),
    )
    return st.recursive(
        leaf,
        lambda inner: st.one_of(
            st.builds(Not, inner),
            st.builds(All, st.lists(inner, max_size=4).map(tuple)),
            st.builds(Any, st.lists(inner, max_size=4).map(tuple)),
        ),
        max_leaves=12,
    )


def meaning(test, columns, mask):
    """[rows] bool, with numpy: columns are (values, present)."""
    rows = len(mask)
    match test:
        case Not(child):
            return ~meaning(child, columns, mask)
        case All(children):
            return np.logical_and.reduce([np.ones(rows, np.bool_), *(meaning(child, columns, mask) for child in children)])
        case Any(children):
            return np.logical_or.reduce([np.zeros(rows, np.bool_), *(meaning(child, columns, mask) for child in children)])
        case Given(_):
            return mask
        case Has(column):
            return columns[column][1]
        case Among(column, wanted):
            return columns[column][1] & np.isin(columns[column][0], wanted)
        case Range(column, start, stop):
            values, present = columns[column]
            low = values >= start if start is not None else present
            return present & low & (values < stop if stop is not None else present)


@pytest.mark.parametrize("name", ["reference", "kernel"])
def test_trees(device, name):
    run = way(name)
    rng = np.random.default_rng(5)
    rows = 200
    columns = [(rng.integers(-3, 4, rows), rng.random(rows) < 0.8) for _ in range(2)]
    mask = rng.random(rows) < 0.5
    lived = rng.random(rows) < 0.9
    moved = [column_of(*column, device) for column in columns]

    @settings(max_examples=100 if name == "reference" else 40)
    @given(trees())
    def holds(test):
        got = run(test, moved, rows, words_of(lived, device), [words_of(mask, device)])
        check(got, meaning(test, columns, mask) & lived)

    holds()


def test_deep_and_bushy_trees(device, predicate):
    """Chains as deep as filters may be, on both sides; and a full tree, whose results wait for each other."""
    rng = np.random.default_rng(6)
    columns = [(rng.integers(-3, 4, 100), np.ones(100, np.bool_))]
    moved = [column_of(*columns[0], device)]
    mask = np.zeros(100, np.bool_)

    def full(depth, at=0):
        if not depth:
            return Range(0, at % 5 - 2, at % 5 - 1)
        return (All if depth % 2 else Any)((Not(full(depth - 1, 2 * at)), full(depth - 1, 2 * at + 1)))

    left = right = Range(0, -1, 2)
    for i in range(64):
        left = (All, Any)[i % 2]((left, Range(0, i % 4 - 3, 3)))
        right = (Any, All)[i % 2]((Not(Range(0, i % 4 - 3, 1)), right))
    for test in (left, right, All((Not(left), right)), full(6)):
        check(predicate(test, moved, 100), meaning(test, columns, mask))


VALUES = [None, True, False, 0, 1, 2, -7, 2**53 + 1, 2**70, 0.5, 1.0, 2.0**53, -0.0, "a", "b", "", [1, 2], ["a"]]


def columns_of(metadatas, device):
    """Columns of the scalars under a field, one for each type, and the codes of strings."""
    made, places, codes = [], {}, {}
    for kind in Kind:
        known = [stored(metadata.get("f")) for metadata in metadatas]
        present = np.array([each is not None and each[0] is kind for each in known])
        if present.any():
            dtype = {Kind.INT: np.int64, Kind.FLOAT: np.float64}.get(kind, np.int32)
            values = [each[1] if here else 0 for each, here in zip(known, present, strict=True)]
            if kind is Kind.STR:
                values = [codes.setdefault(value, len(codes)) if here else 0 for value, here in zip(values, present, strict=True)]
            places[kind] = len(made)
            made.append(column_of(np.array(values, dtype), present, device))
    return made, places, codes


def lowered(condition, places, codes):
    """An operator as a test of columns, by the functions that filters use."""
    if isinstance(condition, Comparison):
        found = []
        for kind, place in places.items():
            ends = interval(kind, *condition.bounds)
            if ends is not None:
                found.append(Range(place, *ends))
        return Any(tuple(found))
    wanted = condition.operand if isinstance(condition.operand, tuple) else (condition.operand,)
    found = []
    for kind, place in places.items():
        if kind is Kind.STR:
            held = [codes[value] for value in wanted if isinstance(value, str) and value in codes]
        elif kind is Kind.BOOL:
            held = [int(value) for value in wanted if isinstance(value, bool)]
        else:
            held = held_numbers(kind, wanted)
        found.append(Among(place, tuple(held)))
    return Not(Any(tuple(found))) if condition.negated else Any(tuple(found))


def test_the_operators_of_filters(device, predicate):
    metadatas = [{} if value is None else {"f": value} for value in VALUES * 2]
    columns, places, codes = columns_of(metadatas, device)
    for token in ("$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin"):
        operator = OPERATORS[token]
        scalars = [value for value in (*VALUES, 3, 1.5, 2**53, -(2**64)) if value is not None and not isinstance(value, list)]
        operands = [(1, 2**53 + 1), (0.5, 2.0**53), ("a", "zz"), (True,)] if token in {"$in", "$nin"} else scalars
        # The interpreter takes its time: it gets every fourth.
        for operand in operands[:: 1 if predicate is module.reference else 4]:
            if operator.accepts(operand):
                condition = operator("f", operand)
                got = predicate(lowered(condition, places, codes), columns, len(metadatas))
                check(got, np.array([condition.matches(metadata) for metadata in metadatas]))


def test_what_cannot_be_is_refused(device, predicate):
    ints = column_of(np.arange(40), None, device)
    floats = column_of(np.arange(40.0), None, device)
    for test in (
        Range(1, 0, 1),
        Given(0),
        All((Has(0), Not(Any((Has(-1),))))),
        Range(0, 0.5, None),
        Range(0, None, 1 << 63),
        Among(0, (1, 2.0)),
    ):
        with pytest.raises(ValueError, match=r"there is no|no value"):
            predicate(test, [ints], 40)
    for test in (Range(0, 1, None), Range(0, None, math.nan), Among(0, (math.nan,))):
        with pytest.raises(ValueError, match="no value"):
            predicate(test, [floats], 40)
    strided = torch.zeros(80, dtype=torch.int64, device=device)[::2]
    one_word = torch.zeros(1, dtype=torch.int32, device=device)
    for column in (Column(ints.values.float()), Column(strided), Column(ints.values, one_word)):
        with pytest.raises(ValueError, match="must be"):
            predicate(Has(0), [column], 40)
    with pytest.raises(ValueError, match="must be"):
        predicate(Has(0), [ints], 40, one_word.long())


def test_a_device_with_triton_gets_the_kernel(device, monkeypatch):
    pytest.importorskip("triton", reason="Triton is for Linux only")
    from chroma_gpu.kernels import predicate_triton

    monkeypatch.setattr(module.scan, "has_triton", lambda device: True)
    monkeypatch.setattr(predicate_triton, "predicate", lambda *given: given)
    columns = [column_of(np.arange(5), None, device)]
    assert module.predicate(Has(0), columns, 5) == (Has(0), columns, 5, None, ())
