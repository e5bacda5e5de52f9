"""Calls that this package and Chroma must answer alike: name -> function of (client, fresh collection name).

Each starts from a collection of three records unless it makes its own. What it returns, or raises, is compared.
"""

from __future__ import annotations

import numpy as np
from api import client_cases, schema_cases


def filled(client, name, **given):
    collection = client.create_collection(name, embedding_function=None, **given)
    collection.add(
        ids=["a", "b", "c"],
        embeddings=[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]],
        documents=["one apple", "two pears", None],
        metadatas=[{"k": 1, "s": "x", "f": 1.5, "t": True, "l": ["p", "q"]}, {"k": 2, "s": "y", "n": [1, 2]}, None],
    )
    return collection


def add(client, name, **given):
    collection = filled(client, name)
    collection.add(**{"ids": ["n"], "embeddings": [[0.0, 0.0, 1.0]], **given})
    return collection.get(include=["embeddings", "documents", "metadatas", "uris"]), collection.count()


def update(client, name, **given):
    collection = filled(client, name)
    collection.update(**{"ids": ["a"], **given})
    return collection.get(include=["embeddings", "documents", "metadatas", "uris"])


def upsert(client, name, **given):
    collection = filled(client, name)
    collection.upsert(**{"ids": ["a", "n"], "embeddings": [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]], **given})
    return collection.get(include=["embeddings", "documents", "metadatas", "uris"])


def get(client, name, **given):
    return filled(client, name).get(**given)


def query(client, name, **given):
    return filled(client, name).query(**{"query_embeddings": [[1.0, 2.0, 3.1]], **given})


def delete(client, name, **given):
    collection = filled(client, name)
    return collection.delete(**given), collection.get()["ids"]


def create(client, name, **given):
    collection = client.create_collection(**{"name": name, "embedding_function": None, **given})
    return collection.metadata, collection.configuration_json


def modify(client, name, **given):
    collection = filled(client, name, metadata={"a": 1})
    collection.modify(**given)
    again = client.get_collection(given.get("name", name), embedding_function=None)
    return collection.metadata, again.metadata, again.configuration_json


def on_deleted(client, name, method, **given):
    collection = filled(client, name)
    client.delete_collection(name)
    return getattr(collection, method)(**given)


def space(client, name, space, through):
    given = {"metadata": {"hnsw:space": space}} if through == "metadata" else {"configuration": {"hnsw": {"space": space}}}
    collection = client.create_collection(name, embedding_function=None, **given)
    collection.add(ids=["a", "b", "z"], embeddings=[[3.0, 4.0], [1.0, 0.0], [0.0, 0.0]])
    return collection.query(query_embeddings=[[2.0, 0.0]])


def replaced(client, name):
    """Update keeps a record's place; delete and add puts it last."""
    collection = filled(client, name)
    collection.update(ids=["a"], embeddings=[[9.0, 9.0, 9.0]])
    before = collection.get()["ids"]
    collection.delete(ids=["a"])
    collection.add(ids=["a"], embeddings=[[1.0, 1.0, 1.0]])
    return before, collection.get()["ids"], collection.get(limit=2, offset=1)["ids"]


def many(client, name, where=None, where_document=None):
    """Twenty records whose key v has every type, and some none."""
    collection = client.create_collection(name, embedding_function=None)
    values = [
        0,
        1,
        2,
        -1,
        2**53,
        2**53 + 1,
        0.5,
        1.0,
        2.5,
        -0.0,
        True,
        False,
        "1",
        "x",
        "é",
        ["x", "y"],
        [1, 2],
        [1.5, 2.0],
        [True],
    ]
    metadatas = [{"v": value, "i": at} for at, value in enumerate(values)] + [{"i": 99}, None]
    documents = [
        None if at % 5 == 4 else f"text {at} of the Ünïcode 100% file_{at}\nline two {at % 3}" for at in range(len(metadatas))
    ]
    ids = [f"id{at:02}" for at in range(len(metadatas))]
    collection.add(ids=ids, embeddings=[[float(at), 1.0] for at in range(len(ids))], metadatas=metadatas, documents=documents)
    asked = {"where": where, "where_document": where_document}
    found = collection.query(query_embeddings=[[3.0, 1.0]], n_results=100, include=[], **asked)["ids"]
    return collection.get(include=[], **asked)["ids"], found


WHERE = [
    *({"v": value} for value in (0, 1, 2, 1.0, 2.5, True, False, "1", "x", "é", 2**53, 2**53 + 1)),
    *({"v": {op: value}} for op in ("$eq", "$ne") for value in (1, 1.0, True, "x", "nothing")),
    *({"v": {op: value}} for op in ("$gt", "$gte", "$lt", "$lte") for value in (0, 1, 1.0, -5, 2**53)),
    *({"v": {op: value}} for op in ("$in", "$nin") for value in ([1, 2], [1.0], ["x", "1"], [True], [7, 8])),
    *({"v": {op: value}} for op in ("$contains", "$not_contains") for value in ("x", 1, 2, 1.5, 2.0, True, "z")),
    {"$and": [{"v": {"$gte": 0}}, {"i": {"$lt": 5}}]},
    {"$or": [{"v": "x"}, {"i": 3}, {"missing": 1}]},
    {"$and": [{"$or": [{"v": 1}, {"v": "x"}]}, {"i": {"$ne": 3}}]},
    {"missing": {"$ne": 1}},
    {"missing": {"$nin": ["a"]}},
]
REFUSED_WHERE = [
    {}, {"v": {"$foo": 1}}, {"v": {"$gt": "a"}}, {"v": {"$gt": True}}, {"v": {"$in": []}}, {"v": {"$in": [1, "a"]}}, {"v": {"$in": 1}},
    {"v": None}, {"v": [1]}, {"a": 1, "b": 2}, {"$and": []}, {"$and": [{"v": 1}]}, {"$or": {"v": 1}}, {"v": {"$gt": 1, "$lt": 3}}, {1: 2}, "x", [],
    {"v": {"$contains": [1]}}, {"v": {"$eq": None}}, {"v": {}},
]  # fmt: skip
DOCUMENT = [
    {"$contains": "text 1"}, {"$contains": "100%"}, {"$contains": "file_1"}, {"$contains": "Ünï"}, {"$contains": "ünï"}, {"$contains": "nothing"},
    {"$not_contains": "text 1"}, {"$not_contains": "nothing"}, {"$regex": "text [12] "}, {"$regex": "(?i)TEXT 3"}, {"$regex": "^line two 2$"},
    {"$regex": "(?m)^line two 2$"}, {"$regex": "file_1.line"}, {"$regex": "(?s)file_1.line"}, {"$regex": r"\bfile_\d+\b"}, {"$not_regex": "text [12]"},
    {"$and": [{"$contains": "text"}, {"$not_contains": "1"}]}, {"$or": [{"$contains": "file_3"}, {"$regex": "file_[45]"}]},
]  # fmt: skip
REFUSED_DOCUMENT = [
    {}, {"$contains": ""}, {"$contains": 1}, {"$foo": "a"}, {"$and": [{"$contains": "a"}]}, {"$regex": "(?=a)"}, {"$regex": "("}, "x", {"$contains": "a", "$regex": "b"},
]  # fmt: skip

UNIT = [[0.0, 0.0, 1.0]]
CASES = {
    # ---- add
    "add": (add, {}),
    "add one id as a str": (add, {"ids": "n", "embeddings": [0.0, 0.0, 1.0]}),
    "add documents and metadatas": (add, {"documents": ["d"], "metadatas": [{"a": 1}]}),
    "add with a uri": (add, {"uris": ["file:///x"]}),
    "add an id that exists": (add, {"ids": ["a"], "documents": ["other"]}),
    "add float64": (add, {"embeddings": np.array(UNIT)}),
    "add float16": (add, {"embeddings": np.array(UNIT, np.float16)}),
    "add int64": (add, {"embeddings": np.array([[1, 2, 3]])}),
    "add list of arrays": (add, {"embeddings": [np.array([1.0, 2.0, 3.0])]}),
    "add one array": (add, {"embeddings": np.array([1.0, 2.0, 3.0])}),
    "add an empty document": (add, {"documents": [""]}),
    "add a document with NUL": (add, {"documents": ["a\x00b"]}),
    "add a big int": (add, {"metadatas": [{"a": 2**63}]}),
    "add the largest int": (add, {"metadatas": [{"a": 2**63 - 1}]}),
    "add np.float64 metadata": (add, {"metadatas": [{"a": np.float64(1.5)}]}),
    "add array metadata": (add, {"metadatas": [{"a": ["x"], "b": [1], "c": [1.5], "d": [True]}]}),
    "add duplicate ids": (add, {"ids": ["x", "x"], "embeddings": UNIT * 2}),
    "add 12 duplicate ids": (add, {"ids": [str(i) for i in range(12)] * 2, "embeddings": UNIT * 24}),
    "add another dimension": (add, {"embeddings": [[1.0, 2.0]]}),
    "add mixed dimensions": (add, {"ids": ["x", "y"], "embeddings": [[1.0, 2.0], [1.0, 2.0, 3.0]]}),
    "add fewer embeddings": (add, {"ids": ["x", "y"]}),
    "add more documents": (add, {"documents": ["a", "b"]}),
    "add more metadatas": (add, {"metadatas": [{"a": 1}, {"a": 2}]}),
    "add no ids": (add, {"ids": [], "embeddings": []}),
    "add an empty array": (add, {"embeddings": [np.array([])]}),
    "add nothing to embed": (add, {"embeddings": None}),
    "add ids None": (add, {"ids": None}),
    "add an int id": (add, {"ids": [1]}),
    "add an empty id": (add, {"ids": [""]}),
    "add NaN": (add, {"embeddings": [[float("nan"), 0.0, 0.0]]}),
    "add inf": (add, {"embeddings": [[float("inf"), 0.0, 0.0]]}),
    "add what overflows float32": (add, {"embeddings": np.array([[1e39, 0.0, 0.0]])}),
    "add strings as embeddings": (add, {"embeddings": [["a", "b", "c"]]}),
    "add bools as embeddings": (add, {"embeddings": [[True, False, True]]}),
    "add int8": (add, {"embeddings": np.array([[1, 2, 3]], np.int8)}),
    "add 3-d": (add, {"embeddings": np.zeros((1, 2, 3))}),
    "add empty metadata": (add, {"metadatas": [{}]}),
    "add nested metadata": (add, {"metadatas": [{"a": {"b": 1}}]}),
    "add an empty list in metadata": (add, {"metadatas": [{"a": []}]}),
    "add a mixed list in metadata": (add, {"metadatas": [{"a": [1, "b"]}]}),
    "add a nested list in metadata": (add, {"metadatas": [{"a": [[1]]}]}),
    "add None in metadata": (add, {"metadatas": [{"a": None}]}),
    "add an int key": (add, {"metadatas": [{1: "a"}]}),
    "add an empty key": (add, {"metadatas": [{"": "a"}]}),
    "add a # key": (add, {"metadatas": [{"#a": "a"}]}),
    "add a $ key": (add, {"metadatas": [{"$a": "a"}]}),
    "add the reserved key": (add, {"metadatas": [{"chroma:document": "a"}]}),
    "add np.float32 metadata": (add, {"metadatas": [{"a": np.float32(1.5)}]}),
    "add np.int64 metadata": (add, {"metadatas": [{"a": np.int64(1)}]}),
    "add metadata that is no dict": (add, {"metadatas": ["a"]}),
    "add an int document": (add, {"documents": [1]}),
    "add a surrogate": (add, {"documents": ["\ud800"]}),
    # ---- get
    "get all": (get, {}),
    "get every column": (get, {"include": ["documents", "embeddings", "metadatas", "uris"]}),
    "get nothing but ids": (get, {"include": []}),
    "get by ids in another order": (get, {"ids": ["c", "a"]}),
    "get by one id": (get, {"ids": "b"}),
    "get unknown ids": (get, {"ids": ["zz"], "include": ["embeddings", "documents"]}),
    "get limit 0": (get, {"limit": 0}),
    "get limit and offset": (get, {"limit": 2, "offset": 1}),
    "get offset past the end": (get, {"offset": 10, "include": ["embeddings"]}),
    "get ids and where": (get, {"ids": ["a", "b"], "where": {"k": 2}}),
    "get where and where_document": (get, {"where": {"k": {"$gt": 0}}, "where_document": {"$contains": "apple"}}),
    "get where on #document": (get, {"where": {"#document": {"$contains": "apple"}}}),
    "get ids []": (get, {"ids": []}),
    "get duplicate ids": (get, {"ids": ["a", "a"]}),
    "get a negative limit": (get, {"limit": -1}),
    "get a negative offset": (get, {"offset": -1}),
    "get a float limit": (get, {"limit": 1.5}),
    "get include unknown": (get, {"include": ["nope"]}),
    "get include distances": (get, {"include": ["distances"]}),
    "get include str": (get, {"include": "documents"}),
    "get include data": (get, {"include": ["data"]}),
    "get empty collection": (lambda client, name: client.create_collection(name, embedding_function=None).get(include=["embeddings", "metadatas"]), {}),
    "peek": (lambda client, name: filled(client, name).peek(2), {}),
    # ---- query
    "query": (query, {}),
    "query every column": (query, {"include": ["documents", "embeddings", "metadatas", "distances", "uris"]}),
    "query nothing but ids": (query, {"include": []}),
    "query one flat vector": (query, {"query_embeddings": [1.0, 2.0, 3.0]}),
    "query two vectors": (query, {"query_embeddings": [[1.0, 2.0, 3.0], [7.0, 8.0, 9.5]], "n_results": 2}),
    "query more than there are": (query, {"n_results": 2**31}),
    "query among ids": (query, {"ids": ["b", "c"]}),
    "query among one id": (query, {"ids": "b"}),
    "query among no ids": (query, {"ids": []}),
    "query where": (query, {"where": {"k": {"$gte": 1}}}),
    "query where nothing matches": (query, {"where": {"k": 77}, "include": ["embeddings", "documents", "distances"]}),
    "query where_document": (query, {"where_document": {"$contains": "pears"}}),
    "query nothing": (query, {"query_embeddings": None}),
    "query no embeddings": (query, {"query_embeddings": []}),
    "query no texts": (query, {"query_embeddings": None, "query_texts": []}),
    "query texts and uris": (query, {"query_embeddings": None, "query_texts": ["a"], "query_uris": ["b"]}),
    "query another dimension": (query, {"query_embeddings": [[1.0, 2.0]]}),
    "query mixed dimensions": (query, {"query_embeddings": [[1.0, 2.0], [1.0, 2.0, 3.0]]}),
    "query n_results 0": (query, {"n_results": 0}),
    "query n_results -1": (query, {"n_results": -1}),
    "query n_results 1.5": (query, {"n_results": 1.5}),
    "query include unknown": (query, {"include": ["bad"]}),
    "query an empty collection": (lambda client, name: client.create_collection(name, embedding_function=None).query(query_embeddings=[[1.0]]), {}),
    # ---- update and upsert
    "update nothing": (update, {}),
    "update an unknown id": (update, {"ids": ["zz"], "embeddings": [[1.0, 1.0, 1.0]]}),
    "update an embedding": (update, {"embeddings": [[1.0, 1.0, 1.0]]}),
    "update merges metadata": (update, {"metadatas": [{"new": 5}]}),
    "update removes a key": (update, {"metadatas": [{"k": None}]}),
    "update removes all keys": (update, {"metadatas": [{"k": None, "s": None, "f": None, "t": None, "l": None}]}),
    "update metadata None": (update, {"metadatas": [None]}),
    "update changes a type": (update, {"metadatas": [{"k": "str now"}]}),
    "update a uri": (update, {"uris": ["file:///y"]}),
    "update document and embedding": (update, {"documents": ["new"], "embeddings": [[1.0, 1.0, 1.0]]}),
    "update empty metadata": (update, {"metadatas": [{}]}),
    "update another dimension": (update, {"embeddings": [[1.0]]}),
    "update duplicate ids": (update, {"ids": ["a", "a"], "metadatas": [{"a": 1}] * 2}),
    "upsert": (upsert, {"metadatas": [{"q": 1}, {"q": 2}]}),
    "upsert documents": (upsert, {"documents": ["x", None]}),
    "upsert nothing to embed": (upsert, {"embeddings": None, "metadatas": [{"a": 1}] * 2}),
    "upsert another dimension": (upsert, {"embeddings": [[1.0], [2.0]]}),
    "upsert duplicate ids": (upsert, {"ids": ["a", "a"]}),
    # ---- delete
    "delete ids": (delete, {"ids": ["a", "b"]}),
    "delete an unknown id": (delete, {"ids": ["zz"]}),
    "delete where": (delete, {"where": {"k": {"$gt": 0}}}),
    "delete where_document": (delete, {"where_document": {"$contains": "apple"}}),
    "delete where with a limit": (delete, {"where": {"k": {"$gt": 0}}, "limit": 1}),
    "delete ids and where": (delete, {"ids": ["a"], "where": {"k": 77}}),
    "delete limit 0": (delete, {"where": {"k": 1}, "limit": 0}),
    "delete nothing": (delete, {}),
    "delete no ids": (delete, {"ids": []}),
    "delete ids with a limit": (delete, {"ids": ["a"], "limit": 1}),
    "delete limit alone": (delete, {"limit": 1}),
    "delete a negative limit": (delete, {"where": {"k": 1}, "limit": -1}),
    "delete where {}": (delete, {"where": {}}),
    # ---- collections
    "create": (create, {}),
    "create with metadata": (create, {"metadata": {"a": 1, "b": 1.5, "c": True, "d": "x"}}),
    "create with a space": (create, {"configuration": {"hnsw": {"space": "cosine"}}}),
    "create with a legacy space": (create, {"metadata": {"hnsw:space": "ip", "hnsw:M": 8}}),
    "create with both spaces": (create, {"metadata": {"hnsw:space": "cosine"}, "configuration": {"hnsw": {"space": "ip"}}}),
    "create with ef 0": (create, {"configuration": {"hnsw": {"ef_construction": 0}}}),
    "create with spann": (create, {"configuration": {"spann": {"space": "cosine"}}}),
    "create with hnsw and spann": (create, {"configuration": {"hnsw": {}, "spann": {}}}),
    "create with an unknown space": (create, {"configuration": {"hnsw": {"space": "foo"}}}),
    "create with an unknown legacy space": (create, {"metadata": {"hnsw:space": "foo"}}),
    "create with an unknown legacy key": (create, {"metadata": {"hnsw:foo": 1}}),
    "create with empty metadata": (create, {"metadata": {}}),
    "create with nested metadata": (create, {"metadata": {"a": {"b": 1}}}),
    "create with None in metadata": (create, {"metadata": {"a": None}}),
    "create with a # key": (create, {"metadata": {"#a": 1}}),
    **{f"create {each!r}": (create, {"name": each}) for each in ("", "ab", "_abc", "abc_", "a b c", "a..b", "127.0.0.1", "abc$d", "ünï", 123, "a" * 513)},
    "create 512 characters": (create, {"name": "a" * 512}),
    "create twice": (lambda client, name: (filled(client, name), filled(client, name)), {}),
    "get or create keeps the old metadata": (
        lambda client, name: (
            client.create_collection(name, metadata={"a": 1}, embedding_function=None),
            client.get_or_create_collection(name, metadata={"a": 2}, embedding_function=None).metadata,
        )[1],
        {},
    ),
    "get an unknown collection": (lambda client, name: client.get_collection("nope"), {}),
    "delete an unknown collection": (lambda client, name: client.delete_collection("nope"), {}),
    "modify the name": (modify, {"name": "another-name"}),
    "modify the metadata": (modify, {"metadata": {"b": 2}}),
    "modify ef_search": (modify, {"configuration": {"hnsw": {"ef_search": 55}}}),
    "modify to a bad name": (modify, {"name": "a"}),
    "modify to empty metadata": (modify, {"metadata": {}}),
    "modify the space by metadata": (modify, {"metadata": {"hnsw:space": "ip"}}),
    "modify the space": (modify, {"configuration": {"hnsw": {"space": "ip"}}}),
    **{f"{method} on a deleted collection": (on_deleted, {"method": method, **given}) for method, given in {
        "count": {}, "get": {}, "peek": {}, "add": {"ids": ["x"], "embeddings": UNIT}, "update": {"ids": ["a"], "embeddings": UNIT},
        "upsert": {"ids": ["a"], "embeddings": UNIT}, "delete": {"ids": ["a"]}, "query": {"query_embeddings": UNIT}, "modify": {"name": "other-name"},
    }.items()},
    "order": (replaced, {}),
    **{f"distance {each} through {through}": (space, {"space": each, "through": through}) for each in ("l2", "ip", "cosine") for through in ("metadata", "configuration")},
    # ---- client
    "count_collections": (lambda client, name: (filled(client, name), client.count_collections())[1], {}),
    "list_collections": (lambda client, name: (filled(client, name), sorted(each.name for each in client.list_collections()))[1], {}),
    "list_collections limit 0": (lambda client, name: (filled(client, name), len(client.list_collections(limit=0)))[1], {}),
    "heartbeat": (lambda client, name: type(client.heartbeat()).__name__, {}),
    "identity": (lambda client, name: client.get_user_identity().databases, {}),
    "set_tenant unknown": (lambda client, name: client.set_tenant("notenant"), {}),
    "set_database unknown": (lambda client, name: client.set_database("nodb"), {}),
    # ---- filters
    **{f"where {each}": (many, {"where": each}) for each in WHERE},
    **{f"where refused {each}": (many, {"where": each}) for each in REFUSED_WHERE},
    **{f"document {each}": (many, {"where_document": each}) for each in DOCUMENT},
    **{f"document refused {each}": (many, {"where_document": each}) for each in REFUSED_DOCUMENT},
}  # fmt: skip

CASES |= schema_cases.CASES | client_cases.CASES
