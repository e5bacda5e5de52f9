"""The tokens of many texts in two flat arrays, without padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True, eq=False)
class TokenIds:
    """The tokens of n texts without padding: text i has ids[offsets[i]:offsets[i + 1]].

    ids      [total] int32
    offsets  [n + 1] int64
    skipped  tokens at the beginning of each text that do not count in pooling
    """

    ids: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    skipped: int = 0

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """[n] tokens per text."""
        return np.diff(self.offsets)

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


def token_ids(tokenizer: Any, texts: Sequence[str], *, special: bool = True, skipped: int = 0) -> TokenIds:
    """The tokens of texts by a ``tokenizers.Tokenizer``.  Cost: runs on all cores, without the interpreter's lock."""
    encodings = tokenizer.encode_batch_fast(list(texts), add_special_tokens=special)
    offsets = np.zeros(len(encodings) + 1, np.int64)
    np.cumsum([len(encoding) for encoding in encodings], out=offsets[1:])
    ids = np.empty(offsets[-1], np.int32)
    for i, encoding in enumerate(encodings):
        ids[offsets[i] : offsets[i + 1]] = encoding.ids
    return TokenIds(ids, offsets, skipped)
