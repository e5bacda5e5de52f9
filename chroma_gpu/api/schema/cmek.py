"""Cmek: a customer-managed encryption key, as a Schema names it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

_GCP_KEY: Final = re.compile(r"^projects/.+/locations/.+/keyRings/.+/cryptoKeys/.+$")


class CmekProvider(str, Enum):  # noqa: UP042  formats as Chroma's does
    """Whose key management service holds the key."""

    GCP = "gcp"


@dataclass
class Cmek:
    """The name of an encryption key. It is kept with the schema; data is not encrypted with it here.

    resource  ``projects/.../locations/.../keyRings/.../cryptoKeys/...``
    """

    provider: CmekProvider
    resource: str

    @classmethod
    def gcp(cls, resource: str) -> Cmek:
        """A key of Google Cloud's service."""
        return cls(CmekProvider.GCP, resource)

    def validate_pattern(self) -> bool:
        """Whether the resource has the form that the provider's names have."""
        return _GCP_KEY.match(self.resource) is not None

    def to_dict(self) -> dict[str, Any]:
        """As JSON: ``{"gcp": resource}``."""
        return {self.provider.value: self.resource}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Cmek:
        """What ``to_dict`` gave. Raises ValueError."""
        if "gcp" not in data:
            raise ValueError(f"Unsupported or missing CMEK provider in data: {data}")
        if not isinstance(data["gcp"], str):
            raise ValueError(f"CMEK gcp resource must be a string, got: {type(data['gcp'])}")
        return cls.gcp(data["gcp"])
