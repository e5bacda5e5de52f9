"""Where sentences end, by rules: full stops that are not those of abbreviations, initials or numbers."""
# ruff: noqa: RUF001 - quotes and full stops of other scripts are meant

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

Gap = tuple[int, int]
"""(end of what stands before, start of what stands behind): white space, or nothing, between two pieces of a text."""

_ENDS: Final = re.compile(
    r"""
      (?<![.!?…]) (?P<mark> [.!?…]++ ) [\"'”’»)\]]*+ (?P<gap> \s++ )  # a full stop and what closes behind it
    | [。！？｡]++ [」』”’）》]*+ (?P<close> \s*+ )                       # where no white space is needed
    | (?<=\S) (?P<blank> [^\S\n]*+ \n [^\S\n]*+ \n \s*+ )             # a blank line, after a heading or the like
    """,
    re.VERBOSE,
)
_NEVER: Final = re.compile(
    r"mr|mrs|ms|mx|dr|prof|rev|fr|st|sen|rep|gov|gen|col|maj|capt|cmdr|lt|sgt|hon|messrs|mme|mlle|figs?|eqs?|refs?|sec|ch|nos|vols?|pp|eds?"
    r"|vs|cf|viz|approx|ca|dept|resp|nr|bzw|ggf|vgl|sog",
    re.IGNORECASE,
)
"""After these a sentence goes on, whatever follows."""

_LAST_WORD: Final = re.compile(r"[^\s(\[\"'“‘«]+\Z")
_LETTERS: Final = re.compile(r"\w{1,2}(\.\w{1,2})+")
_OPENING: Final = "\"'“‘«([¿¡"


def gaps(text: str, start: int, stop: int) -> Iterator[Gap]:
    """The gaps between the sentences of text[start:stop], in order.

    A sentence ends at . ! ? … before white space unless a small letter follows, and, for a single full stop, unless the word
    before it is a title or an abbreviation that nothing ends with, letters with stops between them, one letter, or the number of
    a point in a list: "Dr. No", "e.g. This", "the U.S. Army", "J. S. Bach". It ends at a stop that stands alone ("so it is . but")
    and at 。！？ whatever follows, and at a blank line.
    """
    for found in _ENDS.finditer(text, start, stop):
        name = "gap" if found["mark"] else "close" if found["close"] is not None else "blank"
        end, behind = found.span(name)
        if behind == stop:
            return
        if name != "gap" or found["gap"].count("\n") > 1 or _ended(text, start, found, behind):
            yield end, behind


def _ended(text: str, start: int, found: re.Match[str], behind: int) -> bool:
    """Whether a mark with white space behind it ends a sentence."""
    at = found.start("mark")
    if len(found["mark"]) == 1 and text[max(start, at - 1) : at].isspace():
        return True
    if text[behind : behind + 4].lstrip(_OPENING)[:1].islower():
        return False
    if found["mark"] != ".":
        return True
    before = _LAST_WORD.search(text, max(start, at - 40), at)
    word = before.group() if before else ""
    if word.isdigit():
        line = text[max(start, at - 40) : at - len(word)]
        return bool(line.rpartition("\n")[2].strip())
    # "I." may end a sentence, "J." does not.
    return not _NEVER.fullmatch(word) and not _LETTERS.fullmatch(word) and not (len(word) == 1 and word.isalpha() and word != "I")
