"""Google's services: the Gemini API by key, Vertex AI by the credentials of this machine, and PaLM's older protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any, ClassVar, Final

from chroma_gpu.embed import Documents
from chroma_gpu.embed.configs import MODEL_NAME_FIXED, Configured, fields
from chroma_gpu.embed.services.remote import RemoteEmbeddingFunction, Request, find_key, require_key
from chroma_gpu.errors import EmbeddingFailed, MissingDependency

_GEMINI_URL: Final = "https://generativelanguage.googleapis.com/v1beta"
_SCOPE: Final = "https://www.googleapis.com/auth/cloud-platform"


class GoogleEmbeddingFunction(RemoteEmbeddingFunction[Documents]):
    """What they share: the three protocols.

    dimension, task_type  as the service has them; None is not sent
    """

    model_name: str
    task_type: str | None = None
    dimension: int | None = None
    inputs_per_request = 100

    def gemini_request(self, batch: Sequence[str]) -> Request:
        """A batch for the Gemini API."""
        model = self.model_name if "/" in self.model_name else f"models/{self.model_name}"
        chosen = {"taskType": self.task_type, "outputDimensionality": self.dimension}
        options = {name: value for name, value in chosen.items() if value is not None}
        requests = [{"model": model, "content": {"parts": [{"text": text}]}, **options} for text in batch]
        return Request(
            f"{_GEMINI_URL}/{model}:batchEmbedContents", {"requests": requests}, {"x-goog-api-key": self.held_key().reveal()}
        )

    def vertex_request(self, batch: Sequence[str], project: str, region: str) -> Request:
        """A batch for Vertex AI."""
        task = {} if self.task_type is None else {"task_type": self.task_type}
        body: dict[str, Any] = {"instances": [{"content": text, **task} for text in batch]}
        if self.dimension is not None:
            body["parameters"] = {"outputDimensionality": self.dimension}
        host = "aiplatform.googleapis.com" if region == "global" else f"{region}-aiplatform.googleapis.com"
        url = f"https://{host}/v1/projects/{project}/locations/{region}/publishers/google/models/{self.model_name}:predict"
        return Request(url, body, {"Authorization": f"Bearer {access_token()}"})

    def vertex_limit(self) -> int:
        """Vertex AI takes five texts at a time, one for Gemini's models."""
        return 1 if self.model_name.startswith("gemini") else 5

    def read(self, answer: Any) -> list[Any]:
        """Whichever protocol answered."""
        if "predictions" in answer:
            return [prediction["embeddings"]["values"] for prediction in answer["predictions"]]
        return [embedding["values"] if "values" in embedding else embedding["value"] for embedding in answer["embeddings"]]


class GoogleGeminiEmbeddingFunction(GoogleEmbeddingFunction):
    """Gemini's models by key, or through Vertex AI by the credentials of this machine.

    dimension          numbers per vector, 128 to 3072; None is the model's own
    vertexai           through Vertex AI, with ``project`` and ``location``; no key may be set then
    Raises             ValueError for no key, or for a key together with vertexai
    """

    stored = "google_gemini"
    fixed: ClassVar[Mapping[str, str]] = {
        **MODEL_NAME_FIXED,
        **{name: name for name in ("dimension", "vertexai", "project", "location")},
    }

    def __init__(
        self,
        model_name: str = "gemini-embedding-001",
        task_type: str | None = None,
        dimension: int | None = None,
        api_key_env_var: str | None = "GEMINI_API_KEY",
        vertexai: bool | None = None,
        project: str | None = None,
        location: str | None = None,
    ) -> None:
        self.model_name = model_name
        self.task_type = task_type
        self.dimension = dimension
        self.vertexai = vertexai
        self.project = project
        self.location = location
        self.api_key_env_var, self.key = find_key(None, api_key_env_var)
        if self.key and vertexai:
            raise ValueError("Vertex AI and API key are mutually exclusive in the client initializer.")
        if not self.key and not vertexai:
            raise ValueError(f"The {api_key_env_var} environment variable must be set if vertexai is not enabled.")

    def checked_inputs(self, inputs: Any) -> list[Any]:
        """Raises ValueError, with Chroma's messages."""
        if len(inputs) == 0:
            raise ValueError("Input documents cannot be empty")
        if not isinstance(inputs, list | tuple):
            raise ValueError("Input must be a list or tuple of documents")
        if not all(isinstance(each, str) for each in inputs):
            raise ValueError("All input documents must be strings")
        return list(inputs)

    def request(self, batch: Sequence[str], query: bool) -> Request:
        """By key or through Vertex AI."""
        if self.key:
            return self.gemini_request(batch)
        if not self.project or not self.location:
            raise EmbeddingFailed("google_gemini through Vertex AI needs project and location.")
        return self.vertex_request(batch, self.project, self.location)

    def batch_limit(self, inputs: Sequence[Any]) -> int:
        """By the service."""
        return self.vertex_limit() if self.vertexai else self.inputs_per_request

    def get_config(self) -> dict[str, Any]:
        """Chroma's keys; task type and dimension where they were chosen."""
        return _without_none(self, ("task_type", "dimension"))


GoogleGenaiEmbeddingFunction = GoogleGeminiEmbeddingFunction
"""The older name."""


class GoogleGenerativeAiEmbeddingFunction(GoogleEmbeddingFunction):
    """Gemini's models by key, as Google's older library asked for them."""

    stored = "google_generative_ai"
    fixed: ClassVar[Mapping[str, str]] = {**MODEL_NAME_FIXED, "task_type": "task type", "dimension": "dimension"}

    def __init__(
        self,
        api_key: str | None = None,
        model_name: str = "gemini-embedding-001",
        task_type: str = "RETRIEVAL_DOCUMENT",
        api_key_env_var: str = "GEMINI_API_KEY",
        dimension: int | None = None,
    ) -> None:
        self.api_key_env_var, self.key = require_key(api_key, api_key_env_var, "GOOGLE_API_KEY")
        self.model_name = model_name
        self.task_type = task_type
        self.dimension = dimension

    def request(self, batch: Sequence[str], query: bool) -> Request:
        """The texts."""
        return self.gemini_request(batch)

    def get_config(self) -> dict[str, Any]:
        """Chroma's keys; the dimension where it was chosen."""
        return _without_none(self, ("dimension",))


class GooglePalmEmbeddingFunction(GoogleEmbeddingFunction):
    """PaLM's models, in the protocol they had."""

    stored = "google_palm"
    fixed: ClassVar[Mapping[str, str]] = MODEL_NAME_FIXED

    def __init__(
        self,
        api_key: str | None = None,
        model_name: str = "models/embedding-gecko-001",
        api_key_env_var: str = "CHROMA_GOOGLE_PALM_API_KEY",
    ) -> None:
        self.api_key_env_var, self.key = require_key(api_key, api_key_env_var, "GOOGLE_API_KEY")
        self.model_name = model_name

    def request(self, batch: Sequence[str], query: bool) -> Request:
        """The texts."""
        url = f"{_GEMINI_URL}/{self.model_name}:batchEmbedText"
        return Request(url, {"texts": list(batch)}, {"x-goog-api-key": self.held_key().reveal()})


class GoogleVertexEmbeddingFunction(GoogleEmbeddingFunction):
    """Vertex AI's text models. As with Chroma's, a key must be set, and the credentials of this machine are what is sent."""

    stored = "google_vertex"
    fixed: ClassVar[Mapping[str, str]] = {**MODEL_NAME_FIXED, "project_id": "project ID", "region": "region"}

    def __init__(
        self,
        api_key: str | None = None,
        model_name: str = "textembedding-gecko",
        project_id: str = "cloud-large-language-models",
        region: str = "us-central1",
        api_key_env_var: str = "CHROMA_GOOGLE_VERTEX_API_KEY",
    ) -> None:
        self.api_key_env_var, self.key = require_key(api_key, api_key_env_var, "GOOGLE_API_KEY")
        self.model_name = model_name
        self.project_id = project_id
        self.region = region

    def request(self, batch: Sequence[str], query: bool) -> Request:
        """The texts."""
        return self.vertex_request(batch, self.project_id, self.region)

    def batch_limit(self, inputs: Sequence[Any]) -> int:
        """By the model."""
        return self.vertex_limit()


_CREDENTIALS: Final[list[Any]] = []
_CREDENTIALS_LOCK: Final = Lock()


def access_token() -> str:
    """A token of this machine's Google credentials, renewed when it is due.

    Raises MissingDependency without the package google-auth; EmbeddingFailed where there are no credentials.
    """
    try:
        import google.auth
        from google.auth.transport.requests import Request as Renewal
    except ImportError as error:
        raise MissingDependency("Vertex AI needs the package google-auth.", hint="pip install google-auth requests") from error
    with _CREDENTIALS_LOCK:
        try:
            if not _CREDENTIALS:
                _CREDENTIALS.append(google.auth.default(scopes=[_SCOPE])[0])
            if not _CREDENTIALS[0].valid:
                _CREDENTIALS[0].refresh(Renewal())
        except Exception as error:
            raise EmbeddingFailed(
                f"this machine has no usable Google credentials: {error}", hint="gcloud auth application-default login"
            ) from error
        return str(_CREDENTIALS[0].token)


def _without_none(function: Configured, names: Sequence[str]) -> dict[str, Any]:
    config = {name: getattr(function, name) for name in fields(function.stored)}
    return {name: value for name, value in config.items() if value is not None or name not in names}
