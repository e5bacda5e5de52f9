"""The text of a page, as it reads: no tags, no scripts; what stands apart on the page stands on lines of its own."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Final

_HIDDEN: Final = frozenset(("script", "style", "noscript", "template", "svg", "iframe"))
_BLOCKS: Final = re.compile(
    "address|article|aside|blockquote|body|caption|center|dd|details|dialog|dir|div|dl|dt|fieldset|figcaption|figure|footer|form|h[1-6]"
    "|header|hgroup|hr|legend|li|main|menu|nav|ol|option|p|pre|search|section|summary|table|tbody|tfoot|thead|tr|ul"
)
_PARAGRAPHS: Final = re.compile("article|blockquote|dl|figure|h[1-6]|hr|ol|p|pre|section|table|ul")
_CELLS: Final = frozenset(("td", "th"))
_SPACE: Final = re.compile(r"[ \t\n\r\f\v]+")
_NO_CHARACTER: Final = re.compile(r"&#[0-9]{1000,}+;?")
"""Python refuses to read so long a number."""


def text_of(page: str) -> tuple[str, str | None]:
    """(text, title). Blocks stand on lines of their own, paragraphs and headings have a blank line between them, cells a tab."""
    reading = _Reading()
    reading.feed(_NO_CHARACTER.sub("\ufffd", page))
    reading.close()
    title = _SPACE.sub(" ", "".join(reading.title)).strip()
    return reading.text(), title or None


class _Reading(HTMLParser):
    """Collects the text between the tags; what is open and hidden is counted, since pages forget to close."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.title: list[str] = []
        self._parts: list[str] = []
        self._hidden: list[str] = []
        self._preformatted = 0
        self._in_title = False
        self._line_open = False
        self._gap = 0

    def text(self) -> str:
        """What was read."""
        return "".join(self._parts).strip()

    def parse_marked_section(self, i: int, report: bool = True) -> int:
        """As a browser, which passes over what it does not know."""
        try:
            return super().parse_marked_section(i, report)
        except AssertionError:
            return self.parse_bogus_comment(i, report)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _HIDDEN:
            if tag not in self._hidden:
                self._hidden.append(tag)
        elif tag == "title" and not self._hidden:
            self._in_title = not self.title
        elif tag == "br":
            self._end_line(1)
        elif tag in _CELLS:
            self._cell()
        elif _BLOCKS.fullmatch(tag):
            self._end_block(tag)
            self._preformatted += tag == "pre"

    def handle_endtag(self, tag: str) -> None:
        if tag in _HIDDEN:
            if tag in self._hidden:
                del self._hidden[self._hidden.index(tag) :]
        elif tag == "title":
            self._in_title = False
        elif _BLOCKS.fullmatch(tag):
            self._end_block(tag)
            if tag == "pre":
                self._preformatted = max(0, self._preformatted - 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "br":
            self._end_line(1)
        elif _BLOCKS.fullmatch(tag):
            self._end_block(tag)

    def handle_data(self, data: str) -> None:
        if self._hidden:
            return
        if self._in_title:
            self.title.append(data)
        elif self._preformatted:
            self._put(data.removeprefix("\n") if not self._line_open else data)
        else:
            text = _SPACE.sub(" ", data)
            if not self._line_open:
                text = text.removeprefix(" ")
            elif text[:1] == " " and self._parts[-1][-1:] in " \t":
                text = text[1:]
            self._put(text)

    def _put(self, text: str) -> None:
        if not text:
            return
        if self._gap and self._parts:
            self._parts[-1] = self._parts[-1].rstrip(" \t")
            self._parts.append("\n" * self._gap)
        self._gap = 0
        self._parts.append(text)
        self._line_open = True

    def _end_block(self, tag: str) -> None:
        self._end_line(2 if _PARAGRAPHS.fullmatch(tag) else 1)

    def _end_line(self, gap: int) -> None:
        """The next text stands ``gap`` lines below."""
        self._gap = max(self._gap, gap)
        self._line_open = False

    def _cell(self) -> None:
        if self._line_open and self._parts[-1][-1:] != "\t":
            self._parts[-1] = self._parts[-1].rstrip(" ")
            self._parts.append("\t")
