"""Files as lines of bytes, and bytes as text."""

from __future__ import annotations

import codecs
import gzip
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, Final, cast

from chroma_gpu.errors import InvalidArgumentError
from chroma_gpu.jobs.inputs import Input

RAW: Final = 10_000
"""Bytes of a line that could not be read which are shown of it."""

LARGEST: Final = 1 << 30
"""Bytes of a file that can only be read as a whole."""

_BUFFER: Final = 1 << 18
_UTF16: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True, slots=True, eq=False)
class Lines:
    """The rest of a file.

    lines      with their ends; only \\n ends one
    offset     the byte that the first of them begins at; None where bytes cannot be gone back to
    skip       whether the lines begin with the first of the file, although another one was asked for
    encodings  of the lines, to be tried in turn
    """

    lines: Iterator[bytes]
    offset: int | None
    skip: bool
    encodings: tuple[str, ...]

    @property
    def utf8(self) -> bool:
        """Whether UTF-8 is tried first."""
        return codecs.lookup(self.encodings[0]).name == "utf-8"


@contextmanager
def lines(source: Input, encodings: Sequence[str], offset: int | None) -> Iterator[Lines]:
    """The lines of an input from a byte on where one begins, or from its first one. A byte order mark is left out."""
    with opened(source) as file:
        countable = source.path is not None and not source.packed
        if offset is not None and countable:
            file.seek(offset)
            yield Lines(file, offset, False, tuple(encodings))
            return
        begins = file.peek(3)[:3]  # type: ignore[attr-defined]
        wide = _wide(begins, encodings)
        if wide is not None:
            # Lines are found in the text, not among the bytes.
            text = io.TextIOWrapper(file, wide, newline="\n")
            try:
                yield Lines((line.encode() for line in text), None, True, ("utf-8",))
            finally:
                text.detach()
            return
        mark = file.read(3) if begins == codecs.BOM_UTF8 else b""
        yield Lines(file, len(mark) if countable else None, True, tuple(encodings))


@contextmanager
def opened(source: Input) -> Iterator[BinaryIO]:
    """The bytes of an input, unpacked, with ``peek``; a stream is left open. Raises OSError."""
    if source.path is None:
        if source.stream is None:
            raise InvalidArgumentError(f"{source.name} has neither a path nor a stream.")
        if hasattr(source.stream, "peek"):
            yield source.stream
            return
        buffered = io.BufferedReader(cast(io.RawIOBase, source.stream), _BUFFER)
        try:
            yield cast(BinaryIO, buffered)
        finally:
            buffered.detach()
    elif source.packed:
        with gzip.open(source.path, "rb") as unpacked:
            yield cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, unpacked), _BUFFER))
    else:
        with source.path.open("rb", buffering=_BUFFER) as file:
            yield file


def whole(source: Input, encodings: Sequence[str]) -> str:
    """All of an input as one text. Raises InvalidArgumentError for more than ``LARGEST`` bytes, UnicodeError, OSError."""
    with opened(source) as file:
        raw = file.read(LARGEST + 1)
    if len(raw) > LARGEST:
        raise InvalidArgumentError(
            f"{source.name} has more than {LARGEST >> 30} GB, all of which would have to be in memory.",
            hint="Split it; an array of JSON can be written as JSON lines, one object a line.",
        )
    wide = _wide(raw, encodings)
    return decoded(raw.removeprefix(codecs.BOM_UTF8), encodings if wide is None else (wide,))


def _wide(begins: bytes, encodings: Sequence[str]) -> str | None:
    """The encoding, if it is one in which the byte of a line feed may be a part of another character."""
    if codecs.lookup(encodings[0]).name.startswith(("utf-16", "utf-32")):
        return encodings[0]
    return "utf-16" if begins[:2] in _UTF16 else None


def decoded(raw: bytes, encodings: Sequence[str]) -> str:
    """The text by the first encoding that fits. Raises UnicodeError, of the first one, if none does."""
    refused: UnicodeError | None = None
    for encoding in encodings:
        try:
            return raw.decode(encoding)
        except UnicodeError as error:
            refused = refused or error
    raise refused or UnicodeError("there is no encoding to try")


def shown(raw: bytes) -> dict[str, str]:
    """The fields of a line that could not be read."""
    return {"line": raw[:RAW].decode(errors="replace").rstrip("\r\n")}
