"""The tokens of many texts in two flat arrays, without padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from chroma_gpu.embed.tokens.wordpiece import UnprovenError, WordPiece

FEW: Final = 256
"""Characters: fewer are tokenised sooner the ordinary way, and so is a single text."""

_CHECKED: Final = (
    "",
    " ",
    " \t\r\n ",
    "".join(map(chr, range(33, 127))),
    "Hello, World! It's 3.14 o'clock -- don't_you#think?",
    "a\x0bb\x0cc\x1fd\x7fe\x00f",
    "[CLS] [SEP] [PAD] [UNK] [MASK] <s> </s> <mask> ##ing [cls] [ SEP ]",
    "unbelievable antidisestablishmentarianism sixteen_letters abcdefghijklmnop abcdefghijklmnopq ABCDEFGHIJKLMNOPQRSTUVW",
    "x" * 99 + " " + "Y" * 100 + " " + "z" * 101 + " " + "0" * 300,
    "Caf\u00e9 \u00c5ngstr\u00f6m na\u00efve \u00df\u00d8\u00e6 \u201cquoted\u201d \u2018it\u2019s\u2019 10\u20ac\u2014\u2013\u2026\u00a0\u2122\u00ab\u00bb\u00ad\u00b2\u00bd",
    "the of and to in a is that for it as was with be by on not he his but at are this have from or had an they which one you",
    "word " * 2_000,
)
"""What the fast way of every tokenizer is tried with before it is used."""


@dataclass(frozen=True, slots=True, eq=False)
class TokenIds:
    """The tokens of n texts without padding: text i has ids[offsets[i]:offsets[i + 1]].

    ids      [total] int32
    offsets  [n + 1] int64
    skipped  tokens at the beginning of each text that do not count in pooling
    longest  how many tokens a text may have, the rest is cut off; None: any number
    """

    ids: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    skipped: int = 0
    longest: int | None = None

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """[n] tokens per text."""
        return np.diff(self.offsets)

    @property
    def truncated(self) -> int:
        """How many texts have as many tokens as a text may have: nearly all of them had more."""
        return 0 if self.longest is None else int(np.count_nonzero(self.lengths >= self.longest))

    def padded(self, places: npt.NDArray[np.intp], pad: int, left: bool) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        """The texts at ``places`` as one rectangle: ids [m, width] int32, and which of them are tokens, [m, width] bool."""
        lengths = self.lengths[places][:, None]
        width = max(1, int(lengths.max()))
        column = np.arange(width) - (width - lengths if left else 0)
        mask = (column >= 0) & (column < lengths)
        if not len(self.ids):
            return np.full(mask.shape, pad, np.int32), mask
        found = self.ids[np.minimum(self.offsets[places][:, None] + np.maximum(column, 0), len(self.ids) - 1)]
        return np.where(mask, found, np.int32(pad)), mask


class Tokeniser:
    """A ``tokenizers.Tokenizer`` that makes arrays, by the fast way of ``wordpiece`` where that is proven to give the same.

    tokenizer  padding is off, truncation as wanted; it must not be changed afterwards
    fast       whether there is a fast way for this tokenizer
    why_not    if not, why
    Threads: any number at once; the arrays are made without the interpreter's lock for the most part.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        cut = tokenizer.truncation
        self._longest = None if cut is None else int(cut["max_length"])
        self._words: WordPiece | None = None
        self.why_not: str | None = None
        try:
            words = WordPiece(tokenizer)
            self._check(words)
            self._words = words
        except UnprovenError as error:
            self.why_not = str(error)

    @property
    def fast(self) -> bool:
        """Whether there is a fast way for this tokenizer."""
        return self._words is not None

    def tokens(self, texts: Sequence[str], prefix: str = "", *, special: bool = True, skipped: int = 0) -> TokenIds:
        """The tokens of each text with the prefix before it, as of one text.

        special  with the tokens that frame a text
        Cost     the fast way: some 0.1 microseconds a token on one core; the other: some 2, shared by all cores
        """
        if self._words is None or len(texts) < 2 or sum(map(len, texts)) + len(texts) * len(prefix) < FEW:
            return TokenIds(*self._ordinary(texts, prefix, special), skipped, self._longest)
        ids, lengths, others = self._words.tokens(texts, prefix, special=special)
        if others:
            theirs, bounds = self._ordinary([texts[place] for place in others], prefix, special)
            ids = _merged(ids, lengths, theirs, bounds, others)
        return TokenIds(ids, _bounds(lengths), skipped, self._longest)

    def _ordinary(self, texts: Sequence[str], prefix: str, special: bool) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        whole = [prefix + text for text in texts] if prefix else list(texts)
        encodings = self.tokenizer.encode_batch_fast(whole, add_special_tokens=special)
        bounds = _bounds(np.fromiter(map(len, encodings), np.int64, len(encodings)))
        return np.fromiter(chain.from_iterable(encoding.ids for encoding in encodings), np.int32, int(bounds[-1])), bounds

    def _check(self, words: WordPiece) -> None:
        for special in (True, False):
            ids, lengths, _ = words.tokens(_CHECKED, special=special)
            theirs, bounds = self._ordinary(_CHECKED, "", special)
            ours = _bounds(np.maximum(lengths, 0))
            for i in np.flatnonzero(lengths >= 0).tolist():
                if not np.array_equal(ids[ours[i] : ours[i + 1]], theirs[bounds[i] : bounds[i + 1]]):
                    raise UnprovenError(f"the fast way has other tokens for {_CHECKED[i][:80]!r}")


def _bounds(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    bounds = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=bounds[1:])
    return bounds


def _merged(
    ids: npt.NDArray[np.int32],
    lengths: npt.NDArray[np.int64],
    theirs: npt.NDArray[np.int32],
    bounds: npt.NDArray[np.int64],
    others: list[int],
) -> npt.NDArray[np.int32]:
    """All ids in the order of the texts; ``lengths`` becomes complete."""
    ours = _bounds(np.maximum(lengths, 0))
    lengths[others] = np.diff(bounds)
    parts: list[npt.NDArray[np.int32]] = []
    done = 0
    for i, place in enumerate(others):
        parts += ids[done : ours[place]], theirs[bounds[i] : bounds[i + 1]]
        done = ours[place]
    return np.concatenate([*parts, ids[done:]])
