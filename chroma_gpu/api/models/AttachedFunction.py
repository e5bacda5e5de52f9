"""AttachedFunction: what a server says of a function that it runs over a collection."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID


@dataclass(frozen=True, slots=True, eq=False)
class AttachedFunction:
    """One attached function. Two are equal if all they say is; no params, ``{}`` and their JSON texts count as the same.

    function_name      what runs, such as "statistics"
    output_collection  the name of the collection that its results go to
    """

    id: UUID
    name: str
    function_name: str
    input_collection_id: UUID
    output_collection: str
    params: Any
    tenant: str
    database: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AttachedFunction) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity()[:-1])

    def _identity(self) -> tuple[Any, ...]:
        said = (
            self.id,
            self.name,
            self.function_name,
            self.input_collection_id,
            self.output_collection,
            self.tenant,
            self.database,
        )
        return (*said, _params(self.params))


def _params(given: Any) -> dict[str, Any]:
    if isinstance(given, str):
        try:
            given = json.loads(given or "{}")
        except json.JSONDecodeError:
            return {}
    return given if isinstance(given, dict) else {}
