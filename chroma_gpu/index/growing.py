"""A float32 array that grows at its end while other threads read it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


class Growing:
    """One float32 for each row, appended in amortised O(1). One thread appends; a view taken earlier stays as it was."""

    def __init__(self, values: npt.NDArray[np.float32] | None = None) -> None:
        self._space = np.empty(0, np.float32) if values is None else np.array(values, np.float32)
        self._length = len(self._space)

    def __len__(self) -> int:
        return self._length

    def append(self, values: npt.NDArray[np.float32]) -> None:
        """Add values at the end."""
        stop = self._length + len(values)
        if stop > len(self._space):
            space = np.empty(max(stop, 2 * len(self._space)), np.float32)
            space[: self._length] = self._space[: self._length]
            self._space = space
        self._space[self._length : stop] = values
        self._length = stop

    def view(self, stop: int | None = None) -> npt.NDArray[np.float32]:
        """The first ``stop`` values, or all, without a copy."""
        return self._space[: self._length if stop is None else stop]
