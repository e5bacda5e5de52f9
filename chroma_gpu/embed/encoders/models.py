"""Loaded models, shared inside the process: one per directory, device and type, however many functions use it."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace
from typing import Any, Final

from chroma_gpu.embed.encoders.layout import Layout, UnusualModelError
from chroma_gpu.embed.stream.pipeline import Encoder


class ModelCache:
    """Models by key. A model lives while a function holds it; the last ``kept`` ones live on, so that a next one finds them.

    Thread-safe: two threads that ask for the same model wait for one loading of it; other models are not held up.
    """

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._recent: OrderedDict[Hashable, Encoder] = OrderedDict()
        self._alive: weakref.WeakValueDictionary[Hashable, Encoder] = weakref.WeakValueDictionary()
        self._loading: dict[Hashable, threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, load: Callable[[], Encoder]) -> Encoder:
        """The model of the key, loaded by ``load`` if it is not there.  Raises what ``load`` raises; then nothing is kept."""
        with self._lock:
            loading = self._loading.setdefault(key, threading.Lock())
        with loading:
            with self._lock:
                model = self._alive.get(key)
            if model is None:
                model = load()
            with self._lock:
                self._alive[key] = model
                self._recent[key] = model
                self._recent.move_to_end(key)
                while len(self._recent) > self._kept:
                    self._recent.popitem(last=False)
            return model

    def clear(self) -> None:
        """Let go of every model that no function holds."""
        with self._lock:
            self._recent.clear()


MODELS: Final = ModelCache(kept=2)
"""The models of this process."""


def load(layout: Layout, device: str, dtype: str | None = None, arguments: Mapping[str, Any] | None = None) -> Encoder:
    """The encoder of a model directory: a table, a transformer, the texts of a CLIP model, or whatever sentence-transformers makes of it.

    dtype      "float32", "float16", "bfloat16"; None lets device and model decide; "auto" as in ``TransformerEncoder``, else None
    arguments  for SentenceTransformer; if there are any, it runs the model
    Raises     EmbeddingFailed, MissingDependency, DeviceError
    """
    from chroma_gpu.embed.encoders.clip_models import clip_parts, load_texts
    from chroma_gpu.embed.encoders.library import LibraryEncoder
    from chroma_gpu.embed.encoders.static import from_files
    from chroma_gpu.embed.encoders.transformer import TransformerEncoder

    if not arguments and layout.unusual is None:
        if layout.static:
            files = (layout.directory / name for name in ("model.safetensors", "tokenizer.json"))
            return from_files(*files, unit=bool(layout.steps))
        try:
            return TransformerEncoder(layout, device, dtype)
        except UnusualModelError as reason:  # the tokenizer or the family: not to be seen in the layout
            layout = replace(layout, unusual=str(reason))
    dtype = None if dtype == "auto" else dtype
    if not arguments and (clip := clip_parts(layout.directory)) is not None:
        return load_texts(*clip, device, dtype)
    given = dict(arguments or {})
    if dtype is not None:
        given["model_kwargs"] = {**given.get("model_kwargs", {}), "dtype": dtype}
    return LibraryEncoder(layout, device, given)
