"""Pieces of texts counted in the tokens of a model."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from chroma_gpu.errors import InvalidArgumentError

_WORD_BY_WORD: Final = "WordPiece"


@dataclass(frozen=True, slots=True, eq=False)
class Tokenizer:
    """The tokenizer of a model without truncation and padding.

    special       tokens that it puts around every text
    word_by_word  whether a word has the same tokens wherever it stands between white space
    """

    fast: Any
    special: int
    word_by_word: bool

    @classmethod
    def of(cls, tokenizer: Any) -> Tokenizer:
        """A copy of a fast tokenizer of transformers, or of one of tokenizers. Raises InvalidArgumentError for another."""
        backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
        if not hasattr(backend, "to_str"):
            raise InvalidArgumentError(
                f"tokens of a {type(tokenizer).__name__} cannot be placed in a text.",
                hint="Cut by chars, or take a fast tokenizer.",
            )
        written = backend.to_str()
        fast = type(backend).from_str(written)
        fast.no_truncation()
        fast.no_padding()
        kind = msgspec.json.decode(written)["model"].get("type")
        return cls(fast, fast.num_special_tokens_to_add(False), kind == _WORD_BY_WORD)

    def count(self, text: str) -> int:
        """Tokens of a text, without those around it."""
        return len(self.fast.encode(text, add_special_tokens=False).ids)

    def reach(self, text: str, size: int, overlap: int) -> TokenReach:
        """How far so many tokens reach in a text. Cost: the text is tokenised once."""
        spans = [span for span in self.fast.encode(text, add_special_tokens=False).offsets if span[0] < span[1]]
        return TokenReach(self, text, size, overlap, [start for start, _ in spans], [end for _, end in spans])


@dataclass(frozen=True, slots=True, eq=False)
class TokenReach:
    """``cutting.Reach`` in tokens.

    starts, ends  the characters of each token, in order; several tokens may be of one character
    """

    tokenizer: Tokenizer
    text: str
    size: int
    overlap: int
    starts: list[int]
    ends: list[int]

    def end(self, start: int, less: int) -> int:
        """As in ``cutting.Reach``."""
        first = bisect_right(self.ends, start)
        behind = first + max(1, self.size - less)
        if behind >= len(self.ends):
            return len(self.text)
        end = self.ends[behind - 1]
        if self.ends[behind] == end:
            # The next token is of the same character: what is before it fits.
            whole = bisect_left(self.ends, end)
            end = self.ends[whole - 1] if whole > first else end
        return max(end, start + 1)

    def over(self, start: int, stop: int) -> int:
        """As in ``cutting.Reach``. A piece is tokenised again where it may have other tokens by itself."""
        text = self.text
        apart = (start == 0 or text[start - 1].isspace()) and (stop == len(text) or text[stop].isspace())
        return 0 if self.tokenizer.word_by_word and apart else self.tokenizer.count(text[start:stop]) - self.size

    def back(self, stop: int) -> int:
        """As in ``cutting.Reach``."""
        behind = bisect_left(self.starts, stop)
        first = max(0, behind - self.overlap)
        if 0 < first < behind and self.starts[first - 1] == self.starts[first]:
            first = bisect_right(self.starts, self.starts[first])
        return self.starts[first] if first < behind else stop
