"""Embedding functions that run on this machine. They cost nothing to make: the model is loaded at the first text, and shared."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Final

from chroma_gpu import device as devices
from chroma_gpu.embed import Documents, EmbeddingFunction, Embeddings, Space
from chroma_gpu.embed.configs import Configured
from chroma_gpu.embed.kept import Kept
from chroma_gpu.embed.layout import Layout, read
from chroma_gpu.embed.models import MODELS, load
from chroma_gpu.embed.pipeline import Encoder, Prompt, stream
from chroma_gpu.embed.progress import Progress
from chroma_gpu.embed.sources import Request, find, wordllama_files
from chroma_gpu.embed.static import from_files, unit_vectors
from chroma_gpu.embed.texts import Block, own_vectors
from chroma_gpu.errors import EmbeddingFailed

DEFAULT_MODEL: Final = "all-MiniLM-L6-v2"
WORDLLAMA: Final = "wordllama"

_DTYPES: Final = ("float32", "float16", "bfloat16")
_OURS: Final = frozenset(
    {"prompts", "default_prompt_name", "truncate_dim", "similarity_fn_name", "trust_remote_code"}
    | {"revision", "cache_folder", "local_files_only", "token"}
)
"""The arguments of SentenceTransformer that need no SentenceTransformer."""


class LocalEmbeddingFunction(Configured, EmbeddingFunction[Documents]):
    """What the functions of this package share: large batches, order, equal texts once, progress, blocks for bulk jobs.

    A subclass says which encoder runs it. One that overrides ``__call__`` or ``embed_query`` is called like any foreign function.
    Instances may be used from several threads.
    """

    streams: ClassVar[bool] = True
    _encoder: Encoder | None = None

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if not cls.__dict__.keys().isdisjoint({"__call__", "embed_query"}):
            cls.streams = False

    def __call__(self, input: Documents) -> Embeddings:
        """One float32 array per text; a single string is one text.

        Raises ValueError for no texts and for what is no text; EmbeddingFailed, ModelNotFound, DeviceError.
        Cost   the first call loads the model
        """
        texts = [input] if isinstance(input, str) else list(input)
        return list(own_vectors(self, texts)) if texts else []

    def blocks(
        self, texts: Iterable[str], *, query: bool = False, progress: Progress = None, kept: Kept | None = None
    ) -> Iterator[Block]:
        """The vectors of texts in blocks, as ``pipeline.stream``."""
        if self._encoder is None:
            self._encoder = self.encoder()
        for start, vectors in stream(self._encoder, texts, self.prompt(query), progress=progress, kept=kept):
            finished = self.finished(vectors)
            if kept is not None and finished is not vectors:
                kept.drop()  # the device has others
            yield start, finished

    @abstractmethod
    def encoder(self) -> Encoder:
        """The encoder that runs this function, loaded."""
        ...

    def prompt(self, query: bool) -> Prompt:
        """What is put before each text."""
        return Prompt()

    def finished(self, vectors: Any) -> Any:
        """What this function does to the encoder's vectors, [m, dim] float32."""
        return vectors


class DefaultEmbeddingFunction(LocalEmbeddingFunction):
    """all-MiniLM-L6-v2 through torch: 384 dimensions, norm 1, texts of up to 256 tokens; the rest of a longer text is not read.

    Chroma's default function is the same model through ONNX.
    """

    stored = "default"

    def __init__(self) -> None:
        """Nothing to choose: the device is "auto"."""

    def encoder(self) -> Encoder:
        """The shared model."""
        return _transformer(read(find(Request(DEFAULT_MODEL))), "auto")

    def max_tokens(self) -> int:
        """The longest text that is read to its end."""
        return 256


class SentenceTransformerEmbeddingFunction(LocalEmbeddingFunction):
    """Any sentence-transformers model: its vectors are those of ``SentenceTransformer.encode``.

    model_name            a directory, or a name on the Hugging Face hub; see ``sources`` for where it is looked for
    device                "auto", "cpu", "cuda", "cuda:1", "mps"
    normalize_embeddings  divide each vector by its norm
    kwargs                arguments of SentenceTransformer, as JSON values. Handled here: prompts, default_prompt_name, truncate_dim,
                          revision, cache_folder, local_files_only, token, and model_kwargs={"dtype": ...}. With any other one
                          the library itself runs the model. What would run code of a model is refused.
    Raises                ValueError for an argument that cannot be stored or is refused
    """

    stored = "sentence_transformer"

    def __init__(
        self, model_name: str = DEFAULT_MODEL, device: str = "auto", normalize_embeddings: bool = False, **kwargs: Any
    ) -> None:
        self.check_primitive(kwargs)
        refuse_code(kwargs)
        self.model_name = model_name
        self.device = device
        self.normalize_embeddings = normalize_embeddings
        self.kwargs = kwargs
        self._prompt: Prompt | None = None
        self._truncate: int | None = None

    def encoder(self) -> Encoder:
        """The shared model; also reads what the directory says about prompts."""
        given = self.kwargs
        layout = self._layout()
        prompts = {**layout.prompts, **given.get("prompts", {})}
        chosen = given.get("default_prompt_name", layout.default_prompt)
        if chosen is not None and chosen not in prompts:
            raise EmbeddingFailed(f"default_prompt_name {chosen!r} is not among the prompts {sorted(prompts)}.")
        self._prompt = Prompt(prompts[chosen] if chosen is not None else "")
        self._truncate = given.get("truncate_dim", layout.truncate_dim)
        model = dict(given.get("model_kwargs", {}))
        dtype = str(model.pop("dtype", model.pop("torch_dtype", ""))) or None
        if dtype is not None and dtype not in _DTYPES:
            raise EmbeddingFailed(f"dtype {dtype!r} is none of {', '.join(_DTYPES)}.")
        others = {key: value for key, value in given.items() if key not in _OURS and key != "model_kwargs"}
        return _transformer(layout, self.device, dtype, others | ({"model_kwargs": model} if model else {}))

    def _layout(self) -> Layout:
        cache = self.kwargs.get("cache_folder")
        request = Request(
            self.model_name,
            revision=self.kwargs.get("revision"),
            cache=Path(cache) if cache else None,
            offline=bool(self.kwargs.get("local_files_only", False)),
            token=self.kwargs.get("token"),
        )
        return read(find(request))

    def prompt(self, query: bool) -> Prompt:
        """The default prompt, for queries too, as in Chroma."""
        return self._prompt or Prompt()

    def finished(self, vectors: Any) -> Any:
        """Cut to truncate_dim, then normalised if that was asked for."""
        cut = vectors if self._truncate is None else vectors[:, : self._truncate]
        return unit_vectors(cut) if self.normalize_embeddings else cut

    def get_config(self) -> dict[str, Any]:
        """Chroma's keys; a token is never stored."""
        kwargs = {key: value for key, value in self.kwargs.items() if key != "token"}
        return super().get_config() | {"kwargs": kwargs}

    def default_space(self) -> Space:
        """Angles."""
        return "cosine"


class InstructorEmbeddingFunction(LocalEmbeddingFunction):
    """An Instructor model: the instruction is read before every text, but its tokens do not count in the mean.

    model_name, device  as in SentenceTransformerEmbeddingFunction
    instruction         such as "Represent the science title:"; None is no instruction
    Source              Su et al. 2023, arXiv:2212.09741
    """

    stored = "instructor"

    def __init__(self, model_name: str = "hkunlp/instructor-base", device: str = "auto", instruction: str | None = None) -> None:
        self.model_name = model_name
        self.device = device
        self.instruction = instruction

    def encoder(self) -> Encoder:
        """The shared model."""
        return _transformer(read(find(Request(self.model_name))), self.device)

    def prompt(self, query: bool) -> Prompt:
        """The instruction without space around it, as Instructor's own code has it."""
        return Prompt((self.instruction or "").strip(), pooled=False)

    def blocks(
        self, texts: Iterable[str], *, query: bool = False, progress: Progress = None, kept: Kept | None = None
    ) -> Iterator[Block]:
        """The vectors of texts, which lose the space around them."""
        stripped = [text.strip() for text in texts] if isinstance(texts, list) else (text.strip() for text in texts)
        return super().blocks(stripped, query=query, progress=progress, kept=kept)

    def default_space(self) -> Space:
        """Angles."""
        return "cosine"


class Text2VecEmbeddingFunction(LocalEmbeddingFunction):
    """A model of the text2vec family, by the encoder that runs sentence-transformers models; the package text2vec is not needed.

    model_name  a directory, or a name on the hub
    """

    stored = "text2vec"

    def __init__(self, model_name: str = "shibing624/text2vec-base-chinese") -> None:
        self.model_name = model_name

    def encoder(self) -> Encoder:
        """The shared model."""
        return _transformer(read(find(Request(self.model_name))), "auto")

    def default_space(self) -> Space:
        """Angles."""
        return "cosine"


class StaticEmbeddingFunction(LocalEmbeddingFunction):
    """Static embeddings on the CPU: no transformer, thousands of texts per second and core, less precise.

    model_name  "wordllama" (256 dimensions, from the package wordllama), or a StaticEmbedding or model2vec model as a directory or
                a name on the hub
    """

    stored = "static"

    def __init__(self, model_name: str = WORDLLAMA) -> None:
        self.model_name = model_name

    def encoder(self) -> Encoder:
        """The shared table."""
        if self.model_name == WORDLLAMA:
            files = wordllama_files()
            return MODELS.get(files, lambda: from_files(*files, unit=True))
        layout = read(find(Request(self.model_name)))
        if not layout.static:
            raise EmbeddingFailed(
                f"the model {self.model_name!r} is not a static one.", hint="SentenceTransformerEmbeddingFunction runs it."
            )
        return MODELS.get((layout.directory, "static"), lambda: load(layout, "cpu"))

    def default_space(self) -> Space:
        """Angles."""
        return "cosine"


def _transformer(layout: Layout, device: str, dtype: str | None = None, arguments: dict[str, Any] | None = None) -> Encoder:
    """The shared encoder of a model on a device."""
    place = devices.pick(device)
    key = (layout.directory, place, dtype, json.dumps(arguments or {}, sort_keys=True, default=str))
    return MODELS.get(key, lambda: load(layout, place, dtype, arguments))


def refuse_code(arguments: Any, inside: str = "") -> None:
    """Raises ValueError for what would make the libraries run code from elsewhere: a stored configuration is data, not consent.

    Inside model_kwargs and the like, a name with a slash is another repository or file, such as a compiled attention kernel.
    """
    for key, value in arguments.items() if isinstance(arguments, dict) else enumerate(arguments):
        if key == "trust_remote_code" and value:
            raise ValueError("trust_remote_code is refused: code that comes with a model is never run.")
        if inside and isinstance(value, str) and "/" in value:
            raise ValueError(f"{key}={value!r} in {inside} is refused: it may not name another repository or file.")
        if isinstance(value, dict) or (inside and isinstance(value, list | tuple)):
            refuse_code(value, "" if key == "prompts" and not inside else inside or str(key))
