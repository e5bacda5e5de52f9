"""Chroma's older configuration classes: named parameters with a definition each. Collections are configured by dictionaries now."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import cpu_count
from typing import Any, ClassVar, Self, TypeAlias

ParameterValue: TypeAlias = "str | int | float | bool | ConfigurationInternal"
ParameterValidator: TypeAlias = Callable[[Any], bool]


class StaticParameterError(Exception):
    """A parameter that cannot be changed once it is set."""


class InvalidConfigurationError(ValueError):
    """Parameters that do not go together."""


@dataclass
class ConfigurationDefinition:
    """What a parameter may be."""

    name: str
    validator: ParameterValidator
    is_static: bool
    default_value: ParameterValue


@dataclass
class ConfigurationParameter:
    """A parameter's value."""

    name: str
    value: Any


class ConfigurationInternal:
    """Parameters by name; those that are not given have their defaults.

    Raises  ValueError for an unknown name or a value that its definition refuses, InvalidConfigurationError
    """

    definitions: ClassVar[Mapping[str, ConfigurationDefinition]]

    def __init__(self, parameters: list[ConfigurationParameter] | None = None) -> None:
        defaults = {name: ConfigurationParameter(name, each.default_value) for name, each in self.definitions.items()}
        self.parameter_map = defaults | {each.name: self._checked(each) for each in parameters or ()}
        self.configuration_validator()

    @abstractmethod
    def configuration_validator(self) -> None:
        """Raise InvalidConfigurationError for parameters that do not go together."""

    def get_parameters(self) -> list[ConfigurationParameter]:
        """All of them."""
        return list(self.parameter_map.values())

    def get_parameter(self, name: str) -> ConfigurationParameter:
        """Raises ValueError for an unknown name."""
        if name not in self.parameter_map:
            raise ValueError(f"Invalid parameter name: {name} for configuration {type(self).__name__}")
        return self.parameter_map[name]

    def set_parameter(self, name: str, value: Any) -> None:
        """Change one. Raises StaticParameterError, ValueError."""
        parameter = self.get_parameter(name)
        if self.definitions[name].is_static:
            raise StaticParameterError(f"Cannot set static parameter: {name}")
        if not self.definitions[name].validator(value):
            raise ValueError(f"Invalid value for parameter {name}: {value}")
        parameter.value = value

    def to_json(self) -> dict[str, Any]:
        """A dictionary of JSON values that names its class."""
        plain = {
            name: each.value.to_json() if isinstance(each.value, ConfigurationInternal) else each.value
            for name, each in self.parameter_map.items()
        }
        return plain | {"_type": type(self).__name__}

    def to_json_str(self) -> str:
        """``to_json`` as text."""
        return json.dumps(self.to_json())

    @classmethod
    def from_json(cls, json_map: Mapping[str, Any]) -> Self:
        """What ``to_json`` gave. Raises ValueError if it names another class."""
        if json_map.get("_type") != cls.__name__:
            raise ValueError(
                f"Trying to instantiate configuration of type {cls.__name__} from JSON with type {json_map.get('_type')}"
            )
        made = cls.__new__(cls)
        given = [ConfigurationParameter(name, value) for name, value in json_map.items() if name != "_type"]
        ConfigurationInternal.__init__(made, given)
        return made

    @classmethod
    def from_json_str(cls, json_str: str) -> Self:
        """What ``to_json_str`` gave. Raises ValueError."""
        try:
            json_map = json.loads(json_str)
        except json.JSONDecodeError as error:
            raise ValueError(f"Unable to decode configuration from JSON string: {json_str}") from error
        return cls.from_json(json_map)

    def _checked(self, parameter: ConfigurationParameter) -> ConfigurationParameter:
        definition = self.definitions.get(parameter.name)
        if definition is None:
            raise ValueError(f"Invalid parameter name: {parameter.name}")
        value = parameter.value
        if isinstance(value, dict):
            kind = next(
                (each for each in (HNSWConfigurationInternal, HNSWConfigurationInterface) if each.__name__ == value.get("_type")),
                None,
            )
            if kind is None:
                raise ValueError(f"Invalid configuration type: {value}")
            value = kind.from_json(value)
        if not isinstance(value, type(definition.default_value)) or not definition.validator(value):
            raise ValueError(f"Invalid parameter value: {value}")
        return ConfigurationParameter(parameter.name, value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ConfigurationInternal):
            return NotImplemented
        return self.parameter_map == other.parameter_map

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Configuration({list(self.parameter_map.values())})"


def _at_least_1(value: Any) -> bool:
    return isinstance(value, int | float) and value >= 1


def _defined(default: ParameterValue, validator: ParameterValidator = _at_least_1, *, is_static: bool = True) -> tuple[Any, ...]:
    return validator, is_static, default


class HNSWConfigurationInternal(ConfigurationInternal):
    """The parameters of a graph index."""

    definitions = {  # noqa: RUF012  a ClassVar in the base
        name: ConfigurationDefinition(name, *each)
        for name, each in {
            "space": _defined("l2", lambda value: value in ("l2", "ip", "cosine")),
            "ef_construction": _defined(100),
            "ef_search": _defined(100, is_static=False),
            "num_threads": _defined(cpu_count() or 1, is_static=False),
            "M": _defined(16),
            "resize_factor": _defined(1.2),
            "batch_size": _defined(100),
            "sync_threshold": _defined(1000),
        }.items()
    }

    def configuration_validator(self) -> None:
        """batch_size may not be above sync_threshold."""
        if self.parameter_map["batch_size"].value > self.parameter_map["sync_threshold"].value:
            raise InvalidConfigurationError("batch_size must be less than or equal to sync_threshold")

    @classmethod
    def from_legacy_params(cls, params: Mapping[str, Any]) -> Self:
        """From a collection's metadata with keys like ``hnsw:space``. Raises ValueError for another key."""
        names = {f"hnsw:{name}": name for name in cls.definitions} | {
            "hnsw:construction_ef": "ef_construction",
            "hnsw:search_ef": "ef_search",
        }
        for name in params:
            if name not in names:
                raise ValueError(f"Invalid legacy HNSW parameter name: {name}")
        return cls([ConfigurationParameter(names[name], value) for name, value in params.items()])


class HNSWConfigurationInterface(HNSWConfigurationInternal):
    """The same, with keywords."""

    def __init__(
        self,
        space: str = "l2",
        ef_construction: int = 100,
        ef_search: int = 100,
        num_threads: int = cpu_count() or 1,
        M: int = 16,  # noqa: N803  Chroma's name
        resize_factor: float = 1.2,
        batch_size: int = 100,
        sync_threshold: int = 1000,
    ) -> None:
        given = {
            "space": space,
            "ef_construction": ef_construction,
            "ef_search": ef_search,
            "num_threads": num_threads,
            "M": M,
            "resize_factor": resize_factor,
            "batch_size": batch_size,
            "sync_threshold": sync_threshold,
        }
        super().__init__([ConfigurationParameter(name, value) for name, value in given.items()])


HNSWConfiguration = HNSWConfigurationInterface


class CollectionConfigurationInternal(ConfigurationInternal):
    """The parameters of a collection: those of its index."""

    definitions = {  # noqa: RUF012  a ClassVar in the base
        "hnsw_configuration": ConfigurationDefinition(
            "hnsw_configuration",
            lambda value: isinstance(value, HNSWConfigurationInternal),
            is_static=True,
            default_value=HNSWConfigurationInternal(),
        )
    }

    def configuration_validator(self) -> None:
        """Nothing depends on another."""


class CollectionConfigurationInterface(CollectionConfigurationInternal):
    """The same, with a keyword."""

    def __init__(self, hnsw_configuration: HNSWConfigurationInternal | None = None) -> None:
        value = HNSWConfigurationInternal() if hnsw_configuration is None else hnsw_configuration
        super().__init__([ConfigurationParameter("hnsw_configuration", value)])


CollectionConfiguration = CollectionConfigurationInterface
