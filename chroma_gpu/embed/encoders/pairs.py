"""Cross-encoders run by torch and transformers: pairs of texts to scores, through the pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

from chroma_gpu.embed.encoders.heads import HeadEncoder
from chroma_gpu.embed.encoders.layout import UnusualModelError
from chroma_gpu.embed.stream.pipeline import Prompt, stream
from chroma_gpu.embed.tokens.items import Item, items
from chroma_gpu.embed.tokens.tokeniser import TokenIds
from chroma_gpu.errors import EmbeddingFailed

if TYPE_CHECKING:
    import torch

_TORCH: Final = "torch.nn.modules."


@dataclass(frozen=True, slots=True, eq=False)
class PairTokens:
    """The tokens of pairs, and of each whether it belongs to the first text of its pair or to the second (``types``, 0 or 1)."""

    ids: TokenIds
    types: TokenIds

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """[n] tokens per pair."""
        return self.ids.lengths


class PairEncoder(HeadEncoder):
    """A cross-encoder that gives one score to a pair, as CrossEncoder.predict of sentence-transformers does.

    The texts it is given are ``items`` of pairs; a text that is none is a pair with itself.  Raises EmbeddingFailed also for a model of several scores.
    """

    kind: ClassVar[str] = "AutoModelForSequenceClassification"
    dim = 1

    def take(self, config: Any) -> None:
        """How many scores there are, and what is made of them."""
        settings = self.layout.settings
        if settings.get("keep_in_fp32_modules") or settings.get("prompts", {}).get(settings.get("default_prompt_name")):
            raise UnusualModelError("it has a prompt, or layers of another type")
        if not (config.architectures or [""])[0].endswith("ForSequenceClassification"):
            raise UnusualModelError("it is no classifier")
        if config.num_labels != 1:
            raise EmbeddingFailed(
                f"the model in {self.layout.directory} gives {config.num_labels} scores for a pair; a cross-encoder that ranks gives one."
            )
        older = getattr(config, "sentence_transformers", None) or {}
        oldest = getattr(config, "sbert_ce_default_activation_function", None)
        self._activation = _activation(settings.get("activation_fn") or older.get("activation_fn") or oldest)

    def pre(self, texts: Sequence[str], prompt: Prompt) -> PairTokens:
        """The tokens of pairs, the longer text of a pair cut first."""
        pairs = [text.value if isinstance(text, Item) else (text, text) for text in texts]
        encodings = self._tokenizer.encode_batch_fast(pairs)
        offsets = np.zeros(len(encodings) + 1, np.int64)
        np.cumsum([len(encoding) for encoding in encodings], out=offsets[1:])
        ids, types = np.empty(offsets[-1], np.int32), np.empty(offsets[-1], np.int32)
        for i, encoding in enumerate(encodings):
            ids[offsets[i] : offsets[i + 1]] = encoding.ids
            types[offsets[i] : offsets[i + 1]] = encoding.type_ids
        return PairTokens(TokenIds(ids, offsets), TokenIds(types, offsets))

    def core(self, tokens: Any, places: npt.NDArray[np.intp]) -> Any:
        """[m, 1] scores on their way to the host."""
        return self._run(tokens.ids, places, tokens.types)

    def said(self, given: dict[str, torch.Tensor]) -> torch.Tensor:
        """The scores."""
        scores: torch.Tensor = self._activation(self._model(**given).logits.float())
        return scores


def scores(encoder: PairEncoder, pairs: Sequence[tuple[str, str]]) -> npt.NDArray[np.float64]:
    """[len(pairs)] scores, by ``pipeline.stream``."""
    found = np.empty(len(pairs))
    for start, block in stream(encoder, items(pairs)):
        found[start : start + len(block)] = block[:, 0]
    return found


def _activation(path: str | None) -> Any:
    """What a configuration names; sigmoid for none."""
    import torch

    name = "Sigmoid" if path is None else path.rpartition(".")[2]
    if path is not None and (not path.startswith(_TORCH) or not isinstance(getattr(torch.nn, name, None), type)):
        raise UnusualModelError(f"its activation {path} is not one of torch")
    return getattr(torch.nn, name)()
