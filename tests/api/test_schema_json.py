"""Schema against Chroma's own: the same calls give the same JSON or the same refusal, and JSON comes back as it was."""

from __future__ import annotations

import copy
import random
import warnings

import pytest

from chroma_gpu.api import types as ours
from chroma_gpu.api.collection_configuration import created
from chroma_gpu.api.search.conditions import Key
from chroma_gpu.errors import InvalidArgumentError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from chromadb.api import types as theirs
    from chromadb.execution.expression.operator import Key as TheirKey

KEYS = (None, "a", "b", "#document", "#embedding", "#other")
INVERTED = ("String", "Int", "Float", "Bool")


def functions(types):
    """An embedding function and a sparse one in the classes of one side."""

    class Dense(types.EmbeddingFunction):
        def __init__(self, model="m"):
            self.model = model

        def __call__(self, input):
            return [[1.0, 2.0] for _ in input]

        @staticmethod
        def name():
            return "dense_of_test_schema_json"

        def get_config(self):
            return {"model": self.model}

        @staticmethod
        def build_from_config(config):
            return Dense(config["model"])

        def default_space(self):
            return "cosine"

        def supported_spaces(self):
            return ["cosine"]

    class Sparse(types.SparseEmbeddingFunction):
        def __init__(self, label="s"):
            self.label = label

        def __call__(self, input):
            return [types.SparseVector(indices=[1], values=[1.0]) for _ in input]

        @staticmethod
        def name():
            return "sparse_of_test_schema_json"

        def get_config(self):
            return {"label": self.label}

        @staticmethod
        def build_from_config(config):
            return Sparse(config["label"])

    return Dense, Sparse


SIDES = {
    "ours": (ours, Key, *functions(ours)),
    "theirs": (theirs, TheirKey, *functions(theirs)),
}


def config(rng, side):
    """A config, the same on both sides for the same numbers."""
    types, _, dense, sparse = SIDES[side]
    kind = rng.choice([*INVERTED, "Fts", "Vector", "Vector", "Sparse", "Sparse", None])
    if kind is None:
        return None
    if kind in INVERTED:
        return getattr(types, f"{kind}InvertedIndexConfig")()
    if kind == "Fts":
        return types.FtsIndexConfig()
    if kind == "Sparse":
        with_function, source = rng.random() < 0.7, rng.choice([None, "#document", "text"])
        return types.SparseVectorIndexConfig(
            embedding_function=sparse(rng.choice("xy")) if with_function else None,
            source_key=source,
            bm25=rng.choice([None, True, False]),
        )
    given = {
        "space": rng.choice([None, "l2", "cosine", "ip"]),
        "hnsw": rng.choice([None, {"ef_search": 5, "resize_factor": 2}]),
        "spann": rng.choice([None, {"search_nprobe": 3, "quantize": 1}]),
    }
    chosen = rng.choice(["default", "none", "own"])
    if chosen != "default":
        given["embedding_function"] = None if chosen == "none" else dense(rng.choice("mn"))
    return types.VectorIndexConfig(**given)


def history(seed, side):
    """What a random series of calls raises, and the JSON that it ends with, alone and after a way through JSON."""
    rng = random.Random(seed)
    types, key_type, *_ = SIDES[side]
    schema, refusals = types.Schema(), []
    for _ in range(rng.randint(1, 12)):
        verb, given, key = rng.choice(["create_index", "delete_index"]), config(rng, side), rng.choice(KEYS)
        if key is not None and rng.random() < 0.3:
            key = key_type(key)
        try:
            assert getattr(schema, verb)(given, key) is schema
        except ValueError as error:
            refusals.append(str(error).partition(" Config:")[0])
    if rng.random() < 0.2:
        schema.set_cmek(types.Cmek.gcp("projects/p"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        written = schema.serialize_to_json()
        return refusals, written, types.Schema.deserialize_from_json(written).serialize_to_json()


@pytest.mark.parametrize("seed", range(150))
def test_the_same_calls_give_the_same_schema(seed):
    assert history(seed, "ours") == history(seed, "theirs")


def test_known_functions_come_back(monkeypatch):
    _, _, dense, sparse = SIDES["ours"]
    from chroma_gpu.embed import known_embedding_functions, sparse_known_embedding_functions

    known_embedding_functions["dense_of_test_schema_json"] = dense
    sparse_known_embedding_functions["sparse_of_test_schema_json"] = sparse
    schema = ours.Schema().create_index(ours.VectorIndexConfig(embedding_function=dense("z"), space="cosine"))
    schema.create_index(ours.SparseVectorIndexConfig(embedding_function=sparse("w"), source_key=Key.DOCUMENT), "s")
    back = ours.Schema.deserialize_from_json(schema.serialize_to_json())
    assert back.serialize_to_json() == schema.serialize_to_json()
    assert back.keys["#embedding"].float_list.vector_index.config.embedding_function.model == "z"
    assert back.keys["s"].sparse_vector.sparse_vector_index.config.embedding_function.label == "w"
    del known_embedding_functions["dense_of_test_schema_json"]
    del sparse_known_embedding_functions["sparse_of_test_schema_json"]
    with pytest.warns(UserWarning, match="Could not reconstruct"):
        lost = ours.Schema.deserialize_from_json(schema.serialize_to_json())
    assert lost.keys["#embedding"].float_list.vector_index.config.embedding_function is None


def test_a_space_that_the_function_does_not_support_is_warned_of():
    _, _, dense, _ = SIDES["ours"]
    schema = ours.Schema().create_index(ours.VectorIndexConfig(embedding_function=dense(), space="l2"))
    with pytest.warns(UserWarning, match="space l2 is not supported by dense_of_test_schema_json"):
        schema.serialize_to_json()


def test_schemas_are_equal_by_value():
    assert ours.Schema() == ours.Schema()
    assert ours.Schema().delete_index(ours.IntInvertedIndexConfig(), "a") != ours.Schema()


CONFIGS = (
    "FtsIndexConfig()",
    "HnswIndexConfig(ef_search='5')",
    "HnswIndexConfig(ef_search=5.0, num_threads=True)",
    "HnswIndexConfig(ef_search=5.5)",
    "HnswIndexConfig(ef_search='x')",
    "HnswIndexConfig(ef_search=float('nan'))",
    "HnswIndexConfig(resize_factor=2)",
    "HnswIndexConfig(unknown=1)",
    "HnswIndexConfig(a=1, b=2)",
    "SpannIndexConfig(search_nprobe=3, nreplica_count=8, quantize=1)",
    "SpannIndexConfig(num_threads=3)",
    "VectorIndexConfig(space='foo')",
    "VectorIndexConfig(space='ip', embedding_function=None)",
    "VectorIndexConfig(hnsw={'ef_search': 3}, embedding_function=None)",
    "VectorIndexConfig(hnsw={'foo': 3})",
    "VectorIndexConfig(hnsw=3)",
    "VectorIndexConfig(embedding_function=3)",
    "VectorIndexConfig(embedding_function=lambda x: 1)",
    "VectorIndexConfig(source_key=5)",
    "VectorIndexConfig(source_key='#embedding')",
    "SparseVectorIndexConfig(bm25=True, algorithm='x', source_key='#document')",
    "SparseVectorIndexConfig(bm25=3)",
    "SparseVectorIndexConfig(embedding_function=lambda x: 1)",
    "SparseVectorIndexConfig(key='a')",
    "HnswIndexConfig(5)",
    "Cmek.from_dict({'gcp': 3})",
    "Cmek.from_dict({'aws': 'x'})",
)


@pytest.mark.parametrize("text", CONFIGS)
def test_configs_take_and_refuse_the_same(text):
    def outcome(types):
        try:
            return eval(f"types.{text}", {"types": types, "float": float}).model_dump()
        except (ValueError, TypeError) as error:
            return TypeError if isinstance(error, TypeError) else ValueError

    assert outcome(ours) == outcome(theirs)


def test_a_refused_field_is_named():
    with pytest.raises(ValueError, match=r"'ef' is not a valid field for HnswIndexConfig.*ef_construction, max_neighbors"):
        ours.HnswIndexConfig(ef=3)
    with pytest.raises(ValueError, match="ef_search should be a valid integer, got 'x'"):
        ours.HnswIndexConfig(ef_search="x")


def test_what_is_no_config_is_refused():
    with pytest.raises(ValueError, match="Expected the config of an index"):
        ours.Schema().create_index("string")


def places(data, before=()):
    """Where the objects and flags of a schema's JSON are."""
    for name, value in data.items():
        if isinstance(value, dict) or name == "enabled":
            yield *before, name
        if isinstance(value, dict):
            yield from places(value, (*before, name))


@pytest.mark.parametrize("value", [5, "x", [], [{}], True, {1: {}}], ids=repr)
def test_json_that_is_no_schema_is_refused(value):
    sparse = ours.Schema().create_index(ours.SparseVectorIndexConfig(), "s").serialize_to_json()
    for place in places(sparse):
        if "config" in place[:-1] and place[-1] != "embedding_function":
            continue
        data = copy.deepcopy(sparse)
        at = data
        for name in place[:-1]:
            at = at[name]
        at[place[-1]] = value
        if place[-1] == "enabled" and value is True:
            continue
        with pytest.raises(ValueError, match="should be a"):
            ours.Schema.deserialize_from_json(data)
    with pytest.raises(ValueError, match="should be a"):
        ours.Schema.deserialize_from_json(value)


def test_numbers_that_cannot_be_kept_are_refused():
    for value in (2**63, 10**400):
        with pytest.raises(ValueError, match="ef_search should be a valid integer"):
            ours.HnswIndexConfig(ef_search=value)
        with pytest.raises(ValueError, match="resize_factor should be a valid number"):
            ours.HnswIndexConfig(resize_factor=value)
        with pytest.raises(InvalidArgumentError, match="ef_search must be a number"):
            created({"hnsw": {"ef_search": value}}, None, None)
