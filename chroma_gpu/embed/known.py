"""The embedding functions that ship, by stored name, and the tables through which they and the users' own are found."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any, Final, TypeVar, cast

PROVIDERS: Final[Mapping[str, str]] = {
    "default": "local:DefaultEmbeddingFunction",
    "sentence_transformer": "local:SentenceTransformerEmbeddingFunction",
    "instructor": "local:InstructorEmbeddingFunction",
    "static": "local:StaticEmbeddingFunction",
    "text2vec": "local:Text2VecEmbeddingFunction",
    "hashing": "hashing:HashingEmbeddingFunction",
    "onnx_mini_lm_l6_v2": "minilm:ONNXMiniLM_L6_V2",
    "open_clip": "clip:OpenCLIPEmbeddingFunction",
    "amazon_bedrock": "services.brought:AmazonBedrockEmbeddingFunction",
    "chroma_langchain": "services.brought:ChromaLangchainEmbeddingFunction",
    "openai": "services.openai_like:OpenAIEmbeddingFunction",
    "baseten": "services.openai_like:BasetenEmbeddingFunction",
    "together_ai": "services.openai_like:TogetherAIEmbeddingFunction",
    "mistral": "services.openai_like:MistralEmbeddingFunction",
    "morph": "services.openai_like:MorphEmbeddingFunction",
    "perplexity": "services.openai_like:PerplexityEmbeddingFunction",
    "voyageai": "services.openai_like:VoyageAIEmbeddingFunction",
    "cohere": "services.hosted:CohereEmbeddingFunction",
    "jina": "services.hosted:JinaEmbeddingFunction",
    "nomic": "services.hosted:NomicEmbeddingFunction",
    "huggingface": "services.hosted:HuggingFaceEmbeddingFunction",
    "huggingface_server": "services.hosted:HuggingFaceEmbeddingServer",
    "ollama": "services.hosted:OllamaEmbeddingFunction",
    "cloudflare_workers_ai": "services.hosted:CloudflareWorkersAIEmbeddingFunction",
    "roboflow": "services.hosted:RoboflowEmbeddingFunction",
    "google_gemini": "services.google:GoogleGeminiEmbeddingFunction",
    "google_genai": "services.google:GoogleGeminiEmbeddingFunction",
    "google_generative_ai": "services.google:GoogleGenerativeAiEmbeddingFunction",
    "google_palm": "services.google:GooglePalmEmbeddingFunction",
    "google_vertex": "services.google:GoogleVertexEmbeddingFunction",
    "chroma-cloud-qwen": "services.chroma_cloud:ChromaCloudQwenEmbeddingFunction",
}
"""The functions that ship: stored name -> module of this package:class, imported when first asked for."""

SPARSE_PROVIDERS: Final[Mapping[str, str]] = {
    "chroma_bm25": "bm25:ChromaBm25EmbeddingFunction",
    "huggingface_sparse": "sparse_models:HuggingFaceSparseEmbeddingFunction",
    "fastembed_sparse": "sparse_models:FastembedSparseEmbeddingFunction",
    "bm25": "sparse_models:Bm25EmbeddingFunction",
    "chroma-cloud-splade": "services.chroma_cloud:ChromaCloudSpladeEmbeddingFunction",
}
"""The sparse functions that ship, likewise."""

F = TypeVar("F", bound=type[Any])


class KnownFunctions(MutableMapping[str, F]):
    """Name -> class of every function that can be rebuilt from its configuration. Classes that ship are imported on first use."""

    def __init__(self, paths: Mapping[str, str]) -> None:
        self._found: dict[str, str | F] = dict(paths)

    def __getitem__(self, name: str) -> F:
        found = self._found[name]
        if isinstance(found, str):
            module, _, attribute = found.partition(":")
            found = cast(F, getattr(importlib.import_module(f"chroma_gpu.embed.{module}"), attribute))
            self._found[name] = found
        return found

    def __setitem__(self, name: str, function: F) -> None:
        self._found[name] = function

    def __delitem__(self, name: str) -> None:
        del self._found[name]

    def __contains__(self, name: object) -> bool:
        return name in self._found

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._found))

    def __len__(self) -> int:
        return len(self._found)
