"""Collection, the model: what a collection is, without its records. ``collection.get_model()`` gives it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any
from uuid import UUID

from chroma_gpu.api import collection_configuration
from chroma_gpu.api.collection_configuration import CollectionConfiguration


@dataclass
class Collection:
    """What a collection is. Its fields can be had like those of a dictionary too; ``["configuration"]`` is the loaded one.

    configuration_json, serialized_schema  as JSON values
    dimension                              length of the vectors; None before the first one
    version, log_position                  grow with what is written; 0 where that is not known
    """

    id: UUID
    name: str
    configuration_json: dict[str, Any]
    serialized_schema: dict[str, Any] | None
    metadata: dict[str, Any] | None
    dimension: int | None
    tenant: str
    database: str
    version: int = 0
    log_position: int = 0

    def __getitem__(self, key: str) -> Any:
        if key == "configuration":
            return self.get_configuration()
        return getattr(self, key) if key in self.get_model_fields() else None

    def __setitem__(self, key: str, value: Any) -> None:
        if key not in self.get_model_fields():
            raise KeyError(f"No such key: {key}, valid keys are: {self.get_model_fields()}")
        setattr(self, key, value)

    def get_model_fields(self) -> list[str]:
        """The names of the fields."""
        return [field.name for field in fields(self)]

    def get_configuration(self) -> CollectionConfiguration:
        """The configuration, its embedding function made. Raises ValueError as ``collection.configuration`` does."""
        return collection_configuration.loaded(self.configuration_json)
