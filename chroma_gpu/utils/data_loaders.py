"""What turns the uris of records into images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

Image: TypeAlias = npt.NDArray[Any]

_WORKERS: Final = os.cpu_count() or 1


class ImageLoader:
    """A data loader of collections: reads image files, several at a time.

    max_workers  threads that read
    Raises       ValueError without the package pillow
    """

    def __init__(self, max_workers: int = _WORKERS) -> None:
        try:
            from PIL import Image as Images
        except ImportError as error:
            raise ValueError("The PIL python package is not installed. Please install it with `pip install pillow`") from error
        self._open = Images.open
        self._max_workers = max_workers

    def __call__(self, uris: Sequence[str | None]) -> list[Image | None]:
        """One [height, width, channels] array per path, None for None.  Raises what pillow raises."""
        with ThreadPoolExecutor(self._max_workers) as pool:
            return list(pool.map(self._load, uris))

    def _load(self, uri: str | None) -> Image | None:
        if uri is None:
            return None
        with self._open(uri) as opened:
            return np.array(opened)
