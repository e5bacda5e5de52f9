"""Names, configurations, spaces and rules of change of every function that ships, against the real classes of chromadb."""

from __future__ import annotations

import builtins
import sys
import warnings
from unittest.mock import MagicMock

import chromadb.utils.embedding_functions as theirs
import jsonschema
import pytest
from chromadb.utils.embedding_functions import chroma_cloud_qwen_embedding_function as their_qwen
from chromadb.utils.embedding_functions import schemas as their_schemas

from chroma_gpu.embed import PROVIDERS, SPARSE_PROVIDERS, EmbeddingFunction, SparseEmbeddingFunction, configs
from chroma_gpu.embed.services import chroma_cloud
from chroma_gpu.errors import MissingDependency
from chroma_gpu.utils import embedding_functions as ours
from chroma_gpu.utils.embedding_functions import schemas

OURS_ONLY = {"static", "hashing"}
SDKS = (
    "openai",
    "cohere",
    "PIL",
    "PIL.Image",
    "mistralai",
    "perplexity",
    "voyageai",
    "nomic",
    "ollama",
    "boto3",
    "google",
    "google.genai",
    "google.genai.types",
    "google.generativeai",
    "vertexai",
    "vertexai.language_models",
    "sentence_transformers",
    "InstructorEmbedding",
    "text2vec",
    "open_clip",
    "torch",
    "fastembed",
    "fastembed.sparse",
    "fastembed.sparse.bm25",
)
KEYS = [
    "CHROMA_OPENAI_API_KEY",
    "CHROMA_COHERE_API_KEY",
    "CHROMA_HUGGINGFACE_API_KEY",
    "CHROMA_GOOGLE_PALM_API_KEY",
    "GEMINI_API_KEY",
    "CHROMA_GOOGLE_VERTEX_API_KEY",
    "CHROMA_JINA_API_KEY",
    "MISTRAL_API_KEY",
    "MORPH_API_KEY",
    "CHROMA_VOYAGE_API_KEY",
    "CHROMA_CLOUDFLARE_API_KEY",
    "CHROMA_TOGETHER_AI_API_KEY",
    "CHROMA_BASETEN_API_KEY",
    "CHROMA_ROBOFLOW_API_KEY",
    "CHROMA_API_KEY",
    "PERPLEXITY_API_KEY",
    "NOMIC_API_KEY",
    "OTHER",
]

NEEDED = {
    "amazon_bedrock": {"session": MagicMock(region_name="us-east-1", profile_name=None)},
    "baseten": {"api_key": None, "api_base": "https://b.example/v1"},
    "chroma_langchain": {"embedding_function": MagicMock()},
    "cloudflare_workers_ai": {"model_name": "m", "account_id": "a"},
    "fastembed_sparse": {"model_name": "m"},
    "huggingface_server": {"url": "http://localhost/embed"},
    "huggingface_sparse": {"model_name": "m", "device": "cpu"},
    "mistral": {"model": "mistral-embed"},
    "nomic": {"model": "m", "task_type": "search_document", "query_config": None},
    "together_ai": {"model_name": "m"},
}
CHOSEN = {
    "openai": {
        "model_name": "text-embedding-3-small",
        "organization_id": "o",
        "api_type": "azure",
        "api_base": "https://x.example",
        "api_version": "2024-02-01",
        "deployment_id": "d",
        "default_headers": {"a": "b"},
        "dimensions": 7,
        "api_key_env_var": "OTHER",
    },
    "cohere": {"model_name": "embed-multilingual-v2.0"},
    "google_gemini": {
        "task_type": "CLUSTERING",
        "dimension": 128,
        "vertexai": True,
        "project": "p",
        "location": "l",
        "api_key_env_var": None,
    },
    "google_generative_ai": {"dimension": 12},
    "jina": {"task": "t", "late_chunking": True, "dimensions": 3, "query_config": {"task": "q"}},
    "nomic": {"model": "m", "task_type": "t", "query_config": {"task_type": "search_query"}},
    "ollama": {"url": "http://o:1/api/embeddings", "model_name": "m", "timeout": 3},
    "voyageai": {"input_type": "query", "truncation": False},
    "perplexity": {"dimensions": 128},
    "morph": {"api_base": "http://m", "encoding_format": "base64"},
    "huggingface_server": {"url": "http://localhost/embed", "api_key_env_var": "OTHER"},
    "cloudflare_workers_ai": {"model_name": "m", "account_id": "a", "gateway_id": "g"},
    "onnx_mini_lm_l6_v2": {"preferred_providers": ["CPUExecutionProvider"]},
    "chroma_bm25": {"k": 1, "stopwords": ["a"], "include_tokens": True},
    "bm25": {"k": 1.0, "language": "german", "query_config": {"task": "query"}, "more": 1},
    "fastembed_sparse": {"model_name": "m", "threads": 2, "device_ids": [0], "task": "query"},
    "huggingface_sparse": {"model_name": "m", "device": "cpu", "query_config": {"task": "query"}, "max_seq_length": 3},
    "sentence_transformer": {"model_name": "m", "device": "cpu", "truncate_dim": 3},
    "chroma-cloud-splade": {"include_tokens": True},
    "amazon_bedrock": {"session": MagicMock(region_name="r", profile_name="p"), "model_name": "m", "endpoint_url": "e"},
}
# Those that ship: other tests register functions of their own in the same tables.
ALL = {
    **{name: ours.known_embedding_functions[name] for name in PROVIDERS},
    **{name: ours.sparse_known_embedding_functions[name] for name in SPARSE_PROVIDERS},
}
CASES = [
    (name, given)
    for name in ALL
    if name not in OURS_ONLY
    for given in (NEEDED.get(name, {}), CHOSEN.get(name))
    if given is not None
]


@pytest.fixture(autouse=True)
def _keys(monkeypatch):
    for name in KEYS:
        monkeypatch.setenv(name, "k-1")
    for name in ("OPENAI", "COHERE", "HUGGINGFACE", "GOOGLE", "JINA", "VOYAGE", "CLOUDFLARE", "TOGETHER", "BASETEN", "ROBOFLOW"):
        monkeypatch.delenv(f"{name}_API_KEY", raising=False)


@pytest.fixture
def sdks(monkeypatch):
    """What Chroma's classes import, made of mocks."""
    for name in SDKS:
        monkeypatch.setitem(sys.modules, name, MagicMock())
    sys.modules["open_clip"].create_model_and_transforms.return_value = (MagicMock(), None, None)
    langchain = MagicMock()
    langchain.embeddings.Embeddings = MagicMock
    monkeypatch.setitem(sys.modules, "langchain_core", langchain)
    monkeypatch.setitem(sys.modules, "langchain_core.embeddings", langchain.embeddings)


def their_class(name):
    return {**theirs.known_embedding_functions, **theirs.sparse_known_embedding_functions}[name]


def made(function, name, given, enum=None):
    given = dict(given)
    if name == "chroma-cloud-qwen":
        given = {"model": enum.QWEN3_EMBEDDING_0p6B, "task": "nl_to_code"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return function(**given)


def outcome(call):
    try:
        call()
    except Exception as error:
        return type(error), str(error).split(". ")[0]
    return None


def test_the_same_functions_are_known():
    known = {name for name, each in theirs.known_embedding_functions.items() if each.__module__.startswith("chromadb.")}
    assert set(PROVIDERS) == known | OURS_ONLY
    assert set(SPARSE_PROVIDERS) == set(theirs.sparse_known_embedding_functions)
    assert ours.get_builtins() == theirs.get_builtins()
    assert set(theirs.__all__) <= {*ours.__all__}
    for name in ours.__all__:
        assert getattr(ours, name) is not None
    for name in ours.get_builtins():
        assert issubclass(getattr(ours, name), EmbeddingFunction | SparseEmbeddingFunction)


def test_modules_have_the_names_of_chroma():
    import importlib
    import pkgutil

    for module in pkgutil.iter_modules(theirs.__path__):
        if module.name in ("schemas", "utils"):
            continue
        mine = importlib.import_module(f"chroma_gpu.utils.embedding_functions.{module.name}")
        other = importlib.import_module(f"chromadb.utils.embedding_functions.{module.name}")
        classes = {
            n
            for n, v in vars(other).items()
            if isinstance(v, type) and n in theirs.get_builtins() and v.__module__ == other.__name__
        }
        assert classes <= set(mine.__all__), module.name
        assert getattr(ours, module.name) is mine
    with pytest.raises(AttributeError, match="nothing_embedding_function"):
        _ = ours.nothing_embedding_function


@pytest.mark.parametrize(
    ("name", "given"), CASES, ids=lambda value: value if isinstance(value, str) else "chosen" if value else "plain"
)
def test_configurations_are_those_of_chroma(name, given, sdks, monkeypatch):
    other = made(their_class(name), name, given, their_qwen.ChromaCloudQwenEmbeddingModel)
    mine = made(ALL[name], name, given, chroma_cloud.ChromaCloudQwenEmbeddingModel)
    assert type(mine).__name__ == type(other).__name__
    assert mine.name() == other.name()
    config = mine.get_config()
    expected = other.get_config()
    if name == "sentence_transformer" and "device" not in given:
        assert (config.pop("device"), expected.pop("device")) == ("auto", "cpu")
    if name == "instructor":
        assert (config.pop("device"), expected.pop("device")) == ("auto", "cpu")
    assert config == expected
    if hasattr(other, "default_space"):
        assert mine.default_space() == other.default_space()
        assert mine.supported_spaces() == other.supported_spaces()
    for key in (*expected, "something"):
        for value in (expected.get(key), "another"):
            change = {key: value}
            assert outcome(lambda: mine.validate_config_update(expected, change)) == outcome(  # noqa: B023
                lambda: other.validate_config_update(expected, change)  # noqa: B023
            ), key


# What a function over an object of LangChain wraps is not stored.
STORABLE = [case for case in CASES if case[0] != "chroma_langchain"]


@pytest.mark.parametrize(
    ("name", "given"), STORABLE, ids=lambda value: value if isinstance(value, str) else "chosen" if value else "plain"
)
def test_round_trip(name, given, monkeypatch):
    monkeypatch.setitem(sys.modules, "boto3", MagicMock(Session=lambda **args: MagicMock(**{"profile_name": None, **args})))
    function = made(ALL[name], name, given, chroma_cloud.ChromaCloudQwenEmbeddingModel)
    config = function.get_config()
    function.validate_config(config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        again = type(function).build_from_config(config)
    assert again.get_config() == config
    assert again is not function
    with pytest.raises(ValueError, match="has unknown colour"):
        type(function).build_from_config({**config, "colour": "red"})
    with pytest.raises(ValueError, match=r"Additional properties are not allowed \('colour' was unexpected\)"):
        function.validate_config({**config, "colour": "red"})


def test_missing_keys_are_named():
    with pytest.raises(ValueError, match="embedding function openai lacks api_key_env_var"):
        ours.OpenAIEmbeddingFunction.build_from_config({"model_name": "m"})
    with pytest.raises(NotImplementedError, match="not supported"):
        ours.ChromaLangchainEmbeddingFunction.build_from_config({})


@pytest.mark.parametrize("name", sorted(set(their_schemas.get_available_schemas()) - {"transformers", "chroma_langchain"}))
def test_schemas_have_the_fields_and_types_of_chroma(name):
    mine, other = schemas.load_schema(name), their_schemas.load_schema(name)
    assert mine["version"] == other["version"]
    extra = {"nomic": {"query_config"}}.get(name, set())
    assert set(mine["properties"]) == set(other["properties"]) | extra
    assert set(mine["required"]) >= set(other.get("required") or []) - {"nomic"}
    number = {"perplexity": "dimensions", "chroma_bm25": "token_max_length"}
    for field, written in other["properties"].items():
        types = {*([written["type"]] if isinstance(written["type"], str) else written["type"])}
        got = mine["properties"][field]["type"]
        got = {*([got] if isinstance(got, str) else got)}
        if number.get(name) == field:
            types = {"integer"}
        assert types <= got <= types | {"null"}, field
        if "enum" in written:
            assert set(written["enum"]) == set(mine["properties"][field]["enum"]) - {None}


@pytest.mark.parametrize("name", schemas.get_available_schemas())
def test_the_own_check_agrees_with_jsonschema(name):
    schema = schemas.load_schema(name)
    jsonschema.Draft7Validator.check_schema(schema)
    values = ["text", "query", 3, 2.5, 4.0, True, None, {}, {"a": 1}, [], [1], ["a"]]
    base = {
        field: next(v for v in values if configs.fields(name)[field].fault(v) is None)
        if not configs.fields(name)[field].choices
        else configs.fields(name)[field].choices[0]
        for field in schema["required"]
    }
    samples = [base, {**base, "other": 1}, *({k: v for k, v in base.items() if k != left} for left in base)]
    samples += [{**base, field: value} for field in schema["properties"] for value in values]
    for config in samples:
        valid = jsonschema.Draft7Validator(schema).is_valid(config)
        if valid:
            schemas.validate_config_schema(config, name)
        else:
            with pytest.raises(jsonschema.ValidationError, match="Config validation failed for schema"):
                schemas.validate_config_schema(config, name)


def test_without_jsonschema_the_error_is_a_value_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    with pytest.raises(
        ValueError, match="Config validation failed for schema 'openai': 'model_name' is a required property"
    ) as caught:
        schemas.validate_config_schema({"api_key_env_var": "A"}, "openai")
    assert type(caught.value) is ValueError


def test_schema_questions():
    assert schemas.get_schema_version("openai") == "1.0.0"
    assert (
        schemas.get_embedding_function_names()
        == set(schemas.get_available_schemas())
        >= {"openai", "chroma_bm25", "google_genai"}
    )
    assert set(schemas.get_schema_info()["jina"]) == {"version", "title", "description"}
    with pytest.raises(FileNotFoundError, match="no schema for an embedding function 'nothing'"):
        schemas.load_schema("nothing")


def test_keys_of_amazon_are_used_but_not_stored():
    session = MagicMock(region_name="r", profile_name=None)
    function = ours.AmazonBedrockEmbeddingFunction(session, aws_secret_access_key="s3cret", endpoint_url="http://b")
    assert session.client.call_args.kwargs["aws_secret_access_key"] == "s3cret"
    assert function.get_config()["kwargs"] == {"endpoint_url": "http://b"}


def test_packages_that_are_missing_are_named(monkeypatch):
    absent = {"fastembed", "open_clip", "boto3"}
    real = builtins.__import__

    def importing(name, *args, **kwargs):
        if name.split(".")[0] in absent:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", importing)
    with pytest.raises(MissingDependency, match="pip install fastembed"):
        ours.FastembedSparseEmbeddingFunction("Qdrant/bm25")(["text"])
    with pytest.warns(DeprecationWarning, match="ChromaBm25"), pytest.raises(MissingDependency, match="pip install fastembed"):
        ours.Bm25EmbeddingFunction().embed_query(["text"])
    with pytest.raises(MissingDependency, match="pip install open-clip-torch"):
        ours.OpenCLIPEmbeddingFunction()(["text"])
    with pytest.raises(MissingDependency, match="pip install boto3"):
        ours.AmazonBedrockEmbeddingFunction.build_from_config({"model_name": "m", "session_args": {}, "kwargs": {}})


def test_what_would_run_code_is_refused_in_sparse_models_too():
    with pytest.raises(ValueError, match="trust_remote_code is refused"):
        ours.HuggingFaceSparseEmbeddingFunction("m", "cpu", trust_remote_code=True)
    with pytest.raises(ValueError, match="Keyword argument model is not a primitive type"):
        ours.HuggingFaceSparseEmbeddingFunction("m", "cpu", model=object())


def test_providers_of_onnx_are_checked():
    with pytest.raises(ValueError, match="Preferred providers must be a list of strings"):
        ours.ONNXMiniLM_L6_V2([1])
    with pytest.raises(ValueError, match="Preferred providers must be unique"):
        ours.ONNXMiniLM_L6_V2(["a", "a"])
