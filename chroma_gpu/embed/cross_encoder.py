"""Cross-encoders: models that read a query and a document together and say how well they fit."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from chroma_gpu import device as devices
from chroma_gpu.embed.encoders.heads import read_head
from chroma_gpu.embed.encoders.layout import UnusualModelError
from chroma_gpu.embed.encoders.models import MODELS
from chroma_gpu.embed.encoders.pairs import PairEncoder, scores
from chroma_gpu.embed.encoders.sources import Request, find
from chroma_gpu.errors import ChromaError, EmbeddingFailed, MissingDependency


@dataclass(frozen=True, slots=True)
class CrossEncoder:
    """A cross-encoder of sentence-transformers. It costs nothing to make: the model is loaded at the first call, and shared.

    model   a directory, or a name on the Hugging Face hub; ``sources.find`` says where it is looked for. Weights are read from
            safetensors alone, and no code of a model is run
    device  "auto", "cpu", "cuda", "cuda:1", "mps"
    Classifiers run through ``embed.pipeline``, in 16 bits on a GPU; other kinds are run by sentence-transformers itself.
    Safe for many threads.
    """

    model: str
    device: str = "auto"

    def __call__(self, query: str, documents: Sequence[str]) -> npt.NDArray[np.float64]:
        """[len(documents)] scores, larger for documents that fit better.  Raises as ``scores``."""
        return self.scores([(query, each) for each in documents])

    def scores(self, pairs: Sequence[tuple[str, str]]) -> npt.NDArray[np.float64]:
        """[len(pairs)] scores of pairs of a query and a document, of many queries at once.

        Raises  ModelNotFound, EmbeddingFailed, DeviceError, MissingDependency where the model needs sentence-transformers
        """
        if not pairs:
            return np.empty(0)
        directory, place = find(Request(self.model)), devices.pick(self.device)
        loaded: Any = MODELS.get((directory, place, "cross"), lambda: _load(directory, place))
        try:
            return loaded.scores(pairs) if isinstance(loaded, _Library) else scores(loaded, pairs)
        except ChromaError as error:
            error.add_note(f"Raised by the cross-encoder in {directory}.")
            raise


def _load(directory: Path, device: str) -> Any:
    try:
        return PairEncoder(read_head(directory, "sequence-classification"), device)
    except UnusualModelError:
        return _Library(directory, device)


class _Library:
    """A CrossEncoder of sentence-transformers."""

    def __init__(self, directory: Path, device: str) -> None:
        try:
            from sentence_transformers import CrossEncoder as Model
        except ImportError as error:
            raise MissingDependency(
                f"the cross-encoder in {directory} needs sentence-transformers.", hint="pip install sentence-transformers"
            ) from error
        try:
            self._model = Model(
                str(directory),
                device=device,
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True},
            )
        except Exception as error:
            raise EmbeddingFailed(f"sentence-transformers cannot load the cross-encoder in {directory}: {error}") from error
        self._lock = threading.Lock()  # a tokenizer serves one thread at a time
        self._directory = directory

    def scores(self, pairs: Sequence[tuple[str, str]]) -> npt.NDArray[np.float64]:
        try:
            with self._lock:
                found = self._model.predict(list(pairs), show_progress_bar=False)
        except Exception as error:
            raise EmbeddingFailed(f"the cross-encoder in {self._directory} failed: {type(error).__name__}: {error}") from error
        result = np.asarray(found, np.float64)
        if result.shape != (len(pairs),):
            raise EmbeddingFailed(
                f"the model in {self._directory} gives {result[0].size} scores for a pair; a cross-encoder that ranks gives one."
            )
        return result
