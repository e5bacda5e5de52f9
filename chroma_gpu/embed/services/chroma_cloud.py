"""The embedding services of Chroma's cloud: dense vectors by Qwen, sparse ones by SPLADE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, ClassVar, Final, TypeAlias

from chroma_gpu.config import secret
from chroma_gpu.embed import Documents, SparseEmbeddingFunction, SparseVectors
from chroma_gpu.embed.services.remote import AsksDifferently, Key, Remote, RemoteEmbeddingFunction, Request
from chroma_gpu.embed.sparse import sorted_vector

EMBED_URL: Final = "https://embed.trychroma.com"


class ChromaCloudQwenEmbeddingModel(Enum):
    """The models."""

    QWEN3_EMBEDDING_0p6B = "Qwen/Qwen3-Embedding-0.6B"


class ChromaCloudQwenEmbeddingTarget(Enum):
    """What is embedded."""

    DOCUMENTS = "documents"
    QUERY = "query"


ChromaCloudQwenEmbeddingInstructions: TypeAlias = dict[str, dict[ChromaCloudQwenEmbeddingTarget, str]]

CHROMA_CLOUD_QWEN_DEFAULT_INSTRUCTIONS: Final[ChromaCloudQwenEmbeddingInstructions] = {
    "nl_to_code": {
        ChromaCloudQwenEmbeddingTarget.DOCUMENTS: "",
        # The model's own words for this task; the vectors depend on each of them.
        ChromaCloudQwenEmbeddingTarget.QUERY: "Given a question about coding, retrieval code or passage that can solve user's question",
    }
}


class ChromaCloudQwenEmbeddingFunction(AsksDifferently, RemoteEmbeddingFunction[Documents]):
    """Qwen's embedding model.

    task          which instructions are sent; one that has none, or None, sends none
    instructions  task -> target -> instruction
    Raises        ValueError where there is no key
    """

    stored = "chroma-cloud-qwen"
    fixed: ClassVar[Mapping[str, str]] = {name: name for name in ("model", "task", "instructions")}

    def __init__(
        self,
        model: ChromaCloudQwenEmbeddingModel,
        task: str | None,
        instructions: ChromaCloudQwenEmbeddingInstructions = CHROMA_CLOUD_QWEN_DEFAULT_INSTRUCTIONS,
        api_key_env_var: str = "CHROMA_API_KEY",
    ) -> None:
        self.api_key_env_var = api_key_env_var
        self.key = _cloud_key(api_key_env_var)
        self.model = model
        self.task = task
        self.instructions = instructions

    def request(self, batch: Sequence[Any], query: bool) -> Request:
        """The texts and the instruction for what they are."""
        target = ChromaCloudQwenEmbeddingTarget.QUERY if query else ChromaCloudQwenEmbeddingTarget.DOCUMENTS
        instruction = self.instructions.get(self.task, {}).get(target, "") if self.task else ""
        return Request(
            embed_url(), {"instructions": instruction, "texts": list(batch)}, _headers(self.held_key(), self.model.value)
        )

    def read(self, answer: Any) -> list[Any]:
        """The embeddings."""
        return answer["embeddings"]  # type: ignore[no-any-return]

    def get_config(self) -> dict[str, Any]:
        """Chroma's keys."""
        instructions = {
            task: {target.value: text for target, text in targets.items()} for task, targets in self.instructions.items()
        }
        return super().get_config() | {"model": self.model.value, "instructions": instructions}

    @classmethod
    def arguments(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Texts become members of the enums."""
        given = super().arguments(config)
        given["model"] = ChromaCloudQwenEmbeddingModel(given["model"])
        if "instructions" in given:
            given["instructions"] = {
                task: {ChromaCloudQwenEmbeddingTarget(target): text for target, text in targets.items()}
                for task, targets in given["instructions"].items()
            }
        return given


class ChromaCloudSpladeEmbeddingModel(Enum):
    """The models."""

    SPLADE_PP_EN_V1 = "prithivida/Splade_PP_en_v1"


class ChromaCloudSpladeEmbeddingFunction(Remote, SparseEmbeddingFunction[Documents]):
    """A SPLADE model.

    include_tokens  the vectors carry the tokens of their coordinates as labels
    Raises          ValueError where there is no key
    """

    stored = "chroma-cloud-splade"

    def __init__(
        self,
        api_key_env_var: str = "CHROMA_API_KEY",
        model: ChromaCloudSpladeEmbeddingModel = ChromaCloudSpladeEmbeddingModel.SPLADE_PP_EN_V1,
        include_tokens: bool = False,
    ) -> None:
        self.api_key_env_var = api_key_env_var
        self.key = _cloud_key(api_key_env_var)
        self.model = model
        self.include_tokens = bool(include_tokens)

    def __call__(self, input: Documents) -> SparseVectors:
        """One sparse vector per text.  Raises ValueError for no texts and for what is no text; EmbeddingFailed."""
        listed = [input] if isinstance(input, str) else list(input)
        if not all(isinstance(each, str) for each in listed):
            raise ValueError(f"{self.stored} only supports text documents, not images")
        return self.ask(listed, query=False)

    def request(self, batch: Sequence[Any], query: bool) -> Request:
        """The texts."""
        body = {"texts": list(batch), "task": "", "target": "", "fetch_tokens": "true" if self.include_tokens else "false"}
        return Request(f"{embed_url()}/embed_sparse", body, _headers(self.held_key(), self.model.value))

    def read(self, answer: Any) -> list[Any]:
        """The embeddings."""
        return answer["embeddings"]  # type: ignore[no-any-return]

    def value(self, found: Any) -> Any:
        """The vector, its indices in order."""
        labels = found.get("labels") if self.include_tokens else None
        return sorted_vector(found["indices"], found["values"], labels or None)

    def close(self) -> None:
        """Nothing is held open for this function alone."""

    def get_config(self) -> dict[str, Any]:
        """Chroma's keys."""
        return super().get_config() | {"model": self.model.value}

    @classmethod
    def arguments(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Text becomes a member of the enum."""
        given = super().arguments(config)
        return given | {"model": ChromaCloudSpladeEmbeddingModel(given["model"])}

    def validate_config_update(self, old_config: dict[str, Any], new_config: dict[str, Any]) -> None:
        """Raises ValueError for another model, or if tokens are to come or go."""
        for name in ("include_tokens", "model"):
            if name in new_config and new_config[name] != old_config.get(name):
                raise ValueError(f"Updating '{name}' is not supported for {self.stored}")


def embed_url() -> str:
    """Where the service is: the environment's CHROMA_EMBED_URL, or Chroma's own."""
    return (secret("CHROMA_EMBED_URL") or EMBED_URL).rstrip("/")


def _cloud_key(variable: str) -> Key:
    value = (secret(variable) or "").strip()
    if not value:
        raise ValueError(f"API key not found in environment variable {variable} or in any existing client instances")
    return Key(value, variable)


def _headers(key: Key, model: str) -> dict[str, str]:
    return {"x-chroma-token": key.reveal(), "x-chroma-embedding-model": model}
