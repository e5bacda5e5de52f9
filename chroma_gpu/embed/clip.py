"""Texts and images in one space, by a CLIP model: of transformers, or of the package open_clip."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

import numpy as np
import numpy.typing as npt

from chroma_gpu import device as devices
from chroma_gpu.embed import Embeddable, EmbeddingFunction, Embeddings, Space
from chroma_gpu.embed.configs import MODEL_NAME_FIXED, Configured
from chroma_gpu.embed.encoders.clip_models import (
    BLANK,
    CPU_IMAGES,
    GPU_IMAGES,
    WINDOW,
    ClipImages,
    clip_parts,
    in_threads,
    load_texts,
)
from chroma_gpu.embed.encoders.models import MODELS
from chroma_gpu.embed.encoders.sources import Request, find
from chroma_gpu.embed.encoders.transfers import Sent, to_host
from chroma_gpu.embed.images import is_image, pixels_of
from chroma_gpu.embed.stream.pipeline import Encoder, Prompt, stream
from chroma_gpu.embed.tokens.items import Item, items
from chroma_gpu.errors import EmbeddingFailed, MissingDependency
from chroma_gpu.records import Vectors

if TYPE_CHECKING:
    import torch

_HUB_NAME: Final = re.compile(r"(?!(ViT-|RN\d))[\w.-]+/[\w.-]+")
"""A name on the Hugging Face hub, and no name of open_clip: these may be "ViT-B/32" or begin with "hf-hub:"."""


class OpenCLIPEmbeddingFunction(Configured, EmbeddingFunction[Embeddable]):
    """A CLIP model, for texts and images in any mix; the vectors have norm 1.

    model_name  a directory, or a name on the Hugging Face hub such as "openai/clip-vit-base-patch32", of a CLIP model of transformers
                or sentence-transformers: torch and transformers run it, in 16 bits on a GPU. Any other name is open_clip's
    checkpoint  open_clip's; a model of transformers has none
    device      "auto", "cpu", "cuda", "cuda:1", "mps"
    Images are arrays [h, w], [h, w, 3] or [h, w, 4] of whole numbers from 0 to 255.
    Raises      MissingDependency where open_clip is needed and not there; ModelNotFound, EmbeddingFailed; all when it embeds
    """

    stored = "open_clip"
    fixed: ClassVar[Mapping[str, str]] = {**MODEL_NAME_FIXED, "checkpoint": "checkpoint"}

    def __init__(self, model_name: str = "ViT-B-32", checkpoint: str = "laion2b_s34b_b79k", device: str | None = "cpu") -> None:
        self.model_name = model_name
        self.checkpoint = checkpoint
        self.device = device
        self._lock = Lock()
        self._loaded: tuple[Encoder, Encoder] | None = None

    def __call__(self, input: Embeddable) -> Embeddings:
        """One float32 array per input.  Raises ValueError for what is neither text nor image.  Cost: texts and images in batches."""
        listed: list[Any] = [input] if isinstance(input, str) else list(input)
        if not all(isinstance(each, str) or is_image(each) for each in listed):
            raise ValueError("Input must be a list of text documents (str) and images (numpy arrays).")
        for each in filter(is_image, listed):
            pixels_of(each)  # before anything is embedded
        vectors: list[Any] = [None] * len(listed)
        texts, images = self._encoders()
        for encoder, kind in ((texts, False), (images, True)):
            places = [place for place, each in enumerate(listed) if is_image(each) == kind]
            given = [listed[place] for place in places]
            for start, block in stream(encoder, items(given) if kind else given):
                for place, vector in zip(places[start : start + len(block)], block, strict=True):
                    vectors[place] = vector
        return vectors

    def _encoders(self) -> tuple[Encoder, Encoder]:
        """Of texts and of images."""
        with self._lock:
            if self._loaded is None:
                place = devices.pick(self.device or "auto")
                if Path(self.model_name).is_dir() or _HUB_NAME.fullmatch(self.model_name):
                    directory = find(Request(self.model_name))
                    parts = clip_parts(directory)
                    if parts is None:
                        raise EmbeddingFailed(f"the model in {directory} is no CLIP model of transformers.")
                    folder = parts[0]
                    texts: Any = MODELS.get((folder, place, "clip"), lambda: load_texts(folder, True, place))
                    self._loaded = texts, ClipImages(texts)
                else:
                    model = _OpenClip(self.model_name, self.checkpoint, place)
                    self._loaded = _OpenEncoder(model, images=False), _OpenEncoder(model, images=True)
            return self._loaded

    def default_space(self) -> Space:
        """Angles."""
        return "cosine"


class _OpenClip:
    """A model of open_clip on a device.  Raises MissingDependency."""

    def __init__(self, name: str, checkpoint: str, device: str) -> None:
        try:
            import open_clip
        except ImportError as error:
            raise MissingDependency(
                f"the model {name!r} needs the package open_clip.",
                hint="pip install open-clip-torch pillow, or give a CLIP model of transformers, such as openai/clip-vit-base-patch32.",
            ) from error
        model, _, preprocess = open_clip.create_model_and_transforms(name, pretrained=checkpoint)
        self.model, self.device = model.to(device).eval(), device
        self.preprocess, self.tokenizer = preprocess, open_clip.get_tokenizer(name)
        self.lock = Lock()  # its tokenizer may be one of transformers, which serves one thread at a time


@dataclass(frozen=True, slots=True, eq=False)
class _Ready:
    """Inputs as tensors of one shape: they are all of one length, so that ``budget`` counts inputs."""

    inputs: Sequence[torch.Tensor]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        return np.ones(len(self.inputs), np.int64)


class _OpenEncoder:
    """The texts, or the images, of a model of open_clip."""

    window: int = WINDOW
    fingerprint: str | None = None
    padded: bool = True
    lanes: int = 1

    def __init__(self, model: _OpenClip, *, images: bool) -> None:
        self._clip, self._images = model, images
        self.budget = GPU_IMAGES if model.device.startswith("cuda") else CPU_IMAGES
        self.device = model.device
        self.dim = int(self.core(self.pre(["a"], Prompt()), np.zeros(1, np.intp)).vectors.shape[1])

    def pre(self, texts: Sequence[str], prompt: Prompt) -> _Ready:
        """What open_clip makes of texts or images."""
        if not self._images:
            with self._clip.lock:
                return _Ready(list(self._clip.tokenizer(list(texts))))
        from PIL import Image

        def ready(image: npt.NDArray[Any]) -> torch.Tensor:
            tensor: torch.Tensor = self._clip.preprocess(Image.fromarray(image))
            return tensor

        return _Ready(in_threads(ready, [text.value if isinstance(text, Item) else BLANK for text in texts]))

    def core(self, tokens: _Ready, places: npt.NDArray[np.intp]) -> Sent:
        """The vectors, with norm 1, on their way to the host."""
        import torch

        with torch.inference_mode():
            batch = torch.stack([tokens.inputs[place] for place in places]).to(self._clip.device)
            found = self._clip.model.encode_image(batch) if self._images else self._clip.model.encode_text(batch)
            return to_host(torch.nn.functional.normalize(found.float(), dim=-1))

    def post(self, vectors: Any) -> Vectors:
        """[m, dim] float32 on the host."""
        return vectors.received() if isinstance(vectors, Sent) else cast(Vectors, vectors)

    def on_cpu(self) -> None:
        """open_clip's model is on one device only."""
        return

    def peak(self, batch: int, length: int) -> int | None:
        """Not known beforehand."""
        return None
