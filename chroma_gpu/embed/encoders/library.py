"""Models that only sentence-transformers itself can run: unusual modules, tokenizers, tasks or arguments.

Which they are is said by ``layout.Layout.unusual``: other modules than Transformer, Pooling, Dense, Normalize and StaticEmbedding;
adapters; encoders with a decoder other than T5's; tokenizers without a fast form; several kinds of input; and every
argument of SentenceTransformer that ``local`` does not handle. Importing the library takes seconds.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from chroma_gpu.embed.encoders.fingerprint import Loaded, fingerprint, model_files
from chroma_gpu.embed.encoders.layout import Layout
from chroma_gpu.embed.stream.protocol import WINDOW, Prompt
from chroma_gpu.errors import EmbeddingFailed, MissingDependency
from chroma_gpu.records import Vectors

BATCH: Final = 32
"""Texts per call of the library, its own default."""


@dataclass(frozen=True, slots=True, eq=False)
class Texts:
    """Texts as they are: the library tokenises by itself. Lengths are all one, so that ``budget`` counts texts."""

    texts: Sequence[str]
    prompt: Prompt

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """[n] ones."""
        return np.ones(len(self.texts), np.int64)


class LibraryEncoder:
    """A SentenceTransformer as an encoder.  Raises MissingDependency, EmbeddingFailed.  Cost: imports sentence_transformers."""

    window: int = WINDOW
    padded: bool = False
    lanes: int = 1

    def __init__(self, layout: Layout, device: str, arguments: Mapping[str, Any]) -> None:
        try:
            from sentence_transformers import SentenceTransformer, __version__
        except ImportError as error:
            raise MissingDependency(
                f"the model in {layout.directory} needs sentence-transformers.", hint="pip install sentence-transformers"
            ) from error
        self._files = Loaded(lambda: model_files(layout))
        self._layout, self._told = layout, (f"sentence-transformers {__version__}", sorted(arguments.items()))
        given = dict(arguments)
        given["model_kwargs"] = {**given.get("model_kwargs", {}), "use_safetensors": True}
        try:
            self._model = SentenceTransformer(
                str(layout.directory), device=device, local_files_only=True, trust_remote_code=False, **given
            )
        except Exception as error:
            raise EmbeddingFailed(f"sentence-transformers cannot load the model in {layout.directory}: {error}") from error
        self._pooled = next((bool(part.include_prompt) for part in self._model if hasattr(part, "include_prompt")), True)
        self._lock = threading.Lock()
        self.budget = BATCH * 32
        self.dim = int(self._model.encode(["a"], show_progress_bar=False).shape[1])

    @cached_property
    def fingerprint(self) -> str | None:
        """Files, layout, arguments and the library's version; None where the files are others than were loaded."""
        return self._files.named(lambda: fingerprint(self._layout, *self._told))

    def pre(self, texts: Sequence[str], prompt: Prompt) -> Texts:
        """The texts themselves."""
        return Texts(texts, prompt)

    def core(self, tokens: Texts, places: npt.NDArray[np.intp]) -> Vectors:
        """[m, dim] float32 on the host."""
        texts = [tokens.texts[place] for place in places]
        pooled = self._pooled if tokens.prompt.pooled is None else tokens.prompt.pooled
        with self._lock:  # what pooling includes is a state of the model
            self._model.set_pooling_include_prompt(pooled)
            vectors = self._model.encode(texts, prompt=tokens.prompt.text, batch_size=BATCH, show_progress_bar=False)
        return np.asarray(vectors, np.float32)

    def post(self, vectors: Vectors) -> Vectors:
        """What ``core`` returned."""
        return vectors

    def on_cpu(self) -> None:
        """The library moves its model as a whole; there is no second one."""
        return

    def peak(self, batch: int, length: int) -> None:
        """The library makes batches of its own."""
        return
