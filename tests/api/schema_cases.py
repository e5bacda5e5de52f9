"""Calls with ``schema=`` that this package and Chroma's local engine must answer alike; see ``congruence_cases``."""

from __future__ import annotations

import sys


def types_of(client):
    """Chroma's own classes for Chroma's client, ours for ours."""
    return sys.modules[f"{type(client).__module__.split('.')[0]}.api.types"]


def function_of(client, dim=4):
    types = types_of(client)

    class Length(types.EmbeddingFunction):
        def __init__(self, dim):
            self.dim = dim

        def __call__(self, input):
            return [[float(len(text))] * self.dim for text in input]

        @staticmethod
        def name():
            return "length_of_schema_cases"

        def get_config(self):
            return {"dim": self.dim}

        @staticmethod
        def build_from_config(config):
            return Length(config["dim"])

        def default_space(self):
            return "cosine"

    return Length(dim)


def shown(collection):
    return collection.configuration_json, collection.schema.serialize_to_json()


def create(client, name, build=lambda types, client: types.Schema(), function=False, **given):
    """The configuration and the schema of a new collection."""
    if function:
        given["embedding_function"] = function_of(client)
    schema = build(types_of(client), client) if build else None
    client.create_collection(name, schema=schema, **given)
    return shown(client.get_collection(name))


def of_types(name, **types):
    """A schema that has these types under a key, however little sense that makes."""

    def build(kinds, client):
        schema = kinds.Schema()
        made = kinds.ValueTypes()
        for value, (value_type, index, index_type, config) in types.items():
            kind = getattr(kinds, value_type)
            setattr(made, value, kind(**{index: getattr(kinds, index_type)(True, getattr(kinds, config)())}))
        schema.keys[name] = made
        return schema

    return build


def discovered(client, name, build=lambda types, client: types.Schema()):
    collection = client.create_collection(name, schema=build(types_of(client), client))
    collection.add(
        ids=["1", "2"],
        embeddings=[[1.0, 2.0], [3.0, 4.0]],
        uris=["u", None],
        metadatas=[
            {"s": "a", "i": 1, "f": 1.5, "b": True, "ls": ["a"], "li": [1], "lf": [1.5], "lb": [True]},
            {"s": 4, "k": "x"},
        ],
    )
    return client.get_collection(name).schema.serialize_to_json()


def filtered(client, name, build, method="get", **given):
    collection = client.create_collection(name, schema=build(types_of(client), client))
    collection.add(ids=["1"], embeddings=[[1.0, 2.0]], documents=["abc"], metadatas=[{"s": "x", "q": 1}])
    found = getattr(collection, method)(**given)
    return found["ids"] if method != "delete" else found


def modified(client, name, build=None, **change):
    schema = None if build is None else build(types_of(client), client)
    collection = client.create_collection(name, schema=schema)
    if change.pop("function", False):
        change["embedding_function"] = function_of(client, 7)
    collection.modify(configuration=change)
    return shown(client.get_collection(name))


def without(config, *key):
    return lambda types, client: types.Schema().delete_index(getattr(types, config)(), *key)


def vector(**fields):
    return lambda types, client: types.Schema().create_index(types.VectorIndexConfig(**fields))


def with_string(types, client):
    return types.Schema().create_index(types.StringInvertedIndexConfig(), "a")


STRING, INT, FLOAT = "StringInvertedIndexConfig", "IntInvertedIndexConfig", "FloatInvertedIndexConfig"
STRINGS = ("StringValueType", "string_inverted_index", "StringInvertedIndexType", STRING)
INTS = ("IntValueType", "int_inverted_index", "IntInvertedIndexType", INT)
FTS = ("StringValueType", "fts_index", "FtsIndexType", "FtsIndexConfig")
VECTORS = ("FloatListValueType", "vector_index", "VectorIndexType", "VectorIndexConfig")

CASES = {
    "schema: none": (create, {"build": None}),
    "schema: default": (create, {}),
    "schema: default, no function": (create, {"embedding_function": None}),
    "schema: default, function": (create, {"function": True}),
    "schema: default, configuration": (create, {"configuration": {"hnsw": {"space": "ip"}}}),
    "schema: default, metadata": (create, {"metadata": {"hnsw:space": "ip"}}),
    "schema: string index": (create, {"build": with_string}),
    "schema: string index, function": (create, {"build": with_string, "function": True}),
    "schema: string index, default configuration": (create, {"build": with_string, "configuration": {"hnsw": {"space": "l2"}}}),
    "schema: string index, configuration": (create, {"build": with_string, "configuration": {"hnsw": {"space": "ip"}}}),
    "schema: string index, metadata": (create, {"build": with_string, "metadata": {"hnsw:M": 7}}),
    "schema: string index, legacy function": (
        create, {"build": with_string, "configuration": {"hnsw": {"space": "l2"}}, "embedding_function": None},
    ),
    "schema: space": (create, {"build": vector(space="ip")}),
    "schema: default space, metadata": (create, {"build": vector(space="l2"), "metadata": {"hnsw:space": "ip"}}),
    "schema: no function": (create, {"build": vector(embedding_function=None)}),
    "schema: hnsw": (create, {"build": vector(space="ip", hnsw={"ef_search": 7, "num_threads": 3, "batch_size": 9})}),
    "schema: hnsw of zeros": (create, {"build": vector(hnsw={"ef_search": 0, "max_neighbors": 0, "num_threads": 0})}),
    "schema: hnsw below its range": (create, {"build": vector(hnsw={"sync_threshold": 1})}),
    "schema: hnsw and spann": (create, {"build": vector(hnsw={"ef_search": 7}, spann={"ef_search": 7})}),
    "schema: own function": (
        create,
        {"build": lambda types, client: types.Schema().create_index(
            types.VectorIndexConfig(embedding_function=function_of(client, 6)))},
    ),
    "schema: own function and another": (
        create,
        {"build": lambda types, client: types.Schema().create_index(
            types.VectorIndexConfig(embedding_function=function_of(client, 6))), "function": True},
    ),
    "schema: reserved key": (create, {"build": of_types("#x", string=STRINGS)}),
    "schema: vectors under a key": (create, {"build": of_types("a", float_list=VECTORS)}),
    "schema: full text under a key": (create, {"build": of_types("a", string=FTS)}),
    "schema: string index of documents": (create, {"build": of_types("#document", string=STRINGS)}),
    "schema: ints of documents": (create, {"build": of_types("#document", int_value=INTS)}),
    "schema: strings of embeddings": (create, {"build": of_types("#embedding", string=STRINGS)}),
    "schema: cmek": (
        create,
        {"build": lambda types, client: types.Schema().set_cmek(
            types.Cmek.gcp("projects/a/locations/b/keyRings/c/cryptoKeys/d"))},
    ),
    "schema: bad cmek": (create, {"build": lambda types, client: types.Schema().set_cmek(types.Cmek.gcp("x"))}),
    "schema: from little": (
        create,
        {"build": lambda types, client: types.Schema.deserialize_from_json(
            {"keys": {"b": {"int": {"int_inverted_index": {"enabled": False, "config": {}}}}}})},
    ),
    "schema: is none": (create, {"build": lambda types, client: types.Schema.deserialize_from_json({})}),
    "schema: discovery": (discovered, {}),
    "schema: discovery beside own keys": (discovered, {"build": without(STRING, "s")}),
    "schema: discovery of what is off": (discovered, {"build": without(INT)}),
    "schema: modify": (modified, {"hnsw": {"ef_search": 33, "num_threads": 5}}),
    "schema: modify beside own keys": (modified, {"build": with_string, "hnsw": {"ef_search": 33, "max_neighbors": 9}}),
    "schema: modify spann of hnsw": (modified, {"spann": {"search_nprobe": 3}}),
    "schema: modify unknown": (modified, {"spann": {"bogus": 3}}),
    "schema: modify to another function": (modified, {"function": True}),
    **{
        f"schema: {config} {key} off, where {where}": (filtered, {"build": without(config, *key), "where": where})
        for config in (STRING, INT, FLOAT, "BoolInvertedIndexConfig")
        for key in ((), ("s",))
        for where in (
            {"s": "x"}, {"s": 1}, {"s": 2.5}, {"s": True}, {"s": {"$in": ["x"]}}, {"s": {"$nin": [1]}}, {"s": {"$contains": "x"}},
            {"$or": [{"q": 1}, {"s": "x"}]}, {"#document": {"$contains": "b"}},
        )
    },
    **{
        f"schema: full text off, {method} {sorted(given)} {given.get('where_document', given.get('where'))}": (
            filtered, {"build": without("FtsIndexConfig", "#document"), "method": method, **given},
        )
        for method, given in (
            ("get", {"where_document": {"$contains": "b"}}),
            ("get", {"where_document": {"$or": [{"$regex": "b"}, {"$contains": "c"}]}}),
            ("get", {"where": {"#document": {"$contains": "b"}}}),
            ("get", {"where": {"s": "x"}}),
            ("query", {"query_embeddings": [[1.0, 2.0]], "where_document": {"$not_contains": "b"}}),
            ("delete", {"where_document": {"$contains": "b"}}),
        )
    },
    "schema: query by what is off": (
        filtered, {"build": without(STRING), "method": "query", "query_embeddings": [[1.0, 2.0]], "where": {"s": "x"}},
    ),
    "schema: delete by what is off": (filtered, {"build": without(STRING), "method": "delete", "where": {"s": "x"}}),
}  # fmt: skip
