"""Chroma's rules for names of collections, databases and tenants."""

from __future__ import annotations

import ipaddress
import re
from typing import Any, Final

from chroma_gpu.errors import InvalidArgumentError

_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{1,510}[a-zA-Z0-9]")


def check_str(name: Any, field: str = "name") -> None:
    """What is looked up by name. Raises TypeError."""
    if not isinstance(name, str):
        raise TypeError(f"argument '{field}': '{type(name).__name__}' object cannot be converted to 'PyString'")


def check_collection(name: Any, field: str = "name") -> None:
    """A collection name. Raises TypeError, InvalidArgumentError."""
    check_str(name, field)
    parts = name.split("+")
    if len(parts) > 2 or not all(_NAME.fullmatch(part) for part in parts):
        raise InvalidArgumentError(
            f"Validation error: {field}: Expected a name containing 3-512 characters from [a-zA-Z0-9._-], starting and ending "
            f"with a character in [a-zA-Z0-9]. Got: {name}"
        )
    if ".." in name:
        raise InvalidArgumentError(
            f"Validation error: {field}: Expected a name that does not contains two consecutive periods (..). Got {name}"
        )
    if _is_address(name):
        raise InvalidArgumentError(f"Validation error: {field}: Expected a name that is not a valid ip address. Got {name}")


def check_namespace(kind: str, name: Any) -> None:
    """A tenant or database name: three characters or more. Raises TypeError, InvalidArgumentError."""
    check_str(name)
    if len(name) < 3:
        raise InvalidArgumentError(f"{kind} name must be at least 3 characters")
    name.encode()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
