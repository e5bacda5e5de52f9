"""From the hidden states of tokens to one vector for each text."""

from __future__ import annotations

from enum import StrEnum

import torch
from torch import Tensor


class Pooling(StrEnum):
    """What stands for a text.

    mean  the mean of its tokens
    cls   its first token
    last  its last token
    max   the largest value of each coordinate over its tokens
    """

    MEAN = "mean"
    CLS = "cls"
    LAST = "last"
    MAX = "max"


def pool(hidden: Tensor, mask: Tensor, pooling: Pooling, *, normalise: bool = True) -> Tensor:
    """One vector for each text of a padded batch.

    hidden   [b, t, h] float32, float16 or bfloat16
    mask     [b, t] int or bool: which tokens are text; padding may be on either side
    normalise  scale to length 1; zero vectors stay zero
    Returns  [b, h] float32 on the same device, summed in float32; 0 for a text without tokens
    Cost     one pass over hidden; a float32 copy of it for mean and max in lower precision
    """
    real = mask.to(torch.bool)
    some = real.any(dim=1, keepdim=True)  # [b, 1]
    if pooling is Pooling.MEAN:
        # A product with a mask would let an inf or NaN in the padding through.
        total = hidden.float().masked_fill(~real[:, :, None], 0).sum(dim=1)
        vectors = total / real.sum(dim=1, keepdim=True).clamp(min=1)
    elif pooling is Pooling.MAX:
        vectors = hidden.float().masked_fill(~real[:, :, None], -torch.inf).amax(dim=1)
    else:
        weights = real.to(torch.uint8)
        if pooling is Pooling.CLS:
            place = weights.argmax(dim=1)
        else:
            place = weights.shape[1] - 1 - weights.flip(1).argmax(dim=1)
        vectors = hidden[torch.arange(len(hidden), device=hidden.device), place].float()
    vectors = vectors.masked_fill(~some, 0)
    return torch.nn.functional.normalize(vectors, dim=1) if normalise else vectors
