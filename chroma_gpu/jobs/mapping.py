"""Rows to records: which column is the id, the text, the vector; what is kept as metadata."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from collections.abc import Mapping as Fields
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import msgspec
import numpy as np

from chroma_gpu.api.validate import MAX_ID, MAX_KEY, MAX_KEYS, MAX_TEXT
from chroma_gpu.errors import ChromaError, InvalidArgumentError
from chroma_gpu.jobs.options import EmbedOptions
from chroma_gpu.jobs.rows import BadRow, Item, Row, Stage
from chroma_gpu.records import TYPE_KEY, Metadata, SparseVector, Vectors
from chroma_gpu.values import INT_MAX, INT_MIN

TEXT_COLUMNS: Final = ("text", "document", "content")
"""What a column with texts is called where the options do not say; the first that is there."""

_ROOM: Final = 32
"""Characters that are left of an id for the number of a chunk."""
_KEYS_KNOWN: Final = 1 << 12
_REFUSED: Final = (ChromaError, ValueError, TypeError, OverflowError, RecursionError, msgspec.MsgspecError)


@dataclass(slots=True, eq=False)
class Mapping:
    """How rows become records. What ``item`` gives, a collection takes: a row that it would refuse is a bad row here.

    id        the id column as text, after ``prefix``; without one the digest of the text, so that the same text has the same id
              anywhere. A row without a value in a column that was named is bad; in one that was not, the digest is taken
    text      the text columns that have a value, joined; numbers are written out. A row without any text, and without a vector,
              is bad, and so is one whose text is blank
    vector    a list of numbers, JSON of one, or the bytes of float32 values
    metadata  the other columns. What has no value is left out, an empty list too; times become ISO text, durations seconds, decimals
              floats; lists of ints and floats become floats; what else is nested becomes JSON. Bad are bytes, NaN and infinity, and
              ints of more than 64 bits, which a collection could only keep as floats
    dim       length of the vectors that are given; None until the first one decides
    """

    id_column: str
    id_named: bool
    text_columns: tuple[str, ...]
    join: str
    metadata_columns: tuple[str, ...] | None
    vector_column: str | None
    uri_column: str | None
    prefix: str
    dim: int | None = None
    _good_keys: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, options: EmbedOptions, dim: int | None = None) -> Mapping:
        """Raises InvalidArgumentError for a prefix that no id can begin with."""
        if len(options.prefix_id) > MAX_ID // 2 or not _encodable(options.prefix_id):
            raise InvalidArgumentError("the prefix of the ids is too long, or no text.")
        return cls(
            options.id_column or "id",
            options.id_column is not None,
            options.text_columns,
            options.join,
            options.metadata_columns,
            options.vector_column,
            options.uri_column,
            options.prefix_id,
            dim,
        )

    def item(self, row: Row) -> Item | BadRow:
        """The record that a row is."""
        try:
            return self._item(row)
        except _REFUSED as error:
            name = "ValueError" if isinstance(error, InvalidArgumentError) else type(error).__name__
            return BadRow(row.source, row.number, row.after, Stage.READ, name, str(error), self._name(row), row.fields)

    def _item(self, row: Row) -> Item:
        fields = row.fields
        text, used = self._text(fields)
        vector = None if self.vector_column is None else self._vector(fields.get(self.vector_column))
        if vector is None and (text is None or not text or text.isspace()):
            raise ValueError(f"there is no text in {' or '.join(map(repr, used))}" if text is None else "the text is blank")
        uri = None
        if self.uri_column is not None:
            uri = fields.get(self.uri_column)
            if uri is not None and (type(uri) is not str or not _encodable(uri)):
                raise TypeError(f"{self.uri_column!r} is no text but {_told(uri)}")
        name = self._id(fields.get(self.id_column), text)
        metadata = self._metadata(fields, used)
        if self.dim is None and vector is not None:
            self.dim = len(vector)
        return Item(row, name, text, metadata, uri, vector)

    def _text(self, fields: Fields[str, Any]) -> tuple[str | None, tuple[str, ...]]:
        """(text, columns that were looked at). Raises ValueError, TypeError."""
        columns = self.text_columns
        if not columns:
            for name in TEXT_COLUMNS:
                text = fields.get(name)
                if text is not None:
                    return _as_text(name, text), (name,)
            return None, TEXT_COLUMNS
        parts = [_as_text(name, fields[name]) for name in columns if fields.get(name) is not None]
        return (self.join.join(parts) if parts else None), columns

    def _id(self, given: Any, text: str | None) -> str:
        if given is None or given == "":
            if self.id_named:
                raise ValueError(f"there is no id in {self.id_column!r}")
            if text is None:
                raise ValueError("there is neither an id nor a text to make one of")
            return f"{self.prefix}{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}"
        if type(given) is not str:
            if isinstance(given, bool) or not isinstance(given, int | float | str | UUID | Decimal):
                raise TypeError(f"the id in {self.id_column!r} is {_told(given)}")
            given = str(given)
        name = self.prefix + given if self.prefix else given
        if len(name) > MAX_ID - _ROOM:
            raise ValueError(f"an id may have {MAX_ID - _ROOM:,} characters, this one has {len(name):,}")
        if not name.isascii():
            name.encode()
        return str(name)

    def _vector(self, given: Any) -> Vectors:
        """[dim] float32. Raises ValueError, TypeError."""
        if isinstance(given, str):
            given = msgspec.json.decode(given)
        elif isinstance(given, bytes):
            given = np.frombuffer(given, "<f4")
        if not isinstance(given, list | tuple | np.ndarray):
            raise TypeError(f"the vector in {self.vector_column!r} is {_told(given)}")
        array = np.asarray(given)
        if array.ndim != 1 or not len(array) or array.dtype.kind not in "iuf":
            raise ValueError(f"the vector in {self.vector_column!r} is no list of numbers")
        if self.dim is not None and len(array) != self.dim:
            raise ValueError(f"the vector in {self.vector_column!r} has {len(array):,} dimensions, others have {self.dim:,}")
        with np.errstate(over="ignore"):
            vector = np.ascontiguousarray(array, np.float32)
        if not np.isfinite(vector).all():
            raise ValueError(f"the vector in {self.vector_column!r} has NaN, infinity or a number too large for float32")
        return vector

    def _metadata(self, fields: Fields[str, Any], texts: tuple[str, ...]) -> Metadata | None:
        """What is kept beside text and id; None where nothing is."""
        kept: Metadata = {}
        good = self._good_keys
        items: Iterable[tuple[str, Any]]
        if self.metadata_columns is None:
            items, skipped = fields.items(), (*texts, self.id_column, self.vector_column, self.uri_column)
        else:
            items, skipped = ((key, fields.get(key)) for key in self.metadata_columns), ()
        for key, value in items:
            if value is None or key in skipped:
                continue
            if key not in good:
                self._check_key(key)
            kind = type(value)
            if kind is str:
                if len(value) > MAX_TEXT:
                    raise ValueError(f"{key!r} has {len(value):,} characters, metadata may have {MAX_TEXT:,}; make it the text")
                if not value.isascii():
                    value.encode()
                kept[key] = value
            elif kind is bool or (kind is int and INT_MIN <= value <= INT_MAX) or (kind is float and math.isfinite(value)):
                kept[key] = value
            else:
                as_kept = _kept(key, value)
                if as_kept is not None:
                    kept[key] = as_kept
        if len(kept) > MAX_KEYS:
            raise ValueError(f"metadata may have {MAX_KEYS:,} keys, this has {len(kept):,}")
        return kept or None

    def _check_key(self, key: str) -> None:
        if not isinstance(key, str) or not key or key[0] in "#$" or key == "chroma:document" or len(key) > MAX_KEY:
            raise ValueError(f"metadata cannot have the key {str(key)[:80]!r}; rename it, or name the columns that are kept")
        key.encode()
        if len(self._good_keys) >= _KEYS_KNOWN:
            self._good_keys.clear()
        self._good_keys.add(key)

    def _name(self, row: Row) -> str | None:
        """The id of a row that is bad for another reason, if it has one."""
        try:
            return self._id(row.fields.get(self.id_column), None)
        except _REFUSED:
            return None


def _as_text(name: str, value: Any) -> str:
    if type(value) is str:
        if not value.isascii():
            value.encode()
        return value
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        return str(value)
    raise TypeError(f"{name!r} is no text but {_told(value)}")


def _kept(key: str, value: Any) -> Any:
    """A value that is not plain, as metadata can hold it; None if there is nothing to hold. Raises ValueError, TypeError."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Decimal):
        value = float(value)
    elif isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool | int | float):
        return _number(key, value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, str | UUID):
        return _checked_text(key, str(value))
    if isinstance(value, list | tuple):
        return _list(key, list(value))
    if isinstance(value, dict):
        if TYPE_KEY in value:
            return SparseVector.from_dict(value)
        return _checked_text(key, _json(value))
    raise TypeError(f"{key!r} is {_told(value)}, which metadata cannot hold; name the columns that are kept")


def _list(key: str, values: list[Any]) -> Any:
    """A list of one kind as it is, None if it is empty, else JSON."""
    if not values:
        return None
    kinds = {type(each) for each in values}
    if kinds == {str}:
        if len(values) > MAX_TEXT:
            raise ValueError(f"the list of {key!r} has {len(values):,} items, metadata may have {MAX_TEXT:,}")
        return [_checked_text(key, each) for each in values]
    if kinds == {bool}:
        return values
    if kinds <= {int, float}:
        checked = [_number(key, each) for each in values]
        return [float(each) for each in checked] if len(kinds) > 1 else checked
    return _checked_text(key, _json(values))


def _number(key: str, value: Any) -> Any:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{key!r} is {value}; numbers must be finite")
    elif not INT_MIN <= value <= INT_MAX:
        raise ValueError(f"{key!r} has more than 64 bits; keep it as text")
    return value


def _checked_text(key: str, text: str) -> str:
    if len(text) > MAX_TEXT:
        raise ValueError(f"{key!r} has {len(text):,} characters, metadata may have {MAX_TEXT:,}")
    text.encode()
    return text


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _told(value: Any) -> str:
    return "missing" if value is None else f"of type {type(value).__name__}"
