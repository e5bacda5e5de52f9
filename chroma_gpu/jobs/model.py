"""The embedding function of a job: what a collection keeps of it, and what runs, which may be elsewhere and in another number format."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from copy import copy
from typing import Any, Final

from chroma_gpu.api.client import Client
from chroma_gpu.api.collection_configuration import stored_function
from chroma_gpu.api.models.Collection import Collection
from chroma_gpu.embed import EmbeddingFunction, known_embedding_functions
from chroma_gpu.embed.local import (
    DefaultEmbeddingFunction,
    InstructorEmbeddingFunction,
    LocalEmbeddingFunction,
    SentenceTransformerEmbeddingFunction,
)
from chroma_gpu.embed.stream.team import members_of
from chroma_gpu.errors import InvalidArgumentError, NotFoundError
from chroma_gpu.jobs.checkpoint import vectors_of
from chroma_gpu.jobs.options import EmbedOptions

OWN_NAMES: Final = ("default", "hashing", "static")
"""What ``--model`` may be besides the name or the directory of a model."""

_TYPES: Final = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def opened(client: Client, options: EmbedOptions, given: EmbeddingFunction[Any] | None = None) -> Collection:
    """The collection of a job, made if it is not there.

    given   the embedding function, if it is not one that the options name
    Raises  InvalidArgumentError if the collection has vectors of another model than the one asked for, ValueError
    """
    name = options.collection or "rows"
    function = given if given is not None else chosen(options)
    with suppress(NotFoundError):
        stored = client.get_collection(name).configuration_json.get("embedding_function")
        check_same(name, stored, function)
        return client.get_collection(name) if function is None else client.get_collection(name, embedding_function=function)
    configuration: dict[str, Any] = {"hnsw": {"space": options.space}}
    if function is None and options.vector_column is not None:
        return client.create_collection(name, configuration=configuration, embedding_function=None)
    # Somebody else may make it in this moment: then it is theirs, and checked when records are written.
    return client.get_or_create_collection(
        name, configuration=configuration, embedding_function=function if function is not None else DefaultEmbeddingFunction()
    )


def chosen(options: EmbedOptions) -> EmbeddingFunction[Any] | None:
    """The function that the options ask for; None if they leave it open. Raises InvalidArgumentError, ValueError."""
    model, arguments = options.model, _arguments(options)
    if options.instruction is not None:
        if arguments or options.normalize is not None:
            raise InvalidArgumentError(
                "an instruction goes with an Instructor model alone, which has no prompts, revision or truncation."
            )
        return InstructorEmbeddingFunction(**({} if model is None else {"model_name": model}), instruction=options.instruction)
    if model is None and not arguments and options.normalize is None:
        return None
    if model in OWN_NAMES and not arguments and options.normalize is None:
        return known_embedding_functions[model]()
    if model in ("hashing", "static"):
        raise InvalidArgumentError(f"the model {model} has no prompts, revision, truncation or normalising to choose.")
    named = {} if model in (None, "default") else {"model_name": model}
    return SentenceTransformerEmbeddingFunction(**named, normalize_embeddings=bool(options.normalize), **arguments)


def running(function: EmbeddingFunction[Any], options: EmbedOptions) -> EmbeddingFunction[Any]:
    """The function as the job runs it: on the device and in the number format of the options.

    Raises  InvalidArgumentError if it has no such choice
    """
    if not isinstance(function, LocalEmbeddingFunction):
        if options.device != "auto" or options.dtype != "auto":
            raise InvalidArgumentError(f"the embedding function {type(function).__name__} has no device or dtype to choose.")
        return function
    if isinstance(function, DefaultEmbeddingFunction):
        function = SentenceTransformerEmbeddingFunction()  # the same model, with something to choose
    placed = copy(function)
    placed._encoder = None
    if options.device != "auto":
        if not hasattr(placed, "device"):
            raise InvalidArgumentError(f"the embedding function {type(function).__name__} runs on the CPU.")
        placed.device = options.device
    if isinstance(placed, SentenceTransformerEmbeddingFunction):
        model = dict(placed.kwargs.get("model_kwargs", {}))
        if options.dtype != "auto":
            model["dtype"] = _TYPES[options.dtype]
        elif not model:
            model["dtype"] = "auto"
        placed.kwargs = placed.kwargs | {"model_kwargs": model}
    elif options.dtype != "auto":
        raise InvalidArgumentError(f"the embedding function {type(function).__name__} has no dtype to choose.")
    if options.batch_tokens is not None:
        placed._encoder = placed.encoder()
        for member in members_of(placed._encoder):  # shared by all functions of this model, which then keep to it too
            member.budget = options.batch_tokens
    return placed


def tokenizer(function: Any) -> Any | None:
    """What the model counts its tokens with; None if it has nothing of the kind. Loads the model."""
    if not isinstance(function, LocalEmbeddingFunction):
        return None
    if function._encoder is None:
        function._encoder = function.encoder()
    first, *_ = members_of(function._encoder)
    return getattr(getattr(first, "tokeniser", None), "tokenizer", None)


def described(stored: Mapping[str, Any] | None, function: Any) -> dict[str, Any]:
    """What a report says of a model: fields of Report."""
    config = dict((stored or {}).get("config") or {})
    name = config.get("model_name") or config.get("model") or (stored or {}).get("name") or type(function).__name__
    encoder = getattr(function, "_encoder", None)
    told: dict[str, Any] = {"model": "all-MiniLM-L6-v2" if name == "default" else name}
    for each in ("fingerprint", "dtype", "device"):
        value = getattr(encoder, each, None)
        told[each] = None if value is None else str(value)
    return told


def _arguments(options: EmbedOptions) -> dict[str, Any]:
    """The arguments of SentenceTransformer."""
    given: dict[str, Any] = {}
    if options.prompt is not None:
        given |= {"prompts": {"given": options.prompt}, "default_prompt_name": "given"}
    if options.prompt_name is not None:
        given["default_prompt_name"] = options.prompt_name
    if options.truncate_dim is not None:
        given["truncate_dim"] = options.truncate_dim
    if options.revision is not None:
        given["revision"] = options.revision
    return given


def check_same(name: str, stored: Mapping[str, Any] | None, function: EmbeddingFunction[Any] | None) -> None:
    """Raises InvalidArgumentError if a collection has vectors of another function."""
    there = vectors_of(stored)
    if function is None or there is None:
        return
    asked = vectors_of(stored_function(function))
    if asked != there:
        raise InvalidArgumentError(
            f"Collection [{name}] has vectors of {_words(there)}, not of {_words(asked)}.",
            hint="Leave --model and what belongs to it out, or take another collection; `reembed` changes the model of this one.",
        )


def _words(model: Mapping[str, Any] | None) -> str:
    if model is None:
        return "a function that cannot be stored"
    config = {key: value for key, value in model["config"].items() if value not in (None, False, {})}
    return f"{model['name']} {config}" if config else str(model["name"])
