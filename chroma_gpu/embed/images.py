"""Images for services: NumPy arrays as PNG, without a library for images."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any, Final

import numpy as np
import numpy.typing as npt

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
    pixels = image if image.ndim == 3 else image[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in _COLOUR_TYPES or not pixels.size:
        raise ValueError(f"an image must have the shape [h, w], [h, w, 3] or [h, w, 4], got {list(image.shape)}")
    if pixels.dtype != np.uint8:
        if not np.issubdtype(pixels.dtype, np.integer) or pixels.min() < 0 or pixels.max() > 255:
            raise ValueError(f"an image must be of whole numbers from 0 to 255, got {image.dtype}")
        pixels = pixels.astype(np.uint8)
    height, width, channels = pixels.shape
    rows = np.zeros((height, 1 + width * channels), np.uint8)  # each row begins with its filter: none
    rows[:, 1:] = pixels.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes())), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
