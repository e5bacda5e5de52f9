"""Text to stemmed English words and their hashes, exactly as Chroma's BM25 function makes them: what is stored has to agree."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, Final

from chroma_gpu.errors import MissingDependency

# The English stop words of NLTK; one more or less and every document length, so every weight, would differ.
_STOP_WORDS: Final = (
    "a about above after again against ain all am an and any are aren aren't as at be because been before being below between both "
    "but by can couldn couldn't d did didn didn't do does doesn doesn't doing don don't down during each few for from further had "
    "hadn hadn't has hasn hasn't have haven haven't having he her here hers herself him himself his how i if in into is isn isn't it "
    "it's its itself just ll m ma me mightn mightn't more most mustn mustn't my myself needn needn't no nor not now o of off on once "
    "only or other our ours ourselves out over own re s same shan shan't she she's should should've shouldn shouldn't so some such t "
    "than that that'll the their theirs them themselves then there these they this those through to too under until up ve very was "
    "wasn wasn't we were weren weren't what when where which while who whom why will with won won't wouldn wouldn't y you you'd "
    "you'll you're you've your yours yourself yourselves"
)
STOP_WORDS: Final = tuple(_STOP_WORDS.split())

_STEMS: Final = 1 << 16
"""Stems that a stemmer remembers: some 10 MB."""

_NOT_A_WORD: Final = re.compile(r"[^\w\s]+")
_32: Final = 0xFFFFFFFF


def words(text: str, stop_words: frozenset[str], longest: int, stemmer: Any) -> list[str]:
    """The words of a text in their order: in lower case, without stop words and words of more than ``longest`` letters, stemmed.

    stemmer  as ``english_stemmer`` makes it
    """
    found = _NOT_A_WORD.sub(" ", text).lower().split()
    stems = (stemmer.stemWord(word).strip() for word in found if word not in stop_words and len(word) <= longest)
    return [stem for stem in stems if stem]


def english_stemmer() -> Any:
    """A Snowball stemmer for English; not to be shared by threads.  Raises MissingDependency without the package snowballstemmer."""
    try:
        import snowballstemmer
    except ImportError as error:
        raise MissingDependency("BM25 needs the package snowballstemmer.", hint="pip install snowballstemmer") from error
    # Stemming a word takes 50 µs, and texts have few words again and again.
    return SimpleNamespace(stemWord=lru_cache(maxsize=_STEMS)(snowballstemmer.stemmer("english").stemWord))


def lowered(stop_words: Iterable[str]) -> frozenset[str]:
    """Stop words as ``words`` takes them."""
    return frozenset(word.lower() for word in stop_words)


def hashed(word: str) -> int:
    """The place of a word in a sparse vector, from 0 to 2**31: the size of its murmur3 hash read as a signed number."""
    unsigned = murmur3(word.encode())
    return unsigned if unsigned < 1 << 31 else (1 << 32) - unsigned


def murmur3(data: bytes, seed: int = 0) -> int:
    """MurmurHash3_x86_32 of some bytes, unsigned.  Source: A. Appleby, smhasher (public domain)."""
    state = seed
    whole = len(data) & ~3
    for at in range(0, whole, 4):
        state ^= _mixed(int.from_bytes(data[at : at + 4], "little"))
        state = (_rotated(state, 13) * 5 + 0xE6546B64) & _32
    if whole < len(data):
        state ^= _mixed(int.from_bytes(data[whole:], "little"))
    state ^= len(data)
    state = ((state ^ state >> 16) * 0x85EBCA6B) & _32
    state = ((state ^ state >> 13) * 0xC2B2AE35) & _32
    return state ^ state >> 16


def _mixed(block: int) -> int:
    return (_rotated((block * 0xCC9E2D51) & _32, 15) * 0x1B873593) & _32


def _rotated(value: int, by: int) -> int:
    return (value << by | value >> (32 - by)) & _32
