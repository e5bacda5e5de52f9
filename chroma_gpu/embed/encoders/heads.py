"""Transformers with a head of their own in place of pooling, run by torch and transformers alone.

What cross-encoders, SPLADE and CLIP share: a fast tokenizer, a model that one class of transformers loads, batches of padded tokens.
A directory that asks for more than its kind usually does raises UnusualModelError, and sentence-transformers runs it.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, cast

import numpy as np
import numpy.typing as npt

from chroma_gpu import device as devices
from chroma_gpu.embed.encoders.layout import UnusualModelError, read_json, refuse_pickles, transformer_settings
from chroma_gpu.embed.encoders.transfers import Sent, to_device, to_host
from chroma_gpu.embed.encoders.weights import cut_to_length, default_dtype, explained, without_progress
from chroma_gpu.embed.stream.protocol import WINDOW, Prompt
from chroma_gpu.embed.tokens.tokeniser import TokenIds, Tokeniser
from chroma_gpu.records import Vectors

if TYPE_CHECKING:
    import torch

CPU_BUDGET: Final = 2_048
"""Padded tokens per batch on a CPU, as for encoders."""


@dataclass(frozen=True, slots=True)
class HeadLayout:
    """A directory, read.

    directory   where configuration, tokenizer and weights are
    settings    config_sentence_transformers.json, and the configuration of the module after the transformer, or {}
    max_tokens  None: what tokenizer and model say
    """

    directory: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    after: Mapping[str, Any] = field(default_factory=dict)
    max_tokens: int | None = None
    lower_case: bool = False


def read_head(directory: Path, task: str, after: str | None = None) -> HeadLayout:
    """The layout of a model with a head: a plain transformers directory, or one of sentence-transformers.

    task   what sentence-transformers calls the head: "sequence-classification", "fill-mask"
    after  the module that follows the transformer, if one does
    Raises UnusualModelError; EmbeddingFailed for pickles and files that cannot be read
    """
    settings = read_json(directory / "config_sentence_transformers.json")
    modules = read_json(directory / "modules.json", default=[])
    kinds = [str(module.get("type", "")) for module in modules]
    names = [kind.rpartition(".")[2] for kind in kinds]
    if any(not kind.startswith("sentence_transformers.") for kind in kinds):
        raise UnusualModelError("a module is code of its own")
    if modules and names not in ([[first, after] for first in ("Transformer", "MLMTransformer")] if after else [["Transformer"]]):
        raise UnusualModelError(f"its modules are {', '.join(names)}")
    folders = [directory / module.get("path", "") for module in modules] or [directory]
    refuse_pickles(folders[0])
    found = transformer_settings(folders[0], task, "logits")
    return HeadLayout(folders[0], settings, read_json(folders[1] / "config.json") if len(folders) > 1 else {}, **found)


class HeadEncoder(ABC):
    """A model with a head, on one device, as an encoder of the pipeline.

    kind   the class of transformers that loads it
    dtype  "float32" on a CPU and 16 bits on a GPU, as ``weights.default_dtype`` says, for None and "auto"; what is returned is float32
    Raises UnusualModelError  the model needs sentence-transformers
           EmbeddingFailed    the directory holds no such model, or a damaged one
           DeviceError        it does not fit into the device's memory
    """

    kind: ClassVar[str]
    dim: int
    window: int = WINDOW
    fingerprint: str | None = None
    padded: bool = True
    lanes: int = 1

    def __init__(self, layout: HeadLayout, device: str, dtype: str | None = None) -> None:
        self.layout = layout
        self.device = device
        self._cpu: Self | None = None
        self._loading = threading.Lock()
        self._load(dtype)
        self.budget = self.tokens_at_once()

    def pre(self, texts: Sequence[str], prompt: Prompt) -> Any:
        """Tokens with special tokens, truncated to the model's length."""
        return self.tokeniser.tokens(texts, prompt.text)

    def core(self, tokens: Any, places: npt.NDArray[np.intp]) -> Any:
        """What the head says of a batch, on the device."""
        return self._run(tokens, places)

    @cached_property
    def tokeniser(self) -> Tokeniser:
        return Tokeniser(self._tokenizer)

    @abstractmethod
    def said(self, given: dict[str, torch.Tensor]) -> torch.Tensor:
        """[m, dim] float32 of a batch; ``given`` is what the model takes: input_ids, attention_mask and so on, [m, width]."""
        ...

    def sent(self, result: torch.Tensor) -> Any:
        """The result on its way to the host."""
        return to_host(result)

    def post(self, vectors: Any) -> Vectors:
        """[m, dim] float32 on the host."""
        return vectors.received() if isinstance(vectors, Sent) else cast(Vectors, vectors)

    def on_device(self, vectors: Any) -> torch.Tensor | None:
        """As ``Keeping.on_device``."""
        return vectors.vectors if isinstance(vectors, Sent) else None

    def on_cpu(self) -> Self | None:
        """The same model on the CPU, loaded at the first call; None if it is there already."""
        if self.device == "cpu":
            return None
        with self._loading:
            self._cpu = self._cpu or self.there("cpu")
        return self._cpu

    def there(self, device: str) -> Self:
        """The same model on another device."""
        return type(self)(self.layout, device)

    def peak(self, batch: int, length: int) -> int | None:
        """Not known beforehand."""
        return None

    def tokens_at_once(self) -> int:
        """Padded tokens per batch."""
        memory = devices.total_memory(self.device)
        if memory is None:
            return CPU_BUDGET
        return 65_536 if memory >= 24 << 30 else 16_384

    def take(self, config: Any) -> None:
        """Look at the configuration before the weights are read.  Raises UnusualModelError"""
        return

    def _run(self, tokens: TokenIds, places: npt.NDArray[np.intp], types: TokenIds | None = None) -> Any:
        import torch

        ids, mask = tokens.padded(places, self._pad, self._pad_left)
        with torch.inference_mode():
            given = {"input_ids": to_device(ids, self.device), "attention_mask": to_device(mask, self.device).long()}
            if self._typed:
                typed = None if types is None else to_device(types.padded(places, 0, self._pad_left)[0], self.device)
                given["token_type_ids"] = torch.zeros_like(given["input_ids"]) if typed is None else typed
            return self.sent(self.said(given))

    def _load(self, dtype: str | None) -> None:
        import torch
        import transformers

        directory, local = str(self.layout.directory), {"local_files_only": True, "trust_remote_code": False}
        with explained(self.layout.directory, self.device):
            length = {} if self.layout.max_tokens is None else {"model_max_length": self.layout.max_tokens}
            config = transformers.AutoConfig.from_pretrained(directory, **local)
            self.take(config)
            config.use_cache = False
            tokenizer = transformers.AutoTokenizer.from_pretrained(directory, **local, **length)
            self._set_tokenizer(tokenizer, getattr(getattr(config, "text_config", config), "max_position_embeddings", -1))
            chosen = getattr(torch, default_dtype(self.device, config.model_type) if dtype in {None, "auto"} else str(dtype))
            with without_progress(transformers.utils.logging):
                model = getattr(transformers, self.kind).from_pretrained(
                    directory, config=config, dtype=chosen, use_safetensors=True, **local
                )
            self._model = model.eval().requires_grad_(False).to(self.device)

    def _set_tokenizer(self, tokenizer: Any, positions: int) -> None:
        if not tokenizer.is_fast:
            raise UnusualModelError("its tokenizer is not a fast one")
        self._tokenizer, _ = cut_to_length(tokenizer, self.layout.max_tokens, positions)
        if self.layout.lower_case:
            raise UnusualModelError("it puts texts into lower case before its tokenizer does")
        self._pad = tokenizer.pad_token_id or 0
        self._pad_left = tokenizer.padding_side == "left"
        self._typed = "token_type_ids" in tokenizer.model_input_names
