"""Loading the transformer of a directory with its tokenizer, by transformers alone, and nothing that would run a model's own code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from chroma_gpu import device as devices
from chroma_gpu.embed.encoders.layout import Dense, Layout, Normalize, UnusualModelError
from chroma_gpu.errors import ChromaError, DeviceError, EmbeddingFailed

if TYPE_CHECKING:
    import torch

_WIDE_RANGE: Final = ("t5", "mt5", "umt5", "longt5", "gemma")
"""Model families whose activations leave the range of float16."""

_NO_LIMIT: Final = 1 << 30
"""Tokenizers without a length say a number far above this."""

_ENCODER_HALVES: Final = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel"}
"""Model type -> the class of its encoder alone."""


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """How a model reads texts.

    tokenizer  a ``tokenizers.Tokenizer`` without padding, truncating to ``length``
    length     tokens of a text at most; None for no end
    pad        the number of the padding token; ``left``: whether it is put before a text
    zeros      what the model takes besides, as zeros
    """

    tokenizer: Any
    length: int | None
    pad: int
    left: bool
    zeros: list[str]


def reading(layout: Layout) -> tuple[Any, Reading]:
    """The configuration of the model in a directory, and its tokenizer.

    Raises UnusualModelError, EmbeddingFailed
    """
    import transformers

    local = {"local_files_only": True, "trust_remote_code": False}
    length = {} if layout.max_tokens is None else {"model_max_length": layout.max_tokens}
    with explained(layout.directory, "cpu"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(layout.directory), **local, **length)
        config = transformers.AutoConfig.from_pretrained(str(layout.directory), **local)
        config.use_cache = False  # a decoder would keep keys and values that nobody reads
        return config, _reading(layout, tokenizer, getattr(config, "max_position_embeddings", -1))


def model(layout: Layout, config: Any, device: str, dtype: str) -> Any:
    """The transformer itself, on a device, ready to be run.

    Raises UnusualModelError, EmbeddingFailed; DeviceError if it does not fit into the device's memory
    Cost   reading the weights
    """
    import torch
    import transformers

    with explained(layout.directory, device), without_progress(transformers.utils.logging):
        loaded = _family(transformers, config).from_pretrained(
            str(layout.directory),
            config=config,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
        )
        return loaded.eval().requires_grad_(False).to(device)


def steps(layout: Layout, device: str) -> list[Callable[[torch.Tensor], torch.Tensor]]:
    """What happens to the pooled vectors, in float32.  Raises EmbeddingFailed, DeviceError"""
    with explained(layout.directory, device):
        return [_step(step, device) for step in layout.steps]


def default_dtype(device: str, model_type: str) -> str:
    """The type a model computes in unless told otherwise: 16 bits where the device is made for them and the family allows it."""
    half = devices.half_types(device)
    if model_type.startswith(_WIDE_RANGE):
        return "bfloat16" if "bfloat16" in half else "float32"
    return "float16" if half else "float32"


def _reading(layout: Layout, tokenizer: Any, positions: int) -> Reading:
    if not tokenizer.is_fast or any(tokenizer.backend_tokenizer.encode("a").type_ids):
        raise UnusualModelError("its tokenizer is not a plain fast one")
    plain, length = cut_to_length(tokenizer, layout.max_tokens, positions)
    if layout.lower_case:
        _lower_case(plain)
    zeros = ["token_type_ids"] if "token_type_ids" in tokenizer.model_input_names else []
    left = tokenizer.padding_side == "left"
    return Reading(plain, length, tokenizer.pad_token_id or 0, left, zeros)


def cut_to_length(tokenizer: Any, max_tokens: int | None, positions: int) -> tuple[Any, int | None]:
    """The fast tokenizer inside, without padding, and how many tokens it leaves of a text; None: all.

    max_tokens  what the model's files say; None: what tokenizer and ``positions`` say, which is -1 where there is no such limit
    """
    length = tokenizer.model_max_length
    if max_tokens is None and positions > 0:
        length = min(length, positions)
    plain = tokenizer.backend_tokenizer
    plain.no_padding()
    plain.no_truncation()
    if length >= _NO_LIMIT:
        return plain, None
    plain.enable_truncation(length, strategy="longest_first", direction=tokenizer.truncation_side)
    return plain, length


def _family(transformers: Any, config: Any) -> Any:
    """The class that loads a model without the parts that embedding does not use."""
    if config.model_type in _ENCODER_HALVES:
        return getattr(transformers, _ENCODER_HALVES[config.model_type])
    if config.is_encoder_decoder:
        raise UnusualModelError(f"it is an encoder with a decoder ({config.model_type})")
    return transformers.AutoModel


def _step(step: Dense | Normalize, device: str) -> Callable[[torch.Tensor], torch.Tensor]:
    import torch
    from torch.nn.functional import linear, normalize

    if isinstance(step, Normalize):
        return normalize
    from safetensors.torch import load_file

    weights = load_file(step.folder / "model.safetensors", device=device)
    weight = weights["linear.weight"].float()
    bias = weights["linear.bias"].float() if "linear.bias" in weights else None
    activation = getattr(torch.nn, step.activation)()

    def dense(vectors: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = activation(linear(vectors, weight, bias))
        return result

    return dense


def _lower_case(tokenizer: Any) -> None:
    """Put lower-casing before what the tokenizer does to a text."""
    from tokenizers import normalizers

    present = tokenizer.normalizer
    lower = normalizers.Lowercase()
    tokenizer.normalizer = lower if present is None else normalizers.Sequence([lower, present])


@contextmanager
def explained(directory: Path, device: str) -> Iterator[None]:
    try:
        yield
    except (UnusualModelError, ChromaError):
        raise
    except Exception as error:
        if devices.is_out_of_memory(error):
            raise DeviceError(
                f"the model in {directory} does not fit into the memory of {device}.", hint='Use device="cpu".'
            ) from error
        raise EmbeddingFailed(
            f"the model in {directory} cannot be loaded: {error}", hint="It must be complete, with weights as safetensors."
        ) from error


@contextmanager
def without_progress(logging: Any) -> Iterator[None]:
    """Loading a model takes a moment; transformers would show a bar for it on every stderr."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
