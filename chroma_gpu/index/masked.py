"""Masks for searches that know nothing of them: more is asked for, and what fails is dropped."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from chroma_gpu.rowset import RowSet

_OVER: Final = 1.2
"""More rows are asked for than the share that passes calls for."""

_MORE: Final = 16
"""And so many more."""


def asked_for(fetch: int, rows: int, passing: int) -> int:
    """How many of so many rows must be asked for, for so many to be left that pass, if those are as near as the others."""
    return math.ceil(_OVER * fetch * rows / max(1, passing)) + _MORE


def kept(found: npt.NDArray[np.int64], mask: RowSet) -> npt.NDArray[np.int64]:
    """[q, m] rows found, -1 in place of those that are not in the mask."""
    inside = (found >= 0) & (found < mask.size)
    inside[inside] = mask.flags()[found[inside]]
    return np.where(inside, found, -1)
