"""The seam between embedding and what keeps vectors of texts that were embedded before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from chroma_gpu.records import Vectors


class Remembered(Protocol):
    """Vectors that one model has made of texts. May be used from several threads; forgets what it likes, and never gives a wrong one."""

    def find(self, texts: Sequence[str]) -> tuple[npt.NDArray[np.bool_], Vectors]:
        """Which of the texts are known, [n] bool, and the vectors of those, [known, dim] float32, in their order."""
        ...

    def keep(self, texts: Sequence[str], vectors: Vectors) -> None:
        """Remember the vectors [len(texts), dim] float32 of some texts."""
        ...


class Memory(Protocol):
    """What remembers vectors of many models."""

    def of(self, fingerprint: str, dim: int) -> Remembered:
        """What is remembered of one model: ``fingerprint`` says everything that a vector depends on besides the text."""
        ...

    def dim_of(self, fingerprint: str) -> int | None:
        """How long the vectors are that are remembered of a model; None if there are none."""
        ...
