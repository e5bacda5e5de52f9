"""The file of a job's bad rows: a JSON object a line, each row once however often the job is stopped."""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from chroma_gpu.errors import InvalidArgumentError, StoreBusy
from chroma_gpu.jobs.rows import BadRow

TAIL: Final = 4_096
"""Bytes by which a file is known again."""


class DeadLetters:
    """Held by one run at a time. What was appended counts once a checkpoint has its length; what is beyond is cut off by the next run."""

    def __init__(self, path: Path, length: int | None, *, ours: bool, tail: tuple[int, str] = (0, "")) -> None:
        """
        length  bytes of it that count; None for none
        ours    whether the name belongs to this job alone, so that what lies there may go
        tail    the length that it had in the last checkpoint, and what ``tail`` said then
        Raises  StoreBusy if another run has it, InvalidArgumentError if there is something of others in it, OSError
        """
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StoreBusy(
                    f"{path} is being written by another run of this job.", hint="Wait for it, or stop it: then run this again."
                ) from error
            there = os.fstat(self._file).st_size
            if length is None and there and not ours:
                raise InvalidArgumentError(
                    f"{path} has rows of another job.", hint="Move it away, or name another --dead-letter."
                )
            # A file that was moved away begins anew: what is gone is not ours to bring back.
            self.length = min(length or 0, there)
            if not self._as_it_was(there, *tail):
                raise InvalidArgumentError(
                    f"{path} was changed since this job wrote it.",
                    hint="Move it away, and run this again, or name another --dead-letter.",
                )
            os.ftruncate(self._file, self.length)
        except BaseException:
            os.close(self._file)
            raise

    def append(self, rows: Sequence[BadRow]) -> None:
        """Add rows; they are on disk when it returns. Raises OSError."""
        if not rows:
            return
        data = memoryview(b"".join(_line(row) for row in rows))
        while data:
            written = os.pwrite(self._file, data, self.length)
            self.length += written
            data = data[written:]
        os.fsync(self._file)

    def tail(self) -> str:
        """Hex digest of the last bytes, by which a later run knows that nobody else has written here; empty without any."""
        return self._tail(self.length)

    def rewind(self, length: int) -> None:
        """Forget what was appended after the file was so long."""
        os.ftruncate(self._file, length)
        self.length = length

    def close(self) -> None:
        """Let go of the file; one without any row is removed."""
        if not self.length:
            self.path.unlink(missing_ok=True)
        os.close(self._file)

    def _as_it_was(self, there: int, last: int, told: str) -> bool:
        """Whether nobody else has written here, of ``there`` bytes; of what is shorter, that it ends with a line."""
        if there >= last:
            return not told or self._tail(last) == told
        return not there or os.pread(self._file, 1, there - 1) == b"\n"

    def _tail(self, length: int) -> str:
        data = os.pread(self._file, min(length, TAIL), max(0, length - TAIL))
        return hashlib.blake2b(data, digest_size=16).hexdigest() if data else ""


def _line(row: BadRow) -> bytes:
    told = {
        "source": row.source,
        "row": row.number,
        "id": row.id,
        "error": row.error,
        "message": row.message,
        "stage": str(row.stage),
        "record": row.fields,
    }
    try:
        return json.dumps(told, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except (TypeError, ValueError):  # what JSON has no words for: dates, bytes, NaN, half of a surrogate pair
        return json.dumps(_plain(told)).encode() + b"\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, (str, int, bool)):
        return value
    return _plain(value.tolist()) if hasattr(value, "tolist") else str(value)
