"""Texts that could not be embedded, set apart from those that could."""

from __future__ import annotations

from collections.abc import Mapping


class Failures:
    """Collects what fails while texts are embedded, so that the others go on. For one call and one thread.

    Who passes one promises to leave out the texts in it: their rows in the blocks are NaN.
    """

    def __init__(self) -> None:
        self._found: dict[int, Exception] = {}

    def __len__(self) -> int:
        return len(self._found)

    @property
    def found(self) -> Mapping[int, Exception]:
        """Position among the texts -> why it has no vector. All of a block are here before the block is yielded."""
        return self._found

    def add(self, position: int, error: Exception) -> None:
        """A text has no vector."""
        self._found[position] = error
