"""The functions that a server can attach to a collection."""

from __future__ import annotations

from enum import Enum


class Function(str, Enum):  # noqa: UP042  Chroma's is no StrEnum
    """A function by its name on the server."""

    STATISTICS = "statistics"
    RECORD_COUNTER = "record_counter"
    _NONEXISTENT_TEST_ONLY = "nonexistent_function"


STATISTICS_FUNCTION = Function.STATISTICS
RECORD_COUNTER_FUNCTION = Function.RECORD_COUNTER
