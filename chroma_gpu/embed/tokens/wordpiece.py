"""The tokens of BERT's tokenizers by arrays, for the texts of which it can be proven that they are those of ``tokenizers``.

BERT's normalizer and its splitting treat each character by itself as long as no combining marks are about, and a word's pieces
depend on the word alone. So for texts in an alphabet of characters that stand alone (ASCII and the printable rest of Windows-1252:
typographic quotes, dashes, accented letters), one table says what becomes of a character, one where words end, and words are
looked up. The tables are made by asking the tokenizer itself, and so are the pieces of each word that is met for the first time.
Texts with any other character, or with anything that could be an added token such as "[SEP]", are left to ``tokenizers``.
Method: Devlin et al., BERT (2018); Wu et al., Google's neural machine translation system (2016), for WordPiece.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from chroma_gpu.embed.tokens.wordtable import COUNT_BITS, KEY_BYTES, WordTable

Ids: TypeAlias = npt.NDArray[np.int32]
Lengths: TypeAlias = npt.NDArray[np.int64]

ALPHABET: Final = "cp1252"
"""One byte per character."""

CHUNK: Final = 1 << 17
"""Characters that are worked on at once: the arrays of so many stay in the processor's cache."""

ADDED_TOKENS: Final = 256
"""Every text is searched for each added token; a tokenizer with more of them is left alone."""

_SEPARATOR: Final = b"\x01"
_SPACE, _LETTER, _ALONE, _UNPROVEN = range(4)
_END: Final = b" " * (KEY_BYTES + 1)
_SIZES: Final = np.array([(1 << 8 * min(size, 8)) - 1 for size in range(KEY_BYTES + 1)], np.uint64)
_SIZES_HIGH: Final = np.array([(1 << 8 * max(size - 8, 0)) - 1 for size in range(KEY_BYTES + 1)], np.uint64)


class UnprovenError(Exception):
    """The tokenizer is not of the kind that is known here; says why."""


@dataclass(frozen=True, slots=True)
class _Added:
    """Added tokens as they would stand in a text: as it was given, and as the normalizer leaves it."""

    given: tuple[bytes, ...]
    normalised: tuple[bytes, ...]


class WordPiece:
    """The fast way for one tokenizer, whose settings must not change afterwards.

    Raises UnprovenError  the tokenizer is not a BERT WordPiece tokenizer, or one with settings that are not known here
    Threads: any number at once.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._fold, self._kind = _characters(tokenizer)
        self._added = _added(tokenizer)
        self._before, self._after = _frame(_state(tokenizer.post_processor))
        self._length = _truncated_to(tokenizer, len(self._before) + len(self._after))
        self._tokens_of, self._longest = _pieces(tokenizer)
        self._starting = threading.Lock()
        self._words = self._new_words()

    def tokens(self, texts: Sequence[str], prefix: str = "", *, special: bool = True) -> tuple[Ids, Lengths, list[int]]:
        """The tokens of the texts that are proven, one after another; how many each text has, -1 for the others; those others.

        Cost: one pass over the characters, a look-up per word; some 20 bytes of memory per character of the longest text or chunk
        """
        lengths = np.full(len(texts), -1, np.int64)
        parts: list[Ids] = []
        if self._is_plain(prefix):
            for start, stop in _chunks(texts, len(prefix) + 1):
                ids, places, counts = self._chunk(texts[start:stop], prefix, special)
                lengths[start + places] = counts
                parts.append(ids)
        return np.concatenate(parts) if parts else np.zeros(0, np.int32), lengths, np.flatnonzero(lengths < 0).tolist()

    def _is_plain(self, prefix: str) -> bool:
        try:
            return _UNPROVEN not in prefix.encode(ALPHABET).translate(self._kind)
        except UnicodeEncodeError:
            return False

    def _chunk(self, texts: Sequence[str], prefix: str, special: bool) -> tuple[Ids, npt.NDArray[np.intp], Lengths]:
        places, raw = _joined(texts, prefix)
        if not len(places):
            return np.zeros(0, np.int32), places, np.zeros(0, np.int64)
        folded, kinds = raw.translate(self._fold), raw.translate(self._kind)
        added = self._added_at(raw, folded)
        if len(added) or _UNPROVEN in kinds or raw.count(_SEPARATOR) > len(places) + 1:
            sizes = np.fromiter((len(texts[place]) for place in places), np.int64, len(places)) + (len(prefix) + 1)
            proven = np.ones(len(places), np.bool_)
            proven[_unproven(raw, kinds, added, np.cumsum(sizes) + 1)] = False
            places = places[proven]
            if not len(places):
                return np.zeros(0, np.int32), places, np.zeros(0, np.int64)
            raw = _joined([texts[place] for place in places], prefix)[1]
            folded, kinds = raw.translate(self._fold), raw.translate(self._kind)
        ids, lengths = self._looked_up(folded, kinds, special)
        return ids, places, lengths

    def _added_at(self, raw: bytes, folded: bytes) -> npt.NDArray[np.intp]:
        """Where added tokens may begin; of a long one only the first eight bytes are compared."""
        found = [_begin(raw, self._added.given), _begin(folded, self._added.normalised)]
        return np.concatenate(found)

    def _looked_up(self, folded: bytes, kinds: bytes, special: bool) -> tuple[Ids, Lengths]:
        """Tokens of texts as ``_joined`` puts them together; a separator stands for what frames two texts."""
        table = self._words_with_room()
        before = len(self._before) if special else 0
        after = len(self._after) if special else 0
        at, size, low = _words(folded, kinds)
        breaks = np.flatnonzero(low == _SEPARATOR[0])
        longest = None if self._length is None else self._length - before - after
        if longest is not None:
            # A word has one token at least.
            kept = _without_excess(len(at), breaks[:-1] + 1, breaks[1:], longest)
            if kept is not None:
                at, size, low = at[kept], size[kept], low[kept]
                breaks = np.flatnonzero(low == _SEPARATOR[0])
        values = self._values(table, folded, at, size, low)
        counts, first = values & ((1 << COUNT_BITS) - 1), values >> COUNT_BITS
        counts[breaks], first[breaks] = before + after, 0
        stops = np.cumsum(counts)
        places = np.repeat(first - stops + counts, counts)
        places += np.arange(len(places))
        bounds = stops[breaks] - (before + after)
        ids = table.ids.take(places)[after : after + bounds[-1]]
        lengths = np.diff(bounds)
        if longest is not None:
            kept = _without_excess(len(ids), bounds[:-1] + before, bounds[1:] - after, longest)
            if kept is not None:
                return ids[kept], np.minimum(lengths, longest + before + after)
        return ids, lengths

    def _values(
        self, table: WordTable, folded: bytes, at: npt.NDArray[np.intp], size: npt.NDArray[np.intp], low: npt.NDArray[np.uint64]
    ) -> npt.NDArray[np.int64]:
        high = np.zeros(len(low), np.uint64)
        wide = np.flatnonzero(size > KEY_BYTES // 2)
        high[wide] = _unaligned(folded, 9)[at[wide]] & _SIZES_HIGH.take(size[wide], mode="clip")
        values = table.find(low, high)
        for place in wide[size[wide] > KEY_BYTES].tolist():
            start, length = int(at[place]) + 1, int(size[place])
            # All words beyond the longest have the same token.
            values[place] = table.long_value(folded[start : start + min(length, self._longest + 1)])
        unknown = np.flatnonzero(values < 0)
        if len(unknown):
            values[unknown] = table.values(low[unknown], high[unknown])
        return values

    def _words_with_room(self) -> WordTable:
        """A table for one chunk: whoever works with a full one ends with it, the next chunk begins anew."""
        words = self._words
        if not words.full:
            return words
        with self._starting:
            if self._words.full:
                self._words = self._new_words()
            return self._words

    def _new_words(self) -> WordTable:
        return WordTable(self._tokens_of, [*self._after, *self._before])


def _chunks(texts: Sequence[str], more: int) -> Iterator[tuple[int, int]]:
    """Slices of about ``CHUNK`` characters, of one text at least."""
    ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)) + more)
    start = 0
    while start < len(texts):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + CHUNK, "right")))
        yield start, stop
        start = stop


def _joined(texts: Sequence[str], prefix: str) -> tuple[npt.NDArray[np.intp], bytes]:
    """The texts that the alphabet has, and their bytes: a space, and then a separator and the prefix before each and behind all."""
    separator = _SEPARATOR.decode() + prefix
    together = separator.join((" ", *texts, _END.decode()))
    if together.isascii():
        return np.arange(len(texts)), together.encode()
    parts = [text.encode() if text.isascii() else _encoded(text) for text in texts]
    places = np.flatnonzero([part is not None for part in parts])
    return places, separator.encode(ALPHABET).join((b" ", *(part for part in parts if part is not None), _END))


def _encoded(text: str) -> bytes | None:
    try:
        return text.encode(ALPHABET)
    except UnicodeEncodeError:
        return None


def _begin(where: bytes, tokens: Sequence[bytes]) -> npt.NDArray[np.intp]:
    """Where the first bytes of one of the tokens are."""
    found = [np.zeros(0, np.intp)]
    eights = _unaligned(where, 0)
    for first in sorted({token[0] for token in tokens}):
        places = np.flatnonzero(np.frombuffer(where, np.uint8, len(eights)) == first)
        if len(places):
            begun = eights[places]
            keys = [(int.from_bytes(token[:8], "little"), _SIZES[min(len(token), 8)]) for token in tokens if token[0] == first]
            found += [places[begun & size == key] for key, size in keys]
    return np.concatenate(found)


def _unproven(raw: bytes, kinds: bytes, added: npt.NDArray[np.intp], ends: Lengths) -> npt.NDArray[np.intp]:
    """The texts with a character or an added token that is not ours to treat; text i ends before the byte ends[i]."""
    separators = np.flatnonzero(np.frombuffer(raw, np.uint8) == _SEPARATOR[0])
    more = np.setdiff1d(separators, ends)[1:]  # but for the one before the first text
    strange = np.flatnonzero(np.frombuffer(kinds, np.uint8) == _UNPROVEN)
    found = np.searchsorted(ends, np.concatenate([added, more, strange]), "right")
    return found[found < len(ends)]


def _words(folded: bytes, kinds: bytes) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.uint64]]:
    """Where the byte before each word is, how long the word is, and its first eight bytes as a number."""
    kind = np.frombuffer(kinds, np.uint8)
    letter = kind & _LETTER  # _ALONE has another bit: such a character begins and ends a word whatever is beside it
    at = np.flatnonzero(kind[1:] > letter[:-1])
    size = np.flatnonzero(kind[:-1] > letter[1:]) - at
    return at, size, _unaligned(folded, 1)[at] & _SIZES.take(size, mode="clip")


def _unaligned(folded: bytes, offset: int) -> npt.NDArray[np.uint64]:
    """The eight bytes from offset, from offset + 1, and so on, as numbers whose lowest byte is the first."""
    eights: npt.NDArray[np.uint64] = np.ndarray((len(folded) - offset - 7,), "<u8", folded, offset, (1,))
    return eights


def _without_excess(total: int, starts: Lengths, stops: Lengths, longest: int) -> npt.NDArray[np.bool_] | None:
    """[total] what remains when no span from a start to its stop may be longer; None: all of it."""
    over = np.flatnonzero(stops - starts > longest)
    if not len(over):
        return None
    kept = np.ones(total, np.bool_)
    for start, stop in zip((starts[over] + longest).tolist(), stops[over].tolist(), strict=True):
        kept[start:stop] = False
    return kept


def _state(part: Any) -> dict[str, Any]:
    """What a part of a tokenizer says of itself, as in tokenizer.json."""
    if part is None:
        return {"type": None}
    try:
        state: dict[str, Any] = json.loads(part.__getstate__())
    except Exception as error:
        raise UnprovenError(f"it has a part that cannot be read ({type(part).__name__})") from error
    return state


def _characters(tokenizer: Any) -> tuple[bytes, bytes]:
    """For each byte of the alphabet what the normalizer makes of it, and what it is to the splitting into words."""
    state = _state(tokenizer.normalizer)
    steps = [step["type"] for step in (state["normalizers"] if state["type"] == "Sequence" else [state])]
    if not steps or steps[-1] != "BertNormalizer" or set(steps[:-1]) - {"Lowercase"}:
        raise UnprovenError(f"its normalizer is not BERT's ({', '.join(map(str, steps))})")
    splitter = _state(tokenizer.pre_tokenizer)["type"]
    if splitter != "BertPreTokenizer":
        raise UnprovenError(f"it does not split texts as BERT does ({splitter})")
    fold, kind = bytearray(range(256)), bytearray([_UNPROVEN] * 256)
    for byte in range(2, 256):
        try:
            becomes = tokenizer.normalizer.normalize_str(bytes([byte]).decode(ALPHABET))
            (fold[byte],) = becomes.encode(ALPHABET)
        except (UnicodeError, ValueError):
            continue
        words = [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(f"a{becomes}a")]
        known = {("a", "a"): _SPACE, (f"a{becomes}a",): _LETTER, ("a", becomes, "a"): _ALONE}
        kind[byte] = known.get(tuple(words), _UNPROVEN)
    kind[_SEPARATOR[0]] = _ALONE
    return bytes(fold), bytes(kind)


def _added(tokenizer: Any) -> _Added:
    tokens = tokenizer.get_added_tokens_decoder().values()
    if len(tokens) > ADDED_TOKENS:
        raise UnprovenError(f"it has {len(tokens)} added tokens")
    given = [token.content for token in tokens if not token.normalized]
    normalised = [tokenizer.normalizer.normalize_str(token.content) for token in tokens if token.normalized]
    if not all(given) or not all(normalised):
        raise UnprovenError("it has an added token without characters")
    # What the alphabet does not have is in none of the texts that are looked up here.
    encoded = [[part for part in map(_encoded, contents) if part is not None] for contents in (given, normalised)]
    return _Added(tuple(encoded[0]), tuple(encoded[1]))


def _frame(state: dict[str, Any]) -> tuple[list[int], list[int]]:
    """The special tokens before and behind a text."""
    if state["type"] is None:
        return [], []
    if state["type"] == "BertProcessing":
        return [state["cls"][1]], [state["sep"][1]]
    if state["type"] != "TemplateProcessing":
        raise UnprovenError(f"it frames texts in a way that is not known here ({state['type']})")
    pieces = state["single"]
    texts = [place for place, piece in enumerate(pieces) if "Sequence" in piece]
    if len(texts) != 1 or pieces[texts[0]]["Sequence"]["id"] != "A":
        raise UnprovenError("its frame does not have the text once")
    ids = [state["special_tokens"][piece["SpecialToken"]["id"]]["ids"] if "SpecialToken" in piece else [] for piece in pieces]
    return [*chain.from_iterable(ids[: texts[0]])], [*chain.from_iterable(ids[texts[0] :])]


def _truncated_to(tokenizer: Any, framing: int) -> int | None:
    if tokenizer.padding is not None:
        raise UnprovenError("it pads")
    cut = tokenizer.truncation
    if cut is None:
        return None
    if cut["direction"] != "right" or cut["stride"] or cut["strategy"] not in ("longest_first", "only_first"):
        raise UnprovenError("it truncates in a way that is not known here")
    length = int(cut["max_length"])
    if length <= framing:
        raise UnprovenError(f"it truncates texts to {length} tokens")
    return length


def _pieces(tokenizer: Any) -> tuple[Callable[[bytes], list[int]], int]:
    """The model's own way with one word, and how many characters the longest word has that it looks at."""
    from tokenizers.models import WordPiece as Model

    model = tokenizer.model
    if not isinstance(model, Model):
        raise UnprovenError(f"its model is {type(model).__name__}")
    longest = int(model.max_input_chars_per_word)
    if not 0 < longest < 1 << COUNT_BITS:
        raise UnprovenError(f"its words have up to {longest} characters")
    try:
        model.tokenize("a" * (longest + 1))
    except Exception as error:
        raise UnprovenError("it has no token for unknown words") from error

    def tokens_of(word: bytes) -> list[int]:
        return [token.id for token in model.tokenize(word.decode(ALPHABET))]

    return tokens_of, longest
