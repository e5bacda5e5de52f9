"""Static embeddings: the vector of a text is the mean of its tokens' vectors from a table. No transformer, thousands of texts per second.

Read are the StaticEmbedding directories of sentence-transformers, those of model2vec, and the table of the package wordllama.
Method: Tissier et al., "Static word embeddings", as distilled by model2vec (Tulkens & van Dongen, 2024) and WordLlama (Miller, 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from chroma_gpu.embed.encoders.fingerprint import VERSION, Loaded, of_files
from chroma_gpu.embed.stream.protocol import Prompt
from chroma_gpu.embed.tokens.tokeniser import TokenIds, Tokeniser
from chroma_gpu.errors import EmbeddingFailed
from chroma_gpu.records import Vectors

BUDGET: Final = 1_024
"""Tokens per batch: the rows gathered from the table stay in the cache, which makes a batch five times as fast as a large one."""

WINDOW: Final = 16_384
"""Texts that are sorted together."""


class StaticEncoder:
    """A table of token vectors on the CPU.

    tokenizer  a ``tokenizers.Tokenizer``
    table      [vocabulary, dim] float32
    unit       divide each vector by its norm
    files      where tokenizer and table are from, in the state in which they were read; without it vectors are not to be remembered
    """

    window: int = WINDOW
    padded: bool = False
    lanes: int = 1

    def __init__(self, tokenizer: Any, table: Vectors, *, unit: bool, files: Loaded | None = None) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.tokeniser = Tokeniser(tokenizer)
        self._table = table
        self._unit = unit
        self._files = files
        self.dim = int(table.shape[1])
        self.budget = BUDGET

    @cached_property
    def fingerprint(self) -> str | None:
        """Of the files, and of what is done with the vectors; None where they are not known, or others by now."""
        files = self._files
        return None if files is None else files.named(lambda: of_files(files.paths(), (VERSION, self._unit)))

    def pre(self, texts: Sequence[str], prompt: Prompt) -> TokenIds:
        """Tokens without special tokens."""
        return self.tokeniser.tokens(texts, prompt.text, special=False)

    def core(self, tokens: TokenIds, places: npt.NDArray[np.intp]) -> Vectors:
        """[m, dim] float32: the mean of each text's rows; zero for a text without tokens."""
        lengths = tokens.lengths[places]
        starts = np.cumsum(lengths) - lengths
        flat = np.repeat(tokens.offsets[places] - starts, lengths) + np.arange(lengths.sum())
        full = lengths > 0
        vectors = np.zeros((len(places), self.dim), np.float32)
        if full.any():
            sums = np.add.reduceat(self._table[tokens.ids[flat]], starts[full], axis=0)
            vectors[full] = sums / lengths[full, None]
        return unit_vectors(vectors) if self._unit else vectors

    def post(self, vectors: Vectors) -> Vectors:
        """What ``core`` returned."""
        return vectors

    def on_cpu(self) -> None:
        """It is there already."""
        return

    def peak(self, batch: int, length: int) -> None:
        """Nothing that would have to be watched."""
        return


def unit_vectors(vectors: Vectors) -> Vectors:
    """[n, dim] divided by their L2 norms; zero stays zero."""
    norms = np.linalg.norm(vectors.astype(np.float64, copy=False), axis=1, keepdims=True)
    unit: Vectors = (vectors / np.maximum(norms, 1e-12)).astype(np.float32)
    return unit


def from_files(weights: Path, tokenizer: Path, *, unit: bool) -> StaticEncoder:
    """The model of a safetensors file and a tokenizer.json.

    The table is the tensor "embedding.weight", or model2vec's "embeddings" with its optional "mapping" and "weights".
    Raises EmbeddingFailed if a file is missing, damaged, or holds no such table.
    """
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    try:
        files = Loaded(lambda: (weights, tokenizer))
        tensors = load_file(weights)
        return StaticEncoder(Tokenizer.from_file(str(tokenizer)), _table(tensors), unit=unit, files=files)
    except Exception as error:
        raise EmbeddingFailed(f"the static model {weights} cannot be loaded: {type(error).__name__}: {error}") from error


def _table(tensors: dict[str, npt.NDArray[Any]]) -> Vectors:
    if "embedding.weight" in tensors:
        return tensors["embedding.weight"].astype(np.float32)
    table = tensors["embeddings"]
    if "mapping" in tensors:
        table = table[tensors["mapping"]]
    if "weights" in tensors:
        table = table.astype(np.float32) * tensors["weights"][:, None]
    return table.astype(np.float32)
