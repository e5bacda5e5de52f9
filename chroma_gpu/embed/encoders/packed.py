"""Transformers without padding: the tokens of a batch as one row, attention within each text, positions from each text's start.

For the families of BERT whose attention goes through transformers' AttentionInterface. On CUDA from Ampere on in 16 bits, by the
attention for texts of different lengths that comes with torch (FlashAttention's, Dao 2023, arXiv:2307.08691); on a CPU in any type, one
call of the usual attention for each run of texts of one length. A model is run like this only after it gave the same vectors as padded.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

NAME: Final = "chroma_gpu_packed"
"""Of this attention among those of transformers."""

FROM_ZERO: Final = frozenset({"bert", "distilbert", "electra", "ernie", "albert"})
"""Families that number the tokens of a text from 0."""

AFTER_PAD: Final = frozenset({"roberta", "xlm-roberta", "camembert", "xlm-roberta-xl", "data2vec-text"})
"""Families that number them from the padding token's number + 1, and do not count padding tokens."""


@dataclass(frozen=True, slots=True, eq=False)
class Packing:
    """Where the texts are in the row of a batch.

    offsets  [m + 1] int32 on the device: text i is tokens [offsets[i], offsets[i + 1])
    runs     (first token, texts, tokens of each) of neighbours of equal length: only for a CPU
    longest  tokens of the longest text
    """

    offsets: Tensor
    runs: tuple[tuple[int, int, int], ...]
    longest: int


def why_not(device: str, dtype: str, config: Any) -> str | None:
    """Why a model cannot run without padding here; None if it may."""
    import torch

    family = config.model_type
    if family not in FROM_ZERO | AFTER_PAD:
        return f"the family {family} is not known to be right without padding"
    if getattr(config, "is_decoder", False) or getattr(config, "position_embedding_type", "absolute") != "absolute":
        return "its tokens do not see each other in the usual way"
    if device == "cpu":
        return None
    if not device.startswith("cuda"):
        return f"there is no attention for it on {device}"
    if dtype == "float32":
        return "the attention for it takes 16 bits only"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "the attention for it needs a GPU of compute capability 8.0"
    try:
        from torch.nn.attention.varlen import varlen_attn  # noqa: F401 - torch 2.10 and later
    except ImportError:
        return f"torch {torch.__version__} has no attention for it"
    return None


def turn_on(model: Any) -> None:
    """From now on the model takes ``run``, and nothing else."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attention)
    model.set_attn_implementation(NAME)


def turn_off(model: Any) -> None:
    """The model takes padded batches again."""
    model.set_attn_implementation("sdpa")


def packing(offsets: Tensor, lengths: npt.NDArray[np.int64]) -> Packing:
    """How texts of these lengths lie in a row.  offsets: [m + 1] integers on the device, from 0"""
    import torch

    runs: tuple[tuple[int, int, int], ...] = ()
    if offsets.device.type == "cpu":
        starts = np.cumsum(lengths) - lengths
        bounds = [0, *(np.flatnonzero(np.diff(lengths)) + 1).tolist(), len(lengths)]
        runs = tuple((int(starts[a]), b - a, int(lengths[a])) for a, b in pairwise(bounds) if lengths[a])
    return Packing(offsets.to(torch.int32), runs, int(lengths.max()))


def run(model: Any, ids: Tensor, where: Packing, pad: int, given: list[str]) -> Tensor:
    """The hidden states [total, h] of the tokens [total] of a batch.

    pad    the number of the padding token
    given  what else the model takes, as zeros
    """
    import torch

    row = ids[None].long()
    zeros = {name: torch.zeros_like(row) for name in given}
    places = positions(ids, where, pad if model.config.model_type in AFTER_PAD else None)
    states: Tensor = model(input_ids=row, position_ids=places[None], packing=where, **zeros)[0]
    return states[0]


def positions(ids: Tensor, where: Packing, pad: int | None) -> Tensor:
    """[total] int64: the place of each token in its text; with ``pad``, as the families of RoBERTa number them."""
    import torch

    if pad is None and len(where.offsets) == 2:  # a single text, which is in a hurry
        return torch.arange(len(ids), device=ids.device)
    offsets = where.offsets.long()
    text_of = torch.repeat_interleave(offsets.diff(), output_size=len(ids))
    if pad is None:
        return torch.arange(len(ids), device=ids.device) - offsets[text_of]
    real = ids != pad
    before = torch.nn.functional.pad(real.cumsum(0), (1, 0))
    return (before[1:] - before[offsets[text_of]]) * real + pad


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    packing: Packing | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The attention of transformers' AttentionInterface: query, key, value [1, heads, total, d] -> [1, total, heads, d]."""
    if packing is None or attention_mask is not None or len(query) != 1:
        raise ValueError("a model that runs without padding was given a batch with padding")
    if len(packing.runs) == 1 and packing.runs[0][1] == 1:  # a single text, which is in a hurry
        import torch

        return torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=scaling).transpose(1, 2), None
    q, k, v = (each[0].transpose(0, 1) for each in (query, key, value))
    if packing.runs:
        return _by_runs(q, k, v, scaling, packing)[None], None
    from torch.nn.attention.varlen import varlen_attn

    offsets, longest = packing.offsets, packing.longest
    result: Any = varlen_attn(q.contiguous(), k.contiguous(), v.contiguous(), offsets, offsets, longest, longest, scale=scaling)
    return result[None], None


def _by_runs(q: Tensor, k: Tensor, v: Tensor, scaling: float | None, packing: Packing) -> Tensor:
    import torch

    result = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    for start, texts, length in packing.runs:
        part = slice(start, start + texts * length)
        shape = (texts, length, *q.shape[1:])
        mine = [each[part].view(shape).transpose(1, 2) for each in (q, k, v)]
        found = torch.nn.functional.scaled_dot_product_attention(mine[0], mine[1], mine[2], scale=scaling)
        if len(packing.runs) == 1:
            return found.transpose(1, 2).reshape(q.shape)
        result[part].view(shape).copy_(found.transpose(1, 2))
    return result
