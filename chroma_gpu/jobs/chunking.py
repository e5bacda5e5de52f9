"""Texts cut into chunks that a model can take, each a piece of the text as it stands, with its place in it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from chroma_gpu.errors import InvalidArgumentError
from chroma_gpu.jobs import markdown, sentences
from chroma_gpu.jobs.cutting import Characters, Gaps, Reach, cuts
from chroma_gpu.jobs.options import Chunking, EmbedOptions
from chroma_gpu.jobs.rows import Item
from chroma_gpu.jobs.sentences import Gap
from chroma_gpu.jobs.tokens import Tokenizer
from chroma_gpu.records import Metadata

OURS: Final = ("document_id", "chunk", "chunks", "start", "end", "heading")
"""The keys that chunking puts into metadata; a row's own values of these names are kept as ``metadata_<name>``."""

_SPACE: Final = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Span:
    """Characters [start, stop) of a text, and the headings that they stand under."""

    start: int
    stop: int
    heading: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Chunker:
    """Cuts texts. The same text gives the same chunks with the same ids, whatever else is in a job.

    Chunk n of a row has the id ``<id>#<n>``, from 0, also where there is only one, so that a text that grows does not leave its old
    record behind. Its metadata are those of the row and ``document_id``, ``chunk``, ``chunks``, ``start`` and ``end`` (characters
    of the text, which holds exactly the chunk there). No chunk begins or ends with white space, and nothing else is left out.

    chars      up to the last end of a paragraph, line or sentence in the second half of what fits, else the last word that fits
    tokens     as many whole words as fit; counted are the tokens of the model, those that it puts around every text too
    sentences  as many whole sentences as fit, counted in tokens, or in characters where there is no tokenizer
    markdown   each section by itself, with ``heading`` as "outer > inner" in its metadata, cut as by "chars"; fenced code and tables
               are cut only where they do not fit
    A word, or for "sentences" a sentence, is cut only if it does not fit by itself.
    The overlap is what fits of it from the end of the chunk before, in whole words or whole sentences; it is left out where the
    next word would not fit behind it.
    """

    chunk: Chunking
    size: int
    overlap: int
    tokenizer: Tokenizer | None = None

    @classmethod
    def of(cls, options: EmbedOptions, tokenizer: Any | None) -> Chunker:
        """The chunker that the options ask for.

        tokenizer  of the model: a fast one of transformers, or one of tokenizers; it is copied
        Raises     InvalidArgumentError
        """
        size, overlap = options.chunk_size, options.chunk_overlap
        if options.chunk == "none":
            return cls("none", size, overlap)
        if options.chunk == "tokens" and tokenizer is None:
            raise InvalidArgumentError("the model has no tokenizer to count tokens by.", hint="Cut by chars or sentences.")
        counting = Tokenizer.of(tokenizer) if tokenizer is not None and options.chunk in ("tokens", "sentences") else None
        special = counting.special if counting else 0
        if not 0 <= overlap < size - special:
            around = f" with {special} tokens around each" if special else ""
            raise InvalidArgumentError(
                f"chunks of {size:,}{around} cannot overlap by {overlap:,}.", hint="The overlap must be smaller than the chunk."
            )
        return cls(options.chunk, size - special, overlap, counting)

    def items(self, item: Item) -> list[Item]:
        """The chunks of a record, in order; the record itself if nothing is cut, if it has no text, or a vector of the whole text."""
        text = item.text
        if self.chunk == "none" or text is None or item.vector is not None:
            return [item]
        spans = self.spans(text)
        metadata = _moved(item.metadata)
        return [
            replace(
                item,
                id=f"{item.id}#{n}",
                text=text[span.start : span.stop],
                metadata={**metadata, **_told(item.id, n, len(spans), span)},
                chunk=n,
                last=n == len(spans) - 1,
            )
            for n, span in enumerate(spans)
        ]

    def spans(self, text: str) -> list[Span]:
        """Where the chunks of a text are; all of it if it is blank."""
        start, stop = _trimmed(text, 0, len(text))
        if start == stop:
            return [Span(0, len(text))]
        if self.chunk != "markdown":
            return [Span(*span) for span in self._cut(text, start, stop)]
        found = []
        for section in markdown.sections(text):
            start, stop = _trimmed(text, section.start, section.stop)
            if start < stop:
                found += [Span(*span, section.heading) for span in self._cut(text, start, stop, section.whole)]
        return found

    def _cut(self, text: str, start: int, stop: int, whole: Iterable[Gap] = ()) -> Iterator[Gap]:
        """The chunks of a part of a text that begins and ends with no white space."""
        reach: Reach = Characters(self.size, self.overlap)
        if self.tokenizer:
            reach = self.tokenizer.reach(text, self.size, self.overlap)
        elif stop - start <= self.size:
            return iter([(start, stop)])
        spaces = [found.span() for found in _SPACE.finditer(text, start, stop)]
        if self.chunk == "tokens":
            words = Gaps.of(spaces)
            return cuts(text, start, stop, reach, [words], words)
        if self.chunk == "sentences":
            ends = Gaps.of(sentences.gaps(text, start, stop))
            return cuts(text, start, stop, reach, [ends, Gaps.of(spaces)], ends)
        kept = [(first, last) for first, last in whole if last - first <= self.size]
        spaces = _outside(spaces, kept)
        words = Gaps.of(spaces)
        lines = [[gap for gap in spaces if text.count("\n", *gap) >= least] for least in (2, 1)]
        ends = Gaps.of(_outside(sentences.gaps(text, start, stop), kept), half=True)
        return cuts(text, start, stop, reach, [*(Gaps.of(gaps, half=True) for gaps in lines), ends, words], words)


def _trimmed(text: str, start: int, stop: int) -> Gap:
    """The part without white space around it."""
    part = text[start:stop]
    bare = part.lstrip()
    start = stop - len(bare)
    return start, start + len(bare.rstrip())


def _outside(gaps: Iterable[Gap], whole: list[Gap]) -> list[Gap]:
    """The gaps that are not inside one of some parts. Both are in order."""
    kept, at = [], 0
    for start, stop in gaps:
        while at < len(whole) and whole[at][1] <= start:
            at += 1
        if at == len(whole) or start < whole[at][0]:
            kept.append((start, stop))
    return kept


def _moved(metadata: Metadata | None) -> Metadata:
    """The metadata of a row with the names that are needed here made free."""
    moved = dict(metadata or {})
    for name in OURS:
        if name in moved:
            other = f"metadata_{name}"
            while other in moved:
                other = f"metadata_{other}"
            moved[other] = moved.pop(name)
    return moved


def _told(document: str, n: int, chunks: int, span: Span) -> Metadata:
    told: Metadata = {"document_id": document, "chunk": n, "chunks": chunks, "start": span.start, "end": span.stop}
    if span.heading:
        told["heading"] = " > ".join(span.heading)
    return told
