"""What each way of searching costs, in µs on the machine it was fitted on; for choosing between them only ratios matter.

Fitted at 50,000 to 400,000 rows of dim 384 on two cores with AVX-512: the exact scan uses both, codes and graph one.
"""

from __future__ import annotations

from typing import Final

_CALL: Final = 80.0
"""One call of an exact search, whatever its size."""

_GATHERED: Final = 6e-4
"""A coordinate of a row that is gathered and scored; half of it while the vectors are in cache."""

_READ: Final = 1e-4
"""A coordinate of a row that is scored where it lies."""

_PACKED: Final = 4e-4
"""A coordinate of a row that goes into a product of matrices, which pays from five queries on, and ..."""

_MULTIPLIED: Final = 1.2e-5
"""... what each query adds there."""

_QUERY: Final = 15.0
"""A query of a batch, beside its products."""

_RERANK: Final = 350.0
"""What comes after codes or a graph: scoring what they found, the guard, the memory they pushed out of the cache."""

_FETCHED: Final = 0.36
"""A row that codes or a graph keep in order."""

_BIT: Final = 1.8e-5
"""A bit of a code in the scan of all codes."""

_SKIPPED: Final = 2e-3
"""A code that the mask leaves out, in the scan that can skip."""

_LONE_BIT: Final = 1.1e-4
"""A bit of a code that the mask lets through, in the scan that can skip."""

_VISIT: Final = 7e-3
"""A coordinate of each node that a graph keeps in its list of ef."""


def exact_rows(rows: int, dim: int, queries: int = 1) -> float:
    """``exact.search_rows``."""
    return _CALL + queries * _QUERY + dim * rows * (_GATHERED + _products(queries - 1))


def exact_block(rows: int, passing: int, dim: int, queries: int = 1) -> float:
    """``exact.search_block`` over rows of which some pass the mask."""
    reading = rows * _products(queries)
    return _CALL + queries * _QUERY + dim * min(reading, passing * (_GATHERED + _products(queries - 1)))


def _products(queries: int) -> float:
    """A coordinate of a row for so many queries."""
    return min(queries * _READ, _PACKED + queries * _MULTIPLIED)


def codes_fetch(k: int) -> int:
    """How many estimates the codes fetch first for k neighbours."""
    return 300 + 30 * k


def graph_fetch(ef_search: int, k: int) -> int:
    """How many rows a graph is asked for, and so how long its list of candidates is without a mask."""
    return max(ef_search, k + k // 2)


def codes(rows: int, passing: int, width: int, fetch: int) -> float:
    """One query over all codes, fetching more by the share that the mask lets through.  width: bits of a code."""
    return _RERANK + rows * width * _BIT + fetch * rows / passing * _FETCHED


def codes_skipping(rows: int, passing: int, width: int, fetch: int) -> float:
    """One query over the codes that pass the mask."""
    return _RERANK + rows * _SKIPPED + passing * width * _LONE_BIT + fetch * _FETCHED


def graph(ef: int, dim: int, fetch: int) -> float:
    """One query through a graph."""
    return _RERANK + ef * dim * _VISIT + fetch * _FETCHED
