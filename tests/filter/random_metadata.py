"""Random metadata (every type, the edges of 64 bits, values that are stored as nothing) and random conditions on it."""

from __future__ import annotations

from hypothesis import strategies as st

from chroma_gpu.filter import OPERATORS
from chroma_gpu.records import SparseVector

FIELDS = ("x", "y", "ключ")

INTS = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63), 2**63, -(2**63) - 1, 10**400, -(10**400)]),
)
FLOATS = st.one_of(
    st.sampled_from([-0.0, 0.0, 1.0, 1.5, -2.5, 2.0**53, 2.0**53 + 2, 2.0**63, -(2.0**63), 1e300, 5e-324]),
    st.integers(-3, 3).map(float),
)
STRINGS = st.sampled_from(["", "a", "A", "é", "e\u0301", "1", "True", "a\x00", "𐍈"])
SCALARS = st.one_of(INTS, FLOATS, STRINGS, st.booleans())
ODD = st.sampled_from(
    [
        float("nan"),
        float("inf"),
        -float("inf"),
        [],
        {"#type": "sparse_vector"},
        [float("nan")],
        [1, 1.0],
        SparseVector([1], [1.0]),
    ]
)
ARRAYS = st.one_of(*(st.lists(each, min_size=1, max_size=3) for each in (INTS, FLOATS, STRINGS, st.booleans())))
METADATAS = st.one_of(st.none(), st.dictionaries(st.sampled_from(FIELDS), st.one_of(SCALARS, SCALARS, ARRAYS, ODD), max_size=3))

NUMBERS = st.one_of(INTS, FLOATS)
OPERANDS = dict.fromkeys(("$gt", "$gte", "$lt", "$lte"), NUMBERS) | dict.fromkeys(
    ("$in", "$nin"), st.lists(SCALARS, min_size=1, max_size=12).map(tuple)
)
CONDITIONS = st.sampled_from(sorted(OPERATORS)).flatmap(
    lambda token: st.builds(OPERATORS[token], st.sampled_from(FIELDS), OPERANDS.get(token, SCALARS))
)
