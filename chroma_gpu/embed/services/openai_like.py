"""Services that speak OpenAI's protocol, or one close to it: ``{"model", "input"}`` there, ``{"data": [{"embedding"}]}`` back."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final
from urllib.parse import quote

import numpy as np

from chroma_gpu.embed import Documents
from chroma_gpu.embed.configs import MODEL_NAME_FIXED
from chroma_gpu.embed.services.remote import RemoteEmbeddingFunction, Request, require_key

MORPH_URL: Final = "https://api.morphllm.com/v1"


class OpenAILike(RemoteEmbeddingFunction[Documents]):
    """What they share.

    url       where requests go
    """

    url: str
    model_name: str
    fixed: ClassVar[Mapping[str, str]] = MODEL_NAME_FIXED

    def request(self, batch: Sequence[str], query: bool) -> Request:
        """The batch under ``input``."""
        return Request(self.url, {"model": self.model_name, "input": list(batch), **self.options()}, self.held_key().bearer())

    def options(self) -> dict[str, Any]:
        """What else the service is told."""
        return {}

    def read(self, answer: Any) -> list[Any]:
        """The embeddings in the order of their ``index``, where there is one."""
        data = answer["data"]
        if all("index" in item for item in data):
            data = sorted(data, key=lambda item: item["index"])
        return [item["embedding"] for item in data]

    def value(self, found: Any) -> Any:
        """The vector; a text is base64 of float32, little endian."""
        return super().value(np.frombuffer(base64.b64decode(found), "<f4") if isinstance(found, str) else found)


class OpenAIEmbeddingFunction(OpenAILike):
    """OpenAI's models, Azure's, or any server of the same protocol.

    api_base       URL before /embeddings; Azure's endpoint
    api_type       "azure" needs api_base, api_version and deployment_id
    dimensions     numbers per vector, for text-embedding-3 models
    Raises         ValueError where the key or what Azure needs is missing
    """

    stored = "openai"
    inputs_per_request = 2048
    characters_per_request = 250_000

    def __init__(
        self,
        api_key: str | None = None,
        model_name: str = "text-embedding-ada-002",
        organization_id: str | None = None,
        api_base: str | None = None,
        api_type: str | None = None,
        api_version: str | None = None,
        deployment_id: str | None = None,
        default_headers: dict[str, str] | None = None,
        dimensions: int | None = None,
        api_key_env_var: str = "CHROMA_OPENAI_API_KEY",
    ) -> None:
        self.api_key_env_var, self.key = require_key(api_key, api_key_env_var, "OPENAI_API_KEY")
        self.model_name = model_name
        self.organization_id = organization_id
        self.api_base = api_base
        self.api_type = api_type
        self.api_version = api_version
        self.deployment_id = deployment_id
        self.default_headers = default_headers
        self.dimensions = dimensions
        self.url = f"{(api_base or 'https://api.openai.com/v1').rstrip('/')}/embeddings"
        if api_type == "azure":
            for name, value in {"api_version": api_version, "deployment_id": deployment_id, "api_base": api_base}.items():
                if value is None:
                    raise ValueError(f"{name} must be specified for Azure OpenAI")
            place = f"{str(api_base).rstrip('/')}/openai/deployments/{quote(str(deployment_id), safe='')}"
            self.url = f"{place}/embeddings?api-version={quote(str(api_version), safe='')}"

    def request(self, batch: Sequence[str], query: bool) -> Request:
        """With the organisation and the given headers; Azure takes the key in a header of its own."""
        sent = super().request(batch, query)
        headers = {"api-key": self.held_key().reveal()} if self.api_type == "azure" else dict(sent.headers)
        if self.organization_id is not None and self.api_type != "azure":
            headers["OpenAI-Organization"] = self.organization_id
        return Request(sent.url, sent.body, headers | (self.default_headers or {}))

    def options(self) -> dict[str, Any]:
        """The dimensions, for the models that know them."""
        known = self.dimensions is not None and "text-embedding-3" in self.model_name
        return {"dimensions": self.dimensions} if known else {}


class BasetenEmbeddingFunction(OpenAIEmbeddingFunction):
    """A model deployed on Baseten; ``api_base`` is the URL of the deployment."""

    stored = "baseten"
    inputs_per_request = 128

    def __init__(self, api_key: str | None, api_base: str, api_key_env_var: str = "CHROMA_BASETEN_API_KEY") -> None:
        variable, key = require_key(
            api_key, api_key_env_var, "BASETEN_API_KEY", "API key not provided and {} environment variable is not set."
        )
        if not api_base:
            raise ValueError("The api_base argument must be provided.")
        self.api_key_env_var, self.key = variable, key
        self.api_base = api_base
        self.model_name = "baseten-embedding-model"
        self.url = f"{api_base.rstrip('/')}/embeddings"
        self.organization_id = self.api_type = self.default_headers = self.dimensions = None

    @classmethod
    def arguments(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """The key comes from the environment."""
        return {"api_key": None, **super().arguments(config)}


class TogetherAIEmbeddingFunction(OpenAILike):
    """The models of together.ai."""

    stored = "together_ai"
    url = "https://api.together.xyz/v1/embeddings"

    def __init__(self, model_name: str, api_key: str | None = None, api_key_env_var: str = "CHROMA_TOGETHER_AI_API_KEY") -> None:
        self.model_name = model_name
        self.api_key_env_var, self.key = require_key(api_key, api_key_env_var, "TOGETHER_API_KEY")

    def checked_inputs(self, inputs: Any) -> list[Any]:
        """Raises ValueError, with Chroma's messages."""
        if not inputs:
            raise ValueError("Input is required")
        if not isinstance(inputs, list):
            raise ValueError("Input must be a list")
        if not all(isinstance(each, str) for each in inputs):
            raise ValueError("All items in input must be strings")
        return inputs


class MistralEmbeddingFunction(OpenAILike):
    """The models of Mistral."""

    stored = "mistral"
    url = "https://api.mistral.ai/v1/embeddings"
    characters_per_request = 30_000
    fixed: ClassVar[Mapping[str, str]] = {"model": "model"}

    def __init__(self, model: str, api_key_env_var: str = "MISTRAL_API_KEY") -> None:
        self.model = self.model_name = model
        self.api_key_env_var, self.key = require_key(None, api_key_env_var)


class MorphEmbeddingFunction(OpenAILike):
    """Morph's models for code."""

    stored = "morph"

    def __init__(
        self,
        api_key: str | None = None,
        model_name: str = "morph-embedding-v2",
        api_base: str | None = MORPH_URL,
        encoding_format: str | None = "float",
        api_key_env_var: str = "MORPH_API_KEY",
    ) -> None:
        self.api_key_env_var, self.key = require_key(api_key, api_key_env_var)
        self.model_name = model_name
        self.api_base = api_base or MORPH_URL
        self.encoding_format = encoding_format or "float"
        self.url = f"{self.api_base.rstrip('/')}/embeddings"

    def options(self) -> dict[str, Any]:
        """How numbers are written."""
        return {"encoding_format": self.encoding_format}


class PerplexityEmbeddingFunction(OpenAILike):
    """Perplexity's models, whose vectors are of whole numbers from -128 to 127."""

    stored = "perplexity"
    url = "https://api.perplexity.ai/v1/embeddings"

    def __init__(
        self,
        api_key: str | None = None,
        model_name: str = "pplx-embed-v1-0.6b",
        api_key_env_var: str = "PERPLEXITY_API_KEY",
        dimensions: int | None = None,
    ) -> None:
        self.api_key_env_var, self.key = require_key(api_key, api_key_env_var, "PERPLEXITY_API_KEY")
        self.model_name = model_name
        self.dimensions = dimensions

    def options(self) -> dict[str, Any]:
        """The dimensions, where they were chosen."""
        return {} if self.dimensions is None else {"dimensions": self.dimensions}

    def value(self, found: Any) -> Any:
        """The vector; a text is base64 of int8."""
        return super().value(np.frombuffer(base64.b64decode(found), np.int8) if isinstance(found, str) else found)


class VoyageAIEmbeddingFunction(OpenAILike):
    """Voyage's models.  input_type: "document", "query" or None, for all that this function embeds."""

    stored = "voyageai"
    url = "https://api.voyageai.com/v1/embeddings"
    inputs_per_request = 128

    def __init__(
        self,
        api_key: str | None = None,
        model_name: str = "voyage-large-2",
        api_key_env_var: str = "CHROMA_VOYAGE_API_KEY",
        input_type: str | None = None,
        truncation: bool = True,
    ) -> None:
        self.api_key_env_var, self.key = require_key(api_key, api_key_env_var, "VOYAGE_API_KEY")
        self.model_name = model_name
        self.input_type = input_type
        self.truncation = truncation

    def options(self) -> dict[str, Any]:
        """What the texts are, and whether long ones are cut."""
        return {"input_type": self.input_type, "truncation": self.truncation}
