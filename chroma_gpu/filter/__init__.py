"""Which records pass a condition: the expression tree, evaluated to an exact set of rows.

``Expr`` nodes are values. Each operator is one small class that knows two things: its meaning for one record (``matches``, the plain
reference) and how to find its rows from typed columns (``rows``) or in texts.
"""

from __future__ import annotations

from chroma_gpu.filter.columns import Columns, ColumnView
from chroma_gpu.filter.documents import (
    DOCUMENT_OPERATORS,
    DocumentContains,
    DocumentMatches,
    DocumentNotContains,
    DocumentNotMatches,
    DocumentOperator,
    Texts,
)
from chroma_gpu.filter.evaluation import evaluate, evaluate_first
from chroma_gpu.filter.expr import MAX_DEPTH, And, Expr, How, InIds, InRows, Or, Records, Step, matches, to_dict
from chroma_gpu.filter.operators import OPERATORS, Contains, Eq, Gt, Gte, In, Lt, Lte, Ne, NotContains, NotIn, Operator
from chroma_gpu.values import ColumnStatistics, Kind, Scalar

__all__ = [
    "DOCUMENT_OPERATORS",
    "MAX_DEPTH",
    "OPERATORS",
    "And",
    "ColumnStatistics",
    "ColumnView",
    "Columns",
    "Contains",
    "DocumentContains",
    "DocumentMatches",
    "DocumentNotContains",
    "DocumentNotMatches",
    "DocumentOperator",
    "Eq",
    "Expr",
    "Gt",
    "Gte",
    "How",
    "In",
    "InIds",
    "InRows",
    "Kind",
    "Lt",
    "Lte",
    "Ne",
    "NotContains",
    "NotIn",
    "Operator",
    "Or",
    "Records",
    "Scalar",
    "Step",
    "Texts",
    "evaluate",
    "evaluate_first",
    "matches",
    "to_dict",
]
