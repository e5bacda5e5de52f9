"""SPLADE: a language model's guesses at every token of a text, as weights of the words of its vocabulary.

Source: Formal et al. 2021, arXiv:2107.05720 (sum) and arXiv:2109.10086 (max).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import count, pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

import numpy as np
import numpy.typing as npt

from chroma_gpu import device as devices
from chroma_gpu.embed.encoders.heads import HeadEncoder
from chroma_gpu.embed.encoders.layout import UnusualModelError
from chroma_gpu.embed.progress import Progress
from chroma_gpu.embed.stream.pipeline import Prompt, stream
from chroma_gpu.embed.tokens.tokeniser import TokenIds
from chroma_gpu.errors import EmbeddingFailed
from chroma_gpu.records import SparseVector, Vectors

if TYPE_CHECKING:
    import torch

CPU_GUESSES: Final = 128 << 20
"""Bytes of the guesses of a batch on a CPU, a number for each token and word of the vocabulary."""

SHARE: Final = 64
"""On a GPU they take one part in so many of its memory."""


class SpladeEncoder(HeadEncoder):
    """A SPLADE model: [m, vocabulary] weights on the device, of which ``sparse_blocks`` takes those that are not 0.

    Guesses are made in 16 bits on a GPU; the weights are computed of them in float32.
    """

    kind: ClassVar[str] = "AutoModelForMaskedLM"

    def take(self, config: Any) -> None:
        """Which words there are, and how a text's tokens are put together."""
        if not (config.architectures or [""])[0].endswith("ForMaskedLM"):
            raise UnusualModelError("it is no masked language model")
        self.dim = int(config.vocab_size)
        self._sum = self.layout.after.get("pooling_strategy", "max") == "sum"
        self._twice = self.layout.after.get("activation_function", "relu") == "log1p_relu"

    def tokens_at_once(self) -> int:
        """So many that their guesses fit."""
        memory = devices.total_memory(self.device)
        fits = CPU_GUESSES // (4 * self.dim) if memory is None else memory // SHARE // (2 * self.dim)
        return max(1, min(super().tokens_at_once(), fits))

    def said(self, given: dict[str, torch.Tensor]) -> torch.Tensor:
        """The weights of all words."""
        guesses = self._model(**given).logits.masked_fill_(~given["attention_mask"].bool()[:, :, None], 0)
        if self._sum:
            return self._weights(guesses.float()).sum(dim=1)
        # The largest weight is that of the largest guess, which is found first: there are as many weights as words, not times tokens.
        return self._weights(guesses.amax(dim=1).float())

    def _weights(self, guesses: torch.Tensor) -> torch.Tensor:
        weights = guesses.relu_().log1p_()
        return weights.log1p_() if self._twice else weights

    def sent(self, result: torch.Tensor) -> Any:
        """The weights stay: most are 0."""
        return result


def sparse_blocks(
    encoder: SpladeEncoder, texts: Iterable[str], prompt: Prompt, progress: Progress = None
) -> Iterator[tuple[int, list[SparseVector]]]:
    """The sparse vectors of any number of texts in blocks, in order, as ``pipeline.stream`` gives dense ones.

    Yields (start, vectors), indices ascending, no value 0
    Raises as ``stream``
    Cost   only what is not 0 leaves the device; memory for the windows of ``stream``
    """
    aside = _SetAside(encoder)
    for start, numbers in stream(aside, texts, prompt, progress=progress):
        yield start, aside.taken(numbers[:, 0].astype(np.intp))


class _SetAside:
    """The encoder of one call: a pipeline of dense rows gets the number of each sparse row, and the row is set aside under it."""

    dim = 1

    def __init__(self, encoder: SpladeEncoder, rows: dict[int, SparseVector] | None = None, numbers: Any = None) -> None:
        self._encoder = encoder
        self._rows: dict[int, SparseVector] = {} if rows is None else rows
        self._numbers = count() if numbers is None else numbers
        self.budgeted, self.device = encoder, encoder.device
        self.window, self.padded, self.lanes = encoder.window, encoder.padded, encoder.lanes
        self.fingerprint: str | None = None  # numbers mean nothing to the next call

    @property
    def budget(self) -> int:
        return self._encoder.budget

    @budget.setter
    def budget(self, tokens: int) -> None:
        self._encoder.budget = tokens

    def pre(self, texts: Sequence[str], prompt: Prompt) -> Any:
        return self._encoder.pre(texts, prompt)

    def core(self, tokens: TokenIds, places: npt.NDArray[np.intp]) -> Any:
        return self._encoder.core(tokens, places)

    def post(self, weights: Any) -> Vectors:
        """[m, 1] numbers, exact as float32."""
        if isinstance(weights, np.ndarray):
            return cast(Vectors, weights)  # of another encoder, on the CPU
        numbers = [next(self._numbers) % (1 << 24) for _ in range(len(weights))]
        self._rows.update(zip(numbers, _rows(weights), strict=True))
        return np.array(numbers, np.float32)[:, None]

    def on_cpu(self) -> _SetAside | None:
        other = self._encoder.on_cpu()
        return None if other is None else _SetAside(other, self._rows, self._numbers)

    def peak(self, batch: int, length: int) -> int | None:
        return self._encoder.peak(batch, length)

    def taken(self, numbers: npt.NDArray[np.intp]) -> list[SparseVector]:
        """The rows of a block, which are not kept any longer. Equal texts have one row."""
        found = [self._rows[number] for number in numbers.tolist()]
        for number in set(numbers.tolist()):
            del self._rows[number]
        return found


def _rows(weights: torch.Tensor) -> list[SparseVector]:
    """What is not 0 of [m, vocabulary]."""
    places = weights.nonzero()
    values = weights[places[:, 0], places[:, 1]].cpu().numpy()
    if not np.isfinite(values).all():
        raise EmbeddingFailed(
            "the model returned NaN or infinity.",
            hint='Its weights may be damaged, or overflow in 16 bits: try model_kwargs={"dtype": "float32"}.',
        )
    rows, columns = places.cpu().numpy().T
    ends = np.searchsorted(rows, np.arange(len(weights) + 1)).tolist()
    indices, listed = columns.tolist(), values.tolist()
    return [SparseVector(indices[start:end], listed[start:end]) for start, end in pairwise(ends)]
