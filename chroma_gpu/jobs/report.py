"""What an embedding job did, for people and for programs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from chroma_gpu.jobs.replaced import replaced

COUNTS: Final = (
    "rows_in",
    "rows_out",
    "unchanged",
    "skipped",
    "duplicates",
    "dead",
    "chunks",
    "remembered",
    "tokens",
    "truncated",
    "padded_tokens",
    "runs",
)
"""The fields that add up over the runs of a job."""


@dataclass(slots=True, kw_only=True)
class Report:
    """The counts of a job, over all its runs, and what it was made with. A job counts in it as it goes.

    rows_in        rows that were read, bad ones among them
    rows_out       rows of which everything was written
    unchanged      rows that were there already, with the same text
    skipped        rows whose id was there already, which the job was told to leave
    duplicates     rows left out because their text, or one that is near to it, is there
    dead           bad rows
    chunks         texts that were written: rows, or pieces of them
    remembered     how many of their vectors were known from before
    tokens         of the texts that were embedded; truncated: how many texts had more than the model reads
    padded_tokens  the same with the padding of their batches
    runs           how often the job was started until now, this time included
    seconds        that all runs took
    dtype, device  what the model computed in, and on
    peak_memory    the most bytes on the GPU at one time; None without one
    interrupted    whether it was stopped before the end; finished: whether it came to the end of its inputs
    """

    collection: str | None = None
    path: str | None = None
    dead_letter: str | None = None
    out: str | None = None
    model: str | None = None
    fingerprint: str | None = None
    dtype: str | None = None
    device: str | None = None
    peak_memory: int | None = None
    rows_in: int = 0
    rows_out: int = 0
    unchanged: int = 0
    skipped: int = 0
    duplicates: int = 0
    dead: int = 0
    chunks: int = 0
    remembered: int = 0
    tokens: int = 0
    truncated: int = 0
    padded_tokens: int = 0
    runs: int = 1
    seconds: float = 0.0
    interrupted: bool = False
    finished: bool = False

    def counts(self) -> dict[str, int]:
        """What a later run goes on counting from: every count, and the time as whole milliseconds."""
        return {name: getattr(self, name) for name in COUNTS} | {"milliseconds": round(self.seconds * 1000)}

    def added(self, counts: Mapping[str, int]) -> Report:
        """This report and the ``counts`` of earlier runs together; a name that is not known, or not there, counts nothing."""
        sums = {name: getattr(self, name) + counts.get(name, 0) for name in COUNTS}
        return replace(self, **sums, seconds=self.seconds + counts.get("milliseconds", 0) / 1000)

    @property
    def rows_per_second(self) -> float:
        """Rows read in a second, of the time of all runs."""
        return self.rows_in / self.seconds if self.seconds else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Tokens embedded in a second, padding not counted."""
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def padding_waste(self) -> float:
        """The share of padding in what the model computed, 0 to 1."""
        return max(0.0, 1 - self.tokens / self.padded_tokens) if self.padded_tokens else 0.0

    @property
    def exit_code(self) -> int:
        """What a command ends with: 0, 3 with bad rows, 130 if it was stopped."""
        return 130 if self.interrupted else 3 if self.dead else 0

    def to_json(self) -> dict[str, Any]:
        """Every field and every rate."""
        rates = {"rows_per_second": self.rows_per_second, "tokens_per_second": self.tokens_per_second}
        return asdict(self) | {name: round(rate, 3) for name, rate in (rates | {"padding_waste": self.padding_waste}).items()}

    def write(self, path: str | os.PathLike[str]) -> None:
        """``to_json`` as a file, which is there whole or not at all. Raises OSError."""
        save(path, self.to_json())

    def lines(self) -> list[str]:
        """The report for people, the most important line first."""
        place = self.collection or self.out or "the collection"
        lines = [f"{place}: {self.rows_out:,} of {self.rows_in:,} rows written" + _put(" to {}", self.path)]
        others = ((self.unchanged, "unchanged"), (self.duplicates, "duplicates"), (self.skipped, "left as they were"))
        if any(count for count, _ in others):
            lines.append("  " + ", ".join(f"{count:,} {name}" for count, name in others if count))
        if self.dead:
            lines.append(f"  {_many(self.dead, 'bad row')}" + _put(", kept in {}", self.dead_letter))
        if self.chunks:
            texts = [f"{_many(self.chunks, 'text')}", f"{_many(self.tokens, 'token')}"]
            texts += [f"{self.remembered:,} known from before"] if self.remembered else []
            texts += [f"{self.truncated:,} cut at the model's length"] if self.truncated else []
            texts += [f"{self.padding_waste:.1%} padding"] if self.padded_tokens else []
            lines.append("  " + ", ".join(texts))
        speed = f"  {duration(self.seconds)}: {self.rows_per_second:,.0f} rows/s, {self.tokens_per_second:,.0f} tokens/s"
        lines.append(speed + (f", in {self.runs} runs" if self.runs > 1 else ""))
        made = [self.model, self.dtype and f"in {self.dtype}", self.device and f"on {self.device}"]
        made += [f"{self.peak_memory / 2**30:.2f} GiB of its memory"] if self.peak_memory else []
        if any(made):
            lines.append("  " + ", ".join(each for each in made if each))
        if self.out and self.out != place:
            lines.append(f"  vectors in {self.out}")
        if not self.finished:
            lines.append("  stopped before the end; what is written is kept, and the same command goes on from there")
        return lines


def save(path: str | os.PathLike[str], facts: Mapping[str, Any]) -> None:
    """A JSON file, which is there whole or not at all. Raises OSError."""
    with replaced(path) as part:
        part.write_text(json.dumps(facts, ensure_ascii=False, indent=1) + "\n", "utf-8")


def duration(seconds: float) -> str:
    """A time for people: 0.4 s, 12 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _many(count: int, name: str) -> str:
    return f"{count:,} {name}" if count == 1 else f"{count:,} {name}s"


def _put(form: str, value: str | None) -> str:
    return form.format(value) if value else ""
