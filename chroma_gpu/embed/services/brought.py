"""Functions over objects that the user brings: a boto3 session for Amazon Bedrock, a LangChain embedding."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import numpy as np

from chroma_gpu.embed import Documents, Embeddable, EmbeddingFunction, Embeddings
from chroma_gpu.embed.configs import MODEL_NAME_FIXED, Configured
from chroma_gpu.errors import EmbeddingFailed, MissingDependency

_SECRETS: Final = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")


class AmazonBedrockEmbeddingFunction(Configured, EmbeddingFunction[Documents]):
    """Titan's models on Amazon Bedrock.

    session  a boto3.Session; its region and profile are stored, its keys never
    kwargs   arguments of ``session.client``, as JSON values; keys among them are used but not stored
    Raises   ValueError for an argument that cannot be stored; EmbeddingFailed, naming the text, when it embeds
    Cost     one request per text: the models take no more
    """

    stored = "amazon_bedrock"
    fixed: ClassVar[Mapping[str, str]] = MODEL_NAME_FIXED

    def __init__(self, session: Any, model_name: str = "amazon.titan-embed-text-v1", **kwargs: Any) -> None:
        self.check_primitive(kwargs)
        self.model_name = model_name
        self.kwargs = {name: value for name, value in kwargs.items() if name not in _SECRETS}
        named = {name: getattr(session, name, None) for name in ("region_name", "profile_name")}
        self.session_args = {name: value for name, value in named.items() if value}
        self._client = session.client(service_name="bedrock-runtime", **kwargs)

    def __call__(self, input: Documents) -> Embeddings:
        """One float32 array per text."""
        texts = [input] if isinstance(input, str) else list(input)
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("amazon_bedrock only supports text documents, not images")
        return [self._vector(text, position) for position, text in enumerate(texts)]

    def _vector(self, text: str, position: int) -> Any:
        kind = "application/json"
        try:
            answer = self._client.invoke_model(
                body=json.dumps({"inputText": text}), modelId=self.model_name, accept=kind, contentType=kind
            )
            return np.array(json.loads(answer["body"].read())["embedding"], np.float32)
        except Exception as error:
            raise EmbeddingFailed(
                f"Amazon Bedrock gave no vector for input {position}: {type(error).__name__}: {error}",
                hint="Nothing of this call was returned or written.",
            ) from error

    @classmethod
    def build_from_config(cls, config: dict[str, Any]) -> AmazonBedrockEmbeddingFunction:
        """The function again, over a new session of the stored region and profile.  Raises MissingDependency without boto3."""
        try:
            import boto3
        except ImportError as error:
            raise MissingDependency("amazon_bedrock needs the package boto3.", hint="pip install boto3") from error
        given = cls.arguments(config)
        return cls(session=boto3.Session(**given.pop("session_args")), **given)


class ChromaLangchainEmbeddingFunction(Configured, EmbeddingFunction[Embeddable]):
    """Any embedding of LangChain.  Raises ValueError for an object without ``embed_documents`` and ``embed_query``.

    It cannot be built from its configuration: a collection keeps it for this client only.
    """

    stored = "chroma_langchain"

    def __init__(self, embedding_function: Any) -> None:
        if not all(callable(getattr(embedding_function, name, None)) for name in ("embed_documents", "embed_query")):
            raise ValueError("The embedding_function must implement the Embeddings interface from langchain_core.")
        self.embedding_function = embedding_function

    def __call__(self, input: Any) -> Embeddings:
        """One float32 array per text; ``("images", uris)`` are images."""
        if isinstance(input, tuple) and len(input) == 2 and input[0] == "images":
            rows = self.embed_image(list(input[1]))
        else:
            rows = self.embed_documents(input)
        return [np.array(row, np.float32) for row in rows]

    def embed_documents(self, documents: Sequence[str]) -> list[list[float]]:
        """LangChain's vectors of documents."""
        return self.embedding_function.embed_documents(list(documents))  # type: ignore[no-any-return]

    def embed_query(self, input: Any) -> Any:
        """LangChain's vector of one search query; for a list of queries, one float32 array each."""
        if isinstance(input, str):
            return self.embedding_function.embed_query(input)
        return [np.array(self.embedding_function.embed_query(query), np.float32) for query in input]

    def embed_image(self, uris: list[str]) -> list[list[float]]:
        """LangChain's vectors of images.  Raises ValueError where it has none."""
        if not hasattr(self.embedding_function, "embed_image"):
            raise ValueError("The provided embedding function does not support image embeddings.")
        return self.embedding_function.embed_image(uris)  # type: ignore[no-any-return]

    @staticmethod
    def name() -> str:
        """Chroma's name, which is not the one it is known by."""
        return "langchain"

    def get_config(self) -> dict[str, Any]:
        """What was wrapped, for people to read."""
        return {
            "embedding_function_class": type(self.embedding_function).__name__,
            "note": "This is a placeholder config. You will need to recreate the langchain embedding function.",
        }

    @classmethod
    def build_from_config(cls, config: dict[str, Any]) -> ChromaLangchainEmbeddingFunction:
        """Raises NotImplementedError, as Chroma's: the wrapped object is not stored."""
        raise NotImplementedError(f"Building a ChromaLangchainEmbeddingFunction from config is not supported. {_AGAIN}")

    def validate_config_update(self, old_config: dict[str, Any], new_config: dict[str, Any]) -> None:
        """Raises NotImplementedError, as Chroma's."""
        raise NotImplementedError(f"Updating a ChromaLangchainEmbeddingFunction config is not supported. {_AGAIN}")


_AGAIN: Final = "Please recreate the langchain embedding function and pass it to create_langchain_embedding."


def create_langchain_embedding(langchain_embedding_fn: Any) -> ChromaLangchainEmbeddingFunction:
    """The function over an embedding of LangChain."""
    return ChromaLangchainEmbeddingFunction(langchain_embedding_fn)
