"""Names: which tenants, databases and collections there are, and where each collection is kept."""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import msgspec

from chroma_gpu.config import DEFAULT_DATABASE, DEFAULT_TENANT
from chroma_gpu.errors import AlreadyExistsError, NotFoundError
from chroma_gpu.records import Metric
from chroma_gpu.store.keyvalue import KeyValue, Transaction
from chroma_gpu.store.seal import seal, unseal

T = TypeVar("T")

TABLES = ("tenants", "databases", "names", "collections")


class Database(msgspec.Struct, frozen=True):
    """A namespace of collections within a tenant."""

    id: uuid.UUID
    name: str
    tenant: str


class Staging(msgspec.Struct, frozen=True):
    """An unfinished rebuild: its folder, and a key that says what the vectors in it are made with."""

    folder: str
    key: str


class Entry(msgspec.Struct, frozen=True):
    """One collection as the catalog knows it.

    folder  where its records are, below ``collections/``; compaction moves a collection to a new folder
    created nanoseconds since the epoch, which orders listings
    metric, params  what its indexes are built with
    metadata, configuration, schema  the API's own; the engine keeps them and never looks inside
    shared  another entry names the folder too, or did: nothing may be written to it through this one
    lineage the collection that this one and its siblings were forked from, in the end; None for one that is no fork
    staging the folder in which its vectors are being made anew
    rebuilt how often that was finished
    """

    id: uuid.UUID
    tenant: str
    database: str
    name: str
    folder: str
    created: int
    metric: Metric
    params: dict[str, Any] = msgspec.field(default_factory=dict)
    metadata: dict[str, Any] | None = None
    configuration: dict[str, Any] = msgspec.field(default_factory=dict)
    shared: bool = False
    lineage: uuid.UUID | None = None
    staging: Staging | None = None
    rebuilt: int = 0
    schema: dict[str, Any] | None = None


class Catalog:
    """Tenants, databases and collections in one key-value environment. Every call is one transaction.

    Tables: ``tenants`` and ``databases`` by a digest of their names, ``names`` from database and name to a collection's id,
    ``collections`` from id to entry.
    """

    def __init__(self, keyvalue: KeyValue) -> None:
        self._keyvalue = keyvalue

        def defaults(txn: Transaction) -> None:
            if _read(txn, "tenants", _digest(DEFAULT_TENANT), str) is None:
                _put(txn, "tenants", _digest(DEFAULT_TENANT), DEFAULT_TENANT)
                _put_database(txn, DEFAULT_DATABASE, DEFAULT_TENANT)

        with keyvalue.read() as txn:
            known = _read(txn, "tenants", _digest(DEFAULT_TENANT), str)
        if known is None:
            keyvalue.write(defaults)

    def create_tenant(self, name: str) -> None:
        """Raises AlreadyExistsError."""

        def work(txn: Transaction) -> None:
            if _read(txn, "tenants", _digest(name), str) is not None:
                raise AlreadyExistsError(f"Tenant [{name}] already exists")
            _put(txn, "tenants", _digest(name), name)

        self._keyvalue.write(work)

    def tenant(self, name: str) -> str:
        """The tenant's name. Raises NotFoundError."""
        with self._keyvalue.read() as txn:
            if _read(txn, "tenants", _digest(name), str) is None:
                raise NotFoundError(f"Tenant [{name}] not found")
        return name

    def create_database(self, name: str, tenant: str) -> Database:
        """Raises NotFoundError for an unknown tenant, AlreadyExistsError for a known name."""

        def work(txn: Transaction) -> Database:
            if _read(txn, "tenants", _digest(tenant), str) is None:
                raise NotFoundError(f"Tenant [{tenant}] not found")
            if _read(txn, "databases", _digest(tenant, name), Database) is not None:
                raise AlreadyExistsError(f"Database [{name}] already exists")
            return _put_database(txn, name, tenant)

        return self._keyvalue.write(work)

    def database(self, name: str, tenant: str) -> Database:
        """Raises NotFoundError."""
        with self._keyvalue.read() as txn:
            found = _read(txn, "databases", _digest(tenant, name), Database)
        if found is None:
            raise NotFoundError(f"Database [{name}] not found. Are you sure it exists?")
        return found

    def databases(self, tenant: str) -> list[Database]:
        """The databases of a tenant, by name."""
        with self._keyvalue.read() as txn:
            found = [_decode("databases", key, value, Database) for key, value in txn.scan("databases")]
        return sorted((each for each in found if each.tenant == tenant), key=lambda each: each.name)

    def delete_database(self, name: str, tenant: str) -> list[Entry]:
        """Remove a database and its collections' names; returns the entries whose files can go. Raises NotFoundError."""

        def work(txn: Transaction) -> list[Entry]:
            if _read(txn, "databases", _digest(tenant, name), Database) is None:
                raise NotFoundError(f"Database [{name}] not found")
            gone = _entries(txn, tenant, name)
            for entry in gone:
                _forget(txn, entry)
            txn.delete("databases", _digest(tenant, name))
            return gone

        return self._keyvalue.write(work)

    def create_collection(
        self,
        name: str,
        tenant: str,
        database: str,
        *,
        metric: Metric,
        params: Mapping[str, Any],
        metadata: Mapping[str, Any] | None,
        configuration: Mapping[str, Any],
        schema: Mapping[str, Any] | None = None,
    ) -> Entry:
        """Raises AlreadyExistsError for a known name, NotFoundError for an unknown database."""

        def work(txn: Transaction) -> Entry:
            if _read(txn, "databases", _digest(tenant, database), Database) is None:
                raise NotFoundError(f"Database [{database}] not found. Are you sure it exists?")
            key = _name_key(tenant, database, name)
            if _read(txn, "names", key, uuid.UUID) is not None:
                raise AlreadyExistsError(f"Collection [{name}] already exists")
            new = uuid.uuid4()
            entry = Entry(
                id=new,
                tenant=tenant,
                database=database,
                name=name,
                folder=str(new),
                created=time.time_ns(),
                metric=metric,
                params=dict(params),
                metadata=None if metadata is None else dict(metadata),
                configuration=dict(configuration),
                schema=None if schema is None else dict(schema),
            )
            _put(txn, "names", key, new)
            _put(txn, "collections", new.bytes, entry)
            return entry

        return self._keyvalue.write(work)

    def collection(self, name: str, tenant: str, database: str) -> Entry:
        """Raises NotFoundError."""
        with self._keyvalue.read() as txn:
            found = _read(txn, "names", _name_key(tenant, database, name), uuid.UUID)
            entry = None if found is None else _read(txn, "collections", found.bytes, Entry)
        if entry is None:
            raise NotFoundError(f"Collection [{name}] does not exist")
        return entry

    def entry(self, collection: uuid.UUID) -> Entry | None:
        """The entry of an id, or None.  Cost: one key read; every call on a collection makes it, to see renames, drops and moves."""
        with self._keyvalue.read() as txn:
            return _read(txn, "collections", collection.bytes, Entry)

    def require(self, collection: uuid.UUID) -> Entry:
        """The same. Raises NotFoundError."""
        with self._keyvalue.read() as txn:
            return _require(txn, collection)

    def collections(self, tenant: str, database: str) -> list[Entry]:
        """The collections of a database in the order of their creation."""
        with self._keyvalue.read() as txn:
            return sorted(_entries(txn, tenant, database), key=lambda entry: (entry.created, entry.id))

    def count(self, tenant: str, database: str) -> int:
        """How many collections a database has."""
        with self._keyvalue.read() as txn:
            return sum(1 for _ in txn.scan("names", prefix=_digest(tenant, database), values=False))

    def change(
        self,
        collection: uuid.UUID,
        *,
        name: str | None = None,
        folder: str | None = None,
        params: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        configuration: Mapping[str, Any] | None = None,
    ) -> Entry:
        """Replace what is not None; a folder is the collection's own. Raises NotFoundError, AlreadyExistsError for a name that is taken."""

        def work(txn: Transaction) -> Entry:
            old = _read(txn, "collections", collection.bytes, Entry)
            if old is None:
                raise NotFoundError(f"Collection [{collection}] does not exist")
            given: dict[str, Any] = {"name": name, "folder": folder}
            for field, value in {"params": params, "metadata": metadata, "configuration": configuration}.items():
                given[field] = None if value is None else dict(value)
            new = msgspec.structs.replace(old, **{key: value for key, value in given.items() if value is not None})
            if folder is not None:
                new = msgspec.structs.replace(new, shared=False)
            if new.name != old.name:
                key = _name_key(old.tenant, old.database, new.name)
                if _read(txn, "names", key, uuid.UUID) is not None:
                    raise AlreadyExistsError(f"Collection [{new.name}] already exists")
                txn.delete("names", _name_key(old.tenant, old.database, old.name))
                _put(txn, "names", key, collection)
            _put(txn, "collections", collection.bytes, new)
            return new

        return self._keyvalue.write(work)

    def delete_collection(self, name: str, tenant: str, database: str) -> Entry:
        """Forget a name; returns the entry whose files can go. Raises NotFoundError."""

        def work(txn: Transaction) -> Entry:
            found = _read(txn, "names", _name_key(tenant, database, name), uuid.UUID)
            entry = None if found is None else _read(txn, "collections", found.bytes, Entry)
            if entry is None:
                raise NotFoundError(f"Collection [{name}] does not exist")
            _forget(txn, entry)
            return entry

        return self._keyvalue.write(work)

    def fork(self, collection: uuid.UUID, name: str, folder: str) -> Entry | None:
        """A new collection that names the same folder, in the same database; None if the collection has left ``folder``.

        The writers of the folder must be kept out. Raises NotFoundError, AlreadyExistsError.
        """

        def work(txn: Transaction) -> Entry | None:
            source = _require(txn, collection)
            if source.folder != folder:
                return None
            key = _name_key(source.tenant, source.database, name)
            if _read(txn, "names", key, uuid.UUID) is not None:
                raise AlreadyExistsError(f"Collection [{name}] already exists")
            own = {"id": uuid.uuid4(), "name": name, "created": time.time_ns(), "lineage": source.lineage or source.id}
            made = msgspec.structs.replace(source, shared=True, staging=None, **own)
            _put(txn, "names", key, made.id)
            _put(txn, "collections", made.id.bytes, made)
            if not source.shared:
                _put(txn, "collections", source.id.bytes, msgspec.structs.replace(source, shared=True))
            return made

        return self._keyvalue.write(work)

    def forks(self, collection: uuid.UUID) -> int:
        """How many forks there are in the lineage of a collection, itself included if it is one. Raises NotFoundError."""
        with self._keyvalue.read() as txn:
            entry = _require(txn, collection)
            return sum(each.lineage == (entry.lineage or entry.id) for each in _all(txn))

    def unshare(self, collection: uuid.UUID) -> bool:
        """Whether a collection has its folder to itself. If it is marked as shared and is the last to name it, the mark goes."""

        def work(txn: Transaction) -> bool:
            entry = _require(txn, collection)
            if not entry.shared:
                return True
            if any(each.folder == entry.folder and each.id != collection for each in _all(txn)):
                return False
            _put(txn, "collections", collection.bytes, msgspec.structs.replace(entry, shared=False))
            return True

        return self._keyvalue.write(work)

    def stage(self, collection: uuid.UUID, staging: Staging | None) -> None:
        """Begin a rebuild, or give it up. Raises NotFoundError."""

        def work(txn: Transaction) -> None:
            entry = _require(txn, collection)
            if entry.staging != staging:
                _put(txn, "collections", collection.bytes, msgspec.structs.replace(entry, staging=staging))

        self._keyvalue.write(work)

    def settle(self, collection: uuid.UUID, staging: Staging, changes: Callable[[Entry], Mapping[str, Any]]) -> Entry:
        """End a rebuild: its folder takes the place of the collection's, together with other fields. Raises NotFoundError.

        changes  given the entry as it is, the fields that change
        """

        def work(txn: Transaction) -> Entry:
            entry = _require(txn, collection)
            if entry.staging != staging:
                raise NotFoundError(f"The rebuild of collection [{collection}] was given up")
            own = {"folder": staging.folder, "shared": False, "staging": None, "rebuilt": entry.rebuilt + 1}
            new = msgspec.structs.replace(entry, **{**changes(entry), **own})
            _put(txn, "collections", collection.bytes, new)
            return new

        return self._keyvalue.write(work)

    def folders(self) -> set[str]:
        """The folders of all collections and of what is being rebuilt; any other folder is left over and can go."""
        with self._keyvalue.read() as txn:
            return {folder for entry in _all(txn) for folder in folders_of(entry)}

    def clear(self) -> list[Entry]:
        """Forget every tenant, database and collection but the defaults; returns the entries whose files can go."""

        def work(txn: Transaction) -> list[Entry]:
            gone = list(_all(txn))
            for table in TABLES:
                for key, _ in list(txn.scan(table, values=False)):
                    txn.delete(table, key)
            _put(txn, "tenants", _digest(DEFAULT_TENANT), DEFAULT_TENANT)
            _put_database(txn, DEFAULT_DATABASE, DEFAULT_TENANT)
            return gone

        return self._keyvalue.write(work)


def folders_of(entry: Entry) -> list[str]:
    """The folders that an entry names."""
    return [entry.folder] if entry.staging is None else [entry.folder, entry.staging.folder]


def next_folder(entry: Entry) -> str:
    """A folder name that was never used and never will be again: forks, and tables that are open elsewhere, may know older ones."""
    return f"{entry.id}.{uuid.uuid4().hex}"


def _digest(*parts: str) -> bytes:
    """A key for names of any length: LMDB's keys end at 511 bytes, names may have 512 characters."""
    joined = b"".join(len(part.encode()).to_bytes(4, "big") + part.encode() for part in parts)
    return hashlib.blake2b(joined, digest_size=16).digest()


def _name_key(tenant: str, database: str, name: str) -> bytes:
    return _digest(tenant, database) + _digest(name)


def _entries(txn: Transaction, tenant: str, database: str) -> list[Entry]:
    found = []
    for key, value in txn.scan("names", prefix=_digest(tenant, database)):
        entry = _read(txn, "collections", _decode("names", key, value, uuid.UUID).bytes, Entry)
        if entry is not None:
            found.append(entry)
    return found


def _all(txn: Transaction) -> Iterator[Entry]:
    return (_decode("collections", key, value, Entry) for key, value in txn.scan("collections"))


def _require(txn: Transaction, collection: uuid.UUID) -> Entry:
    entry = _read(txn, "collections", collection.bytes, Entry)
    if entry is None:
        raise NotFoundError(f"Collection [{collection}] does not exist")
    return entry


def _forget(txn: Transaction, entry: Entry) -> None:
    txn.delete("names", _name_key(entry.tenant, entry.database, entry.name))
    txn.delete("collections", entry.id.bytes)


def _put_database(txn: Transaction, name: str, tenant: str) -> Database:
    new = Database(uuid.uuid4(), name, tenant)
    _put(txn, "databases", _digest(tenant, name), new)
    return new


def _put(txn: Transaction, table: str, key: bytes, value: Any) -> None:
    txn.put(table, key, seal(key, msgspec.msgpack.encode(value)))


def _read(txn: Transaction, table: str, key: bytes, kind: type[T]) -> T | None:
    value = txn.get(table, key)
    return None if value is None else _decode(table, key, value, kind)


def _decode(table: str, key: bytes, value: bytes, kind: type[T]) -> T:
    return msgspec.msgpack.decode(unseal(table, key, value), type=kind)
