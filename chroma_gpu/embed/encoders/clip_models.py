"""CLIP models of transformers: texts and images as two encoders of one model, through the pipeline."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, cast

import numpy as np
import numpy.typing as npt

from chroma_gpu.embed.encoders.heads import HeadEncoder, HeadLayout
from chroma_gpu.embed.encoders.layout import UnusualModelError, read_json, refuse_pickles
from chroma_gpu.embed.encoders.transfers import Sent, to_device, to_host
from chroma_gpu.embed.images import View
from chroma_gpu.embed.stream.pipeline import Prompt
from chroma_gpu.embed.tokens.items import Item
from chroma_gpu.errors import EmbeddingFailed
from chroma_gpu.records import Vectors

if TYPE_CHECKING:
    import torch

CPU_IMAGES: Final = 16
GPU_IMAGES: Final = 256
"""Images per batch."""

WINDOW: Final = 512
"""Images that are made ready ahead: 77 MB of 224 x 224 pixels."""

BLANK: Final = np.zeros((8, 8, 3), np.uint8)
"""What is seen where a text is given."""

_PROCESSORS: Final = frozenset({"CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPImageProcessorPil", "CLIPFeatureExtractor"})


def clip_parts(directory: Path) -> tuple[Path, bool] | None:
    """Where a CLIP model of transformers is in a directory, which may be one of sentence-transformers, and whether that directory
    says that vectors get norm 1; None if there is none, or more than that."""
    modules = read_json(directory / "modules.json", default=[])
    names = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
    if names and (names[0] not in {"CLIPModel", "Transformer"} or any(name != "Normalize" for name in names[1:])):
        return None
    folder = directory / modules[0].get("path", "") if modules else directory
    return (folder, "Normalize" in names) if read_json(folder / "config.json").get("model_type") == "clip" else None


class ClipTexts(HeadEncoder):
    """The texts of a CLIP model.  unit: divide each vector by its norm."""

    kind: ClassVar[str] = "AutoModel"

    def __init__(self, layout: HeadLayout, device: str, dtype: str | None = None, *, unit: bool = True) -> None:
        self.unit = unit
        super().__init__(layout, device, dtype)

    def take(self, config: Any) -> None:
        """How long the vectors are."""
        self.dim = int(config.projection_dim)

    def said(self, given: dict[str, torch.Tensor]) -> torch.Tensor:
        """The vectors of texts."""
        given.pop("token_type_ids", None)
        return self.finished(self._model.get_text_features(**given))

    def seen(self, pixels: torch.Tensor) -> torch.Tensor:
        """The vectors of images, [m, dim] float32, of their normalised pixels."""
        return self.finished(self._model.get_image_features(pixel_values=pixels.to(self._model.dtype)))

    def finished(self, features: Any) -> torch.Tensor:
        """float32, with norm 1 if that is wanted."""
        import torch

        vectors: torch.Tensor = getattr(features, "pooler_output", features).float()
        return torch.nn.functional.normalize(vectors, dim=1) if self.unit else vectors

    def there(self, device: str) -> Self:
        """The same model on another device."""
        return type(self)(self.layout, device, unit=self.unit)


@dataclass(frozen=True, slots=True, eq=False)
class Pixels:
    """Images as a model sees them, each [3, height, width] uint8. They are all of one length, so that ``budget`` counts images."""

    images: Sequence[npt.NDArray[Any]]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """[n] ones."""
        return np.ones(len(self.images), np.int64)


class ClipImages:
    """The images of a CLIP model: made ready by several threads, normalised on the device.  The texts it is given are ``items`` of arrays."""

    window: int = WINDOW
    fingerprint: str | None = None
    padded: bool = True
    lanes: int = 1

    def __init__(self, model: ClipTexts) -> None:
        self._model = model
        self._view = _view(model.layout.directory)
        self.dim, self.device = model.dim, model.device
        self.budget = GPU_IMAGES if model.device.startswith("cuda") else CPU_IMAGES

    def pre(self, texts: Sequence[str], prompt: Prompt) -> Pixels:
        """What the model sees of the images."""
        return Pixels(in_threads(self._view.of, [text.value if isinstance(text, Item) else BLANK for text in texts]))

    def core(self, tokens: Pixels, places: npt.NDArray[np.intp]) -> Sent:
        """The vectors on their way to the host."""
        import torch

        with torch.inference_mode():
            pixels = to_device(np.stack([tokens.images[place] for place in places]), self._model.device)
            return to_host(self._model.seen(self._view.normalised(pixels)))

    def post(self, vectors: Any) -> Vectors:
        """[m, dim] float32 on the host."""
        return vectors.received() if isinstance(vectors, Sent) else cast(Vectors, vectors)

    def on_device(self, vectors: Any) -> torch.Tensor | None:
        """As ``Keeping.on_device``."""
        return vectors.vectors if isinstance(vectors, Sent) else None

    def on_cpu(self) -> ClipImages | None:
        """The same model on the CPU."""
        other = self._model.on_cpu()
        return None if other is None else ClipImages(other)

    def peak(self, batch: int, length: int) -> int | None:
        """Not known beforehand."""
        return None


def load_texts(folder: Path, unit: bool, device: str, dtype: str | None = None) -> ClipTexts:
    """The model in a folder.  Raises EmbeddingFailed, DeviceError."""
    refuse_pickles(folder)
    longest = read_json(folder / "sentence_bert_config.json").get("max_seq_length")
    try:
        return ClipTexts(HeadLayout(folder, max_tokens=longest), device, dtype, unit=unit)
    except UnusualModelError as error:
        raise EmbeddingFailed(f"the CLIP model in {folder} cannot be run: {error}.") from error


def in_threads(make: Any, images: Sequence[Any]) -> list[Any]:
    """``make`` of each image, in order, by as many threads as there are cores."""
    if len(images) < 2:
        return [make(image) for image in images]
    with ThreadPoolExecutor(min(len(images), os.cpu_count() or 1), thread_name_prefix="images") as pool:
        return list(pool.map(make, images))


def _view(folder: Path) -> View:
    config = read_json(folder / "preprocessor_config.json") or read_json(folder / "processor_config.json").get(
        "image_processor", {}
    )
    kind = config.get("image_processor_type") or config.get("feature_extractor_type")
    try:
        if not config or (kind is not None and kind not in _PROCESSORS):
            raise ValueError(f"its images are made ready by {kind}" if config else "there is no preprocessor_config.json")
        return View.read(config)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EmbeddingFailed(f"the model in {folder} cannot take images: {error}") from error
