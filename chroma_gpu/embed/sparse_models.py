"""Sparse vectors by models on this machine: SPLADE, and what the package fastembed has."""

from __future__ import annotations

import json
import warnings
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from threading import Lock
from typing import Any, Final, Literal, TypeAlias

from chroma_gpu import device as devices
from chroma_gpu.embed import Documents, SparseEmbeddingFunction, SparseVectors
from chroma_gpu.embed.configs import Configured
from chroma_gpu.embed.encoders.heads import read_head
from chroma_gpu.embed.encoders.layout import UnusualModelError
from chroma_gpu.embed.encoders.models import MODELS
from chroma_gpu.embed.encoders.sources import find
from chroma_gpu.embed.encoders.splade import SpladeEncoder, sparse_blocks
from chroma_gpu.embed.local import chosen_dtype, refuse_code, requested
from chroma_gpu.embed.progress import Progress
from chroma_gpu.embed.sparse import sorted_vector
from chroma_gpu.embed.stream.pipeline import Prompt
from chroma_gpu.embed.texts import batches, check_text
from chroma_gpu.errors import EmbeddingFailed, MissingDependency

TaskType: TypeAlias = Literal["document", "query"]
QueryConfig: TypeAlias = dict[str, Any]
"""``{"task": "document"}`` or ``{"task": "query"}``: how search queries are embedded."""

_BATCH: Final = 1_024
"""Texts per call of the library."""


class SparseModelFunction(Configured, SparseEmbeddingFunction[Documents]):
    """What they share: a model that is loaded at the first text, and embeds documents and queries in two ways.

    task          how texts are embedded
    query_config  how search queries are; None is as texts
    """

    task: TaskType | None
    query_config: QueryConfig | None

    def __call__(self, input: Documents) -> SparseVectors:
        """One sparse vector per text.  Raises ValueError for no texts, for what is no text, and for an unknown task."""
        return self._embedded(input, self.task)

    def embed_query(self, input: Documents) -> SparseVectors:
        """The vectors of search queries."""
        return self(input) if self.query_config is None else self._embedded(input, self.query_config.get("task"))

    @abstractmethod
    def vectors(self, texts: list[str], query: bool) -> SparseVectors:
        """The model's vectors of at least one text."""
        ...

    def _embedded(self, texts: Documents, task: Any) -> SparseVectors:
        if task not in ("document", "query"):
            raise ValueError(f"Invalid task: {task}")
        listed = [texts] if isinstance(texts, str) else list(texts)
        for position, text in enumerate(listed):
            check_text(text, position)
        return self.vectors(listed, task == "query") if listed else []


class HuggingFaceSparseEmbeddingFunction(SparseModelFunction):
    """A SPLADE model: its vectors are those of sentence-transformers' SparseEncoder.

    model_name  a directory, or a name on the Hugging Face hub, such as "prithivida/Splade_PP_en_v1"
    device      "auto", "cpu", "cuda", "cuda:1", "mps"
    kwargs      arguments of SparseEncoder, as JSON values. Handled here: prompts, revision, cache_folder, local_files_only, token, and
                model_kwargs={"dtype": ...}. With any other one, and for other models than SPLADE, the library itself runs the model.
                What would run code of a model is refused
    Raises      ValueError; ModelNotFound when it embeds
    """

    stored = "huggingface_sparse"

    def __init__(
        self,
        model_name: str,
        device: str,
        task: TaskType | None = "document",
        query_config: QueryConfig | None = None,
        **kwargs: Any,
    ) -> None:
        self.check_primitive(kwargs)
        refuse_code(kwargs)
        self.model_name = model_name
        self.device = device
        self.task = task
        self.query_config = query_config
        self.kwargs = kwargs

    def vectors(self, texts: list[str], query: bool) -> SparseVectors:
        """The coordinates that are not 0."""
        return [vector for _, block in self.blocks(texts, task="query" if query else "document") for vector in block]

    def blocks(
        self, texts: Iterable[str], *, task: TaskType | None = None, progress: Progress = None
    ) -> Iterator[tuple[int, SparseVectors]]:
        """The sparse vectors of any number of texts in blocks of bounded memory, in order: (start, vectors).

        task    None is the function's own
        Raises  ValueError for what is no text; EmbeddingFailed, ModelNotFound, DeviceError
        Cost    equal texts of a block are embedded once
        """
        model = self._model()
        query = (task or self.task) == "query"
        if isinstance(model, SpladeEncoder):
            prompts = {"query": "", "document": "", **model.layout.settings.get("prompts", {}), **self.kwargs.get("prompts", {})}
            yield from sparse_blocks(model, texts, Prompt(prompts["query" if query else "document"] or ""), progress)
            return
        start = 0
        for batch in batches(texts, _BATCH):
            yield start, model.vectors(batch, query)
            start += len(batch)

    def get_config(self) -> dict[str, Any]:
        """Chroma's keys; a token is never stored."""
        return super().get_config() | {"kwargs": {key: value for key, value in self.kwargs.items() if key != "token"}}

    def _model(self) -> Any:
        directory, place = find(requested(self.model_name, self.kwargs)), devices.pick(self.device)
        dtype, others = chosen_dtype(self.kwargs)

        def load() -> Any:
            if not others:
                try:
                    return SpladeEncoder(read_head(directory, "fill-mask", "SpladePooling"), place, dtype)
                except UnusualModelError:
                    pass  # the library knows more kinds
            return _LibrarySparse(directory, place, self.kwargs)

        return MODELS.get((directory, place, "sparse", json.dumps(self.kwargs, sort_keys=True, default=str)), load)


class _LibrarySparse:
    """A SparseEncoder of sentence-transformers.  Raises EmbeddingFailed, MissingDependency."""

    def __init__(self, directory: Path, device: str, arguments: Mapping[str, Any]) -> None:
        try:
            from sentence_transformers import SparseEncoder
        except ImportError as error:
            raise MissingDependency(
                f"the sparse model in {directory} needs sentence-transformers.", hint="pip install sentence-transformers"
            ) from error
        given = dict(arguments)
        model_kwargs = {**given.pop("model_kwargs", {}), "use_safetensors": True}
        try:
            self._model = SparseEncoder(
                str(directory),
                device=device,
                model_kwargs=model_kwargs,
                **{"local_files_only": True, **given, "trust_remote_code": False},
            )
        except Exception as error:
            raise EmbeddingFailed(f"sentence-transformers cannot load the sparse model in {directory}: {error}") from error
        self._lock = Lock()

    def vectors(self, texts: list[str], query: bool) -> SparseVectors:
        """The coordinates that are not 0."""
        with self._lock:
            encode = self._model.encode_query if query else self._model.encode_document
            rows: Any = encode(texts, convert_to_tensor=True, show_progress_bar=False)
        found: SparseVectors = []
        for row in rows.coalesce().to("cpu") if rows.is_sparse else rows.to("cpu"):
            dense = row.to_dense() if row.is_sparse else row
            places = dense.nonzero().flatten()
            found.append(sorted_vector(places.tolist(), dense[places].tolist()))
        return found


class FastembedModelFunction(SparseModelFunction):
    """A model of the package fastembed."""

    _held: Any = None

    def __init__(self) -> None:
        self._lock = Lock()

    @abstractmethod
    def load(self) -> Any:
        """The model.  Raises ImportError without the package."""
        ...

    def vectors(self, texts: list[str], query: bool) -> SparseVectors:
        """What fastembed returns, its indices in order.  Raises MissingDependency without it."""
        with self._lock:
            if self._held is None:
                try:
                    self._held = self.load()
                except ImportError as error:
                    raise MissingDependency(
                        f"{self.stored} needs the package fastembed.", hint="pip install fastembed"
                    ) from error
        rows: Iterable[Any] = (self._held.query_embed if query else self._held.embed)(texts)
        return [sorted_vector(row.indices.tolist(), row.values.tolist()) for row in rows]


class FastembedSparseEmbeddingFunction(FastembedModelFunction):
    """A sparse model of fastembed, such as "Qdrant/bm25" or "prithivida/Splade_PP_en_v1"; the arguments are fastembed's."""

    stored = "fastembed_sparse"

    def __init__(
        self,
        model_name: str,
        task: TaskType | None = "document",
        cache_dir: str | None = None,
        threads: int | None = None,
        cuda: bool | None = None,
        device_ids: list[int] | None = None,
        lazy_load: bool | None = None,
        query_config: QueryConfig | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self.check_primitive(kwargs)
        self.model_name = model_name
        self.task = task
        self.cache_dir = cache_dir
        self.threads = threads
        self.cuda = cuda
        self.device_ids = device_ids
        self.lazy_load = lazy_load
        self.query_config = query_config
        self.kwargs = kwargs

    def load(self) -> Any:
        """The model."""
        from fastembed import SparseTextEmbedding

        given = {name: getattr(self, name) for name in ("cache_dir", "threads", "cuda", "device_ids", "lazy_load")}
        chosen = {name: value for name, value in given.items() if value is not None}
        return SparseTextEmbedding(self.model_name, **chosen, **self.kwargs)


class Bm25EmbeddingFunction(FastembedModelFunction):
    """fastembed's BM25; the arguments are fastembed's, None is its default.

    Warns  DeprecationWarning, as Chroma's: ChromaBm25EmbeddingFunction took its place and needs no package
    """

    stored = "bm25"

    def __init__(
        self,
        avg_len: float | None = None,
        task: TaskType | None = "document",
        cache_dir: str | None = None,
        k: float | None = None,
        b: float | None = None,
        language: str | None = None,
        token_max_length: int | None = None,
        disable_stemmer: bool | None = None,
        specific_model_path: str | None = None,
        query_config: QueryConfig | None = None,
        **kwargs: Any,
    ) -> None:
        warnings.warn(
            "Bm25EmbeddingFunction is deprecated. Please use ChromaBm25EmbeddingFunction instead.",
            DeprecationWarning,
            stacklevel=2,
        )
        super().__init__()
        self.check_primitive(kwargs)
        self.task = task
        self.query_config = query_config
        self.cache_dir = cache_dir
        self.k = k
        self.b = b
        self.avg_len = avg_len
        self.language = language
        self.token_max_length = token_max_length
        self.disable_stemmer = disable_stemmer
        self.specific_model_path = specific_model_path
        self.kwargs = kwargs

    def load(self) -> Any:
        """The model."""
        from fastembed.sparse.bm25 import Bm25

        names = ("cache_dir", "k", "b", "avg_len", "language", "token_max_length", "disable_stemmer", "specific_model_path")
        given = {name: getattr(self, name) for name in names} | self.kwargs
        return Bm25("Qdrant/bm25", **{name: value for name, value in given.items() if value is not None})
