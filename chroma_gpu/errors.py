"""Every exception of the package, drawn as a tree.

Names that Chroma has keep Chroma's names and their place in its tree, so that existing ``except`` clauses work.

    ChromaError                       everything below
    ├── InvalidArgumentError          a value that cannot be taken; nothing was written
    │   ├── DimensionMismatch         a vector of another length than the collection's
    │   └── InvalidFilter             a where or where_document that cannot be evaluated
    ├── DuplicateIDError              the same id twice in one batch
    ├── IDAlreadyExistsError
    ├── InvalidDimensionException     kept for callers that name it; DimensionMismatch derives from it too
    ├── InvalidUUIDError
    ├── NotFoundError                 no such tenant, database, collection
    ├── AuthorizationError, ChromaAuthError
    ├── RateLimitError, QuotaError, BatchSizeExceededError, VersionMismatchError, InvalidHTTPVersion
    ├── UniqueConstraintError
    ├── InternalError
    │   ├── AlreadyExistsError        (also UniqueConstraintError) a name that is taken
    │   └── UnknownID                 an id to search among that no record has
    └── EngineError                   what only this package can say
        ├── ClosedError               the client was closed
        ├── EmbeddingFailed           an embedding function failed or returned something unusable
        │   └── ModelNotFound         no source of the model could be reached
        ├── MissingDependency         (also ImportError) an extra is not installed
        ├── AliasError                (also ImportError) the real chromadb is imported already
        ├── DeviceError               a device was asked for that is not there
        ├── JobFailed                 a job ended before its last row; what it has committed is there
        └── StoreError                the directory on disk
            ├── FormatError           written by another format version, or not a store at all
            ├── CorruptRecord         a checksum does not match
            ├── DiskFull              the disk or a quota is full; what was acknowledged is there
            └── StoreBusy             a lock could not be had in time
                └── NoteChanged       another job was there
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final


class ChromaError(Exception):
    """Base of all errors of this package.

    ``hint`` is one sentence that says what to do; it is part of ``str(error)``.
    """

    trace_id: str | None = None

    def __init__(self, message: str = "", *, hint: str | None = None) -> None:
        super().__init__(f"{message} {hint}" if hint else message)
        self.hint = hint

    def code(self) -> int:
        """The HTTP status that Chroma gives this class."""
        return 400

    def message(self) -> str:
        """The text, as Chroma's own classes offer it."""
        return ", ".join(str(arg) for arg in self.args)

    @classmethod
    def name(cls) -> str:
        """The name on the wire."""
        return cls.__name__


class InvalidDimensionException(ChromaError):
    """An embedding of the wrong length, under Chroma's older name."""

    @classmethod
    def name(cls) -> str:
        return "InvalidDimension"


class InvalidArgumentError(ChromaError):
    """An argument that cannot be taken. Nothing was written."""


class DimensionMismatch(InvalidArgumentError, InvalidDimensionException):
    """A vector whose length differs from the collection's."""

    @classmethod
    def name(cls) -> str:
        return "InvalidArgumentError"


class InvalidFilter(InvalidArgumentError):
    """A where or where_document that cannot be evaluated."""

    @classmethod
    def name(cls) -> str:
        return "InvalidArgumentError"


class IDAlreadyExistsError(ChromaError):
    """An id that exists already."""

    def code(self) -> int:
        return 409

    @classmethod
    def name(cls) -> str:
        return "IDAlreadyExists"


class ChromaAuthError(ChromaError):
    """Credentials are missing or wrong."""

    def code(self) -> int:
        return 403

    @classmethod
    def name(cls) -> str:
        return "AuthError"

    def message(self) -> str:
        return "Forbidden"


class DuplicateIDError(ChromaError):
    """The same id more than once in one batch."""

    @classmethod
    def name(cls) -> str:
        return "DuplicateID"


class InvalidUUIDError(ChromaError):
    """Not a UUID."""

    @classmethod
    def name(cls) -> str:
        return "InvalidUUID"


class InvalidHTTPVersion(ChromaError):
    """Server and client do not speak the same HTTP version."""


class AuthorizationError(ChromaError):
    """The caller may not do this."""

    def code(self) -> int:
        return 401


class NotFoundError(ChromaError):
    """No such tenant, database or collection."""

    def code(self) -> int:
        return 404


class UniqueConstraintError(ChromaError):
    """A name that is taken."""

    def code(self) -> int:
        return 409


class BatchSizeExceededError(ChromaError):
    """More records than one call may carry. This package has no such limit; servers may."""

    def code(self) -> int:
        return 413


class VersionMismatchError(ChromaError):
    """The other side has another version."""

    def code(self) -> int:
        return 500


class InternalError(ChromaError):
    """Something that should not happen."""

    def code(self) -> int:
        return 500


class AlreadyExistsError(InternalError, UniqueConstraintError):
    """A tenant, database or collection of this name exists.

    Chroma raises InternalError embedded and answers 409 over HTTP; this class is both.
    """

    def code(self) -> int:
        return 409

    @classmethod
    def name(cls) -> str:
        return "ChromaError"


class UnknownID(InternalError):
    """A search among given ids names one that no record has. Chroma has no class of its own for it."""

    @classmethod
    def name(cls) -> str:
        return "InternalError"


class RateLimitError(ChromaError):
    """Too many requests."""

    def code(self) -> int:
        return 429


class QuotaError(ChromaError):
    """A quota is used up."""


class EngineError(ChromaError):
    """What only this package can say."""

    def code(self) -> int:
        return 500


class ClosedError(EngineError):
    """The client was closed."""


class EmbeddingFailed(EngineError):
    """An embedding function of this package failed, or any returned something unusable. The batch was not written."""


class ModelNotFound(EmbeddingFailed):
    """No source of the model could be reached; the message lists each and what to do."""


class MissingDependency(EngineError, ImportError):  # type: ignore[misc]  # ImportError has a field of that name too
    """An optional package is not installed; the message gives the command that installs it."""


class AliasError(EngineError, ImportError):  # type: ignore[misc]  # ImportError has a field of that name too
    """The name chromadb cannot mean this package any more: the real one is imported already."""


class DeviceError(EngineError):
    """A device was asked for that is not there."""


class JobFailed(EngineError):
    """A job ended before its last row, because of a bad one or too many. What it has committed is there, and it can be gone on with."""


class StoreError(EngineError):
    """The directory on disk."""


class FormatError(StoreError):
    """Written by another format version, or not a store at all."""


class CorruptRecord(StoreError):
    """A checksum does not match what is stored."""


class DiskFull(StoreError):
    """The disk or a quota is full. Everything acknowledged is there; reading and deleting go on."""


class StoreBusy(StoreError):
    """A lock could not be had in time."""


class NoteChanged(StoreBusy):
    """What a write expected to find beside the records is something else by now: another job was there. Nothing was written."""


error_types: Final[Mapping[str, type[ChromaError]]] = {
    each.name(): each
    for each in (
        InvalidDimensionException,
        InvalidArgumentError,
        IDAlreadyExistsError,
        DuplicateIDError,
        InvalidUUIDError,
        InvalidHTTPVersion,
        AuthorizationError,
        NotFoundError,
        BatchSizeExceededError,
        VersionMismatchError,
        RateLimitError,
        ChromaAuthError,
        UniqueConstraintError,
        QuotaError,
        InternalError,
        ChromaError,
    )
}
"""The names that travel over the wire and their classes."""
