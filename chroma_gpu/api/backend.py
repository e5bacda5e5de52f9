"""Backend: what a client needs to stand on. The engine in this process is one, a server at the other end of a connection another.

The client and the collection check and embed what callers give, and make results of what comes back; they do it once, for every
backend. A backend knows names (tenants, databases, collections) and records, and speaks in the engine's values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol
from uuid import UUID

from chroma_gpu.api.collection_model import Collection
from chroma_gpu.api.models.AttachedFunction import AttachedFunction
from chroma_gpu.api.search.answer import SparseSettings
from chroma_gpu.api.search.plan import Search
from chroma_gpu.api.types import Database, ReadLevel, SearchResult, UserIdentity
from chroma_gpu.embed.memory.protocol import Memory
from chroma_gpu.engine.catalog import Entry
from chroma_gpu.engine.explain import Explanation
from chroma_gpu.engine.rebuild import VectorsOf
from chroma_gpu.engine.repair import Repair
from chroma_gpu.engine.transforms import Transforms
from chroma_gpu.filter import Expr
from chroma_gpu.records import Column, Hits, Mode, RecordBatch, Vectors


class Answer(Protocol):
    """What a search found: hits, their records, and where a hit's record is among them."""

    @property
    def hits(self) -> Hits:
        """Rows and distances of each query."""
        ...

    @property
    def records(self) -> RecordBatch:
        """The records of the hits."""
        ...

    @property
    def position(self) -> dict[int, int]:
        """position[row] is the place of a hit's record in ``records``."""
        ...


class Removed(Protocol):
    """What a deletion did."""

    @property
    def removed(self) -> int:
        """How many records it removed."""
        ...


class Records(Protocol):
    """The records of one collection, to be read."""

    def fetch(
        self,
        expr: Expr | None,
        columns: frozenset[Column],
        *,
        ids: Sequence[str] | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> RecordBatch:
        """The records that satisfy ``expr`` and are among ``ids``, in insertion order, ``limit`` of them after the first ``offset``."""
        ...

    def search(
        self,
        queries: Vectors,
        k: int,
        expr: Expr | None,
        columns: frozenset[Column],
        *,
        ids: Sequence[str] | None = None,
        transformed: Transforms | None = None,
    ) -> Answer:
        """The k nearest records of each query among those that satisfy ``expr`` and are among ``ids``, as transforms want them."""
        ...

    def explained(self, answer: Any, embedding: float = 0.0) -> Explanation:
        """How an answer of ``search`` was come by; ``embedding``: seconds that it took before to make the vectors."""
        ...

    def count(self) -> int:
        """How many records there are."""
        ...

    def dim(self) -> int | None:
        """Length of the vectors; None before the first one."""
        ...

    def note(self, name: str) -> bytes | None:
        """What a job has kept under this name beside the records; None for nothing. Raises NotImplementedError for a server."""
        ...

    def occupancy(self) -> tuple[int, int]:
        """(rows, dead): how many rows were given, and how many of them hold nothing any more."""
        ...

    def undocumented(self) -> int:
        """How many records have no document."""
        ...

    def indexing_status(self) -> dict[str, Any]:
        """The fields of ``types.IndexingStatus``."""
        ...

    def indexed(self) -> dict[str, int]:
        """How many of the first rows each index holds."""
        ...

    def wait_indexed(self, progress: Callable[[int, int], object] | None = None) -> None:
        """Return when every committed row is in every index; ``progress`` is called with (done, total)."""
        ...


class Functions(Protocol):
    """Functions that run over the records of a collection by themselves."""

    def attach(
        self, collection: UUID, function: str, name: str, output: str, params: Mapping[str, Any] | None
    ) -> tuple[AttachedFunction, bool]:
        """The attached function, and whether it is new."""
        ...

    def get(self, collection: UUID, name: str) -> AttachedFunction:
        """Raises NotFoundError."""
        ...

    def detach(self, collection: UUID, name: str, delete_output: bool) -> bool:
        """Whether it was detached."""
        ...


class Backend(Protocol):
    """Names and records of one engine or server. Safe to share between threads. Every call raises ClosedError after ``close``."""

    def heartbeat(self) -> int:
        """Nanoseconds since the epoch, where the records are kept."""
        ...

    def get_version(self) -> str:
        """The version of what keeps the records."""
        ...

    def get_max_batch_size(self) -> int:
        """How many records it takes at once. ``write`` takes any number."""
        ...

    def get_user_identity(self) -> UserIdentity:
        """Who the client is, and what it may see."""
        ...

    def create_tenant(self, name: str) -> None:
        """Raises AlreadyExistsError."""
        ...

    def get_tenant(self, name: str) -> str:
        """The tenant's name. Raises NotFoundError."""
        ...

    def create_database(self, name: str, tenant: str) -> None:
        """Raises NotFoundError for an unknown tenant, AlreadyExistsError."""
        ...

    def get_database(self, name: str, tenant: str) -> Database:
        """Raises NotFoundError."""
        ...

    def list_databases(self, tenant: str, limit: int | None, offset: int) -> Sequence[Database]:
        """The databases of a tenant, ``limit`` of them after the first ``offset``."""
        ...

    def delete_database(self, name: str, tenant: str) -> None:
        """Remove a database with its collections. Raises NotFoundError."""
        ...

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
        """A new collection, or the one of this name as it is.

        given, stored  the configuration as the caller gave it, and in full
        schema         what the collection is to keep of the schema; the configuration is in step with it
        Raises         AlreadyExistsError unless ``get_or_create``, NotFoundError for an unknown database
        """
        ...

    def get_collection(self, name: str, tenant: str, database: str) -> Entry:
        """Raises NotFoundError."""
        ...

    def get_collection_by_id(self, collection: UUID, tenant: str, database: str) -> Entry:
        """Raises NotFoundError."""
        ...

    def list_collections(self, tenant: str, database: str, limit: int | None, offset: int) -> Sequence[Entry]:
        """The collections of a database, ``limit`` of them after the first ``offset``."""
        ...

    def count_collections(self, tenant: str, database: str) -> int:
        """How many collections a database has."""
        ...

    def delete_collection(self, name: str, tenant: str, database: str) -> None:
        """Remove a collection. Raises NotFoundError."""
        ...

    def entry(self, collection: UUID) -> Entry:
        """A collection as it is now. Raises NotFoundError."""
        ...

    def described(self, old: Entry) -> Collection:
        """What a collection is now: its schema in full, its dimension and version. Raises NotFoundError."""
        ...

    def modify(
        self, old: Entry, *, name: str | None, metadata: Mapping[str, Any] | None, configuration: Mapping[str, Any] | None
    ) -> Entry:
        """Replace what is not None; ``configuration`` is the whole new one. Raises NotFoundError, AlreadyExistsError."""
        ...

    def table(self, collection: UUID, *, rebuilt: int | None = None) -> AbstractContextManager[Records]:
        """The records of a collection.

        rebuilt  ``Entry.rebuilt`` of when the caller's vectors were made
        Raises   NotFoundError, Rebuilt if the collection has got other vectors since then
        """
        ...

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices of this process on which indexes keep vectors, so that a batch need not lose what it has there."""
        ...

    @property
    def memory(self) -> Memory | None:
        """What remembers vectors of texts that were embedded before; None where nothing does."""
        ...

    def write(self, collection: UUID, batch: RecordBatch, mode: Mode, *, rebuilt: int | None = None) -> object:
        """Add, update or upsert records of any number; ``rebuilt`` as in ``table``."""
        ...

    def delete(self, collection: UUID, expr: Expr | None, ids: list[str] | None, limit: int | None) -> Removed:
        """Remove the records that satisfy ``expr`` and are among ``ids``, ``limit`` of them at most."""
        ...

    def search(
        self,
        collection: UUID,
        searches: Sequence[Search],
        sparse: SparseSettings,
        read_level: ReadLevel,
        *,
        rebuilt: int | None = None,
    ) -> SearchResult:
        """The answers of searches without texts; ``sparse`` tells how the sparse indexes weigh, ``rebuilt`` is as in ``table``."""
        ...

    def require_transforms(self) -> None:
        """Raises NotImplementedError where queries know no transforms."""
        ...

    def require_plans(self) -> None:
        """Raises NotImplementedError where it is not known how answers are come by."""
        ...

    def explain(self, collection: UUID, search: Search, sparse: SparseSettings, *, rebuilt: int | None = None) -> Explanation:
        """How a search without texts is answered; parameters as in ``search``. Raises as ``require_plans`` does."""
        ...

    @property
    def functions(self) -> Functions:
        """Attached functions. Raises NotImplementedError where there are none."""
        ...

    def count(self, collection: UUID, read_level: ReadLevel) -> int:
        """How many records there are."""
        ...

    def fork(self, collection: UUID, name: str) -> Entry:
        """A new collection with what another has. Raises NotFoundError, AlreadyExistsError."""
        ...

    def fork_count(self, collection: UUID) -> int:
        """How many forks there are in a collection's lineage. Raises NotFoundError."""
        ...

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
        """Give every record another vector. Raises NotFoundError, StoreBusy, and what ``vectors_of`` raises."""
        ...

    def abandon(self, collection: UUID) -> bool:
        """Give up what a ``rebuild`` left unfinished; whether there was any."""
        ...

    def repair(self, collection: UUID, *, check: bool = False) -> Repair:
        """Look at everything there is of a collection, and make anew what is derived of its records; ``check``: only look."""
        ...

    def compact(self, collection: UUID) -> None:
        """Give back what deleted and replaced records hold."""
        ...

    def reset(self) -> None:
        """Remove everything."""
        ...

    def require_open(self) -> None:
        """Raises ClosedError."""
        ...

    def close(self) -> None:
        """Let go. Idempotent."""
        ...
