"""A progress bar for long work, where somebody can see it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeAlias

Progress: TypeAlias = bool | Callable[[int, int], object] | None
"""True shows a bar, False never, None where the work is long and stderr is a terminal; a function is called with (done, total)."""

LONG: Final = 2_000
"""From how many texts on a bar is shown unasked."""


@contextmanager
def bar(total: int | None, wanted: Progress = None) -> Iterator[Callable[[int], object]]:
    """A function that counts finished texts.

    total  how many there will be, None if unknown; a function is then told how many are done for it
    """
    if callable(wanted):
        yield _telling(wanted, total)
        return
    if wanted is None:
        wanted = total is not None and total >= LONG and sys.stderr is not None and sys.stderr.isatty()
    if not wanted:
        yield lambda _: None
        return
    from tqdm.auto import tqdm

    with tqdm(total=total, unit="text", unit_scale=True, desc="embedding") as shown:
        yield shown.update


@contextmanager
def listener(wanted: Progress = None, *, desc: str) -> Iterator[Callable[[int, int], object]]:
    """A function that takes (done, total) as work goes on; ``desc`` names the work beside the bar."""
    if callable(wanted):
        yield wanted
        return
    if not (wanted if wanted is not None else sys.stderr is not None and sys.stderr.isatty()):
        yield lambda done, total: None
        return
    from tqdm.auto import tqdm

    with tqdm(unit="record", unit_scale=True, desc=desc) as shown:

        def show(done: int, total: int) -> None:
            shown.total = total
            shown.update(done - shown.n)

        yield show


def _telling(listener: Callable[[int, int], object], total: int | None) -> Callable[[int], object]:
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        listener(done, done if total is None else total)

    return count
