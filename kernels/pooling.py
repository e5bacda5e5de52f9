"""From the hidden states of tokens to one vector for each text."""

from __future__ import annotations

from enum import StrEnum

import torch
from torch import Tensor


class Pooling(StrEnum):
    """What stands for a text.

    mean      the mean of its tokens
    cls       its first token
    last      its last token
    max       the largest value of each coordinate over its tokens
    weighted  the mean of its tokens, the n-th of which counts n times (Muennighoff 2022, arXiv:2202.08904)
    root      the sum of its tokens, divided by the square root of their number
    """

    MEAN = "mean"
    CLS = "cls"
    LAST = "last"
    MAX = "max"
    WEIGHTED = "weighted"
    ROOT = "root"


def pool(hidden: Tensor, mask: Tensor, pooling: Pooling, *, normalise: bool = True, skipped: int = 0) -> Tensor:
    """One vector for each text of a padded batch.

    hidden   [b, t, h] float32, float16 or bfloat16
    mask     [b, t] int or bool: which tokens are text; padding may be on either side
    normalise  scale to length 1; zero vectors stay zero
    skipped  so many tokens at the beginning of each text do not count; weights are those of the places in the whole text
    Returns  [b, h] float32 on the same device, summed in float32; 0 for a text without tokens
    Cost     one pass over hidden; a float32 copy of it for means and max in lower precision
    """
    real = mask.to(torch.bool)
    first = real.to(torch.uint8).argmax(dim=1, keepdim=True)  # [b, 1]
    real = counted(real, skipped)
    some = real.any(dim=1, keepdim=True)  # [b, 1]
    if pooling in {Pooling.MEAN, Pooling.ROOT, Pooling.WEIGHTED}:
        # A product with a mask would let an inf or NaN in the padding through.
        states = hidden.float().masked_fill(~real[:, :, None], 0)
        if pooling is Pooling.WEIGHTED:
            weights = (torch.arange(1, real.shape[1] + 1, device=real.device) - first) * real
            total, share = (states * weights[:, :, None]).sum(dim=1), weights.sum(dim=1, keepdim=True)
        else:
            total, share = states.sum(dim=1), real.sum(dim=1, keepdim=True)
        share = share.clamp(min=1)
        vectors = total / (share.sqrt() if pooling is Pooling.ROOT else share)
    elif pooling is Pooling.MAX:
        vectors = hidden.float().masked_fill(~real[:, :, None], -torch.inf).amax(dim=1)
    else:
        marks = real.to(torch.uint8)
        if pooling is Pooling.CLS:
            place = marks.argmax(dim=1)
        else:
            place = marks.shape[1] - 1 - marks.flip(1).argmax(dim=1)
        vectors = hidden[torch.arange(len(hidden), device=hidden.device), place].float()
    vectors = vectors.masked_fill(~some, 0)
    return torch.nn.functional.normalize(vectors, dim=1) if normalise else vectors


def counted(mask: Tensor, skipped: int) -> Tensor:
    """The mask [b, t] without the first ``skipped`` tokens of each text."""
    return mask if not skipped else mask.to(torch.bool) & (mask.to(torch.bool).cumsum(dim=1) > skipped)
