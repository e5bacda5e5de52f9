"""The conditions on documents, one class each. They read texts as UTF-8 bytes, which are never decoded for a substring."""

# ruff: noqa: S105 - a token is a word of the grammar here

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Final, Protocol

from chroma_gpu.filter.regex import Search, compiled, compiled_together
from chroma_gpu.records import Rows


class Texts(Protocol):
    """Where the documents of a table can be read."""

    def documents(self, rows: Rows) -> Iterator[bytes | None]:
        """The UTF-8 text of each row in the order of rows, None where there is none."""
        ...


@dataclass(frozen=True, slots=True)
class DocumentOperator(ABC):
    """A condition on the document. ``operand`` is the text or pattern looked for; one lone surrogate in it is a UnicodeEncodeError."""

    token: ClassVar[str]
    negated: ClassVar[bool] = False

    operand: str
    _search: Search = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_search", self._searching())

    def matches(self, document: bytes | None) -> bool:
        """Whether one record passes. A record without a document passes the negated forms only."""
        return (document is not None and self._search(document)) != self.negated

    def passing(self, documents: Iterable[bytes | None]) -> list[bool]:
        """``matches`` for many records."""
        search, negated = self._search, self.negated
        return [(document is not None and search(document)) != negated for document in documents]

    @abstractmethod
    def _searching(self) -> Search:
        """The search for the operand in one text."""


class DocumentContains(DocumentOperator):
    """The text is a part of the document, by code points: case, accents and all."""

    __slots__ = ()
    token = "$contains"

    def _searching(self) -> Search:
        wanted = self.operand.encode()
        return lambda text: wanted in text

    def passing(self, documents: Iterable[bytes | None]) -> list[bool]:
        wanted, negated = self.operand.encode(), self.negated
        return [(document is not None and wanted in document) != negated for document in documents]


class DocumentNotContains(DocumentContains):
    """Not ``DocumentContains``."""

    __slots__ = ()
    token = "$not_contains"
    negated = True


class DocumentMatches(DocumentOperator):
    """The regular expression matches somewhere in the document.  Raises InvalidFilter if it cannot be used."""

    __slots__ = ()
    token = "$regex"

    def _searching(self) -> Search:
        return compiled(self.operand)

    def passing(self, documents: Iterable[bytes | None]) -> list[bool]:
        negated = self.negated
        return [found != negated for found in compiled_together(self.operand, self._search).matching(documents)]


class DocumentNotMatches(DocumentMatches):
    """Not ``DocumentMatches``."""

    __slots__ = ()
    token = "$not_regex"
    negated = True


DOCUMENT_OPERATORS: Final[Mapping[str, type[DocumentOperator]]] = {
    operator.token: operator for operator in (DocumentContains, DocumentNotContains, DocumentMatches, DocumentNotMatches)
}
"""Every operator on documents by its token."""
