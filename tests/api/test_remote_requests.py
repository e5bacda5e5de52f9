"""What HttpClient sends, and what it makes of answers that no server on this machine gives."""

from __future__ import annotations

import json
import os
import traceback
import uuid

import httpx
import numpy as np
import pytest

import chroma_gpu
from chroma_gpu import K, Knn, Rrf, Search, SparseVector, errors
from chroma_gpu.api.remote import writes
from chroma_gpu.transforms import MaxDistance

ID = "e3ba467e-39e5-4f57-82bf-9d6626c66c05"
DATABASE = "/api/v2/tenants/default_tenant/databases/default_database"
ROUTE = f"{DATABASE}/collections/{ID}"
COLLECTION = {
    "id": ID,
    "name": "wire",
    "configuration_json": {
        "hnsw": {"space": "cosine", "ef_construction": 100, "ef_search": 100, "max_neighbors": 16},
        "spann": None,
        "embedding_function": {"type": "legacy"},
    },
    "schema": None,
    "metadata": None,
    "dimension": None,
    "tenant": "default_tenant",
    "database": "default_database",
    "log_position": 0,
    "version": 0,
}
ANSWERS = {
    "GET /api/v2/auth/identity": {"user_id": "", "tenant": "default_tenant", "databases": ["default_database"]},
    "GET /api/v2/tenants/default_tenant": {"name": "default_tenant"},
    f"GET {DATABASE}": {"id": str(uuid.UUID(int=0)), "name": "default_database", "tenant": "default_tenant"},
    "GET /api/v2/pre-flight-checks": {"max_batch_size": 100, "supports_base64_encoding": True},
    f"POST {DATABASE}/collections": COLLECTION,
    f"GET {DATABASE}/collections/wire": COLLECTION,
    f"GET {DATABASE}/collections/by-id/{ID}": COLLECTION,
    f"GET {ROUTE}/count": 3,
    f"PUT {ROUTE}": {},
    **{f"POST {ROUTE}/{verb}": {} for verb in ("add", "update", "upsert")},
    f"POST {ROUTE}/delete": {"deleted": 1},
    f"POST {ROUTE}/get": {"ids": [], "documents": [], "metadatas": [], "uris": None, "embeddings": None, "include": []},
    f"POST {ROUTE}/query": {"ids": [[]], "documents": [[]], "metadatas": [[]], "distances": [[]], "include": []},
}


class FakeServer:
    """Answers by method and path; keeps what it was asked. An answer may be a value, a Response, an exception or a function."""

    def __init__(self):
        self.answers = dict(ANSWERS)
        self.asked = []

    def handle(self, request):
        self.asked.append(request)
        answer = self.answers[f"{request.method} {request.url.raw_path.decode().partition('?')[0]}"]
        answer = answer(request) if callable(answer) else answer
        if isinstance(answer, list) and answer and isinstance(answer[0], (Exception, httpx.Response)):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, httpx.Response) else httpx.Response(200, json=answer)

    def bodies(self, verb):
        return [json.loads(each.content) for each in self.asked if each.method == "POST" and each.url.path.endswith(f"/{verb}")]


@pytest.fixture
def server(monkeypatch):
    made, real = FakeServer(), httpx.Client
    monkeypatch.setattr(httpx, "Client", lambda **given: real(transport=httpx.MockTransport(made.handle), **given))
    return made


@pytest.fixture
def client(server):
    with chroma_gpu.HttpClient() as client:
        yield client


@pytest.fixture
def collection(client):
    return client.get_collection("wire", embedding_function=None)


def test_opening_asks_who_and_where(server, client):
    assert [f"{each.method} {each.url.path}" for each in server.asked] == [
        "GET /api/v2/auth/identity",
        "GET /api/v2/tenants/default_tenant",
        f"GET {DATABASE}",
    ]
    assert {each.headers["content-type"] for each in server.asked} == {"application/json"}


def test_bodies_are_those_of_chromas_client(server, client):
    """The exchanges of chromadb 1.5.9's HttpClient with the same calls, as recorded."""
    with pytest.warns(DeprecationWarning, match="legacy embedding function"):
        collection = client.create_collection(
            "wire",
            metadata={"m": 1, "f": 1.5, "s": "x", "b": True},
            configuration={"hnsw": {"space": "cosine"}},
            embedding_function=Legacy(),
        )
    assert json.loads(server.asked[-1].content) == {
        "name": "wire",
        "metadata": {"m": 1, "f": 1.5, "s": "x", "b": True},
        "configuration": {"hnsw": {"space": "cosine"}, "spann": None, "embedding_function": {"type": "legacy"}},
        "schema": None,
        "get_or_create": False,
    }
    collection.add(
        ids=["a", "b"],
        embeddings=[[1, 2, 3], [4, 5, 6]],
        metadatas=[{"x": 1, "y": 1.5, "z": "s", "w": True, "arr": ["p", "q"]}, None],
        documents=["doc a", None],
        uris=["file:///a", None],
    )
    collection.update(ids=["a"], metadatas=[{"x": None, "n": 2}])
    collection.upsert(ids=["b", "c"], embeddings=[[1.5, 2, 3], [0, 0, 1]])
    assert collection.count() == 3
    assert server.asked[-1].url.query == b"read_level=index_and_wal"
    collection.get(
        ids=["a"],
        where={"n": 2},
        limit=5,
        where_document={"$contains": "doc"},
        include=["embeddings", "uris", "metadatas", "documents"],
    )
    collection.query(
        query_embeddings=[[1, 2, 3]], n_results=2, include=["embeddings", "distances", "documents", "metadatas", "uris"]
    )
    collection.delete(ids=["a"])
    collection.delete(where={"x": {"$ne": 1}}, limit=1)
    assert server.bodies("add") == [
        {
            "ids": ["a", "b"],
            "embeddings": ["AACAPwAAAEAAAEBA", "AACAQAAAoEAAAMBA"],
            "metadatas": [{"x": 1, "y": 1.5, "z": "s", "w": True, "arr": ["p", "q"]}, None],
            "documents": ["doc a", None],
            "uris": ["file:///a", None],
        }
    ]
    assert server.bodies("update") == [
        {"ids": ["a"], "embeddings": None, "metadatas": [{"x": None, "n": 2}], "documents": None, "uris": None}
    ]
    assert server.bodies("upsert") == [
        {
            "ids": ["b", "c"],
            "embeddings": ["AADAPwAAAEAAAEBA", "AAAAAAAAAAAAAIA/"],
            "metadatas": None,
            "documents": None,
            "uris": None,
        }
    ]
    (got,) = server.bodies("get")
    assert sorted(got.pop("include")) == ["documents", "embeddings", "metadatas", "uris"]
    assert got == {"ids": ["a"], "where": {"n": 2}, "limit": 5, "offset": None, "where_document": {"$contains": "doc"}}
    (asked,) = server.bodies("query")
    assert sorted(asked.pop("include")) == ["distances", "documents", "embeddings", "metadatas", "uris"]
    assert asked == {"ids": None, "query_embeddings": [[1.0, 2.0, 3.0]], "n_results": 2, "where": None, "where_document": None}
    assert server.bodies("delete") == [
        {"ids": ["a"], "where": None, "where_document": None},
        {"ids": None, "where": {"x": {"$ne": 1}}, "where_document": None, "limit": 1},
    ]


def test_modify_sends_what_changes(server, collection):
    collection.modify(name="wire2", metadata={"m": 2}, configuration={"hnsw": {"ef_search": 77}})
    (put,) = [json.loads(each.content) for each in server.asked if each.method == "PUT"]
    assert put == {
        "new_metadata": {"m": 2},
        "new_name": "wire2",
        "new_configuration": {"hnsw": {"ef_search": 77}, "spann": None, "embedding_function": None},
    }


def test_default_configuration_asks_for_the_distance_alone(server, client):
    client.get_or_create_collection("wire")
    body = json.loads(server.asked[-1].content)
    assert body["configuration"] == {
        "hnsw": {"space": "l2"},
        "spann": None,
        "embedding_function": {"name": "default", "type": "known", "config": {}},
    }
    assert body["get_or_create"] is True


def test_spann_is_asked_for_where_it_is_given(server, client):
    client.create_collection("wire", configuration={"spann": {"space": "ip", "search_nprobe": 3}}, embedding_function=None)
    configuration = json.loads(server.asked[-1].content)["configuration"]
    assert configuration["spann"] == {"space": "ip", "search_nprobe": 3}
    assert configuration["hnsw"] is None


def test_a_schema_goes_alone(server, client):
    schema = chroma_gpu.Schema().create_index(chroma_gpu.SparseVectorIndexConfig(), "sparse")
    client.create_collection("wire", schema=schema, embedding_function=None)
    body = json.loads(server.asked[-1].content)
    assert body["configuration"] is None
    assert body["schema"]["keys"]["sparse"]["sparse_vector"]["sparse_vector_index"]["enabled"] is True


@pytest.mark.parametrize(
    ("where", "where_document", "sent"),
    [
        ({"a": 1}, None, {"where": {"a": 1}, "where_document": None}),
        ({"a": {"$eq": 1}}, None, {"where": {"a": 1}, "where_document": None}),
        (
            {"$or": [{"a": True}, {"#document": {"$contains": "x"}}]},
            {"$or": [{"$regex": "a"}, {"$and": [{"$contains": "b"}, {"$not_contains": "c"}]}]},
            {
                "where": {"$or": [{"a": True}, {"#document": {"$contains": "x"}}]},
                "where_document": {"$or": [{"$regex": "a"}, {"$and": [{"$contains": "b"}, {"$not_contains": "c"}]}]},
            },
        ),
        (
            {"$and": [{"a": {"$in": [1, 2]}}, {"b": {"$nin": ["x"]}}]},
            {"$contains": "d"},
            {"where": {"$and": [{"a": {"$in": [1, 2]}}, {"b": {"$nin": ["x"]}}]}, "where_document": {"$contains": "d"}},
        ),
    ],
)
def test_filters_travel_as_they_were_given(server, collection, where, where_document, sent):
    collection.get(where=where, where_document=where_document)
    (body,) = server.bodies("get")
    assert {name: body[name] for name in sent} == sent


def test_sparse_vectors_travel_both_ways(server, collection):
    sparse = SparseVector([1, 5], [0.5, 1.0])
    collection.add(ids=["a"], embeddings=[[1.0]], metadatas=[{"s": sparse}])
    said = {"#type": "sparse_vector", "indices": [1, 5], "values": [0.5, 1.0]}
    assert server.bodies("add")[0]["metadatas"] == [{"s": said}]
    server.answers[f"POST {ROUTE}/get"] = {"ids": ["a"], "metadatas": [{"s": said}], "documents": [None]}
    assert collection.get()["metadatas"] == [{"s": sparse}]


def test_lists_are_sent_where_base64_is_not_taken(server, collection):
    server.answers["GET /api/v2/pre-flight-checks"] = {"max_batch_size": 100}
    collection.add(ids=["a"], embeddings=[[1.0, 2.5]])
    assert server.bodies("add")[0]["embeddings"] == [[1.0, 2.5]]


def test_batches_are_split_by_the_servers_limit(server, collection):
    collection.add(ids=[str(n) for n in range(250)], embeddings=np.ones((250, 2)), metadatas=[{"n": n} for n in range(250)])
    parts = server.bodies("add")
    assert [len(each["ids"]) for each in parts] == [100, 100, 50]
    assert [row["n"] for each in parts for row in each["metadatas"]] == list(range(250))
    assert all(each["documents"] is None for each in parts)


def test_batches_are_split_by_bytes(server, collection, monkeypatch):
    monkeypatch.setattr(writes, "BODY_BYTES", 400)
    collection.add(ids=[str(n) for n in range(60)], embeddings=np.ones((60, 4)))
    assert all(len(each.content) <= 400 for each in server.asked if each.url.path.endswith("/add"))
    assert [each for part in server.bodies("add") for each in part["ids"]] == [str(n) for n in range(60)]


def test_a_body_that_the_server_finds_too_large_is_halved(server, collection):
    taken = []

    def add(request):
        ids = json.loads(request.content)["ids"]
        if len(ids) > 30:
            return httpx.Response(413, text="length limit exceeded")
        taken.extend(ids)
        return httpx.Response(201, json={})

    server.answers[f"POST {ROUTE}/add"] = add
    collection.add(ids=[str(n) for n in range(100)], embeddings=np.ones((100, 2)))
    assert taken == [str(n) for n in range(100)]


def test_a_record_that_is_too_large_is_an_error(server, collection):
    server.answers[f"POST {ROUTE}/add"] = httpx.Response(413, text="length limit exceeded")
    with pytest.raises(errors.BatchSizeExceededError, match="length limit"):
        collection.add(ids=["a", "b"], embeddings=[[1.0], [2.0]])


def test_an_error_says_how_far_it_came(server, collection):
    refusal = httpx.Response(400, json={"error": "InvalidArgumentError", "message": "no more"})
    server.answers[f"POST {ROUTE}/add"] = [httpx.Response(201, json={}), refusal]
    with pytest.raises(errors.InvalidArgumentError, match=r"^no more The first 100 of 150 records were written"):
        collection.add(ids=[str(n) for n in range(150)], embeddings=np.ones((150, 2)))


def test_servers_are_not_asked_for_the_words_of_documents(server, collection):
    for rank in (Knn("some words", key=K.DOCUMENT), Rrf([Knn([1.0, 2.0, 3.0]), Knn("some words", key="#document")])):
        with pytest.raises(NotImplementedError, match="does not rank by the words of documents"):
            collection.search(Search(rank=rank))
    assert not server.bodies("search")


def test_search(server, collection):
    server.answers[f"POST {ROUTE}/search"] = {
        "ids": [["a", "b"]],
        "documents": [None],
        "embeddings": [None],
        "metadatas": [[{"s": {"#type": "sparse_vector", "indices": [1], "values": [2.0]}}, None]],
        "scores": [[0.25, 1.5]],
        "select": [["#metadata", "#score"]],
    }
    rank = Knn([1.0, 2.0, 3.0], limit=5) * 0.5 + 1
    search = Search().where((K("x") == 1) & K.DOCUMENT.contains("a")).rank(rank).limit(3, 1).select(K.SCORE, K.DOCUMENT, "x")
    found = collection.search(search)
    (body,) = server.bodies("search")
    keys = body["searches"][0]["select"].pop("keys")
    assert sorted(keys) == ["#document", "#score", "x"]
    assert body == {
        "searches": [
            {
                "filter": {"$and": [{"x": {"$eq": 1}}, {"#document": {"$contains": "a"}}]},
                "rank": {
                    "$sum": [
                        {"$mul": [{"$knn": {"query": [1.0, 2.0, 3.0], "key": "#embedding", "limit": 5}}, {"$val": 0.5}]},
                        {"$val": 1},
                    ]
                },
                "group_by": {},
                "limit": {"offset": 1, "limit": 3},
                "select": {},
            }
        ],
        "read_level": "index_and_wal",
    }
    assert found.rows() == [[{"id": "a", "metadata": {"s": SparseVector([1], [2.0])}, "score": 0.25}, {"id": "b", "score": 1.5}]]


def test_read_levels_travel(server, collection):
    collection.count(chroma_gpu.api.types.ReadLevel.INDEX_ONLY)
    assert server.asked[-1].url.query == b"read_level=index_only"


def test_fork_status_and_functions(server, collection):
    forked = {**COLLECTION, "id": str(uuid.uuid4()), "name": "forked"}
    attached = {"id": str(uuid.uuid4()), "name": "fn", "function_name": "statistics", "output_collection": "out"}
    server.answers |= {
        f"POST {ROUTE}/fork": forked,
        f"GET {ROUTE}/fork_count": {"count": 2},
        f"GET {ROUTE}/indexing_status": {
            "num_indexed_ops": 3,
            "num_unindexed_ops": 0,
            "total_ops": 3,
            "op_indexing_progress": 1.0,
        },
        f"POST {ROUTE}/functions/attach": {"attached_function": attached, "created": False},
        f"GET {ROUTE}/functions/fn": {"attached_function": attached},
        f"POST {ROUTE}/attached_functions/fn/detach": {"success": True},
        f"GET {DATABASE}/collections/{forked['id']}/count": 7,
    }
    made = collection.fork("forked")
    assert (made.name, str(made.id), made.count()) == ("forked", forked["id"], 7)
    assert server.bodies("fork") == [{"new_name": "forked"}]
    assert collection.fork_count() == 2
    assert collection.get_indexing_status().op_indexing_progress == 1.0
    collection.wait_indexed()
    function, created = collection.attach_function(chroma_gpu.api.functions.STATISTICS_FUNCTION, "fn", "out")
    assert server.bodies("attach") == [{"name": "fn", "function_id": "statistics", "output_collection": "out", "params": None}]
    assert not created
    assert function == collection.get_attached_function("fn")
    assert (function.name, function.function_name, function.input_collection_id) == ("fn", "statistics", collection.id)
    assert collection.detach_function("fn", delete_output_collection=True) is True
    assert server.bodies("detach") == [{"delete_output": True}]


def test_embedded_collections_have_no_attached_functions():
    with chroma_gpu.EphemeralClient() as client:
        collection = client.get_or_create_collection("no-functions")
        for call in (
            lambda: collection.attach_function("statistics", "fn", "out"),
            lambda: collection.get_attached_function("fn"),
            lambda: collection.detach_function("fn"),
        ):
            with pytest.raises(NotImplementedError, match=r"^Attached functions are only supported when connecting to a Chroma"):
                call()
        client.delete_collection("no-functions")


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (404, {"error": "NotFoundError", "message": "m"}, errors.NotFoundError, "m"),
        (400, {"error": "InvalidDimension", "message": "m"}, errors.InvalidDimensionException, "m"),
        (403, {"error": "AuthError", "message": "Forbidden"}, errors.ChromaAuthError, "Forbidden"),
        (403, {"error": "ChromaError", "message": "m"}, errors.AuthorizationError, "m"),
        (409, {"error": "ChromaError", "message": "m"}, errors.UniqueConstraintError, "m"),
        (422, {"error": "ChromaError", "message": "m"}, errors.InvalidArgumentError, "m"),
        (429, {"error": "RateLimitError", "message": "m"}, errors.RateLimitError, "m"),
        (501, {"error": "ChromaError", "message": "m"}, errors.ChromaError, "m"),
        (500, {"error": "no name of ours", "message": "m"}, errors.InternalError, "m"),
        (400, {"error": "QuotaError", "message": "m"}, errors.QuotaError, "m"),
    ],
)
def test_errors_have_our_classes(server, collection, status, body, kind, message):
    server.answers[f"GET {ROUTE}/count"] = httpx.Response(status, json=body, headers={"chroma-trace-id": "t-1"})
    with pytest.raises(errors.ChromaError) as caught:
        collection.count()
    assert isinstance(caught.value, kind)
    assert str(caught.value) == message
    assert caught.value.trace_id == "t-1"


def test_an_error_that_is_no_json(server, collection):
    server.answers[f"GET {ROUTE}/count"] = httpx.Response(502, text="bad gateway", headers={"chroma-trace-id": "t-2"})
    with pytest.raises(errors.InternalError, match=r"^bad gateway \(trace ID: t-2\)$"):
        collection.count()
    server.answers[f"GET {ROUTE}/count"] = httpx.Response(404)
    with pytest.raises(errors.NotFoundError, match="HTTP status 404 from http://localhost:8000/api/v2"):
        collection.count()
    server.answers[f"GET {ROUTE}/count"] = httpx.Response(200, text="<html>")
    with pytest.raises(errors.ChromaError, match="Is it the address of a Chroma server"):
        collection.count()


def test_a_read_is_repeated_once_when_the_connection_was_closed(server, collection):
    lost = httpx.RemoteProtocolError("Server disconnected without sending a response.")
    server.answers[f"GET {ROUTE}/count"] = [lost, httpx.Response(200, json=3)]
    assert collection.count() == 3
    server.answers[f"GET {ROUTE}/count"] = lost
    with pytest.raises(errors.InternalError, match=r"connection broke during GET .*Try again\."):
        collection.count()


def test_a_write_is_not_repeated(server, collection):
    server.answers[f"POST {ROUTE}/delete"] = httpx.RemoteProtocolError("gone")
    with pytest.raises(errors.InternalError, match="may have been done or not"):
        collection.delete(ids=["a"])
    assert len(server.bodies("delete")) == 1


def test_nobody_answers(server, collection):
    server.answers[f"GET {ROUTE}/count"] = httpx.ConnectError("refused")
    with pytest.raises(ValueError, match=r"^Could not connect to a Chroma server\. Are you sure it is running\?$"):
        collection.count()


def test_no_server_at_all():
    with pytest.raises(ValueError, match=r"^Could not connect to a Chroma server\. Are you sure it is running\?$"):
        chroma_gpu.HttpClient("127.0.0.1", 1)


def test_names_are_quoted(server, client):
    server.answers["GET /api/v2/tenants/a%2Fb%20%C3%A9"] = {"name": "a/b é"}
    server.answers["GET /api/v2/tenants/a%2Fb%20%C3%A9/databases/c%3F"] = {
        "id": str(uuid.uuid4()),
        "name": "c?",
        "tenant": "a/b é",
    }
    client.set_tenant("a/b é", "c?")
    assert (client.tenant, client.database) == ("a/b é", "c?")


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_name_cannot_lead_elsewhere(name, server, client):
    """``DELETE collections/..`` would be asked of the database."""
    before = len(server.asked)
    for call in (client.delete_collection, client.get_collection, client.set_tenant):
        with pytest.raises(errors.NotFoundError):
            call(name)
    assert len(server.asked) == before


def test_a_name_that_is_too_long_for_a_url(client):
    with pytest.raises(errors.InvalidArgumentError, match="too long"):
        client.get_collection("x" * 70_000)


def test_a_password_in_the_url_is_not_shown(server):
    with chroma_gpu.HttpClient("http://me:pa55word@somewhere:1") as client:
        assert server.asked[-1].headers["Authorization"].startswith("Basic ")
        for answer in (
            httpx.ReadTimeout("slow"),
            httpx.ReadError("gone"),
            httpx.Response(500),
            httpx.Response(200, text="<html>"),
        ):
            server.answers["GET /api/v2/version"] = answer
            with pytest.raises(errors.ChromaError, match="http://somewhere:1/api/v2/version") as raised:
                client.get_version()
            assert "pa55word" not in str(raised.value)


@pytest.mark.parametrize("value", ["Bearer s3cret\n", "Bearer s3cret\r\nX-Other: y", "Bearer s3cret ", "s3creté", None])
def test_a_header_that_cannot_be_sent_is_not_shown(server, value):
    with pytest.raises(ValueError, match=r"^The header 'X-Key' cannot be sent") as raised:
        chroma_gpu.HttpClient(headers={"X-Key": value})
    assert "s3cret" not in "".join(traceback.format_exception(raised.value))
    assert server.asked == []


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, content=b"[" * 100_000),
        lambda _: httpx.Response(200, headers={"Content-Encoding": "gzip"}, stream=httpx.ByteStream(b"no gzip")),
    ],
)
def test_an_answer_that_cannot_be_read(server, collection, answer):
    server.answers[f"GET {ROUTE}/count"] = answer
    with pytest.raises(errors.ChromaError):
        collection.count()


@pytest.mark.parametrize("answer", [{}, [], "ok", True, {"ids": None}, {"ids": ["a"], "documents": []}])
def test_json_that_is_not_chromas(server, collection, client, answer):
    """As another service at that address may give it."""
    asking = {
        f"POST {ROUTE}/get": collection.get,
        f"POST {ROUTE}/query": lambda: collection.query(query_embeddings=[[1.0, 2.0]]),
        f"GET {DATABASE}/collections/wire": lambda: client.get_collection("wire"),
        "GET /api/v2/auth/identity": chroma_gpu.HttpClient,
    }
    for asked, call in asking.items():
        server.answers[asked] = httpx.Response(200, json=answer)
        with pytest.raises(errors.ChromaError, match="another form than Chroma's"):
            call()


def test_distances_of_another_number_than_ids(server, collection):
    server.answers[f"POST {ROUTE}/query"] = {"ids": [["a", "b"]], "distances": [[1.0]]}
    with pytest.raises(errors.ChromaError, match="another form than Chroma's"):
        collection.query(query_embeddings=[[1.0, 2.0]])


def test_a_count_that_is_no_number(server, collection):
    server.answers[f"GET {ROUTE}/count"] = {}
    with pytest.raises(errors.ChromaError, match="another form than Chroma's"):
        collection.count()


def test_a_call_on_a_client_that_another_thread_closes(server, client, collection):
    """The connections are gone between the look whether they are open and the request."""

    def closing(request):
        client.close()
        raise httpx.ReadError("closed")

    server.answers[f"GET {ROUTE}/count"] = closing
    with pytest.raises(errors.ClosedError):
        collection.count()


def test_limits_and_headers_come_from_the_settings(monkeypatch):
    given = {}
    monkeypatch.setattr(httpx, "Client", lambda **options: given.update(options) or httpx.MockTransport(lambda _: None))
    settings = chroma_gpu.Settings(
        chroma_api_impl="chromadb.api.fastapi.FastAPI",
        chroma_server_host="localhost",
        chroma_server_http_port=9000,
        chroma_server_headers={"X-Own": "1"},
        chroma_server_ssl_verify=False,
        chroma_http_keepalive_secs=12.5,
        chroma_http_max_connections=64,
        chroma_http_max_keepalive_connections=16,
    )
    chroma_gpu.AdminClient(settings)
    limits = given["limits"]
    assert (limits.keepalive_expiry, limits.max_connections, limits.max_keepalive_connections) == (12.5, 64, 16)
    assert given["timeout"] is None
    assert given["verify"] is False
    assert given["headers"]["X-Own"] == "1"


def test_a_forked_child_makes_its_own_connections(server, collection, monkeypatch):
    before = collection._engine._http._session
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert collection.count() == 3
    assert collection._engine._http._session is not before


def test_a_forked_child_leaves_its_parents_connections_alone(client, monkeypatch):
    """A lock of theirs may have been held by a thread that the child does not have."""
    session = client._engine._http._session
    monkeypatch.setattr(os, "getpid", lambda: -1)
    client.close()
    assert not session.is_closed
    session.close()


class Legacy:
    """An object that embeds, of a class that cannot be remembered."""

    def __call__(self, input):
        return [[1.0, 2.0, 3.0] for _ in input]


def test_transforms_are_refused_and_nothing_is_asked(server, collection):
    asked = len(server.asked)
    with pytest.raises(NotImplementedError, match="A server does not know transforms"):
        collection.query([1.0], transforms=[MaxDistance(1.0)])
    assert len(server.asked) == asked
    assert collection.query([1.0], transforms=[])["ids"] == [[]]
