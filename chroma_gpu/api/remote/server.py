"""Server: a Chroma server as a backend. Each call is one request, named in the code where it is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn
from uuid import UUID

from chroma_gpu.api.collection_model import Collection
from chroma_gpu.api.interfaces import ServerAPI
from chroma_gpu.api.remote import wire
from chroma_gpu.api.remote.connection import Connection
from chroma_gpu.api.remote.functions import Functions
from chroma_gpu.api.remote.table import RemoteTable, no_plans
from chroma_gpu.api.remote.url import resolve_url
from chroma_gpu.api.remote.writes import Writes
from chroma_gpu.api.search.answer import SparseSettings, asks_for_words
from chroma_gpu.api.search.plan import Search
from chroma_gpu.api.types import Database, ReadLevel, SearchResult, UserIdentity
from chroma_gpu.config import Settings
from chroma_gpu.engine.catalog import Entry
from chroma_gpu.engine.rebuild import VectorsOf
from chroma_gpu.errors import NotFoundError
from chroma_gpu.filter import Expr
from chroma_gpu.records import Mode, RecordBatch


class Server(ServerAPI):
    """See ``api/backend.py`` for what each call does.

    A route names the tenant and the database of a collection, not only its id. The backend remembers them of every collection that it
    has handed out, so a collection can be used only through the client, or one with the same backend, that it came from.

    Raises  ValueError where no server answers, the errors that the server names, InternalError for a connection that breaks
    """

    resolve_url = staticmethod(resolve_url)

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._http = Connection(settings)
        self._entries: dict[UUID, Entry] = {}
        self._checks: Mapping[str, Any] | None = None
        self._writes = Writes(self._http, self._pre_flight_checks)
        self.functions = Functions(self._http, self._route)

    def heartbeat(self) -> int:
        """The server's clock."""
        return wire.number(self._http.get("heartbeat"), "nanosecond heartbeat")

    def get_version(self) -> str:
        """The server's version."""
        return str(self._http.get("version"))

    def get_max_batch_size(self) -> int:
        """How many records the server takes at once; -1 if it does not say. ``write`` sends more than that in parts."""
        return int(self._pre_flight_checks().get("max_batch_size", -1))

    def get_user_identity(self) -> UserIdentity:
        """Whom the server takes the client for."""
        return wire.identity(self._http.get("auth", "identity"))

    def create_tenant(self, name: str) -> None:
        """Raises AlreadyExistsError."""
        self._http.post("tenants", body={"name": name})

    def get_tenant(self, name: str) -> str:
        """Raises NotFoundError."""
        return wire.tenant(self._http.get("tenants", name))

    def create_database(self, name: str, tenant: str) -> None:
        """Raises AlreadyExistsError. Some servers create databases of unknown tenants."""
        self._http.post("tenants", tenant, "databases", body={"name": name})

    def get_database(self, name: str, tenant: str) -> Database:
        """Raises NotFoundError."""
        return wire.database(self._http.get("tenants", tenant, "databases", name))

    def list_databases(self, tenant: str, limit: int | None, offset: int) -> Sequence[Database]:
        """In the server's order."""
        said = self._http.get("tenants", tenant, "databases", limit=limit, offset=offset or None)
        return [wire.database(each) for each in said]

    def delete_database(self, name: str, tenant: str) -> None:
        """Raises NotFoundError."""
        self._http.delete("tenants", tenant, "databases", name)

    def create_collection(
        self,
        name: str,
        tenant: str,
        database: str,
        *,
        metadata: Mapping[str, Any] | None,
        given: Mapping[str, Any] | None,
        stored: Mapping[str, Any],
        schema: Mapping[str, Any] | None,
        get_or_create: bool,
    ) -> Entry:
        """Raises AlreadyExistsError unless ``get_or_create``, InvalidArgumentError."""
        body = {
            "name": name,
            "metadata": metadata,
            "configuration": wire.created(given, stored) if schema is None else None,
            "schema": schema,
            "get_or_create": get_or_create,
        }
        return self._known(self._http.post(*_collections(tenant, database), body=body))

    def get_collection(self, name: str, tenant: str, database: str) -> Entry:
        """Raises NotFoundError."""
        return self._known(self._http.get(*_collections(tenant, database), name))

    def get_collection_by_id(self, collection: UUID, tenant: str, database: str) -> Entry:
        """Raises NotFoundError."""
        return self._known(self._http.get(*_collections(tenant, database), "by-id", str(collection)))

    def list_collections(self, tenant: str, database: str, limit: int | None, offset: int) -> Sequence[Entry]:
        """In the server's order."""
        said = self._http.get(*_collections(tenant, database), limit=limit, offset=offset or None)
        return [self._known(each) for each in said]

    def count_collections(self, tenant: str, database: str) -> int:
        """How many collections a database has."""
        return wire.number(self._http.get("tenants", tenant, "databases", database, "collections_count"))

    def delete_collection(self, name: str, tenant: str, database: str) -> None:
        """Raises NotFoundError."""
        self._http.delete(*_collections(tenant, database), name)

    def entry(self, collection: UUID) -> Entry:
        """Raises NotFoundError."""
        known = self._place(collection)
        return self.get_collection_by_id(collection, known.tenant, known.database)

    def described(self, old: Entry) -> Collection:
        """Raises NotFoundError."""
        return wire.model(self._http.get(*_collections(old.tenant, old.database), "by-id", str(old.id)))

    def modify(
        self, old: Entry, *, name: str | None, metadata: Mapping[str, Any] | None, configuration: Mapping[str, Any] | None
    ) -> Entry:
        """Raises NotFoundError, InvalidArgumentError. Sends only what ``configuration`` changes of the old one."""
        change = None if configuration is None else wire.changed(old.configuration, configuration)
        body = {"new_metadata": metadata, "new_name": name, "new_configuration": change}
        self._http.put(*self._route(old.id), body=body)
        return self.entry(old.id)

    @contextmanager
    def table(self, collection: UUID, *, rebuilt: int | None = None) -> Iterator[RemoteTable]:
        """The records of a collection; nothing is asked before one of its methods is called."""
        yield RemoteTable(self._http, self._route(collection))

    @property
    def devices(self) -> tuple[str, ...]:
        """None: vectors are sent to the server."""
        return ()

    @property
    def memory(self) -> None:
        """There is no directory to remember embeddings in."""
        return

    def write(self, collection: UUID, batch: RecordBatch, mode: Mode, *, rebuilt: int | None = None) -> None:
        """One request, or one for each part of a batch that is too large for one. See ``Writes.send``."""
        self._writes.send((*self._route(collection), str(mode)), batch)

    def delete(self, collection: UUID, expr: Expr | None, ids: list[str] | None, limit: int | None) -> wire.Deleted:
        """One request."""
        body = {"ids": ids, **wire.filters(expr)}
        if limit is not None:
            body["limit"] = limit
        said = self._http.post(*self._route(collection), "delete", body=body)
        return wire.Deleted(int((said or {}).get("deleted", 0)))

    def search(
        self,
        collection: UUID,
        searches: Sequence[Search],
        sparse: SparseSettings,
        read_level: ReadLevel,
        *,
        rebuilt: int | None = None,
    ) -> SearchResult:
        """Raises ChromaError on a server that cannot search, as Chroma's local one; NotImplementedError for a text for #document."""
        if any(asks_for_words(each) for each in searches):
            raise NotImplementedError(
                "A server does not rank by the words of documents: Knn with a text for #document is answered where records are kept "
                "by this package. Give the collection a sparse vector index with a BM25 function, and search that."
            )
        body = {"searches": [each.to_dict() for each in searches], "read_level": str(read_level)}
        said = self._http.read(*self._route(collection), "search", body=body)
        if said.get("metadatas") is not None:
            said["metadatas"] = [
                None if each is None else [wire.metadata(metadata) for metadata in each] for each in said["metadatas"]
            ]
        return SearchResult(said)

    def require_transforms(self) -> NoReturn:
        """Raises NotImplementedError: a server has no request for them."""
        raise NotImplementedError(
            "A server does not know transforms. Open the data with a local client, as PersistentClient(path), to use them."
        )

    def require_plans(self) -> None:
        """Raises NotImplementedError: a server does not tell how it comes by its answers."""
        raise no_plans()

    def explain(self, collection: UUID, search: Search, sparse: SparseSettings, *, rebuilt: int | None = None) -> NoReturn:
        """Raises NotImplementedError."""
        raise no_plans()

    def fork(self, collection: UUID, name: str) -> Entry:
        """Raises ChromaError on a server that cannot fork, as Chroma's local one."""
        return self._known(self._http.post(*self._route(collection), "fork", body={"new_name": name}))

    def fork_count(self, collection: UUID) -> int:
        """How many forks there are in the collection's lineage."""
        return wire.number(self._http.get(*self._route(collection), "fork_count"), "count")

    def rebuild(
        self,
        collection: UUID,
        vectors_of: VectorsOf,
        key: str,
        changes: Callable[[Entry], Mapping[str, Any]],
        *,
        batch_size: int,
        progress: Callable[[int, int], object] | None = None,
    ) -> Entry:
        """Raises NotImplementedError: a server cannot give a collection other vectors at one moment."""
        raise NotImplementedError("A server's collection cannot be embedded anew. Make a new one and add the documents to it.")

    def abandon(self, collection: UUID) -> bool:
        """Nothing is ever left unfinished."""
        return False

    def count(self, collection: UUID, read_level: ReadLevel) -> int:
        """As of the last write, or as the read level says."""
        return wire.number(self._http.get(*self._route(collection), "count", read_level=str(read_level)))

    def repair(self, collection: UUID, *, check: bool = False) -> NoReturn:
        """Raises NotImplementedError: no server offers it."""
        raise NotImplementedError(
            "A server's collection cannot be repaired from here. Use `chroma-gpu repair` where its files are."
        )

    def compact(self, collection: UUID) -> None:
        """Raises NotImplementedError: no server offers it."""
        raise NotImplementedError("A server compacts its collections by itself; there is no request for it.")

    def reset(self) -> None:
        """Raises AuthorizationError unless the server allows it."""
        self._http.post("reset")

    def require_open(self) -> None:
        """Raises ClosedError."""
        self._http.require_open()

    def close(self) -> None:
        """Close the connections. Idempotent."""
        self._http.close()

    def _pre_flight_checks(self) -> Mapping[str, Any]:
        """What the server can take; asked once."""
        if self._checks is None:
            self._checks = self._http.get("pre-flight-checks")
        return self._checks

    def _known(self, said: Mapping[str, Any]) -> Entry:
        entry = wire.entry(said)
        self._entries[entry.id] = entry
        return entry

    def _place(self, collection: UUID) -> Entry:
        if collection not in self._entries:
            raise NotFoundError(f"Collection [{collection}] does not exist.", hint="Get it through this client first.")
        return self._entries[collection]

    def _route(self, collection: UUID) -> tuple[str, ...]:
        known = self._place(collection)
        return (*_collections(known.tenant, known.database), str(collection))


def _collections(tenant: str, database: str) -> tuple[str, ...]:
    return "tenants", tenant, "databases", database, "collections"
