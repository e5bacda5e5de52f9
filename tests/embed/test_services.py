"""What each service is sent and how its answer is read. A server in this process plays all of them."""

from __future__ import annotations

import base64
import json
import sys
import types
import zlib

import numpy as np
import pytest
from embed.services import KEY, MINE, ROWS, TEXTS, Answer, data, vector

from chroma_gpu.embed import images
from chroma_gpu.embed.services import chroma_cloud
from chroma_gpu.errors import EmbeddingFailed, MissingDependency
from chroma_gpu.records import SparseVector
from chroma_gpu.utils import embedding_functions as ef

pytestmark = pytest.mark.usefixtures("keys")


BEARER = {"authorization": f"Bearer {KEY}"}
INT8 = base64.b64encode(np.array([-128, 0, 127], np.int8).tobytes()).decode()
FLOATS = base64.b64encode(np.array([0.5, -1.5], "<f4").tobytes()).decode()

PROTOCOLS = {
    "openai": (
        lambda: ef.OpenAIEmbeddingFunction(organization_id="org", default_headers={"X-More": "1"}, **MINE),
        "https://api.openai.com/v1/embeddings",
        {"model": "text-embedding-ada-002", "input": TEXTS},
        data(TEXTS),
        BEARER | {"openai-organization": "org", "x-more": "1"},
    ),
    "openai with dimensions": (
        lambda: ef.OpenAIEmbeddingFunction(model_name="text-embedding-3-small", dimensions=3, api_base="http://own/v1/", **MINE),
        "http://own/v1/embeddings",
        {"model": "text-embedding-3-small", "input": TEXTS, "dimensions": 3},
        data(TEXTS),
        BEARER,
    ),
    "azure": (
        lambda: ef.OpenAIEmbeddingFunction(
            api_type="azure", api_base="https://x.azure.example", api_version="2024-02-01", deployment_id="d 1", **MINE
        ),
        "https://x.azure.example/openai/deployments/d%201/embeddings?api-version=2024-02-01",
        {"model": "text-embedding-ada-002", "input": TEXTS},
        data(TEXTS),
        {"api-key": KEY},
    ),
    "baseten": (
        lambda: ef.BasetenEmbeddingFunction(None, "https://model.baseten.example/v1", **MINE),
        "https://model.baseten.example/v1/embeddings",
        {"model": "baseten-embedding-model", "input": TEXTS},
        data(TEXTS),
        BEARER,
    ),
    "together_ai": (
        lambda: ef.TogetherAIEmbeddingFunction("m", **MINE),
        "https://api.together.xyz/v1/embeddings",
        {"model": "m", "input": TEXTS},
        {"data": [{"embedding": row} for row in ROWS]},
        BEARER,
    ),
    "mistral": (
        lambda: ef.MistralEmbeddingFunction("mistral-embed", **MINE),
        "https://api.mistral.ai/v1/embeddings",
        {"model": "mistral-embed", "input": TEXTS},
        data(TEXTS),
        BEARER,
    ),
    "morph": (
        lambda: ef.MorphEmbeddingFunction(**MINE),
        "https://api.morphllm.com/v1/embeddings",
        {"model": "morph-embedding-v2", "input": TEXTS, "encoding_format": "float"},
        data(TEXTS),
        BEARER,
    ),
    "voyageai": (
        lambda: ef.VoyageAIEmbeddingFunction(input_type="document", **MINE),
        "https://api.voyageai.com/v1/embeddings",
        {"model": "voyage-large-2", "input": TEXTS, "input_type": "document", "truncation": True},
        data(TEXTS),
        BEARER,
    ),
    "cohere": (
        lambda: ef.CohereEmbeddingFunction(model_name="embed-v4.0", **MINE),
        "https://api.cohere.com/v2/embed",
        {"model": "embed-v4.0", "texts": TEXTS, "input_type": "search_document", "embedding_types": ["float"]},
        {"embeddings": {"float": ROWS}},
        BEARER,
    ),
    "jina": (
        lambda: ef.JinaEmbeddingFunction(task="retrieval.passage", normalized=True, **MINE),
        "https://api.jina.ai/v1/embeddings",
        {"model": "jina-embeddings-v2-base-en", "input": TEXTS, "task": "retrieval.passage", "normalized": True},
        data(TEXTS),
        BEARER,
    ),
    "nomic": (
        lambda: ef.NomicEmbeddingFunction("nomic-embed-text-v1.5", "search_document", None, **MINE),
        "https://api-atlas.nomic.ai/v1/embedding/text",
        {"model": "nomic-embed-text-v1.5", "texts": TEXTS, "task_type": "search_document"},
        {"embeddings": ROWS},
        BEARER,
    ),
    "huggingface": (
        lambda: ef.HuggingFaceEmbeddingFunction(**MINE),
        "https://router.huggingface.co/hf-inference/models/sentence-transformers/all-MiniLM-L6-v2/pipeline/feature-extraction",
        {"inputs": TEXTS, "options": {"wait_for_model": True}},
        ROWS,
        BEARER,
    ),
    "huggingface_server": (
        lambda: ef.HuggingFaceEmbeddingServer("http://tei:8080/embed", "MY_KEY"),
        "http://tei:8080/embed",
        {"inputs": TEXTS},
        ROWS,
        BEARER,
    ),
    "huggingface_server without a key": (
        lambda: ef.HuggingFaceEmbeddingServer("http://tei:8080/embed"),
        "http://tei:8080/embed",
        {"inputs": TEXTS},
        ROWS,
        {"authorization": None},
    ),
    "ollama": (
        lambda: ef.OllamaEmbeddingFunction("http://ollama:11434/api/embeddings", "m"),
        "http://ollama:11434/api/embed",
        {"model": "m", "input": TEXTS},
        {"embeddings": ROWS},
        {},
    ),
    "cloudflare": (
        lambda: ef.CloudflareWorkersAIEmbeddingFunction("@cf/m", "acc", **MINE),
        "https://api.cloudflare.com/client/v4/accounts/acc/ai/run/@cf/m",
        {"text": TEXTS},
        {"result": {"data": ROWS}},
        BEARER,
    ),
    "cloudflare through a gateway": (
        lambda: ef.CloudflareWorkersAIEmbeddingFunction("@cf/m", "acc", gateway_id="gate", **MINE),
        "https://gateway.ai.cloudflare.com/v1/acc/gate/workers-ai/@cf/m",
        {"text": TEXTS},
        {"result": {"data": ROWS}},
        BEARER,
    ),
    "google_gemini": (
        lambda: ef.GoogleGeminiEmbeddingFunction(dimension=3, **MINE),
        "https://generativelanguage.googleapis.com/v1beta/models/gemini-embedding-001:batchEmbedContents",
        {
            "requests": [
                {"model": "models/gemini-embedding-001", "content": {"parts": [{"text": text}]}, "outputDimensionality": 3}
                for text in TEXTS
            ]
        },
        {"embeddings": [{"values": row} for row in ROWS]},
        {"x-goog-api-key": KEY},
    ),
    "google_generative_ai": (
        lambda: ef.GoogleGenerativeAiEmbeddingFunction(**MINE),
        "https://generativelanguage.googleapis.com/v1beta/models/gemini-embedding-001:batchEmbedContents",
        {
            "requests": [
                {"model": "models/gemini-embedding-001", "content": {"parts": [{"text": text}]}, "taskType": "RETRIEVAL_DOCUMENT"}
                for text in TEXTS
            ]
        },
        {"embeddings": [{"values": row} for row in ROWS]},
        {"x-goog-api-key": KEY},
    ),
    "google_palm": (
        lambda: ef.GooglePalmEmbeddingFunction(**MINE),
        "https://generativelanguage.googleapis.com/v1beta/models/embedding-gecko-001:batchEmbedText",
        {"texts": TEXTS},
        {"embeddings": [{"value": row} for row in ROWS]},
        {"x-goog-api-key": KEY},
    ),
    "google_vertex": (
        lambda: ef.GoogleVertexEmbeddingFunction(project_id="p", **MINE),
        "https://us-central1-aiplatform.googleapis.com/v1/projects/p/locations/us-central1"
        "/publishers/google/models/textembedding-gecko:predict",
        {"instances": [{"content": text} for text in TEXTS]},
        {"predictions": [{"embeddings": {"values": row}} for row in ROWS]},
        {"authorization": "Bearer token-1"},
    ),
    "chroma-cloud-qwen": (
        lambda: ef.ChromaCloudQwenEmbeddingFunction(
            chroma_cloud.ChromaCloudQwenEmbeddingModel.QWEN3_EMBEDDING_0p6B, "nl_to_code", **MINE
        ),
        "https://embed.trychroma.com",
        {"instructions": "", "texts": TEXTS},
        {"embeddings": ROWS},
        {"x-chroma-token": KEY, "x-chroma-embedding-model": "Qwen/Qwen3-Embedding-0.6B"},
    ),
}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_what_is_sent_and_how_it_is_read(name, play, google_credentials):
    make, url, body, answer, headers = PROTOCOLS[name]
    service = play(lambda asked: Answer(answer))
    function = make()
    assert service.asked == []
    got = function(TEXTS)
    (asked,) = service.asked
    assert asked.url == url
    assert asked.body == body
    assert {header: asked.headers.get(header) for header in headers} == headers
    assert [row.dtype for row in got] == [np.float32] * 2
    assert np.array(got).tolist() == np.array(ROWS, np.float32).tolist()
    assert np.array(function.embed_query(TEXTS)).tolist() == np.array(got).tolist()
    for shown in (repr(function), json.dumps(function.get_config()), repr(function.key), str(vars(function))):
        assert KEY not in shown
    if function.key is not None:
        assert function.api_key == KEY


def test_numbers_written_as_base64(play):
    service = play(lambda asked: Answer({"data": [{"index": 0, "embedding": INT8}]}))
    assert ef.PerplexityEmbeddingFunction(dimensions=3, **MINE)(["a"])[0].tolist() == [-128, 0, 127]
    assert service.asked[0].body == {"model": "pplx-embed-v1-0.6b", "input": ["a"], "dimensions": 3}
    service.answers = lambda asked: Answer({"data": [{"index": 0, "embedding": FLOATS}]})
    assert ef.MorphEmbeddingFunction(encoding_format="base64", **MINE)(["a"])[0].tolist() == [0.5, -1.5]


def test_queries_that_are_asked_differently(play):
    service = play(lambda asked: Answer({"embeddings": {"float": [[1.0]]}, "data": [{"index": 0, "embedding": [1.0]}]}))
    ef.CohereEmbeddingFunction(**MINE).embed_query(["q"])
    assert service.asked[-1].body["input_type"] == "search_query"
    ef.JinaEmbeddingFunction(task="passage", query_config=ef.JinaQueryConfig(task="query"), **MINE).embed_query(["q"])
    assert service.asked[-1].body["task"] == "query"
    service.answers = lambda asked: Answer({"embeddings": [[1.0]]})
    ef.NomicEmbeddingFunction("m", "search_document", {"task_type": "search_query"}, **MINE).embed_query(["q"])
    assert service.asked[-1].body["task_type"] == "search_query"
    model = chroma_cloud.ChromaCloudQwenEmbeddingModel.QWEN3_EMBEDDING_0p6B
    ef.ChromaCloudQwenEmbeddingFunction(model, "nl_to_code", **MINE).embed_query(["q"])
    assert service.asked[-1].body["instructions"].startswith("Given a question about coding")
    ef.ChromaCloudQwenEmbeddingFunction(model, None, **MINE).embed_query(["q"])
    assert service.asked[-1].body["instructions"] == ""


def test_sparse_vectors_of_chromas_cloud(play, monkeypatch):
    monkeypatch.setenv("CHROMA_EMBED_URL", "http://embed.example/")
    rows = [{"indices": [7, 2], "values": [0.5, 1.5], "labels": ["seven", "two"]}, {"indices": [], "values": [], "labels": []}]
    service = play(lambda asked: Answer({"embeddings": rows}))
    assert ef.ChromaCloudSpladeEmbeddingFunction("MY_KEY")(TEXTS) == [SparseVector([2, 7], [1.5, 0.5]), SparseVector([], [])]
    (asked,) = service.asked
    assert asked.url == "http://embed.example/embed_sparse"
    assert asked.body == {"texts": TEXTS, "task": "", "target": "", "fetch_tokens": "false"}
    assert asked.headers["x-chroma-token"] == KEY
    labelled = ef.ChromaCloudSpladeEmbeddingFunction("MY_KEY", include_tokens=True)
    assert labelled.embed_query(TEXTS)[0] == SparseVector([2, 7], [1.5, 0.5], ["two", "seven"])
    assert service.asked[-1].body["fetch_tokens"] == "true"
    rows[1] = {"indices": [3, 3], "values": [1.0, 1.0]}
    with pytest.raises(EmbeddingFailed, match=r"no usable value for input 1: .*'indices': \[3, 3\]"):
        labelled(TEXTS)


def pixels():
    return np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)


def decoded(png):
    """Width, height, colour type and rows of a PNG of ours."""
    chunks, at = {}, 8
    while at < len(png):
        size = int.from_bytes(png[at : at + 4], "big")
        kind, body = png[at + 4 : at + 8], png[at + 8 : at + 8 + size]
        assert int.from_bytes(png[at + 8 + size : at + 12 + size], "big") == zlib.crc32(kind + body)
        chunks[kind], at = body, at + 12 + size
    header = chunks[b"IHDR"]
    return int.from_bytes(header[:4], "big"), int.from_bytes(header[4:8], "big"), header[9], zlib.decompress(chunks[b"IDAT"])


def test_images(play):
    service = play(lambda asked: Answer({"embeddings": {"float": [[1.0, 2.0]]}}))
    cohere = ef.CohereEmbeddingFunction(**MINE)
    assert len(cohere([pixels(), pixels()])) == 2
    first, second = service.asked
    assert first.body == second.body
    assert first.body["input_type"] == "image"
    (uri,) = first.body["images"]
    width, height, colour, rows = decoded(base64.b64decode(uri.removeprefix("data:image/png;base64,")))
    assert (width, height, colour) == (3, 2, 2)
    assert rows == b"\0" + bytes(range(9)) + b"\0" + bytes(range(9, 18))
    with pytest.raises(ValueError, match="a mix of text documents and images"):
        cohere(["text", pixels()])
    with pytest.raises(ValueError, match="Input must be a list of text documents"):
        cohere([3])
    service.answers = lambda asked: Answer(data(["a", "b"]))
    ef.JinaEmbeddingFunction(**MINE)(["text", pixels()])
    assert service.asked[-1].body["input"] == [{"text": "text"}, {"image": images.png_base64(pixels())}]
    service.answers = lambda asked: Answer({"embeddings": [[1.0]]})
    roboflow = ef.RoboflowEmbeddingFunction(**MINE)
    assert len(roboflow(["text", pixels()])) == 2
    sent = {asked.url: asked.body for asked in service.asked[-2:]}
    assert sent[f"https://infer.roboflow.com/clip/embed_text?api_key={KEY}"] == {"text": "text"}
    image = sent[f"https://infer.roboflow.com/clip/embed_image?api_key={KEY}"]["image"]
    assert image == {"type": "base64", "value": images.png_base64(pixels())}


def test_arrays_that_are_images():
    assert decoded(images.png(np.full((1, 2), 9)))[:3] == (2, 1, 0)
    assert decoded(images.png(np.zeros((1, 1, 4), np.uint8)))[2] == 6
    for wrong in (np.zeros((2, 2, 2), np.uint8), np.zeros(3, np.uint8), np.zeros((0, 2), np.uint8)):
        with pytest.raises(ValueError, match="an image must have the shape"):
            images.png(wrong)
    for wrong in (np.zeros((2, 2)), np.full((2, 2), 256), np.full((2, 2), -1)):
        with pytest.raises(ValueError, match="whole numbers from 0 to 255"):
            images.png(wrong)


def test_inputs_that_are_no_texts(play):
    service = play(lambda asked: Answer(data(["a"])))
    with pytest.raises(ValueError, match="mistral only supports text documents, not images"):
        ef.MistralEmbeddingFunction("m", **MINE)([pixels()])
    with pytest.raises(ValueError, match="Input is required"):
        ef.TogetherAIEmbeddingFunction("m", **MINE)([])
    with pytest.raises(ValueError, match="Input documents cannot be empty"):
        ef.GoogleGeminiEmbeddingFunction(**MINE)([])
    with pytest.raises(ValueError, match="non-empty list or numpy array"):
        ef.OpenAIEmbeddingFunction(**MINE)([])
    assert service.asked == []
    assert len(ef.OpenAIEmbeddingFunction(**MINE)("one text")) == 1


def test_arguments_that_azure_and_vertex_need(monkeypatch, google_credentials):
    for missing in ("api_version", "deployment_id", "api_base"):
        given = {"api_version": "v", "deployment_id": "d", "api_base": "http://b"} | {missing: None}
        with pytest.raises(ValueError, match=f"{missing} must be specified for Azure OpenAI"):
            ef.OpenAIEmbeddingFunction(api_type="azure", **given, **MINE)
    with pytest.raises(ValueError, match="mutually exclusive"):
        ef.GoogleGeminiEmbeddingFunction(vertexai=True, **MINE)
    with pytest.raises(ValueError, match="must be set if vertexai is not enabled"):
        ef.GoogleGeminiEmbeddingFunction(api_key_env_var=None)
    with pytest.raises(EmbeddingFailed, match="needs project and location"):
        ef.GoogleGeminiEmbeddingFunction(vertexai=True, api_key_env_var=None)(["text"])


def test_gemini_through_vertex(play, google_credentials):
    service = play(lambda asked: Answer({"predictions": [{"embeddings": {"values": [1.0]}}]}))
    function = ef.GoogleGeminiEmbeddingFunction(
        task_type="CLUSTERING", dimension=1, vertexai=True, project="p", location="global", api_key_env_var=None
    )
    assert len(function(TEXTS)) == 2
    url = "https://aiplatform.googleapis.com/v1/projects/p/locations/global/publishers/google/models/gemini-embedding-001:predict"
    assert [asked.url for asked in service.asked] == [url] * 2
    bodies = sorted((asked.body for asked in service.asked), key=lambda body: body["instances"][0]["content"])
    parameters = {"outputDimensionality": 1}
    assert bodies == [{"instances": [{"content": text, "task_type": "CLUSTERING"}], "parameters": parameters} for text in TEXTS]
    assert google_credentials.renewed == 1
    google_credentials.valid = False
    function(["text"])
    assert service.asked[-1].headers["authorization"] == "Bearer token-2"


def test_google_credentials_that_are_missing(monkeypatch, google_credentials):
    def refuse(scopes):
        raise RuntimeError("nothing found")

    function = ef.GoogleVertexEmbeddingFunction(**MINE)
    monkeypatch.setattr(sys.modules["google.auth"], "default", refuse)
    with pytest.raises(EmbeddingFailed, match="no usable Google credentials: nothing found"):
        function(["text"])
    monkeypatch.setitem(sys.modules, "google.auth", None)
    with pytest.raises(MissingDependency, match="pip install google-auth"):
        function(["text"])


def test_bedrock():
    class Client:
        def __init__(self):
            self.asked = []

        def invoke_model(self, **given):
            self.asked.append(given)
            text = json.loads(given["body"])["inputText"]
            if text == "bad":
                raise RuntimeError("throttled")
            return {"body": types.SimpleNamespace(read=lambda: json.dumps({"embedding": vector(text)}))}

    client = Client()
    session = types.SimpleNamespace(region_name="eu", profile_name=None, client=lambda service_name, **more: client)
    function = ef.AmazonBedrockEmbeddingFunction(session)
    assert np.array(function(TEXTS)).tolist() == np.array(ROWS, np.float32).tolist()
    assert client.asked[0]["modelId"] == "amazon.titan-embed-text-v1"
    assert function.get_config()["session_args"] == {"region_name": "eu"}
    with pytest.raises(EmbeddingFailed, match="gave no vector for input 1: RuntimeError: throttled"):
        function(["good", "bad"])


def test_langchain():
    class Embeddings:
        def embed_documents(self, texts):
            return [vector(text) for text in texts]

        def embed_query(self, text):
            return [0.5, *vector(text)[1:]]

    function = ef.create_langchain_embedding(Embeddings())
    assert np.array(function(TEXTS)).tolist() == np.array(ROWS, np.float32).tolist()
    assert [row.tolist()[0] for row in function.embed_query(input=["q"])] == [0.5]
    assert function.embed_query("q") == [0.5, *vector("q")[1:]]
    with pytest.raises(ValueError, match="does not support image embeddings"):
        function(("images", ["file.png"]))
    with pytest.raises(ValueError, match="must implement the Embeddings interface"):
        ef.ChromaLangchainEmbeddingFunction(object())
