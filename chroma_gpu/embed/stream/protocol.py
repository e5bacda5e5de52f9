"""What the pipeline knows of a model: three verbs, and a few numbers that say how it likes to be fed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from chroma_gpu.records import Vectors

Places: TypeAlias = npt.NDArray[np.intp]
"""[m] positions of texts among those that were tokenised together."""

WINDOW: Final = 8_192
"""Texts that are sorted together where an encoder does not say how many; also the length of a block."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is put before every text; ``pooled`` says whether its tokens count in pooling, None leaves that to the model."""

    text: str = ""
    pooled: bool | None = None


class Tokens(Protocol):
    """The tokens of the texts of one window. May have ``truncated``, how many of the texts were cut to the model's length."""

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """[n] how long each text is, in tokens or in proportion to them."""
        ...


class Encoder(Protocol):
    """A model, in the three verbs that the pipeline overlaps. Encoders may be shared between threads.

    dim          numbers per vector
    budget       tokens per batch; lowered by the pipeline after running out of memory
    window       texts that are sorted together, about as many as make 64 batches
    fingerprint  says all that a vector depends on besides text and prompt; None: vectors are not to be remembered
    padded       whether the texts of a batch are filled up to the longest, and the budget counts that; else it counts real tokens
    lanes        how many batches may be in ``core`` at once and gain by it: 1 on a GPU
    """

    budget: int

    @property
    def dim(self) -> int: ...

    @property
    def window(self) -> int: ...

    @property
    def fingerprint(self) -> str | None: ...

    @property
    def padded(self) -> bool: ...

    @property
    def lanes(self) -> int: ...

    def pre(self, texts: Sequence[str], prompt: Prompt) -> Any:
        """``Tokens`` of texts, on the CPU. May be called by several threads at once."""
        ...

    def core(self, tokens: Any, places: Places) -> Any:
        """The vectors of the texts at ``places``, on the device, in the model's own form. Need not wait for the device."""
        ...

    def post(self, vectors: Any) -> Vectors:
        """[m, dim] float32 on the host. Waits for the device."""
        ...

    def on_cpu(self) -> Encoder | None:
        """The same model on the CPU, for a text that the device cannot hold; None if this one is there already."""
        ...

    def peak(self, batch: int, length: int) -> int | None:
        """Bytes that a forward pass of such a batch takes at most on the device, by running it; None where nobody can know."""
        ...
