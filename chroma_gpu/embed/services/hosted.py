"""Services with protocols of their own: Cohere, Jina, Nomic, Hugging Face, Ollama, Cloudflare, Roboflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, TypeAlias
from urllib.parse import urlparse

from chroma_gpu.embed import Documents, Embeddable, Space
from chroma_gpu.embed.configs import MODEL_NAME_FIXED
from chroma_gpu.embed.images import is_image, png_base64
from chroma_gpu.embed.services.remote import AsksDifferently, RemoteEmbeddingFunction, Request, find_key, require_key

JinaQueryConfig: TypeAlias = dict[str, Any]
"""What is sent otherwise for search queries, such as ``{"task": "retrieval.query"}``."""

NomicQueryConfig: TypeAlias = dict[str, Any]
"""``{"task_type": "search_query"}``."""

OLLAMA_MODEL: Final = "chroma/all-minilm-l6-v2-f32"


class _TextsAndImages:
    """For services that take both, also in one call."""

    def checked_inputs(self, inputs: Any) -> list[Any]:
        """Raises ValueError for what is neither text nor image."""
        listed = [inputs] if isinstance(inputs, str) else list(inputs)
        if not all(isinstance(each, str) or is_image(each) for each in listed):
            raise ValueError("Input must be a list of text documents (str) and images (numpy arrays).")
        return listed


class CohereEmbeddingFunction(AsksDifferently, RemoteEmbeddingFunction[Embeddable]):
    """Cohere's models, for texts or for images. Search queries are embedded as such, which Cohere's models need."""

    stored = "cohere"
    fixed: ClassVar[Mapping[str, str]] = MODEL_NAME_FIXED

    def __init__(
        self, api_key: str | None = None, model_name: str = "large", api_key_env_var: str = "CHROMA_COHERE_API_KEY"
    ) -> None:
        self.api_key_env_var, self.key = require_key(api_key, api_key_env_var, "COHERE_API_KEY")
        self.model_name = model_name

    def checked_inputs(self, inputs: Any) -> list[Any]:
        """Raises ValueError unless all inputs are texts, or all are images."""
        listed = [inputs] if isinstance(inputs, str) else list(inputs)
        texts, images = sum(isinstance(each, str) for each in listed), sum(map(is_image, listed))
        if texts and images:
            raise ValueError(
                "Input contains a mix of text documents and images, which is not supported. "
                "Provide either all texts or all images."
            )
        if texts + images != len(listed):
            raise ValueError("Input must be a list of text documents (str) or a list of images (numpy arrays).")
        return listed

    def request(self, batch: Sequence[Any], query: bool) -> Request:
        """A batch of texts, or one image."""
        given: dict[str, Any] = {"texts": list(batch), "input_type": "search_query" if query else "search_document"}
        if is_image(batch[0]):
            given = {"images": [f"data:image/png;base64,{png_base64(each)}" for each in batch], "input_type": "image"}
        body = {"model": self.model_name, **given, "embedding_types": ["float"]}
        return Request("https://api.cohere.com/v2/embed", body, self.held_key().bearer())

    def batch_limit(self, inputs: Sequence[Any]) -> int:
        """96 texts; images go one by one."""
        return 1 if inputs and is_image(inputs[0]) else self.inputs_per_request

    def read(self, answer: Any) -> list[Any]:
        """The floats."""
        return answer["embeddings"]["float"]  # type: ignore[no-any-return]

    def default_space(self) -> Space:
        """What the model was made for."""
        return "ip" if self.model_name == "embed-multilingual-v2.0" else "cosine"

    def supported_spaces(self) -> list[Space]:
        """The older models know one."""
        if self.model_name in ("embed-english-v2.0", "embed-english-light-v2.0"):
            return ["cosine"]
        return ["ip"] if self.model_name == "embed-multilingual-v2.0" else ["cosine", "l2", "ip"]


class JinaEmbeddingFunction(AsksDifferently, _TextsAndImages, RemoteEmbeddingFunction[Embeddable]):
    """Jina's models, for texts and images in any mix.

    late_chunking  all inputs are read as one text before each gets its vector, so they are sent in one request
    query_config   replaces what is sent for documents when search queries are embedded
    others         as the service has them; None is not sent
    """

    stored = "jina"
    inputs_per_request = 512
    fixed: ClassVar[Mapping[str, str]] = MODEL_NAME_FIXED

    def __init__(
        self,
        api_key: str | None = None,
        model_name: str = "jina-embeddings-v2-base-en",
        api_key_env_var: str = "CHROMA_JINA_API_KEY",
        task: str | None = None,
        late_chunking: bool | None = None,
        truncate: bool | None = None,
        dimensions: int | None = None,
        embedding_type: str | None = None,
        normalized: bool | None = None,
        query_config: JinaQueryConfig | None = None,
    ) -> None:
        self.api_key_env_var, self.key = require_key(api_key, api_key_env_var, "JINA_API_KEY")
        self.model_name = model_name
        self.task = task
        self.late_chunking = late_chunking
        self.truncate = truncate
        self.dimensions = dimensions
        self.embedding_type = embedding_type
        self.normalized = normalized
        self.query_config = query_config

    def request(self, batch: Sequence[Any], query: bool) -> Request:
        """Texts as they are; objects as soon as there is an image."""
        given: list[Any] = list(batch)
        if not all(isinstance(each, str) for each in batch):
            given = [{"text": each} if isinstance(each, str) else {"image": png_base64(each)} for each in batch]
        names = ("task", "late_chunking", "truncate", "dimensions", "embedding_type", "normalized")
        chosen = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        body = {"input": given, "model": self.model_name, **chosen, **((self.query_config or {}) if query else {})}
        return Request("https://api.jina.ai/v1/embeddings", body, self.held_key().bearer())

    def fingerprint(self) -> str | None:
        """None with late chunking: a vector depends on the other texts too then."""
        return None if self.late_chunking else super().fingerprint()

    def batch_limit(self, inputs: Sequence[Any]) -> int:
        """Everything with late chunking."""
        return len(inputs) if self.late_chunking else self.inputs_per_request

    def text_limit(self) -> int | None:
        """None with late chunking."""
        return None if self.late_chunking else self.characters_per_request

    def read(self, answer: Any) -> list[Any]:
        """The embeddings in the order of their ``index``."""
        return [item["embedding"] for item in sorted(answer["data"], key=lambda item: item["index"])]


class NomicEmbeddingFunction(AsksDifferently, RemoteEmbeddingFunction[Documents]):
    """Nomic's models.

    task_type     "search_document", "search_query", "classification" or "clustering", for documents
    query_config  ``{"task_type": ...}`` for search queries; None is as for documents
    """

    stored = "nomic"
    fixed: ClassVar[Mapping[str, str]] = {"model": "model"}

    def __init__(
        self, model: str, task_type: str, query_config: NomicQueryConfig | None, api_key_env_var: str = "NOMIC_API_KEY"
    ) -> None:
        self.model = model
        self.task_type = task_type
        self.query_config = query_config
        self.api_key_env_var, self.key = require_key(None, api_key_env_var)

    @classmethod
    def arguments(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """``query_config`` has no default."""
        return {"query_config": None, **super().arguments(config)}

    def request(self, batch: Sequence[Any], query: bool) -> Request:
        """The texts with their task."""
        task = self.query_config.get("task_type") if query and self.query_config else self.task_type
        body = {"model": self.model, "texts": list(batch), "task_type": task}
        return Request("https://api-atlas.nomic.ai/v1/embedding/text", body, self.held_key().bearer())

    def read(self, answer: Any) -> list[Any]:
        """The embeddings."""
        return answer["embeddings"]  # type: ignore[no-any-return]


class HuggingFaceEmbeddingFunction(RemoteEmbeddingFunction[Documents]):
    """Models that Hugging Face serves for feature extraction and that return one vector per text."""

    stored = "huggingface"
    inputs_per_request = 32
    fixed: ClassVar[Mapping[str, str]] = MODEL_NAME_FIXED

    def __init__(
        self,
        api_key: str | None = None,
        model_name: str = "sentence-transformers/all-MiniLM-L6-v2",
        api_key_env_var: str = "CHROMA_HUGGINGFACE_API_KEY",
    ) -> None:
        self.api_key_env_var, self.key = require_key(api_key, api_key_env_var, "HUGGINGFACE_API_KEY")
        self.model_name = model_name

    def request(self, batch: Sequence[Any], query: bool) -> Request:
        """To the router; api-inference.huggingface.co, where such requests went before, is closed."""
        url = f"https://router.huggingface.co/hf-inference/models/{self.model_name}/pipeline/feature-extraction"
        return Request(url, {"inputs": list(batch), "options": {"wait_for_model": True}}, self.held_key().bearer())

    def read(self, answer: Any) -> list[Any]:
        """The answer is the embeddings."""
        return answer  # type: ignore[no-any-return]


class HuggingFaceEmbeddingServer(RemoteEmbeddingFunction[Documents]):
    """A server of Hugging Face's text-embeddings-inference; ``url`` is that of its /embed."""

    stored = "huggingface_server"
    inputs_per_request = 32

    def __init__(self, url: str, api_key_env_var: str | None = None, api_key: str | None = None) -> None:
        self.url = url
        self.api_key_env_var, self.key = find_key(api_key, api_key_env_var, "HUGGINGFACE_API_KEY")

    def request(self, batch: Sequence[Any], query: bool) -> Request:
        """The texts; a key only where there is one."""
        return Request(self.url, {"inputs": list(batch)}, self.key.bearer() if self.key else {})

    def read(self, answer: Any) -> list[Any]:
        """The answer is the embeddings."""
        return answer  # type: ignore[no-any-return]

    def validate_config_update(self, old_config: dict[str, Any], new_config: dict[str, Any]) -> None:
        """Raises ValueError for another URL."""
        if "url" in new_config and new_config["url"] != self.url:
            raise ValueError("The URL cannot be changed after the embedding function has been initialized.")


class OllamaEmbeddingFunction(RemoteEmbeddingFunction[Documents]):
    """An Ollama server.

    url      its base; an old URL that ends in /api/embeddings is taken too
    timeout  seconds
    """

    stored = "ollama"
    fixed: ClassVar[Mapping[str, str]] = MODEL_NAME_FIXED

    def __init__(self, url: str = "http://localhost:11434", model_name: str = OLLAMA_MODEL, timeout: int = 60) -> None:
        self.url = url
        self.model_name = model_name
        self.timeout = timeout
        parsed = urlparse(url)
        self._base = f"{parsed.scheme}://{parsed.netloc}" if url.endswith("/api/embeddings") else url.rstrip("/")

    def request(self, batch: Sequence[Any], query: bool) -> Request:
        """The texts."""
        return Request(f"{self._base}/api/embed", {"model": self.model_name, "input": list(batch)})

    def read(self, answer: Any) -> list[Any]:
        """The embeddings."""
        return answer["embeddings"]  # type: ignore[no-any-return]


class CloudflareWorkersAIEmbeddingFunction(RemoteEmbeddingFunction[Documents]):
    """Models on Cloudflare's Workers AI, directly or through a gateway."""

    stored = "cloudflare_workers_ai"
    fixed: ClassVar[Mapping[str, str]] = MODEL_NAME_FIXED

    def __init__(
        self,
        model_name: str,
        account_id: str,
        api_key: str | None = None,
        api_key_env_var: str = "CHROMA_CLOUDFLARE_API_KEY",
        gateway_id: str | None = None,
    ) -> None:
        self.model_name = model_name
        self.account_id = account_id
        self.api_key_env_var, self.key = require_key(api_key, api_key_env_var, "CLOUDFLARE_API_KEY")
        self.gateway_id = gateway_id

    def request(self, batch: Sequence[Any], query: bool) -> Request:
        """The texts."""
        url = f"https://api.cloudflare.com/client/v4/accounts/{self.account_id}/ai/run/{self.model_name}"
        if self.gateway_id:
            url = f"https://gateway.ai.cloudflare.com/v1/{self.account_id}/{self.gateway_id}/workers-ai/{self.model_name}"
        return Request(url, {"text": list(batch)}, self.held_key().bearer())

    def read(self, answer: Any) -> list[Any]:
        """The embeddings."""
        return answer["result"]["data"]  # type: ignore[no-any-return]


class RoboflowEmbeddingFunction(_TextsAndImages, RemoteEmbeddingFunction[Embeddable]):
    """CLIP on Roboflow's service or an inference server of its kind: texts and images in any mix, one per request.

    The service takes the key in the URL, which a log of URLs (httpx's at level INFO) therefore shows.
    """

    stored = "roboflow"
    inputs_per_request = 1

    def __init__(
        self,
        api_key: str | None = None,
        api_url: str = "https://infer.roboflow.com",
        api_key_env_var: str = "CHROMA_ROBOFLOW_API_KEY",
    ) -> None:
        self.api_key_env_var, self.key = require_key(api_key, api_key_env_var, "ROBOFLOW_API_KEY")
        self.api_url = api_url

    def request(self, batch: Sequence[Any], query: bool) -> Request:
        """One text or one image."""
        given = batch[0]
        place, body = "embed_text", {"text": given}
        if is_image(given):
            place, body = "embed_image", {"image": {"type": "base64", "value": png_base64(given)}}
        return Request(f"{self.api_url.rstrip('/')}/clip/{place}", body, params={"api_key": self.held_key().reveal()})

    def read(self, answer: Any) -> list[Any]:
        """The one embedding."""
        return answer["embeddings"]  # type: ignore[no-any-return]
