"""The protocol that users subclass, and the table of known functions."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from chroma_gpu.embed import (
    EmbeddingFunction,
    SparseEmbeddingFunction,
    config_to_embedding_function,
    known_embedding_functions,
    register_embedding_function,
    register_sparse_embedding_function,
    sparse_known_embedding_functions,
    validate_embedding_function,
    validate_sparse_embedding_function,
)
from chroma_gpu.embed.sparse import sorted_vector
from chroma_gpu.errors import MissingDependency
from chroma_gpu.records import SparseVector
from chroma_gpu.utils import embedding_functions as names


class Returns(EmbeddingFunction):
    """Returns what it was made with."""

    def __init__(self, result: Any = None) -> None:
        self.result = result

    def __call__(self, input):
        return self.result

    @staticmethod
    def name():
        return "returns"

    def get_config(self):
        return {"result": self.result}

    @staticmethod
    def build_from_config(config):
        return Returns(**config)


class Legacy(EmbeddingFunction):
    def __call__(self, input):
        return [1, 2, 3]


@pytest.mark.parametrize(
    ("result", "rows"),
    [
        ([1, 2, 3], [[1, 2, 3]]),
        ([[1, 2.5], [3, 4]], [[1, 2.5], [3, 4]]),
        (np.array([1.0, 2.0]), [[1, 2]]),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        ([np.array([1.0], np.float32), np.array([2.0], np.float32)], [[1], [2]]),
    ],
)
def test_results_become_a_list_of_arrays(result, rows):
    got = Returns(result)(["text"])
    assert isinstance(got, list)
    assert all(isinstance(row, np.ndarray) and row.ndim == 1 for row in got)
    assert [row.tolist() for row in got] == rows


def test_lists_become_float32():
    assert Returns([[1, 2]])(["text"])[0].dtype == np.float32


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (None, "Expected Embeddings to be non-empty list or numpy array, got None"),
        ([], "Expected Embeddings to be non-empty list or numpy array, got []"),
        ("text", "Expected embeddings to be a list of floats or ints, a list of lists, a numpy array, or a list of numpy arrays"),
        ([True], "Expected embeddings to be a list of floats or ints"),
        ([[]], "Expected embeddings to be a list of floats or ints"),
        ([["a"]], "Expected embeddings to be a list of floats or ints"),
        (7, "Expected embeddings to be a list of floats or ints"),
        ([np.array([1.0]), [1.0]], "Expected each embedding in the embeddings to be a numpy array, got ['list', 'ndarray']"),
        ([np.array(1.0)], "Expected a 1-dimensional array, got a 0-dimensional array 1.0"),
        ([np.array([])], "Got a 1-dimensional numpy array with no values at pos 0"),
        ([np.array(["a"])], "Expected each value in the embedding to be a int or float, got an embedding with <U1"),
        ([np.array([True])], "Expected each value in the embedding to be a int or float, got an embedding with bool"),
    ],
)
def test_other_results_are_refused_as_chroma_refuses_them(result, message):
    with pytest.raises(ValueError) as caught:
        Returns(result)(["text"])
    assert message in str(caught.value)


def test_a_query_is_embedded_like_a_text_by_default():
    assert Returns([[1.0]]).embed_query(["text"])[0].tolist() == [1.0]


def test_a_subclass_of_a_subclass_is_checked():
    class Child(Returns):
        def __call__(self, input):
            return [[len(text) for text in input]]

    assert Child()(["four"])[0].tolist() == [4.0]


def test_what_is_missing_is_warned_of_and_makes_a_function_legacy():
    with pytest.warns(DeprecationWarning, match="The class Legacy does not implement __init__"):
        function = Legacy()
    with pytest.warns(DeprecationWarning, match="does not implement name"):
        assert function.is_legacy()
    assert function(["text"])[0].tolist() == [1, 2, 3]


def test_the_signature_is_that_of_the_protocol():
    class Otherwise(Returns):
        def __call__(self, texts):
            return [[1.0] for _ in texts]

    class Plain:
        def __call__(self, texts):
            return []

    validate_embedding_function(Otherwise())
    with pytest.raises(ValueError, match=r"to have the following signature: .*'self', 'input'.*, got .*'self', 'texts'"):
        validate_embedding_function(Plain())


def test_retries():
    import tenacity

    class Flaky(Returns):
        calls = 0

        def __call__(self, input):
            self.calls += 1
            if self.calls < 3:
                raise ConnectionError("not yet")
            return [[1.0]]

    assert Flaky().embed_with_retries(["text"], stop=tenacity.stop_after_attempt(3))[0].tolist() == [1.0]
    with pytest.raises(tenacity.RetryError):
        Flaky().embed_with_retries(["text"], stop=tenacity.stop_after_attempt(2))


def test_retries_without_tenacity(monkeypatch):
    monkeypatch.setitem(sys.modules, "tenacity", None)
    with pytest.raises(MissingDependency, match="pip install tenacity"):
        Returns([[1.0]]).embed_with_retries(["text"])


def test_registering():
    class Mine(Returns):
        @staticmethod
        def name():
            return "mine"

    assert "mine" not in known_embedding_functions
    try:
        assert register_embedding_function(Mine) is Mine
        assert register_embedding_function()(Mine) is Mine
        assert known_embedding_functions["mine"] is Mine
        built = config_to_embedding_function({"type": "known", "name": "mine", "config": {"result": [[1.0]]}})
        assert built(["text"])[0].tolist() == [1.0]
    finally:
        del known_embedding_functions["mine"]
    with pytest.raises(ValueError, match="Failed to register embedding function"):
        register_embedding_function(int)


def test_what_is_not_known():
    with pytest.raises(ValueError, match="Config must contain a 'name' field"):
        config_to_embedding_function({"type": "legacy"})
    with pytest.raises(ValueError, match="Unsupported embedding function: nothing"):
        config_to_embedding_function({"name": "nothing", "config": {}})


@pytest.mark.parametrize(
    "name", ["default", "sentence_transformer", "instructor", "static", "text2vec", "hashing", "onnx_mini_lm_l6_v2"]
)
def test_what_runs_here_is_known_importable_and_rebuilt_from_its_configuration(name):
    made = known_embedding_functions[name]
    assert made.name() == name
    assert getattr(names, made.__name__) is made
    function = made()
    assert isinstance(function, EmbeddingFunction)
    assert not function.is_legacy()
    assert function.default_space() in function.supported_spaces()
    again = config_to_embedding_function({"type": "known", "name": name, "config": function.get_config()})
    assert type(again) is made
    assert again.get_config() == function.get_config()


def test_configurations():
    given = {"model_name": "m", "device": "cpu", "normalize_embeddings": True, "kwargs": {"truncate_dim": 3}}
    assert names.SentenceTransformerEmbeddingFunction.build_from_config(given).get_config() == given
    default = {"model_name": "all-MiniLM-L6-v2", "device": "auto", "normalize_embeddings": False, "kwargs": {}}
    assert names.SentenceTransformerEmbeddingFunction().get_config() == default
    assert names.DefaultEmbeddingFunction().get_config() == {}
    assert names.DefaultEmbeddingFunction().default_space() == "l2"
    assert names.HashingEmbeddingFunction(16).get_config() == {"dimension": 16}
    with pytest.raises(ValueError, match="schema 'sentence_transformer': 'device' is a required property"):
        names.SentenceTransformerEmbeddingFunction.validate_config({"model_name": "m", "normalize_embeddings": True})
    with pytest.raises(ValueError, match="static has unknown colour"):
        names.StaticEmbeddingFunction.build_from_config({"model_name": "m", "colour": "red"})


def test_arguments_that_are_refused():
    with pytest.raises(ValueError, match="Keyword argument loss is not a primitive type"):
        names.SentenceTransformerEmbeddingFunction(loss=object())
    for given in (
        {"trust_remote_code": True},
        {"model_kwargs": {"trust_remote_code": True}},
        {"config_kwargs": {"a": {"trust_remote_code": 1}}},
    ):
        with pytest.raises(ValueError, match="trust_remote_code is refused"):
            names.SentenceTransformerEmbeddingFunction(**given)
        stored = {"model_name": "m", "device": "cpu", "normalize_embeddings": False, "kwargs": given}
        with pytest.raises(ValueError, match="trust_remote_code is refused"):
            names.SentenceTransformerEmbeddingFunction.build_from_config(stored)
    with pytest.raises(ValueError, match="attn_implementation='org/kernel' in model_kwargs is refused"):
        names.SentenceTransformerEmbeddingFunction(model_kwargs={"attn_implementation": "org/kernel"})
    with pytest.raises(ValueError, match="truncate_dim must not be 0"):
        names.SentenceTransformerEmbeddingFunction(truncate_dim=0)
    names.SentenceTransformerEmbeddingFunction(cache_folder="/some/where", prompts={"q": "and/or: "}, trust_remote_code=False)
    for dimension in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match="dimension must be an int of at least 1"):
            names.HashingEmbeddingFunction(dimension)


def test_a_token_is_never_stored():
    function = names.SentenceTransformerEmbeddingFunction(token="hf_secret", revision="main")
    assert function.get_config()["kwargs"] == {"revision": "main"}


def test_importing_the_names_loads_nothing_heavy():
    heavy = ("torch", "transformers", "tokenizers", "sentence_transformers", "huggingface_hub", "safetensors", "tqdm")
    heavy += ("httpx", "jsonschema", "snowballstemmer", "google.auth")
    code = f"import sys, chroma_gpu.utils.embedding_functions as e; e.DefaultEmbeddingFunction(); print(len(e.get_builtins()), [m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "34 []"


def test_every_function_that_ships_can_be_imported_without_what_it_needs():
    code = (
        "import sys; sys.modules['httpx'] = None\n"
        "from chroma_gpu.utils import embedding_functions as e\n"
        "print(len([getattr(e, name) for name in e.__all__]), [m for m in ('torch', 'jsonschema', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{len(names.__all__)} []"


class Sparse(SparseEmbeddingFunction):
    """Returns what it was made with."""

    def __init__(self, result: Any = None) -> None:
        self.result = result

    def __call__(self, input):
        return self.result

    @staticmethod
    def name():
        return "sparse_of_mine"

    def get_config(self):
        return {}

    @staticmethod
    def build_from_config(config):
        return Sparse(**config)


def test_sparse_results_are_checked():
    vector = SparseVector([1, 5], [0.5, 2])
    assert Sparse([vector])(["text"]) == [vector] == Sparse([vector]).embed_query(["text"])
    for result, message in (
        (None, "Expected sparse vectors to be a list, got NoneType"),
        ([], "Expected sparse vectors to be a non-empty list, got 0 sparse vectors"),
        ([vector, {1: 0.5}], "Expected SparseVector instance at position 1, got dict"),
    ):
        with pytest.raises(ValueError, match=message):
            Sparse(result)(["text"])


def test_sparse_functions_are_registered_in_a_table_of_their_own():
    assert "sparse_of_mine" not in sparse_known_embedding_functions
    try:
        assert register_sparse_embedding_function(Sparse) is Sparse
        assert sparse_known_embedding_functions["sparse_of_mine"] is Sparse
        assert "sparse_of_mine" not in known_embedding_functions
    finally:
        del sparse_known_embedding_functions["sparse_of_mine"]
    with pytest.raises(ValueError, match="Failed to register sparse embedding function"):
        register_sparse_embedding_function(int)


def test_the_signature_of_a_sparse_function():
    class Otherwise:
        def __call__(self, texts):
            return []

    validate_sparse_embedding_function(Sparse())
    with pytest.raises(ValueError, match=r"Expected SparseEmbeddingFunction.__call__ to have the following signature"):
        validate_sparse_embedding_function(Otherwise())


def test_coordinates_in_any_order_become_a_sparse_vector():
    assert sorted_vector([5, 1, 3], [0.5, 0.1, 0.3], ["e", "a", "c"]) == SparseVector([1, 3, 5], [0.1, 0.3, 0.5], ["a", "c", "e"])
    assert sorted_vector([], [], []) == SparseVector([], [])
    with pytest.raises(ValueError, match="must have the same length"):
        sorted_vector([1, 2], [0.5])
    with pytest.raises(ValueError, match="strictly ascending"):
        sorted_vector([2, 2], [0.5, 0.5])
