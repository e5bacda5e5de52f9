"""Transformer encoders of sentence-transformers directories, run by torch and transformers alone.

Importing sentence_transformers takes seconds and is not needed for a transformer followed by pooling, dense layers and
normalising. Everything else goes to ``library``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from chroma_gpu import device as devices
from chroma_gpu.embed.layout import Dense, Layout, Normalize, UnusualModelError
from chroma_gpu.embed.pipeline import Prompt
from chroma_gpu.embed.tokens import TokenIds, token_ids
from chroma_gpu.errors import DeviceError, EmbeddingFailed
from chroma_gpu.records import Vectors

if TYPE_CHECKING:
    import torch

CPU_BUDGET: Final = 2_048
"""Padded tokens per batch on a CPU: larger batches leave its caches, smaller ones suffer when other programs want the cores."""

_WIDE_RANGE: Final = ("t5", "mt5", "umt5", "longt5", "gemma")
"""Model families whose activations leave the range of float16."""

_NO_LIMIT: Final = 1 << 30
"""Tokenizers without a length say a number far above this."""

_ENCODER_HALVES: Final = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel"}
"""Model type -> the class of its encoder alone."""


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """The vectors of a batch.

    vectors  [m, dim] float32 on the device
    copy     the same where the host can have them: on CUDA in page-locked memory, there when ``arrived`` has come
    """

    vectors: torch.Tensor
    copy: torch.Tensor
    arrived: Any = None


class TransformerEncoder:
    """A transformer, pooling, and the steps after it, on one device.

    dtype  "float32" on a CPU and "float16" on a GPU unless the family needs a wider range; pooling and all after it is float32
    Raises UnusualModelError  the model needs sentence-transformers
           EmbeddingFailed    the directory holds no such model, or a damaged one
           DeviceError        it does not fit into the device's memory
    Cost   loading: reading the weights once
    """

    dim: int

    def __init__(self, layout: Layout, device: str, dtype: str | None = None) -> None:
        self.layout = layout
        self.device = device
        self.budget = _budget(device)
        self._cpu: TransformerEncoder | None = None
        self._loading = threading.Lock()
        self._load(dtype)

    def pre(self, texts: Sequence[str], prompt: Prompt) -> TokenIds:
        """Tokens with special tokens, truncated to the model's length."""
        if not prompt.text:
            return token_ids(self._tokenizer, texts)
        pooled = self.layout.include_prompt if prompt.pooled is None else prompt.pooled
        return token_ids(
            self._tokenizer, [prompt.text + text for text in texts], skipped=0 if pooled else self._prompt_length(prompt.text)
        )

    def core(self, tokens: TokenIds, places: npt.NDArray[np.intp]) -> Made:
        """The vectors, and on CUDA the copy of them that has been sent to the host.

        Pooling belongs to the batch: the hidden states are let go before the next one, and memory can run out only here.
        """
        import torch

        from chroma_gpu.kernels.encode import encode
        from chroma_gpu.kernels.pooling import Pooling

        modes = [Pooling(mode) for mode in self.layout.pooling]
        # The kernel that pools normalises too, where that is what comes next.
        unit = len(modes) == 1 and isinstance(next(iter(self.layout.steps), None), Normalize)
        ids, mask = tokens.padded(places, self._pad, self._pad_left)
        with torch.inference_mode():
            on_device, attention = self._sent(ids), self._sent(mask)
            given = {name: torch.zeros_like(on_device) for name in self._zero_inputs}
            states = self._model(input_ids=on_device, attention_mask=attention.long(), **given)[0]
            if tokens.skipped:
                attention = attention & (attention.cumsum(dim=1) > tokens.skipped)
            pooled = [encode(states, attention, mode, normalise=unit) for mode in modes]
            vectors = pooled[0] if len(pooled) == 1 else torch.cat(pooled, dim=1)
            for step in self._steps[int(unit) :]:
                vectors = step(vectors)
            return _made(vectors)

    def post(self, vectors: Made | Vectors) -> Vectors:
        """[m, dim] float32 on the host."""
        if not isinstance(vectors, Made):
            return vectors
        if vectors.arrived is not None:
            vectors.arrived.synchronize()
        return vectors.copy.cpu().numpy()

    def on_device(self, vectors: Made | Vectors) -> torch.Tensor | None:
        """As ``Keeping.on_device``."""
        return vectors.vectors if isinstance(vectors, Made) else None

    def on_cpu(self) -> TransformerEncoder | None:
        """The same model on the CPU, loaded at the first call; None if it is there already."""
        if self.device == "cpu":
            return None
        with self._loading:
            self._cpu = self._cpu or TransformerEncoder(self.layout, "cpu")
        return self._cpu

    def _sent(self, array: npt.NDArray[Any]) -> torch.Tensor:
        import torch

        tensor = torch.from_numpy(array)
        if self.device.startswith("cuda"):
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    def _prompt_length(self, prompt: str) -> int:
        """Tokens of a prompt as it begins a text: without a special token at the end."""
        encoding = self._tokenizer.encode(prompt)
        return len(encoding.ids) - int(bool(encoding.special_tokens_mask[-1:] == [1]))

    def _load(self, dtype: str | None) -> None:
        import torch
        import transformers

        directory, local = str(self.layout.directory), {"local_files_only": True, "trust_remote_code": False}
        try:
            length = {} if self.layout.max_tokens is None else {"model_max_length": self.layout.max_tokens}
            tokenizer = transformers.AutoTokenizer.from_pretrained(directory, **local, **length)
            config = transformers.AutoConfig.from_pretrained(directory, **local)
            self._set_tokenizer(tokenizer, getattr(config, "max_position_embeddings", -1))
            config.use_cache = False  # a decoder would keep keys and values that nobody reads
            chosen = getattr(torch, dtype or default_dtype(self.device, config.model_type))
            with _without_progress(transformers.utils.logging):
                model = _family(transformers, config).from_pretrained(
                    directory, config=config, dtype=chosen, use_safetensors=True, **local
                )
            self._model = model.eval().requires_grad_(False).to(self.device)
            self._steps = [_step(step, self.device) for step in self.layout.steps]
            self.dim = int(self.core(self.pre(["a"], Prompt()), np.zeros(1, np.intp)).vectors.shape[1])
        except UnusualModelError:
            raise
        except Exception as error:
            if devices.is_out_of_memory(error):
                raise DeviceError(
                    f"the model in {directory} does not fit into the memory of {self.device}.", hint='Use device="cpu".'
                ) from error
            raise EmbeddingFailed(
                f"the model in {directory} cannot be loaded: {error}", hint="It must be complete, with weights as safetensors."
            ) from error

    def _set_tokenizer(self, tokenizer: Any, positions: int) -> None:
        if not tokenizer.is_fast or any(tokenizer.backend_tokenizer.encode("a").type_ids):
            raise UnusualModelError("its tokenizer is not a plain fast one")
        length = tokenizer.model_max_length
        if self.layout.max_tokens is None and positions > 0:
            length = min(length, positions)
        self._tokenizer = tokenizer.backend_tokenizer
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        if length < _NO_LIMIT:
            self._tokenizer.enable_truncation(length, direction=tokenizer.truncation_side)
        if self.layout.lower_case:
            _lower_case(self._tokenizer)
        self._pad = tokenizer.pad_token_id or 0
        self._pad_left = tokenizer.padding_side == "left"
        self._zero_inputs = ["token_type_ids"] if "token_type_ids" in tokenizer.model_input_names else []


def _made(vectors: torch.Tensor) -> Made:
    """Send vectors to the host. Queued behind them, before the next batch: who waits for the copy does not wait for that too."""
    import torch

    if not vectors.is_cuda:
        return Made(vectors, vectors)
    copy = torch.empty(vectors.shape, dtype=vectors.dtype, pin_memory=True)
    copy.copy_(vectors, non_blocking=True)
    return Made(vectors, copy, torch.cuda.current_stream(vectors.device).record_event())


def default_dtype(device: str, model_type: str) -> str:
    """The type a model computes in unless told otherwise: 16 bits where the device is made for them and the family allows it."""
    half = devices.half_types(device)
    if model_type.startswith(_WIDE_RANGE):
        return "bfloat16" if "bfloat16" in half else "float32"
    return "float16" if half else "float32"


def _budget(device: str) -> int:
    """Padded tokens per batch. A GPU with 24 GB or more takes four times as many as a small one."""
    memory = devices.total_memory(device)
    if memory is None:
        return CPU_BUDGET
    return 65_536 if memory >= 24 << 30 else 16_384


def _family(transformers: Any, config: Any) -> Any:
    """The class that loads a model without the parts that embedding does not use."""
    if config.model_type in _ENCODER_HALVES:
        return getattr(transformers, _ENCODER_HALVES[config.model_type])
    if config.is_encoder_decoder:
        raise UnusualModelError(f"it is an encoder with a decoder ({config.model_type})")
    return transformers.AutoModel


@contextmanager
def _without_progress(logging: Any) -> Iterator[None]:
    """Loading a model takes a moment; transformers would show a bar for it on every stderr."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


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
