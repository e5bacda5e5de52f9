"""Where a batch ends: by its tokens, and by what padding would waste."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from chroma_gpu.embed.stream.protocol import Places

WASTE: Final = 1 / 16
"""The share of padding at which a batch may end early."""

SHARE: Final = 4
"""A batch ends early only with 1/SHARE of the budget: a small one costs a launch as a large one does."""

TAIL: Final = 8
"""What would be left over with less than 1/TAIL of the budget goes along, if it fits: it is not worth a launch of its own."""


@dataclass(frozen=True, slots=True, eq=False)
class Sorted:
    """Texts by falling length.

    order    [n] places
    lengths  [n] of the texts in this order
    sums     [n + 1] lengths before each
    """

    order: Places
    lengths: npt.NDArray[np.int64]
    sums: npt.NDArray[np.int64]

    @classmethod
    def of(cls, lengths: npt.NDArray[np.int64]) -> Self:
        """Texts of equal length stay in their order."""
        order = np.argsort(-lengths, kind="stable")
        falling = lengths[order]
        return cls(order, falling, np.concatenate([np.zeros(1, np.int64), np.cumsum(falling)]))

    def __len__(self) -> int:
        return len(self.order)

    def end(self, start: int, budget: int, padded: bool) -> int:
        """Where the batch that begins at ``start`` ends: after one text at least.

        Without padding, a batch takes texts up to ``budget`` tokens. With it, every text counts as the first and longest, and

        - the batch ends before the text that makes padding more than WASTE of it, once it has 1/SHARE of the budget;
        - unless all that would be left after it is less than 1/TAIL of the budget and fits into it too.
        """
        if not padded:
            return max(start + 1, int(np.searchsorted(self.sums, self.sums[start] + budget, "right")) - 1)
        longest = max(1, int(self.lengths[start]))
        size = max(1, min(budget // longest, len(self) - start))
        counts = np.arange(1, size + 1)
        tokens = self.sums[start + 1 : start + size + 1] - self.sums[start]
        # Lengths fall, so that the share of padding only grows.
        even = int(np.searchsorted(counts * longest - tokens > counts * longest * WASTE, True))
        end = start + min(size, max(even, -(-budget // SHARE) // longest, 1))
        left = len(self) - end
        if 0 < left <= start + size - end and left * int(self.lengths[end]) * TAIL < budget:
            return len(self)
        return end


def padding(lengths: npt.NDArray[np.int64], padded: bool) -> tuple[int, int]:
    """Tokens of a batch of texts, and the same with padding."""
    tokens = int(lengths.sum())
    return tokens, int(lengths.max(initial=0)) * len(lengths) if padded else tokens
