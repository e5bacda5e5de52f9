"""HttpClient against the server of the real chromadb, beside the real HttpClient: same records, same answers, same errors."""

from __future__ import annotations

import asyncio
import uuid

import chromadb
import numpy as np
import pytest
from api.chroma_server import running

import chroma_gpu

VECTORS = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.5], [0.0, 0.0, 1.0], [-1.0, 0.5, 0.25]]
RECORDS = {
    "ids": ["a", "b", "c", "d"],
    "embeddings": VECTORS,
    "metadatas": [{"x": 1, "f": 1.5, "s": "t", "w": True, "tags": ["p", "q"]}, None, {"x": 2}, {"x": -7, "s": "ünï"}],
    "documents": ["doc a", None, "doc c", "other"],
    "uris": ["file:///a", None, None, "file:///d"],
}
GETS = [
    {},
    {"include": ["embeddings", "uris", "metadatas", "documents"]},
    {"include": []},
    {"include": ["metadatas"]},
    {"ids": ["c", "a", "nobody"]},
    {"ids": "a"},
    {"limit": 2, "offset": 1},
    {"where": {"x": 1}},
    {"where": {"x": {"$ne": 1}}},
    {"where": {"tags": {"$contains": "p"}}},
    {"where": {"s": {"$in": ["t", "ünï"]}}},
    {"where": {"$and": [{"x": {"$gt": -10}}, {"$or": [{"w": True}, {"x": {"$lte": 0}}]}]}},
    {"where_document": {"$contains": "doc"}},
    {"where_document": {"$or": [{"$contains": "other"}, {"$regex": "c$"}]}},
    {"where": {"x": {"$gte": 1}}, "where_document": {"$not_contains": "a"}},
    {"where": {"$and": [{"x": {"$gte": 1}}, {"#document": {"$contains": "doc"}}]}},
    {"ids": ["a", "d"], "where": {"x": {"$lt": 0}}},
]
QUERIES = [
    {"query_embeddings": [[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]], "n_results": 3},
    {"query_embeddings": [1.0, 2.0, 3.0], "include": ["embeddings", "uris", "metadatas", "documents", "distances"]},
    {"query_embeddings": [[0.0, 0.0, 1.0]], "include": []},
    {"query_embeddings": [[0.0, 0.0, 1.0]], "where": {"x": {"$gt": 0}}, "n_results": 1},
    {"query_embeddings": [[0.0, 0.0, 1.0]], "where": {"x": 99}},
    {"query_embeddings": [[0.0, 0.0, 1.0]], "where_document": {"$contains": "doc"}},
    {"query_embeddings": [[0.0, 0.0, 1.0]], "ids": ["a", "b"]},
]


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    with running(tmp_path_factory.mktemp("server")) as port:
        yield port


@pytest.fixture(scope="module")
def theirs(port):
    return chromadb.HttpClient("127.0.0.1", port)


@pytest.fixture(scope="module")
def ours(port):
    with chroma_gpu.HttpClient("127.0.0.1", port) as client:
        yield client


@pytest.fixture
def fresh(port):
    """Both clients in an empty database."""
    tenant = f"tenant-{uuid.uuid4()}"
    settings = chroma_gpu.Settings(
        chroma_api_impl="chromadb.api.fastapi.FastAPI", chroma_server_host="127.0.0.1", chroma_server_http_port=port
    )
    admin = chroma_gpu.AdminClient(settings)
    admin.create_tenant(tenant)
    admin.create_database("fresh", tenant)
    admin.close()
    with chroma_gpu.HttpClient("127.0.0.1", port, tenant=tenant, database="fresh") as client:
        yield client, chromadb.HttpClient("127.0.0.1", port, tenant=tenant, database="fresh")


def plain(value):
    """Arrays as lists and floats as float32, so that what is the same number on the wire is equal."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, (list, np.ndarray)):
        return [plain(each) for each in value]
    return float(np.float32(value)) if isinstance(value, float) else value


def outcome(call):
    """What a call returns, or its error's message."""
    try:
        return plain(call())
    except Exception as error:
        return f"raises {error}"


@pytest.fixture(scope="module")
def pair(ours, theirs):
    """One collection as both clients see it; ours wrote it."""
    made = ours.create_collection("records", metadata={"m": 1}, embedding_function=None)
    made.add(**RECORDS)
    return made, theirs.get_collection("records", embedding_function=None)


@pytest.mark.parametrize("given", GETS, ids=str)
def test_get_gives_what_the_real_client_gives(pair, given):
    ours, theirs = pair
    assert outcome(lambda: ours.get(**given)) == outcome(lambda: theirs.get(**given))


@pytest.mark.parametrize("given", QUERIES, ids=str)
def test_query_gives_what_the_real_client_gives(pair, given):
    ours, theirs = pair
    assert outcome(lambda: ours.query(**given)) == outcome(lambda: theirs.query(**given))


def test_results_have_the_types_of_an_embedded_collection(pair):
    ours, _ = pair
    assert ours.get(include=["embeddings"])["embeddings"].dtype == np.float64
    assert ours.get(ids=["nobody"], include=["embeddings"])["embeddings"].shape == (0,)
    found = ours.query(query_embeddings=[VECTORS[0]], where={"x": 99}, include=["embeddings"])
    assert found["ids"] == [[]]
    assert found["embeddings"][0].shape == (0,)


def test_writes_leave_what_the_real_client_leaves(ours, theirs):
    def write(client):
        made = client.create_collection(f"w-{uuid.uuid4()}", embedding_function=None)
        made.add(**RECORDS)
        made.add(ids=["a"], embeddings=[[9.0, 9.0, 9.0]])
        made.update(
            ids=["a", "nobody"],
            embeddings=[VECTORS[1]] * 2,
            metadatas=[{"x": None, "n": 2}, {"k": 1}],
            documents=["changed", "none"],
        )
        made.upsert(ids=["b", "e"], embeddings=[[1.5, 2.0, 3.0], [0.0, 1.0, 0.0]], metadatas=[{"u": True}, None])
        deleted = [made.delete(ids=["c", "nobody"]), made.delete(where={"n": 2}, limit=5)]
        return (
            deleted,
            made.count(),
            plain(made.get(include=["embeddings", "metadatas", "documents", "uris"])),
            plain(made.peek(1)),
        )

    assert write(ours) == write(theirs)


def test_a_batch_of_any_size_is_written(ours, theirs):
    made = ours.create_collection("large", embedding_function=None)
    vectors = np.random.default_rng(0).random((12_000, 4), np.float32)
    made.add(ids=[str(n) for n in range(12_000)], embeddings=vectors, metadatas=[{"n": n} for n in range(12_000)])
    assert made.count() == 12_000
    assert theirs.get_collection("large", embedding_function=None).get(ids=["11999"])["metadatas"] == [{"n": 11_999}]
    np.testing.assert_array_equal(made.get(ids=["5461"], include=["embeddings"])["embeddings"][0], vectors[5461])


def test_collections_are_what_the_real_client_makes(fresh):
    ours, theirs = fresh
    for number, given in enumerate(
        [
            {},
            {"metadata": {"a": 1, "hnsw:space": "cosine"}},
            {"configuration": {"hnsw": {"space": "ip", "ef_construction": 50, "max_neighbors": 8}}},
            {"configuration": {"spann": {"space": "cosine"}}},
        ]
    ):
        ours.create_collection(f"ours-{number}", embedding_function=None, **given)
        theirs.create_collection(f"theirs-{number}", embedding_function=None, **given)
        mine, real = (theirs.get_collection(f"{side}-{number}", embedding_function=None) for side in ("ours", "theirs"))
        for each in (mine, real):
            each.configuration_json["embedding_function"] = None  # "legacy" or none at all, as they are given
        assert mine.configuration_json == real.configuration_json
        assert mine.metadata == real.metadata
        assert ours.get_collection(f"theirs-{number}").configuration_json["hnsw"] == real.configuration_json["hnsw"]


def test_modify(ours, theirs):
    made = ours.create_collection("before", metadata={"m": 1})
    made.modify(name="after", metadata={"k": 2}, configuration={"hnsw": {"ef_search": 77}})
    real = theirs.get_collection("after")
    assert (made.name, made.metadata, made.id) == (real.name, real.metadata, real.id) == ("after", {"k": 2}, real.id)
    assert made.configuration_json["hnsw"] == real.configuration_json["hnsw"]
    assert made.configuration_json["hnsw"]["ef_search"] == 77
    real.modify(configuration={"hnsw": {"ef_search": 5}})
    made.modify(configuration={"hnsw": {"ef_search": 77}})  # as this object knows it, but not as it is
    assert theirs.get_collection("after").configuration_json["hnsw"]["ef_search"] == 77


def test_the_stored_embedding_function_embeds(ours):
    class Lengths(chroma_gpu.EmbeddingFunction):
        def __init__(self):
            pass

        def __call__(self, input):
            return [np.array([len(text), 1.0], np.float32) for text in input]

        @staticmethod
        def name():
            return "test_remote_lengths"

        @staticmethod
        def build_from_config(config):
            return Lengths()

        def get_config(self):
            return {}

    ours.create_collection("embedded", embedding_function=Lengths()).add(ids=["a", "b"], documents=["xx", "xxxxx"])
    again = ours.get_collection("embedded")
    assert again.query(query_texts=["yyyy"], n_results=1)["ids"] == [["b"]]
    with pytest.raises(ValueError, match="Embedding function conflict"):
        ours.get_or_create_collection(
            "embedded", embedding_function=type("Other", (Lengths,), {"name": lambda self=None: "other"})()
        )


def test_names_are_listed_as_the_real_client_lists_them(fresh):
    ours, theirs = fresh
    for name in ("one", "two", "three"):
        ours.create_collection(name)
    assert ours.count_collections() == theirs.count_collections() == 3
    assert [each.name for each in ours.list_collections()] == [each.name for each in theirs.list_collections()]
    assert [each.name for each in ours.list_collections(1, 1)] == [each.name for each in theirs.list_collections(1, 1)]
    one = ours.get_collection("one")
    assert ours.get_collection_by_id(one.id).name == "one"
    ours.delete_collection("one")
    assert ours.get_or_create_collection("two").id == theirs.get_collection("two").id
    assert {each.name for each in theirs.list_collections()} == {"two", "three"}


def test_tenants_and_databases(ours, port):
    admin = chroma_gpu.AdminClient.from_client(ours)
    tenant, database = f"tenant-{uuid.uuid4()}", "some database/with a slash"
    admin.create_tenant(tenant)
    admin.create_database("first", tenant)
    assert admin.get_tenant(tenant) == {"name": tenant}
    found = admin.get_database("first", tenant)
    assert (found["name"], found["tenant"]) == ("first", tenant)
    assert isinstance(found["id"], uuid.UUID)
    assert [each["name"] for each in admin.list_databases(tenant=tenant)] == ["first"]
    with chroma_gpu.HttpClient("127.0.0.1", port) as mover:
        mover.set_tenant(tenant, "first")
        mover.create_collection("inside")
        assert (mover.tenant, mover.database) == (tenant, "first")
    other = chroma_gpu.HttpClient("127.0.0.1", port, tenant=tenant, database="first")
    assert [each.name for each in other.list_collections()] == ["inside"]
    other.close()
    admin.delete_database("first", tenant)
    with pytest.raises(chroma_gpu.errors.NotFoundError, match="first"):
        admin.get_database("first", tenant)
    with pytest.raises(chroma_gpu.errors.NotFoundError):
        admin.get_database(database, tenant)  # one part of the path, whatever is in it
    admin.close()


ERRORS = {
    "unknown collection": lambda client: client.get_collection("zzz"),
    "name taken": lambda client: [client.create_collection("taken") for _ in range(2)],
    "bad name": lambda client: client.create_collection("a"),
    "unknown tenant": lambda client: client.set_tenant("nope"),
    "unknown database": lambda client: client.set_database("nope"),
    "deleted twice": lambda client: client.delete_collection("zzz"),
    "wrong dimension": lambda client: client.get_collection("records").query(query_embeddings=[[1.0]]),
    "search": lambda client: client.get_collection("records").search(chroma_gpu.Search()),
    "fork": lambda client: client.get_collection("records").fork("forked"),
    "fork_count": lambda client: client.get_collection("records").fork_count(),
    "indexing status": lambda client: client.get_collection("records").get_indexing_status(),
    "attach": lambda client: client.get_collection("records").attach_function("statistics", "fn", "out"),
    "attached": lambda client: client.get_collection("records").get_attached_function("fn"),
    "detach": lambda client: client.get_collection("records").detach_function("fn"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_those_of_the_real_client(pair, ours, theirs, case):
    found = []
    for client in (ours, theirs):
        with pytest.raises(Exception) as caught:
            ERRORS[case](client)
        if case == "name taken" and client is ours:
            client.delete_collection("taken")
        found.append(caught.value)
    mine, real = found
    assert str(mine) == str(real)
    # Theirs are ChromaError where ours tells more, which is a ChromaError too.
    assert type(real).__name__ in {kind.__name__ for kind in type(mine).__mro__}


def test_what_a_closed_client_says(port):
    client = chroma_gpu.HttpClient("127.0.0.1", port)
    collection = client.get_or_create_collection("closing")
    client.close()
    client.close()
    with pytest.raises(chroma_gpu.errors.ClosedError):
        collection.count()


def test_the_settings_say_that_it_is_a_server(port):
    settings = chroma_gpu.Settings(
        chroma_api_impl="chromadb.api.fastapi.FastAPI", chroma_server_host="127.0.0.1", chroma_server_http_port=port
    )
    with chroma_gpu.Client(settings) as client:
        assert client.get_version() == "1.0.0"
        assert client.get_max_batch_size() == 5461
        assert client.get_user_identity().tenant == "default_tenant"
        assert client.heartbeat() > 0
        assert client.get_settings().chroma_server_http_port == port


def test_a_whole_url_is_a_host_too(port):
    with chroma_gpu.HttpClient(f"http://127.0.0.1:{port}") as client:
        assert client.get_version() == "1.0.0"
    with chroma_gpu.HttpClient(f"http://127.0.0.1:{port}/api/v2") as client:
        assert client.get_version() == "1.0.0"


def test_describe_and_model(pair):
    ours, theirs = pair
    facts = ours.describe()
    assert (facts["name"], facts["records"], facts["dimension"], facts["distance"]) == ("records", 4, 3, "l2")
    assert ours.get_model().dimension == 3
    assert set(ours.schema.keys) == set(theirs.schema.keys)


def test_the_async_client_gives_the_same(pair, port):
    ours, _ = pair

    async def ask():
        async with await chroma_gpu.AsyncHttpClient("127.0.0.1", port) as client:
            collection = await client.get_collection("records")
            return await collection.get(), await collection.query(query_embeddings=VECTORS[:1]), await collection.count()

    got, found, count = asyncio.run(ask())
    assert (got, found, count) == (ours.get(), ours.query(query_embeddings=VECTORS[:1]), 4)


def test_a_server_does_not_do_what_only_the_engine_does(pair):
    ours, _ = pair
    with pytest.raises(NotImplementedError, match="compacts its collections by itself"):
        ours.compact()
    assert ours.reembed_abort() is False


def test_reset(tmp_path):
    with running(tmp_path) as port, chroma_gpu.HttpClient("127.0.0.1", port) as client:
        client.create_collection("gone")
        assert client.reset() is True
        assert client.count_collections() == 0
