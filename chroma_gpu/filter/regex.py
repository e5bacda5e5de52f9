"""Regular expressions in the spelling of Rust's regex crate, run by RE2 in time linear in the text.

A pattern is read once, from left to right: what both engines spell alike passes through, what they spell differently is rewritten
(``\\w \\d \\s \\b`` know all of Unicode, ``\\u{e9}``, the flags ``u`` and ``x``), and what RE2 cannot do, or would read as something
else, is refused.  Syntax: https://docs.rs/regex/latest/regex/#syntax and https://github.com/google/re2/wiki/Syntax
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any, Final, TypeAlias

import re2

from chroma_gpu.errors import InvalidFilter
from chroma_gpu.filter.together import Together

Search: TypeAlias = Callable[[bytes], bool]
"""Whether a UTF-8 text has a match anywhere."""

MAX_PATTERN: Final = 4096
"""Characters a pattern may have."""

MAX_NESTED: Final = 250
"""Groups that may lie in each other: as many as Rust's regex crate takes."""


def compiled(pattern: str) -> Search:
    """A search for a pattern in UTF-8 texts.

    Raises   InvalidFilter for a pattern that is malformed, too large, or needs look-around or backreferences
    Cost     searching is linear in the text
    """
    if len(pattern) > MAX_PATTERN:
        raise InvalidFilter(f"a regular expression has {len(pattern)} characters, of {MAX_PATTERN} at most.")
    read = pieces(pattern)
    regexp = _engine(pattern, "".join(piece.text for piece in read))
    if not any(piece.boundary for piece in read):
        return lambda text: regexp.search(text) is not None
    beyond_ascii = _Lettered(pattern, read)
    return lambda text: regexp.search(text) is not None if text.isascii() else beyond_ascii.search(text)


def compiled_together(pattern: str, alone: Search) -> Together:
    """A search in many texts at once for a pattern of which ``alone`` is the search in one."""
    read = pieces(pattern)
    exact = not any(piece.text in ANCHORS for piece in read if piece.flags is None)
    # An empty group is what a count behind it may count.
    spelled = "".join("(?:)" if piece.flags is None and piece.text in ANCHORS else piece.text for piece in read)
    return Together(_engine(pattern, spelled), alone, exact, plain=any(piece.boundary for piece in read))


ANCHORS: Final = frozenset(("^", "$", "\\A", "\\z"))
"""The pieces that match at the ends of texts or lines."""


def pieces(pattern: str) -> list[Piece]:
    """A pattern in RE2's spelling, piece by piece. Raises InvalidFilter for what this reader refuses; RE2 may refuse more."""
    return list(_Reader(pattern).pieces())


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a pattern in RE2's spelling.

    flags     those of i and s that hold, for what matches one character; None for the syntax between
    boundary  this is \\b or \\B
    """

    text: str
    flags: str | None = None
    boundary: bool = False


class _Reader:
    """Reads a pattern from left to right."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0
        self._flags = ""
        self._open: list[tuple[int, str]] = []  # of each open group: where it began and the flags before it
        self._unrepeatable = ""  # why what was read last cannot be repeated

    def pieces(self) -> Iterator[Piece]:
        """The pattern in RE2's spelling."""
        while self._at < len(self._pattern):
            if self._skipped():
                continue
            char = self._pattern[self._at]
            unrepeatable, self._unrepeatable = self._unrepeatable, ""
            if char == "\\":
                yield self._escape()
            elif char == "[":
                yield self._one_of(self._class())
            elif char == "(":
                yield Piece(self._group())
            elif char == ")":
                if not self._open:
                    raise self._error(self._at, self._at + 1, "unopened group")
                self._flags = self._open.pop()[1]
                yield Piece(self._taken(1))
            elif char in "*+?{":
                if unrepeatable:
                    raise self._error(self._at, self._at + 1, unrepeatable)
                yield Piece(self._repetition())
            elif char in "|^$":
                yield Piece(self._taken(1))
            else:
                yield self._one_of("." if self._taken(1) == "." else _literal(char))
        if self._open:
            start = self._open[-1][0]
            raise self._error(start, start + 1, "unclosed group")

    def _one_of(self, text: str) -> Piece:
        return Piece(text, "".join(flag for flag in "is" if flag in self._flags))

    def _group(self) -> str:
        """The opening of a group, or flags. Groups capture nothing here: only whether there is a match counts."""
        start = self._at
        if look := _LOOK_AROUND.match(self._pattern, start):
            raise self._error(start, look.end(), "look-around, including look-ahead and look-behind, is not supported")
        opening = _GROUP.match(self._pattern, start)
        if opening is None:
            raise self._error(start + 2, start + 3, "unrecognized flag")
        self._at = opening.end()
        if opening["end"] != ")" and len(self._open) == MAX_NESTED:
            reason = f"exceed the maximum number of nested parentheses/brackets ({MAX_NESTED})"
            raise self._error(start, self._at, reason)
        if opening["flags"] is None:
            self._open.append((start, self._flags))
            return "(?:"
        on, off = opening["on"], opening["off"] or ""
        if "u" in off or "R" in on + off:
            raise self._error(start, self._at, "the flags R and -u are not supported")
        if opening["end"] == ":":
            self._open.append((start, self._flags))
        else:  # RE2 would repeat what is before the flags
            self._unrepeatable = "repetition operator missing expression"
        self._flags = "".join(flag for flag in "imsUx" if flag in self._flags + on and flag not in off)
        return _flags(on, off, opening["end"], "imsU")

    def _repetition(self) -> str:
        """How often, and whether the fewest times."""
        repetition = self._count() if self._pattern[self._at] == "{" else self._taken(1)
        # With the flag x, space may stand between: for RE2 a ? behind it would ask for the fewest times.
        self._unrepeatable = "a repetition of a repetition is not supported"
        return repetition + (self._taken(1) if self._pattern.startswith("?", self._at) else "")

    def _count(self) -> str:
        start = self._at
        if count := _COUNT.match(self._pattern, start):
            return self._taken(len(count[0]))
        if self._pattern[start + 1 : start + 2].isdigit():
            raise self._error(start, len(self._pattern), "unclosed counted repetition")
        raise self._error(start + 1, start + 2, "repetition quantifier expects a valid decimal")

    def _class(self) -> str:
        """A bracketed class."""
        start = self._at
        parts = [self._taken(2 if self._pattern.startswith("[^", start) else 1)]
        while len(parts) == 1 or not self._pattern.startswith("]", self._at):
            if self._at >= len(self._pattern):
                raise self._error(start, start + 1, "unclosed character class")
            char = self._pattern[self._at]
            if named := _NAMED_CLASS.match(self._pattern, self._at):
                parts.append(self._taken(len(named[0])))
            elif char == "[" or self._pattern.startswith(("&&", "--", "~~"), self._at):
                raise self._error(self._at, self._at + 1, "nested character classes and set operations are not supported")
            elif char == "\\":
                parts.append(self._escape_in_class())
            elif not self._skipped():
                parts.append("-" if self._taken(1) == "-" else _literal(char))
        return "".join(parts) + self._taken(1)

    def _escape_in_class(self) -> str:
        start, letter = self._at, self._pattern[self._at + 1 : self._at + 2]
        piece = self._escape()
        if piece.flags is None:
            raise self._error(start, self._at, "unrecognized escape sequence")
        if letter in _PERL:
            return _PERL[letter]
        return _complement(letter.lower()) if letter.lower() in _PERL else piece.text

    def _escape(self) -> Piece:
        """A backslash and what belongs to it."""
        start, letter = self._at, self._pattern[self._at + 1 : self._at + 2]
        if coded := _CODE_POINT.match(self._pattern, start):
            self._at = coded.end()
            code = int(coded[0][2:].strip("{}"), 16)
            if code > sys.maxunicode or 0xD800 <= code < 0xE000:
                raise self._error(start, self._at, "hexadecimal literal is not a Unicode scalar value")
            return self._one_of(_literal(chr(code)))
        if named := _PROPERTY.match(self._pattern, start):
            self._at = named.end()
            if not _understood(named[0]):
                raise self._error(start, self._at, "Unicode property not found")
            return self._one_of(named[0])
        self._at += 2
        if not letter:
            raise self._error(start, start + 1, "incomplete escape sequence, reached end of pattern prematurely")
        if letter.lower() in _PERL:
            return self._one_of(f"[{'' if letter in _PERL else '^'}{_PERL[letter.lower()]}]")
        if letter in "bB" and not self._pattern.startswith("{", self._at):
            return Piece(f"\\{letter}", boundary=True)
        if letter in "Az":
            return Piece(f"\\{letter}")
        if letter in "ntrfva":
            return self._one_of(f"\\{letter}")
        if letter in "0123456789":
            raise self._error(start, self._at, "backreferences are not supported")
        if letter.isalpha() or letter in "<>" or not letter.isascii():
            raise self._error(start, self._at, "unrecognized escape sequence")
        return self._one_of(_literal(letter))

    def _skipped(self) -> bool:
        """Whether the flag x makes this a comment or mere space; then it is behind us."""
        char = self._pattern[self._at]
        if "x" not in self._flags or not (char.isspace() or char == "#"):
            return False
        line_end = self._pattern.find("\n", self._at) if char == "#" else self._at
        self._at = len(self._pattern) if line_end < 0 else line_end + 1
        return True

    def _taken(self, n: int) -> str:
        self._at += n
        return self._pattern[self._at - n : self._at]

    def _error(self, start: int, stop: int, reason: str) -> InvalidFilter:
        return _parse_error(self._pattern, reason, f"\n    {' ' * start}{'^' * (stop - start)}")


class _Lettered:
    """A pattern with \\b for texts beyond ASCII, where RE2's own \\b would see no letters.

    A pattern tells characters apart only by which of its one-character pieces they match and by whether they are line feeds or
    parts of words. So all characters that it does not tell apart are replaced, in pattern and text, by one ASCII character that is
    part of words exactly if they are; among these RE2's \\b is right.
    """

    def __init__(self, pattern: str, pieces: list[Piece]) -> None:
        self._pattern = pattern
        self._pieces = pieces
        self._word = _engine(pattern, f"[{_PERL['w']}]")
        atoms = dict.fromkeys(piece for piece in pieces if piece.flags is not None)
        self._atoms = {atom: _engine(pattern, f"(?{atom.flags}){atom.text}" if atom.flags else atom.text) for atom in atoms}
        self._stands_for: dict[tuple[bool, ...], str] = {}
        self._stand_in: dict[int, str] = {}
        self._regexp: Any = None

    def search(self, text: bytes) -> bool:
        """Whether the text has a match anywhere."""
        chars = text.decode()
        for char in set(chars):
            if ord(char) not in self._stand_in:
                self._stand_in[ord(char)] = self._stand_in_of(char)
        if self._regexp is None:
            self._regexp = _engine(self._pattern, "".join(map(self._spelled, self._pieces)))
        return self._regexp.search(chars.translate(self._stand_in).encode()) is not None

    def _stand_in_of(self, char: str) -> str:
        encoded = char.encode()
        word = self._word.fullmatch(encoded) is not None
        sort = (char == "\n", word, *(engine.fullmatch(encoded) is not None for engine in self._atoms.values()))
        if sort not in self._stands_for:
            taken = self._stands_for.values()
            free = (letter for letter in (_IN_WORDS if word else _NOT_IN_WORDS) if letter not in taken)
            letter = "\n" if char == "\n" else next(free, None)
            if letter is None:
                raise InvalidFilter(
                    r"a regular expression with \b tells too many characters apart for texts beyond ASCII.",
                    hint=r"Use fewer different characters in it, or leave \b out.",
                )
            self._stands_for[sort] = letter
            self._regexp = None
        return self._stands_for[sort]

    def _spelled(self, piece: Piece) -> str:
        """A piece of the pattern in stand-ins, which already know the flags i and s."""
        if piece.flags is None:
            group = _GROUP.match(piece.text)
            return _flags(group["on"], group["off"] or "", group["end"], "mU") if group else piece.text
        place = 2 + list(self._atoms).index(piece)
        matching = [letter for sort, letter in self._stands_for.items() if sort[place]]
        return f"[{''.join(map(_literal, matching))}]" if matching else r"[^\x{0}-\x{10ffff}]"


_LOOK_AROUND: Final = re.compile(r"\(\?<?[=!]")
_GROUP: Final = re.compile(
    r"\((?:\?P?<[A-Za-z_][\w.\[\]]*>|\?(?P<flags>(?P<on>[imsUuxR]*)(?:-(?P<off>[imsUuxR]+))?)(?P<end>[:)])|(?!\?))"
)
_COUNT: Final = re.compile(r"\{[0-9]+(?:,[0-9]*)?\}")
_NAMED_CLASS: Final = re.compile(r"\[:\^?[a-z]+:\]")
_CODE_POINT: Final = re.compile(r"\\(?:[xuU]\{[0-9A-Fa-f]+\}|x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8})")
_PROPERTY: Final = re.compile(r"\\[pP](?:\{[^}]*\}|[^{])")
_PERL: Final = {
    "d": r"\p{Nd}",
    "s": r"\t-\r\x{85}\p{Z}",
    # The ranges at the end are letters of words by Unicode's definition, but symbols by their general category.
    "w": r"\p{L}\p{M}\p{Nl}\p{Nd}\p{Pc}\x{200c}\x{200d}\x{24b6}-\x{24e9}\x{1f130}-\x{1f149}\x{1f150}-\x{1f169}\x{1f170}-\x{1f189}",
}
_IN_WORDS: Final = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"
_NOT_IN_WORDS: Final = "".join(char for char in map(chr, range(128)) if char not in _IN_WORDS and char != "\n")


def _literal(char: str) -> str:
    """A character as itself, inside and outside of a class."""
    return char if char in _IN_WORDS or not char.isascii() else f"\\x{{{ord(char):x}}}"


def _flags(on: str, off: str, end: str, known: str) -> str:
    """Flags in RE2's spelling, reduced to the known ones."""
    on, off = (("".join(flag for flag in known if flag in given)) for given in (on, off))
    signed = f"{on}-{off}" if off else on
    return f"(?{signed}{end}" if signed or end == ":" else ""


@lru_cache(maxsize=2)
def _complement(letter: str) -> str:
    """All characters outside \\d, \\s or \\w, spelled out: RE2 has no negation inside a class."""
    everything = "".join(map(chr, chain(range(0xD800), range(0xE000, sys.maxunicode + 1))))
    runs = (match.group() for match in re2.finditer(f"[^{_PERL[letter]}]+", everything))
    return "".join(f"\\x{{{ord(run[0]):x}}}-\\x{{{ord(run[-1]):x}}}" for run in runs)


def _understood(spelled: str) -> bool:
    try:
        _engine(spelled, spelled)
    except InvalidFilter:
        return False
    return True


def _engine(pattern: str, spelled: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(spelled, options)
    except re2.error as error:
        reason = error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes) else str(error)
        raise _parse_error(pattern, reason) from error


def _parse_error(pattern: str, reason: str, marks: str = "") -> InvalidFilter:
    # The misspelling is Chroma's; programs may look for it.
    return InvalidFilter(f"Regex syntax errror: regex parse error:\n    {pattern}{marks}\nerror: {reason}")
