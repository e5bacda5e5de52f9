"""The names of chromadb that its users import: its own ``__all__``, and what 28 packages on PyPI take from which module."""

from __future__ import annotations

DOOR = [
    "BoolInvertedIndexConfig",
    "Cmek",
    "Collection",
    "CollectionMetadata",
    "Documents",
    "EmbeddingFunction",
    "Embeddings",
    "FloatInvertedIndexConfig",
    "FtsIndexConfig",
    "GetResult",
    "HnswIndexConfig",
    "IDs",
    "Include",
    "IntInvertedIndexConfig",
    "K",
    "Key",
    "Knn",
    "Metadata",
    "Metadatas",
    "QueryResult",
    "Rrf",
    "Schema",
    "Search",
    "SpannIndexConfig",
    "SparseEmbeddingFunction",
    "SparseVector",
    "SparseVectorIndexConfig",
    "SparseVectors",
    "StringInvertedIndexConfig",
    "TokenTransportHeader",
    "URI",
    "URIs",
    "UpdateCollectionMetadata",
    "UpdateMetadata",
    "VectorIndexConfig",
    "Where",
    "WhereDocument",
]

USED = {
    "chromadb": """
        AsyncHttpClient Client ClientAPI CloudClient Collection DEFAULT_DATABASE DEFAULT_TENANT Documents
        EmbeddingFunction Embeddings EphemeralClient GetResult HnswIndexConfig HttpClient PersistentClient QueryResult
        Schema Search Settings VectorIndexConfig __version__
    """,
    "chromadb.api": "AsyncClientAPI ClientAPI CreateCollectionConfiguration EmbeddingFunction",
    "chromadb.api.client": "Client SharedSystemClient",
    "chromadb.api.collection_configuration": """
        CreateCollectionConfiguration CreateHNSWConfiguration UpdateCollectionConfiguration UpdateHNSWConfiguration
    """,
    "chromadb.api.configuration": "CollectionConfigurationInterface",
    "chromadb.api.fastapi": "FastAPI",
    "chromadb.api.models.AsyncCollection": "AsyncCollection",
    "chromadb.api.models.Collection": "Collection",
    "chromadb.api.types": """
        CollectionMetadata DataLoader Document Documents Embeddable EmbeddingFunction Embeddings GetResult ID Include
        Loadable Metadata OneOrMany QueryResult Space Vector Where WhereDocument is_document is_image validate_where
        validate_where_document
    """,
    "chromadb.auth.basic_authn": "BasicAuthClientProvider",
    "chromadb.config": "Settings",
    "chromadb.errors": "InvalidDimensionException NotFoundError",
    "chromadb.utils": "data_loaders embedding_functions",
    "chromadb.utils.batch_utils": "create_batches",
    "chromadb.utils.data_loaders": "ImageLoader",
    "chromadb.utils.embedding_functions": """
        CohereEmbeddingFunction DefaultEmbeddingFunction GooglePalmEmbeddingFunction GoogleVertexEmbeddingFunction
        HuggingFaceEmbeddingFunction InstructorEmbeddingFunction JinaEmbeddingFunction ONNXMiniLM_L6_V2
        OllamaEmbeddingFunction OpenAIEmbeddingFunction RoboflowEmbeddingFunction SentenceTransformerEmbeddingFunction
        Text2VecEmbeddingFunction VoyageAIEmbeddingFunction
    """,
    "chromadb.utils.embedding_functions.amazon_bedrock_embedding_function": "AmazonBedrockEmbeddingFunction",
    "chromadb.utils.embedding_functions.cohere_embedding_function": "CohereEmbeddingFunction",
    "chromadb.utils.embedding_functions.google_embedding_function": "GoogleGenerativeAiEmbeddingFunction",
    "chromadb.utils.embedding_functions.huggingface_embedding_function": "HuggingFaceEmbeddingFunction",
    "chromadb.utils.embedding_functions.instructor_embedding_function": "InstructorEmbeddingFunction",
    "chromadb.utils.embedding_functions.jina_embedding_function": "JinaEmbeddingFunction",
    "chromadb.utils.embedding_functions.ollama_embedding_function": "OllamaEmbeddingFunction",
    "chromadb.utils.embedding_functions.onnx_mini_lm_l6_v2": "ONNXMiniLM_L6_V2",
    "chromadb.utils.embedding_functions.open_clip_embedding_function": "OpenCLIPEmbeddingFunction",
    "chromadb.utils.embedding_functions.openai_embedding_function": "OpenAIEmbeddingFunction",
    "chromadb.utils.embedding_functions.roboflow_embedding_function": "RoboflowEmbeddingFunction",
    "chromadb.utils.embedding_functions.sentence_transformer_embedding_function": "SentenceTransformerEmbeddingFunction",
    "chromadb.utils.embedding_functions.text2vec_embedding_function": "Text2VecEmbeddingFunction",
}

PAIRS = [(module, name) for module, names in USED.items() for name in names.split()]
