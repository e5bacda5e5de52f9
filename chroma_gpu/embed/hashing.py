"""Vectors without a model: hashed words and letter groups. Deterministic everywhere, for tests, demos and exact-word search.

Method: the hashing trick (Weinberger et al. 2009, arXiv:0902.2206) over words and the character n-grams of fastText
(Bojanowski et al. 2017, arXiv:1607.04606): every feature adds +1 or -1 at a place that its hash says.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from chroma_gpu.embed import Space
from chroma_gpu.embed.encoders.static import unit_vectors
from chroma_gpu.embed.local import LocalEmbeddingFunction
from chroma_gpu.embed.stream.protocol import WINDOW, Prompt
from chroma_gpu.embed.tokens.tokeniser import TokenIds
from chroma_gpu.records import Vectors

DIMENSION: Final = 256
_WORD: Final = re.compile(r"\w+")


class HashingEmbeddingFunction(LocalEmbeddingFunction):
    """Texts that share words, or parts of words, are near each other. No weights, no network.

    dimension  numbers per vector, >= 1; texts of many different words need more
    Vectors    [n, dimension] float32 of norm 1; zero for a text without letters and digits
    """

    stored = "hashing"

    def __init__(self, dimension: int = DIMENSION) -> None:
        if isinstance(dimension, bool) or not isinstance(dimension, int) or dimension < 1:
            raise ValueError(f"dimension must be an int of at least 1, got {dimension!r}")
        self.dimension = dimension

    def encoder(self) -> HashingEncoder:
        """The encoder itself; it has no weights to share."""
        return HashingEncoder(self.dimension)

    def default_space(self) -> Space:
        """Angles: lengths say nothing."""
        return "cosine"


class HashingEncoder:
    """Features as tokens: their ids are hashes of 31 bits, from which ``core`` takes place and sign."""

    stored = "hashing"
    window: int = WINDOW
    fingerprint: str | None = None
    padded: bool = False
    lanes: int = 1

    def __init__(self, dimension: int) -> None:
        self.dim = dimension
        self.budget = 1 << 18

    def pre(self, texts: Sequence[str], prompt: Prompt) -> TokenIds:
        """The hashes of each text's features."""
        hashes = [[zlib.crc32(part) & 0x7FFFFFFF for part in _features(prompt.text + text)] for text in texts]
        offsets = np.concatenate([[0], np.cumsum([len(found) for found in hashes])]).astype(np.int64)
        return TokenIds(np.array([h for found in hashes for h in found], np.int32), offsets)

    def core(self, tokens: TokenIds, places: npt.NDArray[np.intp]) -> Vectors:
        """[m, dim] float32 of norm 1."""
        vectors = np.zeros((len(places), self.dim), np.float32)
        for row, place in enumerate(places):
            hashes = tokens.ids[tokens.offsets[place] : tokens.offsets[place + 1]]
            signs = np.where(hashes & 1, np.float32(1), np.float32(-1))
            vectors[row] = np.bincount((hashes >> 1) % self.dim, signs, self.dim)
        return unit_vectors(vectors)

    def post(self, vectors: Vectors) -> Vectors:
        """What ``core`` returned."""
        return vectors

    def on_cpu(self) -> None:
        """It is there already."""
        return

    def peak(self, batch: int, length: int) -> None:
        """Nothing that would have to be watched."""
        return


def _features(text: str) -> Iterator[bytes]:
    """Each word in lower case, and the groups of four characters of the word between < and >."""
    for word in _WORD.findall(text.lower()):
        framed = f"<{word}>"
        yield word.encode("utf-8", "surrogatepass")
        for start in range(len(framed) - 3):
            yield framed[start : start + 4].encode("utf-8", "surrogatepass")
