"""Writes: batches of any size, in parts that the server takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from chroma_gpu.api.remote import wire
from chroma_gpu.api.remote.connection import Connection, plain
from chroma_gpu.api.remote.table import no_notes
from chroma_gpu.errors import BatchSizeExceededError, ChromaError
from chroma_gpu.records import RecordBatch

BODY_BYTES: Final = 32 << 20
"""A body stays below this where it can; Chroma's server refuses 40 MiB unless it is told otherwise."""


class Writes:
    """Sends batches. Chroma's limits of records and bytes for one request do not reach the caller."""

    def __init__(self, http: Connection, checks: Callable[[], Mapping[str, Any]]) -> None:
        self._http = http
        self._checks = checks

    def send(self, route: tuple[str, ...], batch: RecordBatch) -> None:
        """Send a batch, in parts if it must be; the server takes each part whole or not at all.

        Raises  what the server says; where parts were taken before, the message says how many records they had;
                NotImplementedError for a batch with a note
        """
        if batch.note is not None:
            raise no_notes()
        checks = self._checks()
        most = int(checks.get("max_batch_size", -1))
        size = most if most > 0 else len(batch)
        first = 0
        while first < len(batch):
            part = _slice(batch, first, min(first + size, len(batch)))
            body = wire.batch(part, base64_vectors=bool(checks.get("supports_base64_encoding", False)))
            content = msgspec.json.encode(body, enc_hook=plain)
            if len(content) > BODY_BYTES and len(part) > 1:
                size = max(len(part) * BODY_BYTES // len(content), 1)
                continue
            try:
                self._http.post_encoded(*route, content=content)
            except BatchSizeExceededError as error:
                if len(part) == 1:
                    _say_how_far(error, first, len(batch))
                    raise
                size = len(part) // 2
                continue
            except (ChromaError, ValueError) as error:
                _say_how_far(error, first, len(batch))
                raise
            first += len(part)


def _slice(batch: RecordBatch, start: int, stop: int) -> RecordBatch:
    if (start, stop) == (0, len(batch)):
        return batch
    columns: list[Any] = [batch.vectors, batch.documents, batch.metadatas, batch.uris]
    vectors, documents, metadatas, uris = (None if column is None else column[start:stop] for column in columns)
    return RecordBatch(batch.ids[start:stop], vectors, documents, metadatas, uris)


def _say_how_far(error: ChromaError | ValueError, done: int, of: int) -> None:
    if done:
        error.args = (f"{error} The first {done} of {of} records were written before that; repeat the rest.", *error.args[1:])
