"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replaced(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A name to write to, which takes the place of ``path`` when the block ends without an exception.

    Folders above it are made. What is no regular file (a pipe, /dev/stdout) is written to as it is.
    Raises   IsADirectoryError, and what the file system raises; ``path`` is then what it was
    Crash    leaves ``path`` as it was, and a file beside it whose name ends in .part
    """
    target = Path(path).resolve()  # the file that a link points to is replaced, not the link
    if target.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file")
    if target.exists() and not target.is_file():
        yield target
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name[:200]}.{secrets.token_hex(4)}.part")
    try:
        yield part
        with part.open("rb") as written:
            os.fsync(written.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
