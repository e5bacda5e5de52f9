"""Functions that a server runs over the records of a collection by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from chroma_gpu.api.models.AttachedFunction import AttachedFunction
from chroma_gpu.api.remote.connection import Connection


class Functions:
    """Attached functions, by collection. Chroma's local server has none and says so."""

    def __init__(self, http: Connection, route: Callable[[UUID], tuple[str, ...]]) -> None:
        self._http = http
        self._route = route

    def attach(
        self, collection: UUID, function: str, name: str, output: str, params: Mapping[str, Any] | None
    ) -> tuple[AttachedFunction, bool]:
        """The attached function, and whether it is new."""
        body = {"name": name, "function_id": function, "output_collection": output, "params": params}
        said = self._http.post(*self._route(collection), "functions", "attach", body=body)
        attached = {"output_collection": output, "params": params, **said["attached_function"]}
        return self._made(collection, attached), bool(said.get("created", True))

    def get(self, collection: UUID, name: str) -> AttachedFunction:
        """Raises NotFoundError."""
        said = self._http.get(*self._route(collection), "functions", name)
        return self._made(collection, said["attached_function"])

    def detach(self, collection: UUID, name: str, delete_output: bool) -> bool:
        """Whether it was detached."""
        body = {"delete_output": delete_output}
        return bool(self._http.post(*self._route(collection), "attached_functions", name, "detach", body=body)["success"])

    def _made(self, collection: UUID, said: Mapping[str, Any]) -> AttachedFunction:
        route = self._route(collection)
        return AttachedFunction(
            id=UUID(said["id"]),
            name=said["name"],
            function_name=said["function_name"],
            input_collection_id=collection,
            output_collection=said["output_collection"],
            params=said.get("params"),
            tenant=route[1],
            database=route[3],
        )
