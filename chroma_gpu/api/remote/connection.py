"""Connection: the one place where requests are made and answers are read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

import msgspec

from chroma_gpu import errors
from chroma_gpu.api.remote import credentials
from chroma_gpu.api.remote.url import resolve_url
from chroma_gpu.config import Settings
from chroma_gpu.records import SparseVector

if TYPE_CHECKING:
    import httpx

API_PATH: Final = "/api/v2"
KEEPALIVE_SECONDS: Final = 40.0
"""How long an idle connection is kept, without a setting."""


class Connection:
    """Speaks JSON over HTTP with one server. Safe to share between threads; a forked child makes connections of its own.

    There is no time limit for an answer, as in Chroma: a large write or an exact search may take its time.
    """

    def __init__(self, settings: Settings) -> None:
        self.url = resolve_url(
            chroma_server_host=str(settings.require("chroma_server_host")),
            chroma_server_http_port=settings.chroma_server_http_port or 8000,
            chroma_server_ssl_enabled=bool(settings.chroma_server_ssl_enabled),
            default_api_path=settings.chroma_server_api_default_path or API_PATH,
        )
        self._settings = settings
        self._headers = credentials.sendable(
            {
                "Content-Type": "application/json",
                "User-Agent": f"chroma_gpu/{_version()} (Python client)",
                **(settings.chroma_server_headers or {}),
                **credentials.headers(settings),
            }
        )
        self._closed = False
        self._session = self._opened()
        self._process = os.getpid()

    def get(self, *path: str, **params: Any) -> Any:
        """The answer to GET; params that are None are left out. Raises as ``_answer`` does."""
        return self._request("GET", path, params=params, repeatable=True)

    def read(self, *path: str, body: Any) -> Any:
        """The answer to a POST that changes nothing."""
        return self._request("POST", path, content=_encode(body), repeatable=True)

    def post(self, *path: str, body: Any = None) -> Any:
        """The answer to a POST that changes something."""
        return self._request("POST", path, content=None if body is None else _encode(body))

    def post_encoded(self, *path: str, content: bytes) -> Any:
        """``post`` of a body that is JSON already."""
        return self._request("POST", path, content=content)

    def put(self, *path: str, body: Any) -> Any:
        """The answer to PUT."""
        return self._request("PUT", path, content=_encode(body))

    def delete(self, *path: str) -> Any:
        """The answer to DELETE."""
        return self._request("DELETE", path)

    def require_open(self) -> None:
        """Raises ClosedError."""
        if self._closed:
            raise errors.ClosedError("The client was closed.", hint="Make a new one to go on.")

    def close(self) -> None:
        """Close the connections. Idempotent."""
        self._closed = True
        if self._process == os.getpid():  # a forked child has its parent's locks as they were, held by threads it has not
            self._session.close()

    def _opened(self) -> httpx.Client:
        import httpx

        settings = self._settings
        limits = {
            "max_connections": settings.chroma_http_max_connections,
            "max_keepalive_connections": settings.chroma_http_max_keepalive_connections,
        }
        keepalive = settings.chroma_http_keepalive_secs
        verify = settings.chroma_server_ssl_verify
        return httpx.Client(
            timeout=None,  # noqa: S113  see the class
            limits=httpx.Limits(
                keepalive_expiry=KEEPALIVE_SECONDS if keepalive is None else keepalive,
                **{name: value for name, value in limits.items() if value is not None},
            ),
            headers=self._headers,
            verify=True if verify is None else verify,
        )

    def _request(
        self,
        method: str,
        path: tuple[str, ...],
        *,
        params: Mapping[str, Any] | None = None,
        content: bytes | None = None,
        repeatable: bool = False,
    ) -> Any:
        import httpx

        self.require_open()
        if self._process != os.getpid():
            # Two processes on one socket would read each other's answers.
            self._session, self._process = self._opened(), os.getpid()
        url = self.url + _quoted(path)
        shown = _without_password(url)
        given = {name: value for name, value in (params or {}).items() if value is not None}
        hint = "Try again." if repeatable else "What was asked for may have been done or not."
        while True:
            try:
                return _answer(self._session.request(method, url, params=given or None, content=content))
            except httpx.InvalidURL as error:
                raise errors.InvalidArgumentError(
                    f"There is no such URL: {error}.", hint="A name is too long, or the host is none."
                ) from error
            except RuntimeError as error:
                self.require_open()  # it was closed meanwhile, by another thread
                raise errors.InternalError(f"{method} {shown} failed: {error}.", hint=hint) from error
            except httpx.ConnectError as error:
                raise ValueError("Could not connect to a Chroma server. Are you sure it is running?") from error
            except (httpx.NetworkError, httpx.RemoteProtocolError) as error:
                # A server may close an idle connection just when it is used again. Asking twice is safe where nothing changes.
                if not repeatable:
                    said = str(error) or type(error).__name__
                    raise errors.InternalError(f"The connection broke during {method} {shown}: {said}.", hint=hint) from error
                repeatable = False
            except httpx.RequestError as error:
                raise errors.InternalError(f"{method} {shown} failed: {error or type(error).__name__}.", hint=hint) from error


def _answer(response: httpx.Response) -> Any:
    """The JSON of an answer.

    Raises the error that the server names, under our class of that name, with ``trace_id`` where the server gives one.
    """
    try:
        body = msgspec.json.decode(response.content)
    except (msgspec.DecodeError, RecursionError) as cause:
        if not response.is_success:
            raise _error(response, {}) from cause
        raise errors.ChromaError(
            f"{_without_password(str(response.url))} answered something that is no JSON.",
            hint="Is it the address of a Chroma server?",
        ) from cause
    if response.is_success:
        return body
    raise _error(response, body if isinstance(body, dict) else {})


def _error(response: httpx.Response, body: Mapping[str, Any]) -> errors.ChromaError:
    kind = _BY_NAME.get(str(body.get("error")), errors.ChromaError)
    if kind is errors.ChromaError:
        # Servers call many things ChromaError; the status says more, and its classes are ChromaErrors all the same.
        kind = _BY_STATUS.get(response.status_code, kind)
    trace_id = response.headers.get("chroma-trace-id")
    message = (
        body.get("message") or response.text or f"HTTP status {response.status_code} from {_without_password(str(response.url))}"
    )
    if "message" not in body and trace_id:
        message = f"{message} (trace ID: {trace_id})"
    error = kind(str(message))
    error.trace_id = trace_id or None
    return error


def _quoted(path: tuple[str, ...]) -> str:
    """A path of names. Raises NotFoundError for one that would lead elsewhere: ``..`` below collections is their database."""
    for part in path:
        if part in ("", ".", ".."):
            raise errors.NotFoundError(
                f"Nothing on a server is called {part!r}.", hint="Give the name of something that is there."
            )
    return "".join(f"/{quote(part, safe='')}" for part in path)


def _without_password(url: str) -> str:
    """A URL to be shown."""
    secret, at, _ = urlsplit(url).netloc.rpartition("@")
    return url.replace(secret + at, "", 1)


def _encode(body: Any) -> bytes:
    return msgspec.json.encode(body, enc_hook=plain)


def plain(value: Any) -> Any:
    """What JSON has no form for, in one that it has. Raises NotImplementedError for what cannot travel."""
    if isinstance(value, SparseVector):
        return value.to_dict()
    if hasattr(value, "tolist"):  # numpy's numbers and arrays
        return value.tolist()
    raise NotImplementedError(f"{type(value).__name__} cannot be sent as JSON")


def _version() -> str:
    from chroma_gpu import __version__

    return __version__


_BY_NAME: Final[Mapping[str, type[errors.ChromaError]]] = {
    kind.name(): kind
    for kind in (
        errors.AuthorizationError, errors.BatchSizeExceededError, errors.ChromaAuthError, errors.DuplicateIDError,
        errors.IDAlreadyExistsError, errors.InternalError, errors.InvalidArgumentError, errors.InvalidDimensionException,
        errors.InvalidHTTPVersion, errors.InvalidUUIDError, errors.NotFoundError, errors.QuotaError, errors.RateLimitError,
        errors.UniqueConstraintError, errors.VersionMismatchError,
    )
}  # fmt: skip
_BY_STATUS: Final[Mapping[int, type[errors.ChromaError]]] = {
    400: errors.InvalidArgumentError,
    401: errors.AuthorizationError,
    403: errors.AuthorizationError,
    404: errors.NotFoundError,
    409: errors.AlreadyExistsError,
    413: errors.BatchSizeExceededError,
    415: errors.InvalidArgumentError,
    422: errors.InvalidArgumentError,
    429: errors.RateLimitError,
    500: errors.InternalError,
    502: errors.InternalError,
    503: errors.InternalError,
    504: errors.InternalError,
}
