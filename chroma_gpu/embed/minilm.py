"""all-MiniLM-L6-v2 under the name of Chroma's ONNX function."""

from __future__ import annotations

from typing import Final

from chroma_gpu.embed import Space
from chroma_gpu.embed.local import DEFAULT_MODEL, DefaultEmbeddingFunction


class ONNXMiniLM_L6_V2(DefaultEmbeddingFunction):  # noqa: N801  Chroma's name
    """The same vectors as ``DefaultEmbeddingFunction``: the model runs through torch, ONNX is not needed.

    preferred_providers  kept in the configuration, as Chroma's; nothing here chooses by them
    Raises               ValueError for what is no list of different texts
    """

    stored = "onnx_mini_lm_l6_v2"
    MODEL_NAME: Final = DEFAULT_MODEL

    def __init__(self, preferred_providers: list[str] | None = None) -> None:
        if preferred_providers and not all(isinstance(provider, str) for provider in preferred_providers):
            raise ValueError("Preferred providers must be a list of strings")
        if preferred_providers and len(set(preferred_providers)) != len(preferred_providers):
            raise ValueError("Preferred providers must be unique")
        self.preferred_providers = preferred_providers

    def default_space(self) -> Space:
        """Angles."""
        return "cosine"
