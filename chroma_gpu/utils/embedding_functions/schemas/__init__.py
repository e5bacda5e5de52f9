"""The JSON schemas of stored configurations, under Chroma's names. They are made from the table in ``chroma_gpu.embed.configs``."""

from __future__ import annotations

from chroma_gpu.embed.configs import SCHEMA_NAMES, load_schema, validate_config_schema

__all__ = [
    "get_available_schemas",
    "get_embedding_function_names",
    "get_schema_info",
    "get_schema_version",
    "load_schema",
    "validate_config_schema",
]


def get_available_schemas() -> list[str]:
    """The embedding functions that have a schema."""
    return list(SCHEMA_NAMES)


def get_embedding_function_names() -> set[str]:
    """The same as a set."""
    return set(SCHEMA_NAMES)


def get_schema_version(schema_name: str) -> str:
    """The version of a schema.  Raises FileNotFoundError for an unknown function."""
    return str(load_schema(schema_name)["version"])


def get_schema_info() -> dict[str, dict[str, str]]:
    """Version, title and description of every schema."""
    return {name: {key: load_schema(name)[key] for key in ("version", "title", "description")} for name in SCHEMA_NAMES}
