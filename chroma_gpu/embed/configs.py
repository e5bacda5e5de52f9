"""The configuration of every embedding function that ships: one table of fields, and what follows from it.

A configuration is what a collection stores of its function. The table says which fields it has; JSON schemas, checks, ``get_config`` and
``build_from_config`` are made from it. Fields, types and messages are Chroma's; where Chroma's own schema refuses a value that its
``get_config`` gives (None for what was not chosen), it is taken here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Final, Self

# name:type, then ! for what must be given, ? for what may be None. a|b|c is a choice of texts.
_KEYED: Final = "model_name:string! api_key_env_var:string!"
_SPARSE_TASK: Final = "task:document|query? query_config:object?"
_TABLE: Final[Mapping[str, str]] = {
    "amazon_bedrock": "model_name:string! session_args:object! kwargs:object!",
    "baseten": "api_base:string! api_key_env_var:string!",
    "bm25": _SPARSE_TASK + " cache_dir:string? k:number? b:number? avg_len:number? language:string? token_max_length:integer?"
    " disable_stemmer:boolean? specific_model_path:string? kwargs:object",
    "chroma-cloud-qwen": "api_key_env_var:string model:Qwen/Qwen3-Embedding-0.6B! task:string!? instructions:object",
    "chroma-cloud-splade": "api_key_env_var:string! model:prithivida/Splade_PP_en_v1! include_tokens:boolean",
    "chroma_bm25": "k:number b:number avg_doc_length:number token_max_length:integer include_tokens:boolean stopwords:array",
    "chroma_langchain": "embedding_function_class:string! note:string",
    "cloudflare_workers_ai": "api_key_env_var:string! model_name:string! account_id:string! gateway_id:string?",
    "cohere": _KEYED,
    "default": "",
    "fastembed_sparse": "model_name:string! " + _SPARSE_TASK + " cache_dir:string? threads:integer? cuda:boolean?"
    " device_ids:array? lazy_load:boolean? kwargs:object",
    "google_gemini": "model_name:string! api_key_env_var:string? vertexai:boolean? project:string? location:string?"
    " task_type:string? dimension:integer?",
    "google_generative_ai": _KEYED + " task_type:string! dimension:integer?",
    "google_palm": _KEYED,
    "google_vertex": _KEYED + " project_id:string! region:string!",
    "hashing": "dimension:integer",
    "huggingface": _KEYED,
    "huggingface_server": "url:string! api_key_env_var:string?",
    "huggingface_sparse": "model_name:string! device:string! " + _SPARSE_TASK + " kwargs:object",
    "instructor": "model_name:string! device:string! instruction:string?",
    "jina": _KEYED + " task:string? late_chunking:boolean? truncate:boolean? dimensions:integer? embedding_type:string?"
    " normalized:boolean? query_config:object?",
    "mistral": "model:string! api_key_env_var:string!",
    "morph": _KEYED + " api_base:string? encoding_format:string?",
    "nomic": "model:string! api_key_env_var:string! task_type:string! query_config:object?",
    "ollama": "url:string! model_name:string! timeout:integer",
    "onnx_mini_lm_l6_v2": "preferred_providers:array?",
    "open_clip": "model_name:string! checkpoint:string! device:string!?",
    "openai": _KEYED + " organization_id:string? api_base:string? api_type:string? api_version:string? deployment_id:string?"
    " default_headers:object? dimensions:integer?",
    "perplexity": _KEYED + " dimensions:integer?",
    "roboflow": "api_key_env_var:string! api_url:string!",
    "sentence_transformer": "model_name:string! device:string! normalize_embeddings:boolean! kwargs:object",
    "static": "model_name:string!",
    "text2vec": "model_name:string!",
    "together_ai": _KEYED,
    "voyageai": _KEYED + " input_type:string? truncation:boolean",
}
_ALIASES: Final[Mapping[str, str]] = {"google_genai": "google_gemini"}
SCHEMA_NAMES: Final = (*_TABLE, *_ALIASES)
"""The functions that have a schema."""

_VERSION: Final = "1.0.0"
_ITEMS: Final[Mapping[str, str]] = {"device_ids": "integer", "stopwords": "string", "preferred_providers": "string"}
_TYPES: Final[Mapping[str, Callable[[Any], bool]]] = {
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: (isinstance(value, int) and not isinstance(value, bool)) or _is_whole(value),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
}


def _is_whole(value: Any) -> bool:
    return isinstance(value, float) and value.is_integer()


@dataclass(frozen=True, slots=True)
class Field:
    """One key of a configuration. ``choices`` are the texts it may be, if they are few."""

    name: str
    type: str
    required: bool
    nullable: bool
    choices: tuple[str, ...] = ()

    def schema(self) -> dict[str, Any]:
        """As JSON schema."""
        written: dict[str, Any] = {"type": [self.type, "null"] if self.nullable else self.type}
        if self.choices:
            written["enum"] = [*self.choices, None] if self.nullable else list(self.choices)
        if self.name in _ITEMS:
            written["items"] = {"type": _ITEMS[self.name]}
        return written

    def fault(self, value: Any) -> str | None:
        """What is wrong with a value, in the words of the package jsonschema, or None."""
        if value is None and self.nullable:
            return None
        if not _TYPES[self.type](value):
            return f"{value!r} is not of type {', '.join(map(repr, self._types()))}"
        if self.choices and value not in self.choices:
            return f"{value!r} is not one of {list(self.choices)}"
        item = _ITEMS.get(self.name)
        wrong = [each for each in value if not _TYPES[item](each)] if item else []
        return f"{wrong[0]!r} is not of type {item!r}" if wrong else None

    def _types(self) -> list[str]:
        return [self.type, "null"] if self.nullable else [self.type]


@cache
def fields(name: str) -> dict[str, Field]:
    """The fields of a function's configuration by their names.  Raises FileNotFoundError, as Chroma, for an unknown function."""
    name = _ALIASES.get(name, name)
    if name not in _TABLE:
        raise FileNotFoundError(f"there is no schema for an embedding function {name!r}")
    return {field.name: field for field in map(_parsed, _TABLE[name].split())}


def _parsed(text: str) -> Field:
    bare = text.rstrip("!?")
    marks = text[len(bare) :]
    name, _, kind = bare.partition(":")
    choices = () if kind in _TYPES else tuple(kind.split("|"))
    return Field(name, "string" if choices else kind, "!" in marks, "?" in marks, choices)


def load_schema(schema_name: str) -> dict[str, Any]:
    """The JSON schema of a function's configuration.  Raises FileNotFoundError for an unknown function."""
    known = fields(schema_name)
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": f"{schema_name} embedding function",
        "description": f"The stored configuration of the embedding function {schema_name}",
        "version": _VERSION,
        "type": "object",
        "properties": {name: field.schema() for name, field in known.items()},
        "required": [name for name, field in known.items() if field.required],
        "additionalProperties": False,
    }


def validate_config_schema(config: Mapping[str, Any], schema_name: str) -> None:
    """Check a configuration against its schema.

    Raises ValueError; where the package jsonschema is installed, the error is its ValidationError too, which Chroma raises.
           FileNotFoundError for an unknown function.
    """
    known = fields(schema_name)
    for name in config:
        if name not in known:
            raise _invalid(schema_name, f"Additional properties are not allowed ({name!r} was unexpected)")
    for name, field in known.items():
        if name in config:
            fault = field.fault(config[name])
            if fault is not None:
                raise _invalid(schema_name, f"{fault} at path {name!r}")
        elif field.required:
            raise _invalid(schema_name, f"{name!r} is a required property")


def _invalid(schema_name: str, fault: str) -> Exception:
    message = f"Config validation failed for schema '{schema_name}': {fault}"
    try:
        from jsonschema import ValidationError
    except ImportError:
        return ValueError(message)
    return type("ConfigError", (ValidationError, ValueError), {})(message)  # type: ignore[no-any-return]


class Configured:
    """What every function that ships has: a stored name, and a configuration made from the attributes that the table names.

    stored  the name under which the function is stored, and the key of its fields
    fixed   the fields that may not change once a collection has them, and how messages call them
    """

    stored: ClassVar[str]
    fixed: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def name(cls) -> str:
        """The stored name."""
        return cls.stored

    def get_config(self) -> dict[str, Any]:
        """Chroma's keys. Never a key or another secret."""
        return {name: getattr(self, name) for name in fields(self.stored)}

    @classmethod
    def build_from_config(cls, config: dict[str, Any]) -> Self:
        """The function that ``get_config`` described.  Raises ValueError for a missing or an unknown key."""
        return cls(**cls.arguments(config))

    @classmethod
    def arguments(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """What the constructor is given for a configuration."""
        known = fields(cls.stored)
        if unknown := set(config) - known.keys():
            raise ValueError(f"the configuration of embedding function {cls.stored} has unknown {', '.join(sorted(unknown))}")
        given = {}
        for name, field in known.items():
            value = config.get(name, field)
            if value is not field and (value is not None or field.nullable):
                given[name] = value
        if missing := [name for name, field in known.items() if field.required and name not in given]:
            raise ValueError(f"the configuration of embedding function {cls.stored} lacks {', '.join(missing)}")
        return given | dict(given.pop("kwargs", {}))

    @staticmethod
    def check_primitive(arguments: Mapping[str, Any]) -> None:
        """Raises ValueError for further arguments that cannot be stored."""
        for key, value in arguments.items():
            if not isinstance(value, str | int | float | bool | list | dict | tuple):
                raise ValueError(f"Keyword argument {key} is not a primitive type")

    @classmethod
    def validate_config(cls, config: dict[str, Any]) -> None:
        """Check a configuration.  Raises what ``validate_config_schema`` raises."""
        validate_config_schema(config, cls.stored)

    def validate_config_update(self, old_config: dict[str, Any], new_config: dict[str, Any]) -> None:
        """Raises ValueError if the new configuration names a field that may not change."""
        for name, words in self.fixed.items():
            if name in new_config:
                raise ValueError(f"The {words} cannot be changed after the embedding function has been initialized.")


MODEL_NAME_FIXED: Final[Mapping[str, str]] = {"model_name": "model name"}
