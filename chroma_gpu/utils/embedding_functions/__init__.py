"""The embedding functions that users import, under Chroma's names. They live in ``chroma_gpu.embed``; each is loaded when it is named."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from chroma_gpu.embed import (
    PROVIDERS,
    SPARSE_PROVIDERS,
    EmbeddingFunction,
    SparseEmbeddingFunction,
    config_to_embedding_function,
    known_embedding_functions,
    register_embedding_function,
    register_sparse_embedding_function,
    sparse_known_embedding_functions,
)

if TYPE_CHECKING:
    from chroma_gpu.embed.bm25 import ChromaBm25EmbeddingFunction
    from chroma_gpu.embed.clip import OpenCLIPEmbeddingFunction
    from chroma_gpu.embed.hashing import HashingEmbeddingFunction
    from chroma_gpu.embed.local import (
        DefaultEmbeddingFunction,
        InstructorEmbeddingFunction,
        SentenceTransformerEmbeddingFunction,
        StaticEmbeddingFunction,
        Text2VecEmbeddingFunction,
    )
    from chroma_gpu.embed.minilm import ONNXMiniLM_L6_V2
    from chroma_gpu.embed.services.brought import (
        AmazonBedrockEmbeddingFunction,
        ChromaLangchainEmbeddingFunction,
        create_langchain_embedding,
    )
    from chroma_gpu.embed.services.chroma_cloud import ChromaCloudQwenEmbeddingFunction, ChromaCloudSpladeEmbeddingFunction
    from chroma_gpu.embed.services.google import (
        GoogleGeminiEmbeddingFunction,
        GoogleGenaiEmbeddingFunction,
        GoogleGenerativeAiEmbeddingFunction,
        GooglePalmEmbeddingFunction,
        GoogleVertexEmbeddingFunction,
    )
    from chroma_gpu.embed.services.hosted import (
        CloudflareWorkersAIEmbeddingFunction,
        CohereEmbeddingFunction,
        HuggingFaceEmbeddingFunction,
        HuggingFaceEmbeddingServer,
        JinaEmbeddingFunction,
        JinaQueryConfig,
        NomicEmbeddingFunction,
        NomicQueryConfig,
        OllamaEmbeddingFunction,
        RoboflowEmbeddingFunction,
    )
    from chroma_gpu.embed.services.openai_like import (
        BasetenEmbeddingFunction,
        MistralEmbeddingFunction,
        MorphEmbeddingFunction,
        OpenAIEmbeddingFunction,
        PerplexityEmbeddingFunction,
        TogetherAIEmbeddingFunction,
        VoyageAIEmbeddingFunction,
    )
    from chroma_gpu.embed.sparse_models import (
        Bm25EmbeddingFunction,
        FastembedSparseEmbeddingFunction,
        HuggingFaceSparseEmbeddingFunction,
    )

_OURS: Final = ("HashingEmbeddingFunction", "StaticEmbeddingFunction")
_HOMES: Final = {
    **{path.partition(":")[2]: path.partition(":")[0] for path in (*PROVIDERS.values(), *SPARSE_PROVIDERS.values())},
    "GoogleGenaiEmbeddingFunction": "services.google",
    "JinaQueryConfig": "services.hosted",
    "NomicQueryConfig": "services.hosted",
    "create_langchain_embedding": "services.brought",
}

__all__ = [
    "AmazonBedrockEmbeddingFunction",
    "BasetenEmbeddingFunction",
    "Bm25EmbeddingFunction",
    "ChromaBm25EmbeddingFunction",
    "ChromaCloudQwenEmbeddingFunction",
    "ChromaCloudSpladeEmbeddingFunction",
    "ChromaLangchainEmbeddingFunction",
    "CloudflareWorkersAIEmbeddingFunction",
    "CohereEmbeddingFunction",
    "DefaultEmbeddingFunction",
    "EmbeddingFunction",
    "FastembedSparseEmbeddingFunction",
    "GoogleGeminiEmbeddingFunction",
    "GoogleGenaiEmbeddingFunction",
    "GoogleGenerativeAiEmbeddingFunction",
    "GooglePalmEmbeddingFunction",
    "GoogleVertexEmbeddingFunction",
    "HashingEmbeddingFunction",
    "HuggingFaceEmbeddingFunction",
    "HuggingFaceEmbeddingServer",
    "HuggingFaceSparseEmbeddingFunction",
    "InstructorEmbeddingFunction",
    "JinaEmbeddingFunction",
    "JinaQueryConfig",
    "MistralEmbeddingFunction",
    "MorphEmbeddingFunction",
    "NomicEmbeddingFunction",
    "NomicQueryConfig",
    "ONNXMiniLM_L6_V2",
    "OllamaEmbeddingFunction",
    "OpenAIEmbeddingFunction",
    "OpenCLIPEmbeddingFunction",
    "PerplexityEmbeddingFunction",
    "RoboflowEmbeddingFunction",
    "SentenceTransformerEmbeddingFunction",
    "SparseEmbeddingFunction",
    "StaticEmbeddingFunction",
    "Text2VecEmbeddingFunction",
    "TogetherAIEmbeddingFunction",
    "VoyageAIEmbeddingFunction",
    "config_to_embedding_function",
    "create_langchain_embedding",
    "get_builtins",
    "known_embedding_functions",
    "register_embedding_function",
    "register_sparse_embedding_function",
    "sparse_known_embedding_functions",
]


def get_builtins() -> set[str]:
    """The names of the classes that ship with Chroma."""
    return {name for name in _HOMES if "Embedding" in name or name == "ONNXMiniLM_L6_V2"} - {*_OURS, "create_langchain_embedding"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"chroma_gpu.embed.{_HOMES[name]}"), name)
    if name.endswith("_embedding_function") or name in ("onnx_mini_lm_l6_v2", "schemas"):
        try:
            return importlib.import_module(f"{__name__}.{name}")
        except ModuleNotFoundError as error:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from error
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
