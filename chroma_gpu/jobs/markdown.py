"""What of a Markdown text belongs together: sections under headings, fenced code, tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from chroma_gpu.jobs.sentences import Gap

_ATX: Final = re.compile(r" {0,3}(#{1,6})(?:[ \t](.*))?\Z")
_UNDERLINE: Final = re.compile(r" {0,3}(=+|-+)[ \t]*\Z")
_FENCE: Final = re.compile(r" {0,3}(`{3,}|~{3,})")
_TABLE_RULE: Final = re.compile(r"[ \t]*+(\|[ \t]*+)?:?-++:?[ \t]*+(\|[ \t]*+:?-++:?[ \t]*+)*+(\|[ \t]*+)?\Z")


@dataclass(slots=True, eq=False)
class Section:
    """A part of a text, from its headings to the next one.

    start, stop  its characters
    heading      the headings that it stands under, the outermost first
    whole        (start, stop) of fenced code and tables in it, in order
    """

    start: int
    stop: int
    heading: tuple[str, ...]
    whole: list[Gap] = field(default_factory=list)


def sections(text: str) -> list[Section]:
    """The sections, in order, all characters among them. Headings with nothing between them begin one section together."""
    found = [Section(0, len(text), ())]
    path: list[tuple[int, str]] = []
    filled = False
    for kind, start, stop, level, title in _blocks(text):
        if kind == "heading":
            path = [(above, name) for above, name in path if above < level] + [(level, title)]
            if filled:
                found[-1].stop = start
                found.append(Section(start, len(text), ()))
                filled = False
            found[-1].heading = tuple(name for _, name in path if name)
        else:
            filled = True
            if kind == "whole":
                found[-1].whole.append((start, stop))
    return found


def title_of(heading: str) -> str:
    """What stands behind the signs of a heading, without those that close it."""
    bare = heading.strip().rstrip("#")
    return bare.rstrip() if bare[-1:] in ("", " ", "\t") else heading.strip()


def _blocks(text: str) -> Iterator[tuple[str, int, int, int, str]]:
    """(kind, start, stop, level, title): "heading", "whole" or "text", blank lines left out."""
    lines = list(_lines(text))
    at = _behind_front_matter(lines)
    if at:
        yield "whole", 0, lines[at - 1][1], 0, ""
    while at < len(lines):
        start, stop, line = lines[at]
        following = lines[at + 1][2] if at + 1 < len(lines) else ""
        fence = _FENCE.match(line)
        if fence and not (fence[1][0] == "`" and "`" in line[fence.end() :]):
            at = _behind_fence(lines, at, fence[1])
            yield "whole", start, lines[at - 1][1], 0, ""
        elif (heading := _ATX.match(line)) is not None:
            at += 1
            yield "heading", start, stop, len(heading[1]), title_of(heading[2] or "")
        elif "|" in line and "|" in following and _TABLE_RULE.match(following):
            while at < len(lines) and "|" in lines[at][2]:
                at += 1
            yield "whole", start, lines[at - 1][1], 0, ""
        elif not line.strip():
            at += 1
        elif (under := _UNDERLINE.match(following)) and _is_plain(lines, at):
            at += 2
            yield "heading", start, lines[at - 1][1], 1 if under[1][0] == "=" else 2, line.strip()
        else:
            at += 1
            yield "text", start, stop, 0, ""


def _lines(text: str) -> Iterator[tuple[int, int, str]]:
    """(start, stop, line without its end)."""
    start = 0
    for line in text.split("\n"):
        yield start, start + len(line), line.rstrip("\r")
        start += len(line) + 1


def _behind_front_matter(lines: list[tuple[int, int, str]]) -> int:
    """The line behind the block of settings that a text may begin with."""
    if lines[0][2].rstrip() != "---":
        return 0
    return next((at + 1 for at, (_, _, line) in enumerate(lines) if at and line.rstrip() in ("---", "...")), 0)


def _behind_fence(lines: list[tuple[int, int, str]], at: int, fence: str) -> int:
    """The line behind the closing fence; behind the last one if none closes."""
    closing = re.compile(rf" {{0,3}}{re.escape(fence[0])}{{{len(fence)},}}[ \t]*\Z")
    for place in range(at + 1, len(lines)):
        if closing.match(lines[place][2]):
            return place + 1
    return len(lines)


def _is_plain(lines: list[tuple[int, int, str]], at: int) -> bool:
    """Whether a line that is underlined is a paragraph of one line, and no list, quote or indented code."""
    before = lines[at - 1][2].strip() if at else ""
    return not before and not re.match(r"( {4}|\t| {0,3}([-*+>|]|\d+[.)]))", lines[at][2])
