"""What a new collection keeps of schema, configuration and metadata: random ones against Chroma's local engine, and each kind of index."""

from __future__ import annotations

import random
import warnings

import pytest
from api.schema_cases import function_of, shown, types_of

from chroma_gpu import PersistentClient, Settings
from chroma_gpu.api.types import HnswIndexConfig, Schema, SpannIndexConfig, StringInvertedIndexConfig, VectorIndexConfig
from chroma_gpu.errors import InvalidArgumentError


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Our client, told to turn every index into hnsw as Chroma's local engine does, and Chroma's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import chromadb
        from chromadb.config import Settings as TheirSettings
    ours = PersistentClient(tmp_path_factory.mktemp("random"), Settings(vector_index="hnsw"))
    yield ours, chromadb.EphemeralClient(TheirSettings(anonymized_telemetry=False))
    ours.close()


def arguments(seed, client):
    """Random arguments of create_collection, the same for the same seed."""
    rng, types = random.Random(seed), types_of(client)
    given = {}

    def some(kind):
        fields = {
            "hnsw": {"ef_search": 100, "ef_construction": 50, "max_neighbors": 20, "num_threads": 3, "sync_threshold": 1000},
            "spann": {"search_nprobe": 10, "ef_search": 50},
        }[kind]
        return {name: value for name, value in fields.items() if rng.random() < 0.4}

    if rng.random() < 0.5:
        schema = types.Schema()
        for _ in range(rng.randint(0, 3)):
            verb, name, key = (
                rng.choice(["create_index", "delete_index"]),
                rng.choice(["String", "Int", "Bool"]),
                rng.choice("ab"),
            )
            config = getattr(types, f"{name}InvertedIndexConfig")()
            getattr(schema, verb)(config, rng.choice([None, key]))
        if rng.random() < 0.5:
            fields = {"space": rng.choice([None, "l2", "ip"])}
            kind = rng.choice([None, "hnsw", "spann"])
            if kind:
                fields[kind] = some(kind)
            if rng.random() < 0.5:
                fields["embedding_function"] = rng.choice([None, function_of(client, 6)])
            schema.create_index(types.VectorIndexConfig(**fields))
        given["schema"] = schema
    if rng.random() < 0.4:
        kind = rng.choice(["hnsw", "spann"])
        space = rng.choice([None, "l2", "cosine"])
        given["configuration"] = {kind: {**some(kind), **({"space": space} if space else {})}}
    if rng.random() < 0.4:
        given["metadata"] = rng.choice([{"hnsw:space": "ip"}, {"hnsw:M": 7}, {"hnsw:space": "l2", "hnsw:search_ef": 9}, {"x": 1}])
    function = rng.choice(["default", "default", None, "own"])
    if function != "default":
        given["embedding_function"] = None if function is None else function_of(client, 4)
    return given


@pytest.mark.parametrize("seed", range(200))
def test_the_same_arguments_make_the_same_collection(seed, pair):
    def outcome(client):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                client.create_collection(f"random-{seed}", **arguments(seed, client))
                return shown(client.get_collection(f"random-{seed}"))
            except Exception as error:
                return type(error).__name__, str(error).split("\n")[0].partition(" Put the distance")[0]

    ours, theirs = map(outcome, pair)
    assert ours == theirs


SPANN = {
    "space": "l2", "search_nprobe": 64, "write_nprobe": 32, "ef_construction": 200, "ef_search": 200, "max_neighbors": 64,
    "reassign_neighbor_count": 64, "split_threshold": 50, "merge_threshold": 25,
}  # fmt: skip


@pytest.fixture(params=["given", "hnsw", "spann"])
def kind_client(request, tmp_path):
    client = PersistentClient(tmp_path, Settings(vector_index=request.param))
    yield request.param, client
    client.close()


def spann_by_configuration(client):
    return client.create_collection(
        "by-configuration", configuration={"spann": {"space": "ip", "ef_search": 20, "max_neighbors": 8}}
    )


def spann_by_schema(client):
    config = VectorIndexConfig(space="ip", spann=SpannIndexConfig(ef_search=20, max_neighbors=8))
    return client.create_collection("by-schema", schema=Schema().create_index(config))


@pytest.mark.parametrize("made", [spann_by_configuration, spann_by_schema])
def test_a_spann_configuration_is_kept_or_becomes_hnsw(kind_client, made):
    kind, client = kind_client
    collection = made(client)
    configuration = collection.configuration_json
    inside = collection.schema.keys["#embedding"].float_list.vector_index.config
    if kind == "hnsw":
        assert configuration["spann"] is None
        assert (configuration["hnsw"]["space"], configuration["hnsw"]["ef_search"]) == ("ip", 100)
        assert (inside.space, inside.hnsw.ef_search, inside.spann) == ("ip", 100, None)
    else:
        assert configuration["hnsw"] is None
        assert configuration["spann"] == {**SPANN, "space": "ip", "ef_search": 20, "max_neighbors": 8}
        assert (inside.space, inside.hnsw, inside.spann.ef_search, inside.spann.write_nprobe) == ("ip", None, 20, 32)
    assert collection.describe()["distance"] == "ip"


def test_an_hnsw_configuration_is_kept_or_becomes_spann(kind_client):
    kind, client = kind_client
    collection = client.create_collection("hnsw", configuration={"hnsw": {"space": "ip", "ef_search": 20}})
    if kind == "spann":
        assert collection.configuration_json["spann"] == {**SPANN, "space": "ip"}
    else:
        assert collection.configuration_json["hnsw"]["ef_search"] == 20
    assert (client.create_collection("none").configuration_json["spann"] is None) == (kind != "spann")


def test_the_graph_takes_what_was_chosen(client):
    collection = spann_by_schema(client)
    assert collection._entry.params == {"M": 8, "ef_search": 20}


def test_modify_keeps_the_schema_in_step(client):
    collection = spann_by_schema(client)
    collection.modify(configuration={"spann": {"search_nprobe": 3}})
    for each in (collection, client.get_collection("by-schema")):
        assert each.configuration["spann"]["search_nprobe"] == 3
        assert each.schema.defaults.float_list.vector_index.config.spann.search_nprobe == 3
        assert each.schema.keys["#embedding"].float_list.vector_index.config.spann.ef_search == 20
    with pytest.raises(ValueError, match="Trying to update HNSW config but schema has SPANN"):
        collection.modify(configuration={"hnsw": {"ef_search": 3}})


def test_fields_that_only_the_schema_shows(client):
    collection = client.create_collection("threads", configuration={"hnsw": {"num_threads": 3, "batch_size": 9}})
    assert not {"num_threads", "batch_size"} & collection.configuration_json["hnsw"].keys()
    config = collection.schema.keys["#embedding"].float_list.vector_index.config
    assert (config.hnsw.num_threads, config.hnsw.batch_size) == (3, 9)


def test_a_schema_and_a_configuration_that_both_say_something_are_refused(client):
    schema = Schema().create_index(StringInvertedIndexConfig(), "a")
    with pytest.raises(InvalidArgumentError, match="Cannot set both collection config and schema simultaneously"):
        client.create_collection("both", schema=schema, configuration={"hnsw": {"space": "ip"}})
    assert client.count_collections() == 0
    with pytest.raises(ValueError, match="Expected schema to be a Schema, got dict"):
        client.create_collection("dict", schema={"keys": {}})


def test_get_or_create_leaves_the_schema_as_it_is(client):
    client.create_collection("kept", schema=Schema().create_index(StringInvertedIndexConfig(), "a"))
    again = client.get_or_create_collection("kept", schema=Schema().create_index(StringInvertedIndexConfig(), "b"))
    assert set(again.schema.keys) == {"#document", "#embedding", "a"}


def test_a_schema_survives_reopening_renaming_and_compaction(tmp_path):
    config = VectorIndexConfig(space="ip", hnsw=HnswIndexConfig(ef_search=7))
    schema = Schema().create_index(config).delete_index(StringInvertedIndexConfig(), "s")
    with PersistentClient(tmp_path) as client:
        collection = client.create_collection("kept", schema=schema)
        collection.add(ids=["a"], embeddings=[[1.0, 2.0]], metadatas=[{"s": "x", "i": 1}])
        before = collection.schema.serialize_to_json()
        collection.modify(name="renamed", metadata={"a": 1})
        collection.compact()
    with PersistentClient(tmp_path) as client:
        collection = client.get_collection("renamed")
        assert collection.schema.serialize_to_json() == before
        assert before["keys"]["i"] == {"int": {"int_inverted_index": {"enabled": True, "config": {}}}}
        with pytest.raises(InvalidArgumentError, match="indexing is disabled"):
            collection.get(where={"s": "x"})
