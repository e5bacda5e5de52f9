"""The distances of Chroma between two vectors, in NumPy: what the index answers can be compared with."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def l2(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> float:
    """The squared Euclidean distance."""
    return float(np.linalg.norm(x - y) ** 2)


def cosine(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> float:
    """1 - cosine; 1 if one of them is 0."""
    tiny = 1e-7 if np.float16 in (x.dtype, y.dtype) else 1e-30
    return float(1.0 - np.dot(x, y) / (np.linalg.norm(x) * np.linalg.norm(y) + tiny))


def ip(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> float:
    """1 - inner product."""
    return float(1.0 - np.dot(x, y))
