"""More calls that this package and Chroma must answer alike: tenants and databases, names that are taken, odd numbers."""

from __future__ import annotations

from chroma_gpu import AdminClient
from chroma_gpu.api.client import Client as OurClient


def admin(client, name, method, **given):
    """A call of the admin client, after a database and a tenant of known names are there; ``{}`` in a value stands for the case."""
    ours = type(client) is OurClient
    made = AdminClient.from_client(client) if ours else client._admin_client
    try:
        made.create_tenant(f"tenant-{name}")
        made.create_database(f"database-{name}", tenant=f"tenant-{name}")
        given = {key: value.format(name) if isinstance(value, str) else value for key, value in given.items()}
        found = getattr(made, method)(**given)
        if method == "get_database":
            found = {**found, "id": type(found["id"]).__name__}
        if method == "list_databases":
            found = [each["name"] for each in found]
        left = sorted(each["name"] for each in made.list_databases(tenant=f"tenant-{name}"))
        return found, left
    finally:
        if ours:
            made.close()


def small(client, name):
    collection = client.create_collection(name, embedding_function=None)
    collection.add(ids=["a", "b", "c"], embeddings=[[1.0, 2.0], [4.0, 5.0], [7.0, 8.0]], metadatas=[{"k": 1}, {"k": 2}, None])
    return collection


def on_small(client, name, method, **given):
    return getattr(small(client, name), method)(**given)


def rename(client, name):
    small(client, name)
    small(client, f"{name}-other").modify(name=name)


Q = [[1.0, 2.0]]
HERE = {"tenant": "tenant-{}"}

CASES = {
    "query n_results True": (on_small, {"method": "query", "query_embeddings": Q, "n_results": True}),
    "query n_results 2**33": (on_small, {"method": "query", "query_embeddings": Q, "n_results": 2**33}),
    "query among duplicate ids": (on_small, {"method": "query", "query_embeddings": Q, "ids": ["a", "a"]}),
    "query among unknown ids": (on_small, {"method": "query", "query_embeddings": Q, "ids": ["zz"]}),
    "query NaN": (on_small, {"method": "query", "query_embeddings": [[1.0, float("nan")]]}),
    "query inf": (on_small, {"method": "query", "query_embeddings": [[1.0, float("inf")]]}),
    "query an empty vector": (on_small, {"method": "query", "query_embeddings": [[]]}),
    "add an empty vector": (on_small, {"method": "add", "ids": ["n"], "embeddings": [[]]}),
    "add NaN in metadata": (on_small, {"method": "add", "ids": ["n"], "embeddings": Q, "metadatas": [{"a": float("nan")}]}),
    "add the key chroma:uri": (
        lambda client, name: (
            (made := small(client, name)).add(ids=["n"], embeddings=Q, metadatas=[{"chroma:uri": "a"}]),
            made.get(ids=["n"], include=["metadatas", "uris"]),
        )[1],
        {},
    ),
    "modify the name to one that is taken": (rename, {}),
    "list_collections with a negative limit": (lambda client, name: client.list_collections(limit=-1), {}),
    **{
        f"{method} of {name!r}": (lambda client, _, method=method, name=name: getattr(client, method)(name), {})
        for method in ("get_collection", "delete_collection")
        for name in (5, None)
    },
    "create_database": (admin, {"method": "create_database", "name": "other-{}", **HERE}),
    "create_database twice": (admin, {"method": "create_database", "name": "database-{}", **HERE}),
    "create_database of 2 characters": (admin, {"method": "create_database", "name": "ab", **HERE}),
    "create_database with spaces": (admin, {"method": "create_database", "name": "a b {}", **HERE}),
    "create_database in an unknown tenant": (admin, {"method": "create_database", "name": "two-{}", "tenant": "nope-{}"}),
    "get_database": (admin, {"method": "get_database", "name": "database-{}", **HERE}),
    "get_database unknown": (admin, {"method": "get_database", "name": "none", **HERE}),
    "list_databases": (admin, {"method": "list_databases", **HERE}),
    "list_databases limit 0": (admin, {"method": "list_databases", "limit": 0, **HERE}),
    "delete_database": (admin, {"method": "delete_database", "name": "database-{}", **HERE}),
    "delete_database unknown": (admin, {"method": "delete_database", "name": "none", **HERE}),
    "create_tenant": (admin, {"method": "create_tenant", "name": "more-{}"}),
    "create_tenant twice": (admin, {"method": "create_tenant", "name": "tenant-{}"}),
    "create_tenant of 2 characters": (admin, {"method": "create_tenant", "name": "ab"}),
    "get_tenant": (admin, {"method": "get_tenant", "name": "tenant-{}"}),
    "get_tenant unknown": (admin, {"method": "get_tenant", "name": "nope"}),
}
