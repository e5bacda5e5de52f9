"""Cross-encoders: models that read a query and a document together and say how well they fit."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from chroma_gpu import device as devices
from chroma_gpu.embed.models import MODELS
from chroma_gpu.embed.sources import Request, find
from chroma_gpu.errors import EmbeddingFailed, MissingDependency


@dataclass(frozen=True, slots=True)
class CrossEncoder:
    """A model of sentence-transformers. It costs nothing to make: the model is loaded at the first call, and shared.

    model   a directory, or a name on the Hugging Face hub; ``sources.find`` says where it is looked for. Weights are read from
            safetensors alone, and no code of a model is run
    device  "auto", "cpu", "cuda", "cuda:1", "mps"
    Safe for many threads, which the model answers one after the other.
    """

    model: str
    device: str = "auto"

    def __call__(self, query: str, documents: Sequence[str]) -> npt.NDArray[np.float64]:
        """[len(documents)] scores, larger for documents that fit better.

        Raises   ModelNotFound, EmbeddingFailed, DeviceError, MissingDependency without sentence-transformers
        """
        if not documents:
            return np.empty(0)
        directory, place = find(Request(self.model)), devices.pick(self.device)
        loaded: Any = MODELS.get((directory, place, "cross"), lambda: _Loaded(str(directory), place))  # type: ignore[arg-type,return-value]
        return loaded.scores(query, documents)  # type: ignore[no-any-return]


class _Loaded:
    """A model in memory."""

    def __init__(self, directory: str, device: str) -> None:
        try:
            from sentence_transformers import CrossEncoder as Model
        except ImportError as error:
            raise MissingDependency(
                f"the cross-encoder in {directory} needs sentence-transformers.", hint="pip install sentence-transformers"
            ) from error
        try:
            self._model = Model(
                directory,
                device=device,
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True},
            )
        except Exception as error:
            raise EmbeddingFailed(f"sentence-transformers cannot load the cross-encoder in {directory}: {error}") from error
        self._lock = threading.Lock()  # a tokenizer serves one thread at a time
        self._directory = directory

    def scores(self, query: str, documents: Sequence[str]) -> npt.NDArray[np.float64]:
        try:
            with self._lock:
                found = self._model.predict([(query, each) for each in documents], show_progress_bar=False)
        except Exception as error:
            raise EmbeddingFailed(f"the cross-encoder in {self._directory} failed: {type(error).__name__}: {error}") from error
        scores = np.asarray(found, np.float64)
        if scores.shape != (len(documents),):
            raise EmbeddingFailed(
                f"the model in {self._directory} gives {scores[0].size} scores for a pair; a cross-encoder that ranks gives one."
            )
        return scores
