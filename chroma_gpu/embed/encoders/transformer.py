"""Transformer encoders of sentence-transformers directories, run by torch and transformers alone.

Importing sentence_transformers takes seconds and is not needed for a transformer followed by pooling, dense layers and
normalising. Everything else goes to ``library``.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from chroma_gpu import device as devices
from chroma_gpu.embed.encoders import packed, weights
from chroma_gpu.embed.encoders.fingerprint import Loaded, fingerprint, model_files
from chroma_gpu.embed.encoders.layout import Layout, Normalize
from chroma_gpu.embed.encoders.resident import Batch, Resident
from chroma_gpu.embed.encoders.transfers import Sent, to_host
from chroma_gpu.embed.stream.protocol import Places, Prompt
from chroma_gpu.embed.tokens.tokeniser import TokenIds, Tokeniser
from chroma_gpu.errors import DeviceError, EmbeddingFailed
from chroma_gpu.records import Vectors

if TYPE_CHECKING:
    import torch

CPU_BUDGET: Final = 2_048
"""Tokens per batch on a CPU: larger batches leave its caches, smaller ones suffer when other programs want the cores."""

LEAST_WINDOW: Final = 4_096
MOST_WINDOW: Final = 32_768
"""Texts that are sorted together: 64 batches of texts of 64 tokens, within these bounds."""

SAME: Final = 0.9995
"""The least cosine to float32 that 16 bits on a CPU must reach, and that batches without padding in 16 bits must reach to padded ones."""

SAME_EXACT: Final = 0.99999
"""The same in float32."""

TRIED: Final = (
    "A cat sits on the mat.",
    "",
    "Quarterly revenue of the steel company fell sharply, its chief executive said on Tuesday; shares lost 3.5 %.",
    "How do I parse dates?",
    "parse and validate dates, times and intervals in many languages, with time zones. " * 4,
    "日本語のテキスト und Größe",
    "x",
)
"""What a model is tried with before it runs in another way than the plainest."""


class TransformerEncoder:
    """A transformer, pooling, and the steps after it, on one device.

    dtype     "float32" on a CPU and "float16" on a GPU unless the family needs a wider range. "auto" is the same on a GPU; on a CPU that
              multiplies bfloat16 in hardware it is "bfloat16", if a few sentences come out as in float32 (cosine >= SAME). Pooling and
              all after it is float32. Eight bits are not offered: dynamic int8 gave cosines of .95 to float32 (all-MiniLM-L6-v2)
    packed    whether batches run without padding; else ``why_padded`` says why not
    why_full  why "auto" is float32 on this CPU; None where it is not, or was not asked for
    Raises UnusualModelError  the model needs sentence-transformers
           EmbeddingFailed    the directory holds no such model, or a damaged one
           DeviceError        it does not fit into the device's memory
    Cost   loading: reading the weights once, twice for "auto" on a CPU; a few short batches
    """

    dim: int
    lanes: int = 1

    def __init__(self, layout: Layout, device: str, dtype: str | None = None) -> None:
        self.layout = layout
        self._files = Loaded(lambda: model_files(layout))
        self.device = device
        self.budget = _budget(device)
        self.window = min(MOST_WINDOW, max(LEAST_WINDOW, self.budget))
        self.why_full: str | None = None
        self.why_padded: str | None = "it was not tried yet"
        self._cpu: TransformerEncoder | None = None
        self._loading = threading.Lock()
        self._config, self._reading = weights.reading(layout)
        self.tokeniser = Tokeniser(self._reading.tokenizer)
        self._steps = weights.steps(layout, device)
        self._load(dtype)

    @property
    def packed(self) -> bool:
        """Whether batches run without padding."""
        return self.why_padded is None

    @property
    def padded(self) -> bool:
        """Whether the budget counts padding."""
        return not self.packed

    @cached_property
    def fingerprint(self) -> str | None:
        """What a vector depends on: files, layout, type, length. Read at the first call.

        None where the files are others by then, and where a vector depends on its batch too: positions that count from the left edge
        of what is filled up there.
        """
        if self._reading.left and self._config.model_type in packed.FROM_ZERO:
            return None
        return self._files.named(lambda: fingerprint(self.layout, self.dtype, self._reading.length))

    def pre(self, texts: Sequence[str], prompt: Prompt) -> Resident:
        """Tokens with special tokens, truncated to the model's length, on their way to the device."""
        pooled = not prompt.text or (self.layout.include_prompt if prompt.pooled is None else prompt.pooled)
        skipped = 0 if pooled else self._prompt_length(prompt.text)
        return Resident(self.tokeniser.tokens(texts, prompt.text, skipped=skipped), self.device)

    def core(self, tokens: Resident, places: Places) -> Sent:
        """The vectors, and on CUDA the copy of them that has been sent to the host.

        Pooling belongs to the batch: the hidden states are let go before the next one, and memory can run out only here.
        """
        import torch

        from chroma_gpu.kernels.encode import encode
        from chroma_gpu.kernels.pooling import Pooling

        modes = [Pooling(mode) for mode in self.layout.pooling]
        # The kernel that pools normalises too, where that is what comes next.
        unit = len(modes) == 1 and isinstance(next(iter(self.layout.steps), None), Normalize)
        with torch.inference_mode():
            states, where = self._states(tokens.batch(places, self.device))
            pooled = [encode(states, where, mode, normalise=unit, skipped=tokens.skipped) for mode in modes]
            del states
            vectors = pooled[0] if len(pooled) == 1 else torch.cat(pooled, dim=1)
            for step in self._steps[int(unit) :]:
                vectors = step(vectors)
            return to_host(vectors)

    def post(self, vectors: Sent | Vectors) -> Vectors:
        """[m, dim] float32 on the host."""
        return vectors.received() if isinstance(vectors, Sent) else vectors

    def on_device(self, vectors: Sent | Vectors) -> torch.Tensor | None:
        """As ``Keeping.on_device``."""
        return vectors.vectors if isinstance(vectors, Sent) else None

    def on_cpu(self) -> TransformerEncoder | None:
        """The same model on the CPU, loaded at the first call; None if it is there already."""
        if self.device == "cpu":
            return None
        with self._loading:
            self._cpu = self._cpu or TransformerEncoder(self.layout, "cpu")
        return self._cpu

    def peak(self, batch: int, length: int) -> int | None:
        """Bytes that ``batch`` texts of ``length`` tokens, or as many as the model reads, take on a CUDA device while they run.

        Cost  such a batch; waits for the device
        """
        import torch

        if not self.device.startswith("cuda"):
            return None
        length = min(length, self._reading.length or length)
        ids = np.full(batch * length, self._a_token, np.int32)
        tokens = Resident(TokenIds(ids, np.arange(batch + 1, dtype=np.int64) * length), self.device)
        torch.cuda.synchronize(self.device)
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        self.post(self.core(tokens, np.arange(batch)))
        return int(torch.cuda.max_memory_allocated(self.device)) - before

    def _states(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden states of a batch, and which of them are whose, as ``kernels.encode`` takes them."""
        import torch

        given = self._reading
        if self.packed and len(batch.ids):
            where = packed.packing(batch.offsets, batch.lengths)
            return packed.run(self._model, batch.ids, where, given.pad, given.zeros), where.offsets
        ids, mask = batch.padded(given.pad, given.left)
        more = {name: torch.zeros_like(ids) for name in given.zeros}
        if self.packed:  # a batch of texts without a single token
            hidden = ids.new_zeros(*ids.shape, self._config.hidden_size, dtype=torch.float32)
            return hidden, mask
        attended: torch.Tensor | None = None
        if not batch.even():
            # transformers would ask the device whether a plain mask is needed at all, and wait for the answer.
            known = self._config.model_type in packed.FROM_ZERO | packed.AFTER_PAD
            attended = mask[:, None, None, :] if known and mask.is_cuda else mask.long()
        return self._model(input_ids=ids, attention_mask=attended, **more)[0], mask

    def _load(self, dtype: str | None) -> None:
        try:
            self._choose(dtype)
        except (EmbeddingFailed, DeviceError):
            raise
        except Exception as error:
            if devices.is_out_of_memory(error):
                raise DeviceError(
                    f"the model in {self.layout.directory} leaves no memory on {self.device}.", hint='Use device="cpu".'
                ) from error
            raise EmbeddingFailed(
                f"the model in {self.layout.directory} cannot be run: {error}", hint="Its files may not belong together."
            ) from error

    def _choose(self, dtype: str | None) -> None:
        """Load the model in the type asked for, and find out how it runs."""
        plain = dtype if dtype not in {None, "auto"} else weights.default_dtype(self.device, self._config.model_type)
        self._take(str(plain))
        tried = self._vectors(TRIED)
        self.dim = tried.shape[1]
        if dtype == "auto" and self.device == "cpu":
            tried = self._halved(tried)
        self._unpadded(tried)

    def _take(self, dtype: str) -> None:
        self.dtype = dtype
        self._model = weights.model(self.layout, self._config, self.device, dtype)

    def _halved(self, exact: Vectors) -> Vectors:
        """Go over to bfloat16 on a CPU that is made for it, if the vectors stay the same. Returns those of the type that is kept."""
        if not devices.cpu_has_bfloat16():
            self.why_full = "this CPU does not multiply bfloat16 in hardware"
            return exact
        full = self._model
        self._take("bfloat16")
        half = self._vectors(TRIED)
        least = _least_cosine(half, exact)
        if least >= SAME:
            return half
        self._model, self.dtype = full, "float32"
        self.why_full = f"in bfloat16 the cosine to float32 fell to {least:.6f}"
        return exact

    def _unpadded(self, tried: Vectors) -> None:
        """Run without padding from now on, if that is possible and the vectors stay the same."""
        self.why_padded = packed.why_not(self.device, self.dtype, self._config)
        if self.why_padded is None and self._reading.left:
            self.why_padded = "its texts are filled up from the left, which moves their positions"
        if self.why_padded is not None:
            return
        try:
            packed.turn_on(self._model)
            least = _least_cosine(self._vectors(TRIED), tried)
            if not least >= (SAME_EXACT if self.dtype == "float32" else SAME):
                self.why_padded = f"without padding the cosine to padded batches fell to {least:.5f}"
        except Exception as error:  # attention and models raise what they like
            if devices.is_out_of_memory(error):
                raise
            self.why_padded = f"it cannot be run without padding: {type(error).__name__}: {error}"
        if self.why_padded is not None:
            packed.turn_off(self._model)

    def _vectors(self, texts: Sequence[str]) -> Vectors:
        tokens = self.pre(texts, Prompt())
        self._a_token = int(tokens.tokens.ids[0]) if len(tokens.tokens.ids) else 0
        return self.post(self.core(tokens, np.arange(len(texts))))

    def _prompt_length(self, prompt: str) -> int:
        """Tokens of a prompt as it begins a text: without a special token at the end."""
        encoding = self._reading.tokenizer.encode(prompt)
        return len(encoding.ids) - int(bool(encoding.special_tokens_mask[-1:] == [1]))


def _budget(device: str) -> int:
    """Tokens per batch. A GPU with 24 GB or more takes four times as many as a small one."""
    memory = devices.total_memory(device)
    if memory is None:
        return CPU_BUDGET
    return 65_536 if memory >= 24 << 30 else 16_384


def _least_cosine(ours: Vectors, theirs: Vectors) -> float:
    """Of the vectors in pairs; NaN if one of them is."""
    a, b = (each.astype(np.float64) for each in (ours, theirs))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    same = (norms == 0) & ~a.any(axis=1) & ~b.any(axis=1)
    cosines: npt.NDArray[np.float64] = np.where(same, 1.0, (a * b).sum(axis=1) / np.where(norms == 0, 1.0, norms))
    return float(cosines.min())
