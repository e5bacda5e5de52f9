"""A progress bar for long work, where somebody can see it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

LONG: Final = 2_000
"""From how many texts on a bar is shown unasked."""


@contextmanager
def bar(total: int | None, wanted: bool | None = None) -> Iterator[Callable[[int], object]]:
    """A function that counts finished texts.

    total   how many there will be, None if unknown
    wanted  True shows a bar, False never, None where the work is long and stderr is a terminal
    """
    if wanted is None:
        wanted = total is not None and total >= LONG and sys.stderr is not None and sys.stderr.isatty()
    if not wanted:
        yield lambda _: None
        return
    from tqdm.auto import tqdm

    with tqdm(total=total, unit="text", unit_scale=True, desc="embedding") as shown:
        yield shown.update
