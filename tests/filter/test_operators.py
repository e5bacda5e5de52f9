"""Operators: what each means for one record, and that its rows are exactly the records it matches."""

from __future__ import annotations

import numpy as np
import pytest
from filter.random_metadata import CONDITIONS, METADATAS
from hypothesis import given
from hypothesis import strategies as st

from chroma_gpu.filter import OPERATORS, Columns, Contains, Eq, Gt, Gte, In, Lt, Lte, Ne, NotContains, NotIn

# One record per value, then one without the key and one without metadata. What follows was recorded from Chroma 1.5.9.
VALUES = [
    *(1, 2, 1.0, 1.5, True, False, "a", "1", "", [1, 2], [1.5, 2.0], ["a", "b"], [True]),
    *(2**53 + 1, 2**63 - 1, -(2**63), -0.0, 0, 2.0**53),
]
METADATAS_OF_VALUES = [*({"v": value} for value in VALUES), {}, None]
EVERYTHING = [*VALUES, None, None]


@pytest.mark.parametrize(
    ("operator", "expected"),
    [
        (Eq("v", True), [True]),
        (Eq("v", 1), [1, 1.0]),
        (Eq("v", 1.0), [1, 1.0]),
        (Eq("v", 0.0), [-0.0, 0]),
        (Eq("v", "a"), ["a"]),
        (Gt("v", 1), [2, 1.5, 2**53 + 1, 2**63 - 1, 2.0**53]),
        (Gte("v", 1), [1, 2, 1.0, 1.5, 2**53 + 1, 2**63 - 1, 2.0**53]),
        (Gt("v", 2.0**53), [2**53 + 1, 2**63 - 1]),
        (Lt("v", 1), [-(2**63), -0.0, 0]),
        (Lte("v", 2**53), [1, 2, 1.0, 1.5, -(2**63), -0.0, 0, 2.0**53]),
        (In("v", (1, 2)), [1, 2, 1.0]),
        (In("v", (True, False)), [True, False]),
        (Contains("v", True), [[True]]),
        (Contains("v", 2), [[1, 2]]),
        (Contains("v", 2.0), [[1.5, 2.0]]),
        (Contains("v", "a"), [["a", "b"]]),
    ],
)
def test_meaning_as_chroma_has_it(operator, expected):
    matched = [value for value, each in zip(EVERYTHING, METADATAS_OF_VALUES, strict=True) if operator.matches(each)]
    assert list(map(repr, matched)) == list(map(repr, expected))


@pytest.mark.parametrize(
    ("operator", "expected"),
    [
        (Eq("v", 1.5), [1.5]),
        (In("v", (1.0, 2.9)), [1, 1.0]),
        (Gte("v", 1.5), [2, 1.5, 2**53 + 1, 2**63 - 1, 2.0**53]),
        (Eq("v", 2**53 + 1), [2**53 + 1]),
        (Eq("v", 2**63), []),
        (Lt("v", 2**63), [1, 2, 1.0, 1.5, 2**53 + 1, 2**63 - 1, -(2**63), -0.0, 0, 2.0**53]),
    ],
)
def test_meaning_where_chroma_rounds(operator, expected):
    matched = [value for value, each in zip(EVERYTHING, METADATAS_OF_VALUES, strict=True) if operator.matches(each)]
    assert list(map(repr, matched)) == list(map(repr, expected))


@pytest.mark.parametrize(
    ("negated", "plain"),
    [(Ne("v", 1), Eq("v", 1)), (NotIn("v", ("a",)), In("v", ("a",))), (NotContains("v", 1), Contains("v", 1))],
)
def test_negations_match_what_lacks_the_key_or_has_another_type(negated, plain):
    assert negated.matches(None)
    assert negated.matches({})
    assert all(negated.matches(each) != plain.matches(each) for each in METADATAS_OF_VALUES)


HISTORIES = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 2), st.lists(METADATAS, max_size=8)),
        st.tuples(st.just("rewrite"), st.integers(0, 1000), st.lists(METADATAS, max_size=4)),
    ),
    min_size=1,
    max_size=6,
)


@given(HISTORIES, st.lists(CONDITIONS, min_size=1, max_size=8))
def test_rows_are_the_records_that_match(history, asked):
    columns, records = Columns(), []
    for what, number, metadatas in history:
        if what == "append":
            records += [None] * number
            columns.append(len(records), metadatas)
            records += metadatas
        elif records:
            targets = np.random.default_rng(number).permutation(len(records))[: len(metadatas)]
            columns.rewrite(targets.astype(np.uint32), metadatas[: len(targets)])
            for target, metadata in zip(targets, metadatas, strict=False):
                records[target] = metadata
    for operator in asked:
        expected = [row for row, metadata in enumerate(records) if operator.matches(metadata)]
        assert operator.rows(columns).rows().tolist() == expected, operator


@pytest.mark.parametrize(
    ("token", "taken", "refused"),
    [
        ("$eq", [1, 1.5, True, "a", "", 2**63], [None, [1], float("nan"), float("inf"), {}]),
        ("$gt", [1, 1.5, 2**70], [True, "a", None, [1], float("nan")]),
        ("$in", [[1, 2], ["a"], [True]], [[], [1, True], [1, 1.5], ["a", 1], [[1]], [None], "ab", [float("nan")]]),
        ("$contains", [1, 1.5, True, "a"], [None, [1], float("inf")]),
    ],
)
def test_which_operands_are_taken(token, taken, refused):
    assert [operand for operand in taken if not OPERATORS[token].accepts(operand)] == []
    assert [operand for operand in refused if OPERATORS[token].accepts(operand)] == []


def test_conditions_are_equal_only_with_operands_of_one_type():
    assert Eq("v", 1) == Eq("v", 1)
    assert len({Eq("v", 1), Eq("v", True), Eq("v", 1.0), Ne("v", 1), Eq("w", 1), Eq("v", 1)}) == 5
    assert In("v", (1, 2)) != In("v", (1, True))
