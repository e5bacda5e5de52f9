"""A fixed random rotation, so that 1-bit codes work whatever the shape of the data."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from chroma_gpu.records import Vectors

_DENSE: Final = 256
"""Dimensions up to which one matrix is used."""

_BLOCK: Final = 128
"""Above that, the side of the blocks of two rounds."""

_SEED: Final = 20240521


class Rotation:
    """Maps [n, dim] to [n, width] and keeps lengths and angles.

    The error of a 1-bit code is known in distribution only for data in no special position to the axes (Gao and Long, RaBitQ,
    SIGMOD 2024): without a rotation, sparse or blocked vectors get useless codes. Up to 256 dimensions it is one orthogonal
    matrix. Above, two rounds of (permute, flip signs, multiply blocks of 128 by one orthogonal matrix) mix every coordinate
    with every other at 256 products a coordinate instead of ``dim``.

    width    at least dim: narrow vectors are spread over more coordinates, because the error of a code falls with the root of
             its bits, and wide ones are filled up to whole blocks
    Cost     1.3 µs a row of 384 in batches, 12 µs for one query
    """

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.width = code_width(dim)
        rng = np.random.default_rng(_SEED)
        block = self.width if self.width <= _DENSE else _BLOCK
        self._rounds: list[tuple[npt.NDArray[np.intp], npt.NDArray[np.float32], npt.NDArray[np.float32]]] = []
        for _ in range(1 if block == self.width else 2):
            order = rng.permutation(self.width)
            signs = rng.choice(np.array([-1, 1], np.float32), self.width)
            matrix = np.linalg.qr(rng.standard_normal((block, block)))[0].astype(np.float32)
            self._rounds.append((order, signs, matrix))

    def __call__(self, vectors: Vectors) -> Vectors:
        """[n, width] float32."""
        result = np.zeros((len(vectors), self.width), np.float32)
        result[:, : self.dim] = vectors
        for order, signs, matrix in self._rounds:
            mixed = result.take(order, axis=1)
            mixed *= signs
            result = (mixed.reshape(-1, len(matrix)) @ matrix).reshape(len(vectors), self.width)
        return result


def code_width(dim: int) -> int:
    """Bits of a code for vectors of ``dim``: at least twice dim up to 128 dimensions."""
    if dim > _DENSE:
        return -(-dim // _BLOCK) * _BLOCK
    return -(-max(dim, min(2 * dim, _DENSE)) // 8) * 8
