"""How far a job is: a bar, lines for a log file, JSON for a program, or a call."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final, Literal, TypeAlias

from chroma_gpu.jobs.report import duration


@dataclass(frozen=True, slots=True, kw_only=True)
class Progressed:
    """How far a job is.

    done      rows that are done with, whatever became of them; earlier runs of the job included
    total     rows there are; None if that is not known
    embedded  texts whose vectors are made
    dead      bad rows
    tokens    of the texts that were embedded
    seconds   since this run began
    resumed   how many of ``done`` were done by earlier runs
    """

    done: int
    total: int | None = None
    embedded: int = 0
    dead: int = 0
    tokens: int = 0
    seconds: float = 0.0
    resumed: int = 0

    @property
    def rows_per_second(self) -> float:
        """Of this run."""
        return (self.done - self.resumed) / self.seconds if self.seconds else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Of this run."""
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def seconds_left(self) -> float | None:
        """At the speed of this run until now; None if nobody can know."""
        if self.total is None or not self.rows_per_second:
            return None
        return max(0.0, (self.total - self.done) / self.rows_per_second)

    def to_json(self) -> dict[str, Any]:
        """Every field, the rates, and the time that is left."""
        left = self.seconds_left
        return {
            "done": self.done,
            "total": self.total,
            "embedded": self.embedded,
            "dead": self.dead,
            "tokens": self.tokens,
            "seconds": round(self.seconds, 3),
            "resumed": self.resumed,
            "rows_per_second": round(self.rows_per_second, 1),
            "tokens_per_second": round(self.tokens_per_second, 1),
            "seconds_left": None if left is None else round(left, 1),
        }

    def __str__(self) -> str:
        """One line for people."""
        of = "" if self.total is None else f" of {self.total:,}"
        share = f" ({self.done / self.total:.0%})" if self.total else ""
        parts = [f"{self.done:,}{of} rows{share}", f"{self.rows_per_second:,.0f} rows/s"]
        parts += [f"{self.tokens_per_second:,.0f} tokens/s"] if self.tokens else []
        parts += [f"{self.dead:,} bad"] if self.dead else []
        left = self.seconds_left
        parts += [f"{duration(left)} left"] if left else []
        return ", ".join(parts)


Tell: TypeAlias = Callable[[Progressed], object]
Mode: TypeAlias = Literal["auto", "bar", "json", "none"]

MODES: Final = ("auto", "bar", "json", "none")

LINE_SECONDS: Final = 30.0
"""Between two lines of a log file."""

JSON_SECONDS: Final = 1.0
"""Between two objects for a program."""


@contextmanager
def shown(mode: Mode | Tell, total: int | None = None, desc: str = "embedding") -> Iterator[Tell]:
    """A function that is told how far a job is, as often as the job likes, and shows it on stderr.

    mode    "bar": a bar; in a notebook, its widget. "json": an object a second, one to a line, and a last one at the end. "auto": a bar
            on a terminal, elsewhere a line of plain text every half minute. "none": nothing. A function is called each time
    total   rows there will be, None if unknown; what the job tells later counts
    desc    names the work
    No mode prints colours, so NO_COLOR has nothing to turn off.
    Raises  ValueError for another mode
    """
    if callable(mode):
        yield mode
        return
    if mode not in MODES:
        raise ValueError(f"there is no progress {mode!r}: it is {', '.join(MODES)}, or a function")
    if mode == "none" or sys.stderr is None:
        yield lambda _: None
    elif mode == "bar" or (mode == "auto" and sys.stderr.isatty()):
        with _bar(total, desc) as tell:
            yield tell
    else:
        as_json = mode == "json"
        lines = _Lines(
            (lambda each: json.dumps(each.to_json())) if as_json else (lambda each: f"{desc}: {each}"),
            JSON_SECONDS if as_json else LINE_SECONDS,
        )
        try:
            yield lines
        finally:
            # A short job needs no line: what it did is in its report.
            if as_json or lines.shown:
                lines.close()


@contextmanager
def _bar(total: int | None, desc: str) -> Iterator[Tell]:
    from tqdm.auto import tqdm

    with tqdm(total=total, unit="row", unit_scale=True, desc=desc, dynamic_ncols=True) as bar:
        resumed = False

        def tell(now: Progressed) -> None:
            nonlocal resumed
            if now.resumed and not resumed:
                # They cost nothing now, so they must not count in the speed.
                bar.n = bar.initial = now.resumed
                resumed = True
            if now.total is not None:
                bar.total = now.total
            if now.dead:
                bar.set_postfix_str(f"{now.dead:,} bad", refresh=False)
            bar.update(now.done - bar.n)

        yield tell


class _Lines:
    """A line now and then, at most one in ``every`` seconds; the last state that was told is shown by ``close``."""

    def __init__(self, line: Callable[[Progressed], str], every: float) -> None:
        self._line, self._every = line, every
        self._next = monotonic() + every
        self._last: Progressed | None = None
        self.shown = False

    def __call__(self, now: Progressed) -> None:
        self._last = now
        if (time := monotonic()) >= self._next:
            self._next = time + self._every
            self.close()

    def close(self) -> None:
        """Show what was told last, if it was not shown."""
        if self._last is not None:
            sys.stderr.write(f"{self._line(self._last)}\n")
            sys.stderr.flush()
            self.shown, self._last = True, None
