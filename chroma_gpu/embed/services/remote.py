"""The one door to embedding services: batches, several requests at a time, retries, errors that name their inputs.

A service is a small class that says where to send a batch, what, and how to read the answer. Nothing goes over the network before such a
function is called. Keys come from the environment through ``config.secret``; no configuration, repr or error shows one.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import random
import time
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from threading import Event
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

import numpy as np

from chroma_gpu.config import secret
from chroma_gpu.embed import Embeddable, EmbeddingFunction, Embeddings, Space
from chroma_gpu.embed.configs import Configured
from chroma_gpu.errors import EmbeddingFailed, MissingDependency

if TYPE_CHECKING:
    import httpx

D_contra = TypeVar("D_contra", bound=Embeddable, contravariant=True)

ATTEMPTS: Final = 5
"""How often one request is sent before it is given up."""

FIRST_WAIT: Final = 0.5
LONGEST_WAIT: Final = 60.0
"""Seconds: the waits between attempts double from the first; a service that asks for more than the longest is given up."""

_RETRIED: Final = frozenset({408, 425, 429, 500, 502, 503, 504, 529})
_EXCERPT: Final = 300
_DIRECT_KEY: Final = (
    "Direct api_key configuration will not be persisted. "
    "Please use environment variables via api_key_env_var for persistent storage."
)


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent for a batch: JSON by POST. ``params`` go behind the URL."""

    url: str
    body: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    params: Mapping[str, str] = field(default_factory=dict, repr=False)


class Key:
    """A key, kept out of sight: neither repr nor str shows it."""

    __slots__ = ("_value",)

    def __init__(self, value: str, source: str) -> None:
        self._value = value
        if not self._value.isascii() or not self._value.isprintable():
            raise ValueError(f"the key in {source} has characters that no HTTP header can carry")

    def reveal(self) -> str:
        """The key itself, for a header."""
        return self._value

    def bearer(self) -> dict[str, str]:
        """The usual header."""
        return {"Authorization": f"Bearer {self._value}"}

    def removed(self, text: str) -> str:
        """The text without the key in it."""
        return text.replace(self._value, "***")

    def __repr__(self) -> str:
        return "Key(***)"


class Remote(Configured):
    """What the functions share that ask a service over HTTP. Instances may be used from several threads.

    A subclass writes ``request`` and ``read``, and sets:

    inputs_per_request      the service's limit
    characters_per_request  a batch of more texts than one is not made longer than this; stands for the service's limit of tokens
    parallel_requests       requests on their way at a time
    timeout                 seconds without a byte before an attempt is given up
    """

    inputs_per_request: ClassVar[int] = 96
    characters_per_request: ClassVar[int] = 100_000
    parallel_requests: ClassVar[int] = 4
    timeout: float = 60.0
    key: Key | None = None

    @property
    def api_key(self) -> str | None:
        """The key, as Chroma's functions offer it."""
        return self.key.reveal() if self.key else None

    def held_key(self) -> Key:
        """The key.  Raises ValueError where there is none."""
        if self.key is None:
            raise ValueError(f"embedding function {self.stored} has no key")
        return self.key

    @abstractmethod
    def request(self, batch: Sequence[Any], query: bool) -> Request:
        """What to send for a batch of inputs; ``query``: they are search queries."""
        ...

    @abstractmethod
    def read(self, answer: Any) -> list[Any]:
        """One value per input, in order, out of the decoded JSON. Raises KeyError, TypeError and the like for another form."""
        ...

    @abstractmethod
    def value(self, found: Any) -> Any:
        """What is returned for one input.  Raises ValueError or TypeError for what it cannot be."""
        ...

    def ask(self, inputs: Sequence[Any], query: bool) -> list[Any]:
        """The values of all inputs, in their order.

        Raises EmbeddingFailed, which names the inputs of the batch that failed; nothing is returned for the others then
               MissingDependency without the package httpx
        Cost   one request per batch; a request is repeated after 408, 425, 429, 5xx, timeouts and broken connections
        """
        batches = [(start, inputs[start:stop], len(inputs)) for start, stop in self._spans(inputs)]
        stop = Event()
        if len(batches) == 1:
            return self._answer(*batches[0], query, stop)
        with ThreadPoolExecutor(min(self.parallel_requests, max(1, len(batches)))) as pool:
            futures = [pool.submit(self._answer, *batch, query, stop) for batch in batches]
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
                _raise_first(futures, done)
            finally:
                stop.set()
                for future in futures:
                    future.cancel()
        return [value for future in futures for value in future.result()]

    def batch_limit(self, inputs: Sequence[Any]) -> int:
        """The most inputs of one request."""
        return self.inputs_per_request

    def text_limit(self) -> int | None:
        """The most characters of one request of several texts; None is no limit."""
        return self.characters_per_request

    def _spans(self, inputs: Sequence[Any]) -> Iterator[tuple[int, int]]:
        most, longest = self.batch_limit(inputs), self.text_limit()
        start, characters = 0, 0
        for position, each in enumerate(inputs):
            length = len(each) if isinstance(each, str) else 0
            full = position - start == most or (longest is not None and characters + length > longest)
            if position > start and full:
                yield start, position
                start, characters = position, 0
            characters += length
        if inputs:
            yield start, len(inputs)

    def _answer(self, start: int, batch: Sequence[Any], total: int, query: bool, stop: Event) -> list[Any]:
        failure = self._failure(start, len(batch), total)
        response = self._sent(self.request(batch, query), stop, failure)
        try:
            found = self.read(response.json())
            if not isinstance(found, list):
                raise TypeError("no list of values")
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise failure(f"an answer of another form than expected: {self._excerpt(response)}") from error
        if len(found) != len(batch):
            raise failure(f"{len(found)} values for {len(batch)} inputs")
        values = []
        for position, each in enumerate(found, start):
            try:
                values.append(self.value(each))
            except (LookupError, TypeError, ValueError, OverflowError) as error:
                raise failure(f"no usable value for input {position}: {str(each)[:_EXCERPT]}") from error
        return values

    def _sent(self, request: Request, stop: Event, failure: Any) -> httpx.Response:
        client = shared_client(os.getpid())  # says what to install
        import httpx

        attempt = 0
        while True:
            attempt += 1
            asked, cause = None, None
            try:
                response = client.post(
                    request.url,
                    json=request.body,
                    headers=dict(request.headers),
                    params=dict(request.params) or None,
                    timeout=self.timeout,
                )
            except httpx.LocalProtocolError:
                # Without its text and cause: they show the header, which may be a secret.
                raise failure("nothing: a header cannot be sent, it must be printable with no space around it") from None
            except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
                reason, cause = f"{type(error).__name__}: {error}", error
                if not isinstance(error, httpx.TransportError) or isinstance(
                    error, httpx.ConnectError | httpx.UnsupportedProtocol
                ):
                    raise failure(reason) from error
            else:
                if response.is_success:
                    return response
                reason = f"HTTP {response.status_code}: {self._excerpt(response)}"
                if response.status_code not in _RETRIED:
                    raise failure(reason)
                asked = _retry_after(response.headers.get("Retry-After"))
            if attempt == ATTEMPTS or (asked is not None and asked > LONGEST_WAIT):
                again = f" It asks to be left alone for {asked:.0f} s." if asked is not None and asked > LONGEST_WAIT else ""
                raise failure(f"{reason} (attempt {attempt} of {ATTEMPTS}).{again}") from cause
            if pause(stop, _wait(attempt) if asked is None else asked):
                raise failure("another batch failed first")

    def _excerpt(self, response: httpx.Response) -> str:
        """The beginning of an answer; the key is taken out before it is cut, or a part of it could stay."""
        return (self.key.removed(response.text) if self.key else response.text)[:_EXCERPT]

    def _failure(self, start: int, n: int, total: int) -> Any:
        """Makes the error for a batch: which inputs, what was answered, without the key."""
        which = f"input {start}" if n == 1 else f"inputs {start} to {start + n - 1}"

        def failed(what: str) -> EmbeddingFailed:
            text = self.key.removed(what) if self.key else what
            return EmbeddingFailed(
                f"the embedding service of {self.stored} gave, for {which} of {total}, {text}",
                hint="Nothing of this call was returned or written.",
            )

        return failed


class RemoteEmbeddingFunction(Remote, EmbeddingFunction[D_contra]):
    """A service that returns dense vectors."""

    def __call__(self, input: D_contra) -> Embeddings:
        """One float32 array per input.  Raises ValueError for no inputs and for what the service does not take; EmbeddingFailed."""
        return self.ask(self.checked_inputs(input), query=False)

    def fingerprint(self) -> str | None:
        """The service and what it was told, but for keys and where they are; None where no model is named: it may be another one tomorrow.

        A service that changes a model under its name is not noticed.
        """
        config = {name: value for name, value in self.get_config().items() if "key" not in name}
        model = config.get("model_name") or config.get("model")
        if model is None:
            return None
        # Digested, since it is stored, and further arguments may hold secrets.
        digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=repr).encode()).hexdigest()
        return f"{self.stored} {model} {digest}"

    def checked_inputs(self, inputs: Any) -> list[Any]:
        """The inputs as a list; a single text is one input.  Raises ValueError for what is no text."""
        listed = [inputs] if isinstance(inputs, str) else list(inputs)
        if not all(isinstance(each, str) for each in listed):
            raise ValueError(f"{self.stored} only supports text documents, not images")
        return listed

    def value(self, found: Any) -> Any:
        """The vector, [dim] float32."""
        vector = np.asarray(found, np.float32)
        if vector.ndim != 1 or not vector.size or not np.isfinite(vector).all():
            raise ValueError("no vector of finite numbers")
        return vector

    def default_space(self) -> Space:
        """Angles."""
        return "cosine"


class AsksDifferently:
    """For services that embed search queries in another way than documents."""

    def embed_query(self, input: Any) -> Embeddings:
        """The vectors of search queries."""
        function: Any = self
        return function.ask(function.checked_inputs(input), query=True)  # type: ignore[no-any-return]


def find_key(api_key: str | None, variable: str | None, usual: str | None = None) -> tuple[str | None, Key | None]:
    """The variable that is stored, and the key: given directly, or from the environment.

    usual   the service's own variable, which goes before ``variable`` when it is set
    Warns   DeprecationWarning for a key given directly: a collection cannot remember it
    """
    if api_key is not None:
        warnings.warn(_DIRECT_KEY, DeprecationWarning, stacklevel=3)
    return _found(api_key, variable, usual)


def require_key(
    api_key: str | None, variable: str, usual: str | None = None, message: str = "The {} environment variable is not set."
) -> tuple[str, Key]:
    """As ``find_key``.  Raises ValueError where there is no key; ``message`` is given the variable."""
    if api_key is not None:
        warnings.warn(_DIRECT_KEY, DeprecationWarning, stacklevel=3)
    chosen, key = _found(api_key, variable, usual)
    if chosen is None or key is None:
        raise ValueError(message.format(chosen))
    return chosen, key


def _found(api_key: str | None, variable: str | None, usual: str | None) -> tuple[str | None, Key | None]:
    if usual is not None and secret(usual) is not None:
        variable = usual
    value = (api_key or (secret(variable) if variable else None) or "").strip()
    return variable, Key(value, "api_key" if api_key else str(variable)) if value else None


def pause(stop: Event, seconds: float) -> bool:
    """Wait, but not once another batch has failed: then True, at once."""
    return stop.wait(seconds)


@functools.lru_cache(maxsize=1)
def shared_client(process: int) -> httpx.Client:
    """The connections of this process; a forked one makes its own.  Raises MissingDependency without the package httpx."""
    try:
        import httpx
    except ImportError as error:
        raise MissingDependency("embedding services need the package httpx.", hint="pip install httpx") from error
    return httpx.Client()


def _raise_first(futures: Sequence[Future[Any]], done: set[Future[Any]]) -> None:
    for future in futures:
        if future in done and (error := future.exception()) is not None:
            raise error


def _wait(attempt: int) -> float:
    """Seconds after the failed attempt, between half and all of the doubled wait, so that clients do not come back together."""
    return min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.0)  # noqa: S311


def _retry_after(header: str | None) -> float | None:
    """Seconds that the service asks for: a number or a date to come, None for anything else."""
    if header is None:
        return None
    try:
        asked = float(header)
    except ValueError:
        try:
            asked = parsedate_to_datetime(header).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    # A date that is over, by one of the two clocks, says nothing of how long to wait.
    return asked if asked >= 0 else None
