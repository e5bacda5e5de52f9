"""What one function does to the vectors of a model that it shares with others: cut them, and give them norm 1."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy.typing as npt

from chroma_gpu.embed.encoders.static import unit_vectors
from chroma_gpu.embed.encoders.transfers import Sent, to_host
from chroma_gpu.embed.stream.kept import Keeping
from chroma_gpu.embed.stream.pipeline import Encoder, Prompt
from chroma_gpu.records import Vectors

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, eq=False)
class _OnHost:
    """What another encoder gave that has no vectors on a device, and is waited for later."""

    result: Any


class Finished:
    """An encoder whose vectors are cut to their first ``truncate`` numbers, then divided by their norms if ``unit``.

    Where the model has its vectors on a device this is done there, and the host gets a copy of the outcome: both have the same bits,
    so an index on that device need not be sent them (``kept``).
    """

    def __init__(self, encoder: Encoder, truncate: int | None, unit: bool) -> None:
        self._encoder, self._truncate, self._unit = encoder, truncate, unit
        self.dim = encoder.dim if truncate is None else len(range(encoder.dim)[:truncate])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)  # how it wants its batches

    @property
    def budget(self) -> int:
        """The model's own: what one function learns about the memory, all of them know."""
        return self._encoder.budget

    @budget.setter
    def budget(self, tokens: int) -> None:
        self._encoder.budget = tokens

    @property
    def budgeted(self) -> Encoder:
        """The encoder that is probed for its budget."""
        return self._encoder

    @property
    def fingerprint(self) -> str | None:
        """Of the model and of what is done here."""
        model = getattr(self._encoder, "fingerprint", None)
        return None if model is None else hashlib.sha256(f"{model} {self._truncate} {self._unit}".encode()).hexdigest()

    def pre(self, texts: Sequence[str], prompt: Prompt) -> Any:
        """The model's tokens."""
        return self._encoder.pre(texts, prompt)

    def core(self, tokens: Any, places: npt.NDArray[Any]) -> Any:
        """The finished vectors on their way to the host, or what the model gave where it has none on a device."""
        result = self._encoder.core(tokens, places)
        vectors = self._encoder.on_device(result) if isinstance(self._encoder, Keeping) else None
        return _OnHost(result) if vectors is None else to_host(self._on_device(vectors))

    def post(self, vectors: Any) -> Vectors:
        """[m, dim] float32 on the host."""
        if isinstance(vectors, Sent):
            return vectors.received()
        if not isinstance(vectors, _OnHost):
            return cast(Vectors, vectors)
        cut = self._encoder.post(vectors.result)[:, : self._truncate]
        return unit_vectors(cut) if self._unit else cut

    def on_device(self, vectors: Any) -> torch.Tensor | None:
        """As ``Keeping.on_device``."""
        return vectors.vectors if isinstance(vectors, Sent) else None

    def on_cpu(self) -> Finished | None:
        """The same on the CPU."""
        other = self._encoder.on_cpu()
        return None if other is None else Finished(other, self._truncate, self._unit)

    def peak(self, batch: int, length: int) -> int | None:
        """The model's own; what is done here takes less than it does."""
        return self._encoder.peak(batch, length)

    def _on_device(self, vectors: torch.Tensor) -> torch.Tensor:
        import torch

        with torch.inference_mode():
            cut = vectors[:, : self._truncate].contiguous()
            return torch.nn.functional.normalize(cut, dim=1) if self._unit else cut
