"""BM25 as sparse vectors, with the values of Chroma's function of this name, so that collections of both agree.

Method: the term frequency part of Okapi BM25 (Robertson and Zaragoza 2009, doi:10.1561/1500000019). How rare a word is among the
documents is not part of a vector; an index that knows its documents may add it when it searches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from threading import local
from typing import Any, ClassVar, Final

from chroma_gpu.embed import Documents, SparseEmbeddingFunction, SparseVectors
from chroma_gpu.embed.configs import Configured
from chroma_gpu.embed.words import STOP_WORDS, english_stemmer, hashed, lowered, words
from chroma_gpu.records import SparseVector

DEFAULT_K: Final = 1.2
DEFAULT_B: Final = 0.75
DEFAULT_AVG_DOC_LENGTH: Final = 256.0
DEFAULT_TOKEN_MAX_LENGTH: Final = 40
DEFAULT_CHROMA_BM25_STOPWORDS: Final = list(STOP_WORDS)

_place = lru_cache(maxsize=1 << 16)(hashed)


class ChromaBm25EmbeddingFunction(Configured, SparseEmbeddingFunction[Documents]):
    """English texts to the weights of their words. Instances may be used from several threads.

    k                 how slowly a word that comes again adds weight
    b                 how much long texts are marked down, 0 to 1
    avg_doc_length    words in a text of usual length
    token_max_length  longer words are left out
    stopwords         words that are left out; None is a list for English
    include_tokens    the vectors carry their words, stemmed, as labels
    Vectors           indices are hashes of words, values the weights; empty for a text without words
    Cost              some 5 µs a word, and 50 µs more for one that was not among the last 65,536 different ones
    """

    stored = "chroma_bm25"
    _stemmers: ClassVar[local] = local()

    def __init__(
        self,
        k: float = DEFAULT_K,
        b: float = DEFAULT_B,
        avg_doc_length: float = DEFAULT_AVG_DOC_LENGTH,
        token_max_length: int = DEFAULT_TOKEN_MAX_LENGTH,
        stopwords: Iterable[str] | None = None,
        include_tokens: bool = False,
    ) -> None:
        self.k = float(k)
        self.b = float(b)
        self.avg_doc_length = float(avg_doc_length)
        self.token_max_length = int(token_max_length)
        self.include_tokens = bool(include_tokens)
        self.stopwords = None if stopwords is None else [str(word) for word in stopwords]
        self._left_out = lowered(STOP_WORDS if self.stopwords is None else self.stopwords)

    def __call__(self, input: Documents) -> SparseVectors:
        """One sparse vector per text; a single string is one text.  Raises ValueError for no texts; MissingDependency."""
        texts = [input] if isinstance(input, str) else input
        return [self._vector(text) for text in texts]

    def _vector(self, text: str) -> SparseVector:
        found = words(text, self._left_out, self.token_max_length, self._stemmer())
        usual = 1 - self.b + (self.b * float(len(found))) / self.avg_doc_length
        counts: Counter[int] = Counter()
        labels: dict[int, str] = {}
        for word in found:
            place = _place(word)
            counts[place] += 1
            labels.setdefault(place, word)
        indices = sorted(counts)
        values = [counts[place] * (self.k + 1) / (counts[place] + self.k * usual) for place in indices]
        named = [labels[place] for place in indices] if self.include_tokens and indices else None
        return SparseVector(indices, values, named)

    def _stemmer(self) -> Any:
        """This thread's stemmer: it keeps the word it works on."""
        if not hasattr(self._stemmers, "english"):
            self._stemmers.english = english_stemmer()
        return self._stemmers.english

    def get_config(self) -> dict[str, Any]:
        """Chroma's keys; the stop words where they were chosen."""
        config = super().get_config()
        if config["stopwords"] is None:
            del config["stopwords"]
        return config

    def validate_config_update(self, old_config: dict[str, Any], new_config: dict[str, Any]) -> None:
        """Raises ValueError for a field that is none."""
        for name in new_config:
            if name not in ("k", "b", "avg_doc_length", "token_max_length", "stopwords", "include_tokens"):
                raise ValueError(f"Updating '{name}' is not supported for {self.stored}")
