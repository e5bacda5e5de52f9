"""Images as NumPy arrays: as PNG for services, and as CLIP models see them, both without a library for images."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

_COLOUR_TYPES: Final = {1: 0, 3: 2, 4: 6}
"""Channels -> PNG's code for grey, RGB and RGBA."""


def is_image(value: object) -> bool:
    """Whether Chroma takes the value for an image: any NumPy array."""
    return isinstance(value, np.ndarray)


def png_base64(image: npt.NDArray[Any]) -> str:
    """The image as PNG in base64.  Raises ValueError for what ``png`` does not take."""
    return base64.b64encode(png(image)).decode("ascii")


def png(image: npt.NDArray[Any]) -> bytes:
    """An array as a PNG file.

    image   [height, width], or [height, width, 1, 3 or 4]: grey, RGB or RGBA, whole numbers from 0 to 255
    Raises  ValueError
    """
    pixels = pixels_of(image)
    height, width, channels = pixels.shape
    rows = np.zeros((height, 1 + width * channels), np.uint8)  # each row begins with its filter: none
    rows[:, 1:] = pixels.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes())), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def pixels_of(image: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """An image as [height, width, channels] uint8, which may be the array itself.  Raises ValueError for what ``png`` does not take."""
    pixels = image if image.ndim == 3 else image[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in _COLOUR_TYPES or not pixels.size:
        raise ValueError(f"an image must have the shape [h, w], [h, w, 3] or [h, w, 4], got {list(image.shape)}")
    if pixels.dtype != np.uint8:
        if not np.issubdtype(pixels.dtype, np.integer) or pixels.min() < 0 or pixels.max() > 255:
            raise ValueError(f"an image must be of whole numbers from 0 to 255, got {image.dtype}")
        pixels = pixels.astype(np.uint8)
    return pixels


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@dataclass(frozen=True, slots=True)
class View:
    """How a CLIP model looks at an image, as preprocessor_config.json says it.

    edge, size  the shorter edge, or (height, width), after resizing; both None for no resizing
    crop        (height, width) of what is cut from the middle; None for all
    mode        "bicubic", "bilinear" or "nearest-exact"
    scale, mean, std  what is done to the numbers: (value * scale - mean) / std, one for each colour
    """

    edge: int | None
    size: tuple[int, int] | None
    crop: tuple[int, int] | None
    mode: str
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> Self:
        """Of a configuration of CLIPImageProcessor.  Raises ValueError for what it does besides."""
        mode = _MODES.get(config.get("resample", 3))
        if mode is None:
            raise ValueError(f"images are resized by an unknown method ({config['resample']})")
        size, crop = config.get("size", 224), config.get("crop_size", 224)
        size = {"shortest_edge": size} if isinstance(size, int) else size
        crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
        if not ({"shortest_edge"} == size.keys() or {"height", "width"} == size.keys()):
            raise ValueError(f"images are resized to {size}")
        resized, normal = config.get("do_resize", True), config.get("do_normalize", True)
        return cls(
            size.get("shortest_edge") if resized else None,
            (size["height"], size["width"]) if resized and "height" in size else None,
            (crop["height"], crop["width"]) if config.get("do_center_crop", True) else None,
            mode,
            config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1.0,
            tuple(config.get("image_mean", _MEAN)) if normal else (0.0,) * 3,
            tuple(config.get("image_std", _STD)) if normal else (1.0,) * 3,
        )

    def of(self, image: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """What the model sees: [3, height, width] uint8.

        Resized as torchvision does it, which differs from Pillow by a rounding here and there; transparency is put on white.
        Raises ValueError for what ``png`` does not take.
        Cost   runs without the interpreter's lock
        """
        import torch
        from torch.nn.functional import interpolate

        seen = torch.from_numpy(np.require(_on_white(pixels_of(image)), None, ["C", "W"])).permute(2, 0, 1)
        height, width = seen.shape[1:]
        size = self.size
        if self.edge is not None:
            longer = int(self.edge * max(height, width) / min(height, width))
            size = (self.edge, longer) if height <= width else (longer, self.edge)
        if size is not None and size != (height, width):
            smooth = {} if self.mode == "nearest-exact" else {"antialias": True}
            seen = interpolate(seen[None], size, mode=self.mode, **smooth)[0]
        return _cropped(seen.numpy(), self.crop)

    def normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        """[n, 3, height, width] uint8 -> float32, on the same device."""
        import torch

        mean, std = (torch.tensor(each, device=pixels.device)[:, None, None] for each in (self.mean, self.std))
        return (pixels.float() - mean / self.scale) / (std / self.scale)


_MODES: Final = {0: "nearest-exact", 2: "bilinear", 3: "bicubic"}
"""Pillow's code for a way of resizing -> torch's name."""

_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
_STD: Final = (0.26862954, 0.26130258, 0.27577711)
"""Those of OpenAI's CLIP."""


def _on_white(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """[height, width, 3]."""
    if pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    if pixels.shape[2] == 3:
        return pixels
    alpha = pixels[..., 3:].astype(np.float32) / 255
    return np.rint(pixels[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)


def _cropped(pixels: npt.NDArray[np.uint8], crop: tuple[int, int] | None) -> npt.NDArray[np.uint8]:
    """The middle of [3, height, width], with black around what is smaller."""
    if crop is None:
        return pixels
    short = [max(0, wanted - there) for wanted, there in zip(crop, pixels.shape[1:], strict=True)]
    if any(short):
        pixels = np.pad(pixels, [(0, 0), *((each // 2, each - each // 2) for each in short)])
    top, left = ((there - wanted) // 2 for wanted, there in zip(crop, pixels.shape[1:], strict=True))
    return pixels[:, top : top + crop[0], left : left + crop[1]]
