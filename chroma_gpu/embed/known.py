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
    "amazon_bedrock": "brought:AmazonBedrockEmbeddingFunction",
    "chroma_langchain": "brought:ChromaLangchainEmbeddingFunction",
    "openai": "openai_like:OpenAIEmbeddingFunction",
    "baseten": "openai_like:BasetenEmbeddingFunction",
    "together_ai": "openai_like:TogetherAIEmbeddingFunction",
    "mistral": "openai_like:MistralEmbeddingFunction",
    "morph": "openai_like:MorphEmbeddingFunction",
    "perplexity": "openai_like:PerplexityEmbeddingFunction",
    "voyageai": "openai_like:VoyageAIEmbeddingFunction",
    "cohere": "hosted:CohereEmbeddingFunction",
    "jina": "hosted:JinaEmbeddingFunction",
    "nomic": "hosted:NomicEmbeddingFunction",
    "huggingface": "hosted:HuggingFaceEmbeddingFunction",
    "huggingface_server": "hosted:HuggingFaceEmbeddingServer",
    "ollama": "hosted:OllamaEmbeddingFunction",
    "cloudflare_workers_ai": "hosted:CloudflareWorkersAIEmbeddingFunction",
    "roboflow": "hosted:RoboflowEmbeddingFunction",
    "google_gemini": "google:GoogleGeminiEmbeddingFunction",
    "google_genai": "google:GoogleGeminiEmbeddingFunction",
    "google_generative_ai": "google:GoogleGenerativeAiEmbeddingFunction",
    "google_palm": "google:GooglePalmEmbeddingFunction",
    "google_vertex": "google:GoogleVertexEmbeddingFunction",
    "chroma-cloud-qwen": "chroma_cloud:ChromaCloudQwenEmbeddingFunction",
}
"""The functions that ship: stored name -> module of this package:class, imported when first asked for."""

SPARSE_PROVIDERS: Final[Mapping[str, str]] = {
    "chroma_bm25": "bm25:ChromaBm25EmbeddingFunction",
    "huggingface_sparse": "sparse_models:HuggingFaceSparseEmbeddingFunction",
    "fastembed_sparse": "sparse_models:FastembedSparseEmbeddingFunction",
    "bm25": "sparse_models:Bm25EmbeddingFunction",
    "chroma-cloud-splade": "chroma_cloud:ChromaCloudSpladeEmbeddingFunction",
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
