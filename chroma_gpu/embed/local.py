"""Embedding functions that run on this machine. They cost nothing to make: the model is loaded at the first text, and shared."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, cast

from chroma_gpu import device as devices
from chroma_gpu.embed import Documents, EmbeddingFunction, Embeddings, Space
from chroma_gpu.embed.configs import Configured
from chroma_gpu.embed.encoders.finish import Finished
from chroma_gpu.embed.encoders.layout import Layout, read
from chroma_gpu.embed.encoders.models import MODELS, load
from chroma_gpu.embed.encoders.sources import Request, find, wordllama_files
from chroma_gpu.embed.encoders.static import from_files
from chroma_gpu.embed.memory.protocol import Memory
from chroma_gpu.embed.progress import Progress
from chroma_gpu.embed.stream.failures import Failures
from chroma_gpu.embed.stream.kept import Kept
from chroma_gpu.embed.stream.pipeline import Encoder, Prompt, stream
from chroma_gpu.embed.stream.stats import Stats
from chroma_gpu.embed.stream.team import Team
from chroma_gpu.embed.texts import Block, own_vectors
from chroma_gpu.errors import EmbeddingFailed

DEFAULT_MODEL: Final = "all-MiniLM-L6-v2"
WORDLLAMA: Final = "wordllama"

_DTYPES: Final = ("float32", "float16", "bfloat16", "auto")
OURS: Final = frozenset(
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
        if "streams" not in cls.__dict__ and not cls.__dict__.keys().isdisjoint({"__call__", "embed_query"}):
            cls.streams = False

    def __call__(self, input: Documents) -> Embeddings:
        """One float32 array per text; a single string is one text.

        Raises ValueError for no texts and for what is no text; EmbeddingFailed, ModelNotFound, DeviceError.
        Cost   the first call loads the model
        """
        texts = [input] if isinstance(input, str) else list(input)
        return list(own_vectors(self, texts)) if texts else []

    def blocks(
        self,
        texts: Iterable[str],
        *,
        query: bool = False,
        progress: Progress = None,
        kept: Kept | None = None,
        failures: Failures | None = None,
        memory: Memory | None = None,
        stats: Stats | None = None,
    ) -> Iterator[Block]:
        """The vectors of texts in blocks, as ``pipeline.stream``."""
        if self._encoder is None:
            self._encoder = self.encoder()
        given: dict[str, Any] = {"kept": kept, "failures": failures, "memory": memory, "stats": stats}
        for start, vectors in stream(self._encoder, texts, self.prompt(query), progress=progress, **given):
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
    device                "auto", "cpu", "cuda", "cuda:1", "mps"; several, "cuda:0,cuda:1" or "all" GPUs, share the work
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
        if kwargs.get("truncate_dim") == 0:
            raise ValueError("truncate_dim must not be 0: vectors have at least one dimension.")
        self.model_name = model_name
        self.device = device
        self.normalize_embeddings = normalize_embeddings
        self.kwargs = kwargs
        self._prompt: Prompt | None = None

    def encoder(self) -> Encoder:
        """The shared model; also reads what the directory says about prompts."""
        given = self.kwargs
        layout = self._layout()
        prompts = {**layout.prompts, **given.get("prompts", {})}
        chosen = given.get("default_prompt_name", layout.default_prompt)
        if chosen is not None and chosen not in prompts:
            raise EmbeddingFailed(f"default_prompt_name {chosen!r} is not among the prompts {sorted(prompts)}.")
        self._prompt = Prompt(prompts[chosen] if chosen is not None else "")
        truncate = given.get("truncate_dim", layout.truncate_dim)
        dtype, others = chosen_dtype(given)
        encoder = _transformer(layout, self.device, dtype, others)
        unit = self.normalize_embeddings and (truncate is not None or not layout.unit)
        if truncate is None and not unit:
            return encoder
        if isinstance(encoder, Team):
            return Team([Finished(member, truncate, unit) for member in encoder.members])
        return Finished(encoder, truncate, unit)

    def _layout(self) -> Layout:
        return read(find(requested(self.model_name, self.kwargs)))

    def prompt(self, query: bool) -> Prompt:
        """The default prompt, for queries too, as in Chroma."""
        return self._prompt or Prompt()

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
    Called with pairs [instruction, text], as the package InstructorEmbedding is, it reads each text with its own instruction.
    Source              Su et al. 2023, arXiv:2212.09741
    """

    stored = "instructor"
    streams: ClassVar[bool] = True

    def __init__(self, model_name: str = "hkunlp/instructor-base", device: str = "auto", instruction: str | None = None) -> None:
        self.model_name = model_name
        self.device = device
        self.instruction = instruction

    def __call__(self, input: Documents | Sequence[str | Sequence[str]]) -> Embeddings:
        """One float32 array per text; among the texts there may be pairs [instruction, text], each read with its own instruction.

        Raises ValueError for what is neither; and as every function of this package does.
        Cost   texts of one instruction are embedded together
        """
        if isinstance(input, str) or all(isinstance(each, str) for each in input):
            return super().__call__(cast(Documents, input))
        groups: dict[str | None, list[int]] = {}
        texts: list[str] = []
        for position, each in enumerate(input):
            instruction, text = (None, each) if isinstance(each, str) else _pair(each, position)
            groups.setdefault(instruction, []).append(position)
            texts.append(text)
        vectors: list[Any] = [None] * len(texts)
        for instruction, places in groups.items():
            function = self if instruction is None else self._with(instruction)
            for place, vector in zip(places, own_vectors(function, [texts[place] for place in places]), strict=True):
                vectors[place] = vector
        return vectors

    def _with(self, instruction: str) -> InstructorEmbeddingFunction:
        """This function with another instruction: the model is the same one."""
        other = type(self)(self.model_name, self.device, instruction)
        self._encoder = other._encoder = self._encoder or self.encoder()
        return other

    def encoder(self) -> Encoder:
        """The shared model."""
        return _transformer(read(find(Request(self.model_name))), self.device)

    def prompt(self, query: bool) -> Prompt:
        """The instruction without space around it, as Instructor's own code has it."""
        return Prompt((self.instruction or "").strip(), pooled=False)

    def blocks(
        self,
        texts: Iterable[str],
        *,
        query: bool = False,
        progress: Progress = None,
        kept: Kept | None = None,
        failures: Failures | None = None,
        memory: Memory | None = None,
        stats: Stats | None = None,
    ) -> Iterator[Block]:
        """The vectors of texts, which lose the space around them."""
        stripped = [text.strip() for text in texts] if isinstance(texts, list) else (text.strip() for text in texts)
        return super().blocks(stripped, query=query, progress=progress, kept=kept, failures=failures, memory=memory, stats=stats)

    def default_space(self) -> Space:
        """Angles."""
        return "cosine"


def _pair(given: Any, position: int) -> tuple[str, str]:
    if not isinstance(given, list | tuple) or len(given) != 2 or not all(isinstance(part, str) for part in given):
        raise ValueError(f"Expected documents to be strings or pairs [instruction, text], got {given!r} at position {position}")
    return given[0], given[1]


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
    """The shared encoder of a model on a device, or on several: names with commas between them, "all" for every GPU."""
    several = device == "all" or "," in device
    places = tuple(dict.fromkeys(devices.several(device))) if several else (devices.pick(device),)
    if layout.static:
        places = places[:1]  # tables stay on the CPU
    options = json.dumps(arguments or {}, sort_keys=True, default=str)

    def on(place: str) -> Encoder:
        return MODELS.get((layout.directory, place, dtype, options), lambda: load(layout, place, dtype, arguments))

    return on(places[0]) if len(places) == 1 else Team([on(place) for place in places])


def requested(model_name: str, arguments: Mapping[str, Any]) -> Request:
    """What is looked for, by the name of a model and the arguments of SentenceTransformer."""
    cache = arguments.get("cache_folder")
    return Request(
        model_name,
        revision=arguments.get("revision"),
        cache=Path(cache) if cache else None,
        offline=bool(arguments.get("local_files_only", False)),
        token=arguments.get("token"),
    )


def chosen_dtype(arguments: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """The type asked for by model_kwargs, and those arguments that only the library itself knows.  Raises EmbeddingFailed."""
    model = dict(arguments.get("model_kwargs", {}))
    dtype = str(model.pop("dtype", model.pop("torch_dtype", ""))) or None
    if dtype is not None and dtype not in _DTYPES:
        raise EmbeddingFailed(f"dtype {dtype!r} is none of {', '.join(_DTYPES)}.")
    others = {key: value for key, value in arguments.items() if key not in OURS and key != "model_kwargs"}
    return dtype, others | ({"model_kwargs": model} if model else {})


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
