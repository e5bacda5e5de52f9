"""What ``query(transforms=[...])`` takes; see ``chroma_gpu.api.transforms`` for the order in which they are applied."""

from chroma_gpu.api.transforms import Boost, Diversify, FieldBoost, MaxDistance, NotSimilarTo, Rerank, SimilarTo, Transform

__all__ = ["Boost", "Diversify", "FieldBoost", "MaxDistance", "NotSimilarTo", "Rerank", "SimilarTo", "Transform"]
