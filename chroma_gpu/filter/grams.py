"""What a condition on documents requires of the three-byte strings in a text, so that an index of these can answer with candidates.

For a regular expression: the strings that a match must begin with, end with and contain, put together from the inside out, after
R. Cox, "Regular expression matching with a trigram index", 2012.  What is too much to keep is let go: less is required then.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from itertools import product
from typing import Final

from chroma_gpu.filter.documents import DocumentContains, DocumentMatches, DocumentOperator
from chroma_gpu.filter.regex import ANCHORS, Piece, pieces
from chroma_gpu.rowset import RowSet

MOST_GRAMS: Final = 8
"""Strings that are looked up for one stretch of text: the others would hardly rule out more."""

MOST_LOOKUPS: Final = 24
"""Stretches of text that are looked up for one condition."""


class Grams(ABC):
    """Three-byte strings that every matching text has: a tree of "all of these" and "one of these"."""

    @abstractmethod
    def candidates(self, containing: Callable[[Sequence[bytes]], RowSet]) -> RowSet:
        """The rows that satisfy it; ``containing`` answers which have all of some three-byte strings, and is asked ``lookups`` times."""

    @property
    @abstractmethod
    def lookups(self) -> int:
        """How often the index is asked."""


def required(operator: DocumentOperator) -> Grams | None:
    """What every text has in which the operand is found; None if nothing can be said, so that all texts have to be read.

    For the negated operators it is the same: they pass what is left when those texts are taken away in which it was found.
    """
    if isinstance(operator, DocumentContains):
        return _leaf(operator.operand.encode())
    return _of_pattern(operator.operand) if isinstance(operator, DocumentMatches) else None


def strings(operator: DocumentOperator) -> Sequence[bytes]:
    """Texts of which one is in a text exactly if the operand is found there; none if there are no such, or too many.

    As ``required``, it is about what is found, whether the operator is negated or not.
    """
    if isinstance(operator, DocumentContains):
        return (operator.operand.encode(),) if operator.operand else ()
    return _alternatives(operator.operand) if isinstance(operator, DocumentMatches) else ()


@dataclass(frozen=True, slots=True)
class Every(Grams):
    """All of some three-byte strings."""

    grams: tuple[bytes, ...]

    def candidates(self, containing: Callable[[Sequence[bytes]], RowSet]) -> RowSet:
        return containing(self.grams)

    @property
    def lookups(self) -> int:
        return 1


@dataclass(frozen=True, slots=True)
class Both(Grams):
    """All of some requirements."""

    parts: tuple[Grams, ...]

    def candidates(self, containing: Callable[[Sequence[bytes]], RowSet]) -> RowSet:
        found = self.parts[0].candidates(containing)
        for part in self.parts[1:]:
            if not found:
                break
            found = found & part.candidates(containing)
        return found

    @property
    def lookups(self) -> int:
        return sum(part.lookups for part in self.parts)


@dataclass(frozen=True, slots=True)
class OneOf(Grams):
    """At least one of some requirements."""

    parts: tuple[Grams, ...]

    def candidates(self, containing: Callable[[Sequence[bytes]], RowSet]) -> RowSet:
        return reduce(lambda left, right: left | right, (part.candidates(containing) for part in self.parts))

    @property
    def lookups(self) -> int:
        return sum(part.lookups for part in self.parts)


def _leaf(text: bytes) -> Grams | None:
    """The three-byte strings of a text; of a long one some, spread over it."""
    grams = list(dict.fromkeys(text[at : at + 3] for at in range(len(text) - 2)))
    if len(grams) > MOST_GRAMS:
        grams = [grams[at * (len(grams) - 1) // (MOST_GRAMS - 1)] for at in range(MOST_GRAMS)]
    return Every(tuple(grams)) if grams else None


def _both(parts: Iterable[Grams | None]) -> Grams | None:
    """All of some requirements, the cheapest first, and no more of them than are looked up."""
    known: list[Grams] = []
    for part in parts:
        if part is not None:
            known += [each for each in (part.parts if isinstance(part, Both) else (part,)) if each not in known]
    stays: list[Grams] = []
    lookups = 0
    for part in sorted(known, key=lambda part: part.lookups):
        lookups += part.lookups
        if stays and lookups > MOST_LOOKUPS:
            break
        stays.append(part)
    return Both(tuple(stays)) if len(stays) > 1 else next(iter(stays), None)


def _one_of(parts: Iterable[Grams | None]) -> Grams | None:
    """One of some requirements; nothing is required if one of them is nothing."""
    known: list[Grams] = []
    for part in parts:
        if part is None:
            return None
        known += [each for each in (part.parts if isinstance(part, OneOf) else (part,)) if each not in known]
    if sum(part.lookups for part in known) > MOST_LOOKUPS:
        return None
    return OneOf(tuple(known)) if len(known) > 1 else known[0]


_Strings = frozenset[bytes]
_NOTHING: Final[_Strings] = frozenset([b""])
_MOST_STRINGS: Final = 16
_LONGEST: Final = 256


@dataclass(frozen=True, slots=True)
class _Matched:
    """What is known of the texts that a part of a pattern matches.

    exact   all of them, if they are few
    starts  each begins with one of these; ends: ends with one of these
    inside  what each contains, beyond what follows from the rest
    """

    exact: _Strings | None
    starts: _Strings = _NOTHING
    ends: _Strings = _NOTHING
    inside: Grams | None = None

    def loose(self) -> _Matched:
        """The same without ``exact``, which may say no more than that."""
        if self.exact is None:
            return self
        return _Matched(
            None, frozenset(text[:2] for text in self.exact), frozenset(text[-2:] for text in self.exact), _some(self.exact)
        )

    def then(self, other: _Matched) -> _Matched:
        """This and behind it the other."""
        if self.exact is not None and other.exact is not None and len(self.exact) * len(other.exact) <= _MOST_STRINGS:
            joined = _joined(self.exact, other.exact)
            return _Matched(joined) if max(map(len, joined)) <= _LONGEST else _Matched(joined).loose()
        left, right = self.loose(), other.loose()
        starts = left.starts if self.exact is None else _few(_joined(self.exact, right.starts), left.starts)
        ends = right.ends if other.exact is None else _few(_joined(left.ends, other.exact), right.ends)
        middle = _joined(left.ends if self.exact is None else self.exact, right.starts if other.exact is None else other.exact)
        if len(middle) > _MOST_STRINGS:
            middle = _joined(left.ends, right.starts)
        inside = _both([left.inside, right.inside, _some(_few(middle, _NOTHING))])
        return _Matched(None, frozenset(text[:2] for text in starts), frozenset(text[-2:] for text in ends), inside)

    def or_else(self, other: _Matched) -> _Matched:
        """This or the other."""
        if self.exact is not None and other.exact is not None and len(self.exact | other.exact) <= _MOST_STRINGS:
            return _Matched(self.exact | other.exact)
        left, right = self.loose(), other.loose()
        starts, ends = _few(left.starts | right.starts, _NOTHING), _few(left.ends | right.ends, _NOTHING)
        return _Matched(None, starts, ends, _one_of([left.inside, right.inside]))

    def repeated(self, least: int, most: int | None) -> _Matched:
        """This at least and at most so often one behind the other; None: without limit."""
        if (least, most) == (0, 1):
            return self.or_else(_EMPTY)
        if least == 0:
            return _EMPTY if most == 0 else _ANYTHING
        if least == most and least <= _MOST_STRINGS:
            return reduce(_Matched.then, [self] * least)
        return self.loose()


_EMPTY: Final = _Matched(_NOTHING)
_ANYTHING: Final = _Matched(None)


def _joined(left: _Strings, right: _Strings) -> _Strings:
    return frozenset(first + second for first, second in product(left, right))


def _few(strings: _Strings, otherwise: _Strings) -> _Strings:
    return strings if len(strings) <= _MOST_STRINGS else otherwise


def _some(strings: _Strings) -> Grams | None:
    """That one of some strings is there."""
    return _one_of(_leaf(text) for text in sorted(strings))


@lru_cache(maxsize=256)
def _of_pattern(pattern: str) -> Grams | None:
    return _parsed([piece for piece in pieces(pattern) if piece.text]).loose().inside


@lru_cache(maxsize=256)
def _alternatives(pattern: str) -> Sequence[bytes]:
    """All texts that a pattern matches, if they are few and the pattern does not ask where they are."""
    read = [piece for piece in pieces(pattern) if piece.text]
    if any(piece.boundary or piece.text in ANCHORS for piece in read if piece.flags is None):
        return ()
    exact = _parsed(read).exact
    return sorted(exact) if exact and b"" not in exact else ()


def _parsed(tokens: Sequence[Piece]) -> _Matched:
    """From the pieces of a pattern that RE2 has taken to what it matches. Groups may lie deeper in each other than calls could."""
    around: list[tuple[_Matched | None, _Matched]] = []  # of each open group: others and found as they were before it
    others: _Matched | None = None
    found = _EMPTY
    left = deque(tokens)
    while left:
        token = left.popleft()
        if token.flags is not None:
            one = _character(token.text, "i" in token.flags)
        elif token.text == "|":
            others, found = _either(others, found), _EMPTY
            continue
        elif token.text.startswith("(") and not token.text.endswith(")"):
            around.append((others, found))
            others, found = None, _EMPTY
            continue
        elif token.text == ")":
            one = _either(others, found)
            others, found = around.pop()
        else:
            one = _EMPTY  # an assertion, or flags
        while left and (counts := _counts(left[0])) is not None:
            left.popleft()
            one = one.repeated(*counts)
        found = found.then(one)
    return _either(others, found)


def _either(others: _Matched | None, found: _Matched) -> _Matched:
    return found if others is None else others.or_else(found)


def _counts(piece: Piece) -> tuple[int, int | None] | None:
    """How often at least and at most it says that what is before it is repeated; None if it says nothing of the kind."""
    if piece.flags is not None:
        return None
    spelled = piece.text
    text = spelled[:-1] if len(spelled) > 1 and spelled.endswith("?") else spelled  # fewest first: the same texts
    if text[0] != "{":
        return _COUNTS.get(text)
    first, comma, last = text[1:-1].partition(",")
    return int(first), int(last) if last else None if comma else int(first)


_COUNTS: Final[dict[str, tuple[int, int | None]]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
_CHARACTER: Final = re.compile(r"\\x\{([0-9a-f]+)\}|\\([ntrfva])|([\w ]|[^\x00-\x7f])", re.ASCII)
_CONTROLS: Final = dict(zip("ntrfva", "\n\t\r\f\v\a", strict=True))


def _character(spelled: str, folded: bool) -> _Matched:
    """What matches one character: itself, or a class; ``folded``: whatever its case."""
    members = spelled[1:-1] if spelled[0] == "[" else spelled
    read = list(_CHARACTER.finditer(members))
    if not read or "".join(one[0] for one in read) != members:
        return _ANYTHING
    characters = {chr(int(one[1], 16)) if one[1] else _CONTROLS[one[2]] if one[2] else one[3] for one in read}
    if folded:
        if not all(map(str.isascii, characters)):
            return _ANYTHING
        characters = {each for one in characters for each in (one.lower(), one.upper(), *_FOLDED.get(one.lower(), ()))}
    texts = frozenset(each.encode() for each in characters)
    return _Matched(texts) if len(texts) <= _MOST_STRINGS else _ANYTHING


# The two letters of ASCII that have a further case beyond it.
_FOLDED: Final = {"k": "\u212a", "s": "\u017f"}
