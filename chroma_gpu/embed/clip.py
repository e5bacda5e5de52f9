"""Texts and images in one space, by a CLIP model of the package open_clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from threading import Lock
from typing import Any, ClassVar, Final

from chroma_gpu import device as devices
from chroma_gpu.embed import Embeddable, EmbeddingFunction, Embeddings, Space
from chroma_gpu.embed.configs import MODEL_NAME_FIXED, Configured
from chroma_gpu.embed.images import is_image
from chroma_gpu.embed.texts import batches
from chroma_gpu.errors import MissingDependency

BATCH: Final = 64


class OpenCLIPEmbeddingFunction(Configured, EmbeddingFunction[Embeddable]):
    """A CLIP model, for texts and images in any mix; the vectors have norm 1.

    model_name, checkpoint  open_clip's names
    device                  "auto", "cpu", "cuda", "cuda:1", "mps"
    Raises                  MissingDependency without open_clip, when it embeds
    """

    stored = "open_clip"
    fixed: ClassVar[Mapping[str, str]] = {**MODEL_NAME_FIXED, "checkpoint": "checkpoint"}

    def __init__(self, model_name: str = "ViT-B-32", checkpoint: str = "laion2b_s34b_b79k", device: str | None = "cpu") -> None:
        self.model_name = model_name
        self.checkpoint = checkpoint
        self.device = device
        self._lock = Lock()
        self._loaded: tuple[Any, Any, Any] | None = None

    def __call__(self, input: Embeddable) -> Embeddings:
        """One float32 array per input.  Raises ValueError for what is neither text nor image."""
        listed: list[Any] = [input] if isinstance(input, str) else list(input)
        if not all(isinstance(each, str) or is_image(each) for each in listed):
            raise ValueError("Input must be a list of text documents (str) and images (numpy arrays).")
        vectors: Embeddings = []
        for image, run in groupby(listed, is_image):
            for batch in batches(run, BATCH):
                vectors.extend(self._vectors(batch, image))
        return vectors

    def _vectors(self, batch: Sequence[Any], images: bool) -> Embeddings:
        model, preprocess, tokenizer = self._model()
        import torch

        place = devices.pick(self.device or "auto")
        with torch.inference_mode():
            if images:
                from PIL import Image

                pixels = torch.stack([preprocess(Image.fromarray(image)) for image in batch])
                found = model.encode_image(pixels.to(place))
            else:
                found = model.encode_text(tokenizer(list(batch)).to(place))
            return list((found / found.norm(dim=-1, keepdim=True)).float().cpu().numpy())

    def _model(self) -> tuple[Any, Any, Any]:
        with self._lock:
            if self._loaded is None:
                try:
                    import open_clip
                except ImportError as error:
                    raise MissingDependency("open_clip needs its package.", hint="pip install open-clip-torch pillow") from error
                model, _, preprocess = open_clip.create_model_and_transforms(self.model_name, pretrained=self.checkpoint)
                model = model.to(devices.pick(self.device or "auto")).eval()
                self._loaded = (model, preprocess, open_clip.get_tokenizer(self.model_name))
            return self._loaded

    def default_space(self) -> Space:
        """Angles."""
        return "cosine"
