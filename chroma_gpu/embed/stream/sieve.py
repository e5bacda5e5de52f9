"""Which texts of a batch a foreign function cannot embed, by calling it with halves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from chroma_gpu.embed.stream.failures import Failures
from chroma_gpu.errors import (
    AuthorizationError,
    ChromaAuthError,
    DeviceError,
    ModelNotFound,
    QuotaError,
    RateLimitError,
)
from chroma_gpu.records import Vectors

NOT_THE_TEXT: Final = (
    ImportError,
    MemoryError,
    OSError,
    DeviceError,
    ModelNotFound,
    RateLimitError,
    QuotaError,
    AuthorizationError,
    ChromaAuthError,
)
"""Errors that another text would meet as well; connections that fail are OSErrors."""

HOPELESS: Final = 16
"""When so many texts fail one after another, it is not the texts."""


class Sieve:
    """Puts texts that fail into ``failures``. For one stream."""

    def __init__(self, failures: Failures) -> None:
        self._failures = failures
        self._in_a_row = 0

    def parts(self, embed: Callable[[list[Any]], Vectors], batch: list[Any], start: int) -> Iterator[tuple[int, Vectors]]:
        """The vectors of those parts of a batch that can be embedded, in order: (place in the batch, vectors).

        start   position of the batch in the stream
        Raises  what ``embed`` raises, where that is not for the text or nothing else has come for long
        Cost    one call for a batch without failures, at most 1 + 2 * log2(len(batch)) for one bad text
        """
        waiting = [(0, len(batch))]
        while waiting:
            begin, end = waiting.pop()
            try:
                vectors = embed(batch[begin:end])
            except NOT_THE_TEXT:
                raise
            except Exception as error:
                if end - begin == 1:
                    self._in_a_row += 1
                    if self._in_a_row >= HOPELESS:
                        error.add_note(f"So did the {HOPELESS - 1} texts before this one: it is not the text.")
                        raise
                    self._failures.add(start + begin, error.with_traceback(None))
                else:
                    middle = begin + (end - begin + 1) // 2
                    waiting += [(middle, end), (begin, middle)]
                continue
            self._in_a_row = 0
            yield begin, vectors
