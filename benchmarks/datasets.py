"""Vectors to test and to measure on: hard ones, and the cases that random data never has. No files, no network; one seed, one result."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]

_AT_ONCE: Final = 1 << 16


def folded(n: int, dim: int, intrinsic: int = 10, seed: int = 7) -> Vectors:
    """Points of a low-dimensional sheet, stretched unevenly and folded: graphs and quantizers find them hard, as they do real data.

    Normal points in ``intrinsic`` dimensions are mapped linearly to ``dim``, each coordinate stretched by a factor between 0.1 and
    1.5, and folded by a sine. Neighbours are near in the sheet; the folds bring strangers near too.
    Returns  [n, dim] float32; a smaller n gives the beginning of a larger one, so that queries can be cut from the end
    """
    rng = np.random.default_rng(seed)
    spread = rng.standard_normal((intrinsic, dim)) * rng.uniform(0.1, 1.5, dim) / intrinsic**0.5
    result = np.empty((n, dim), np.float32)
    for start in range(0, n, _AT_ONCE):
        points = rng.standard_normal((_AT_ONCE, intrinsic))[: n - start]
        result[start : start + _AT_ONCE] = np.sin(np.pi * (points @ spread))
    return result


def clustered(n: int, dim: int, clusters: int = 100, spread: float = 0.15, seed: int = 7) -> Vectors:
    """Normal clusters of unequal size around unit centres, in random order.

    spread   length of a point's offset from its centre
    Returns  [n, dim] float32
    """
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((clusters, dim))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    weights = 1 / np.arange(1, clusters + 1)
    home = rng.choice(clusters, n, p=weights / weights.sum())
    return (centres[home] + rng.standard_normal((n, dim)) * spread / dim**0.5).astype(np.float32)


def with_duplicates(vectors: Vectors, copies: int, seed: int = 7) -> Vectors:
    """The same number of vectors, ``copies`` of them, at random places, all equal to the first."""
    rng = np.random.default_rng(seed)
    result = vectors.copy()
    result[rng.choice(len(result), copies, replace=False)] = result[0]
    return result


def with_zeros(vectors: Vectors, zeros: int, seed: int = 7) -> Vectors:
    """The same number of vectors, ``zeros`` of them, at random places, zero."""
    rng = np.random.default_rng(seed)
    result = vectors.copy()
    result[rng.choice(len(result), zeros, replace=False)] = 0
    return result


def with_extremes(vectors: Vectors, seed: int = 7) -> Vectors:
    """The same number of vectors, some scaled by powers of ten from 1e-40 to 1e37: subnormal, and too long to be squared in float32."""
    rng = np.random.default_rng(seed)
    result = vectors.copy()
    factors = (1e-40, 1e-30, 1e-20, 1e-10, 1e3, 1e10, 1e19, 1e25, 1e37)
    places = rng.choice(len(result), 2 * len(factors), replace=False)
    for place, factor in zip(places, factors * 2, strict=True):
        result[place] = (result[place] / np.abs(result[place]).max()).astype(np.float64) * factor
    return result
