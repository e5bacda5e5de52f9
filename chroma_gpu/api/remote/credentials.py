"""How a client says who it is: the headers that carry a token or a name with a password."""

from __future__ import annotations

import base64
import string
from collections.abc import Mapping
from enum import Enum
from importlib import import_module
from typing import Any, Final, Protocol, TypeAlias

from chroma_gpu.api.shared import System
from chroma_gpu.config import Settings


class Secret:
    """A text that does not show itself where objects are printed."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def get_secret_value(self) -> str:
        """The text."""
        return self._value

    def __repr__(self) -> str:
        return "Secret('**********')"


ClientAuthHeaders: TypeAlias = Mapping[str, Secret]


class ClientAuthProvider(Protocol):
    """Gives the headers of every request. Made with a System, whose settings hold the credentials."""

    def authenticate(self) -> ClientAuthHeaders:
        """Header names and their values."""
        ...


class TokenTransportHeader(str, Enum):  # noqa: UP042  Chroma's is no StrEnum; what str() gives is kept
    """In which header a token travels."""

    AUTHORIZATION = "Authorization"
    X_CHROMA_TOKEN = "X-Chroma-Token"  # noqa: S105  a header's name


class TokenAuthClientProvider:
    """A token, in ``Authorization: Bearer`` or in ``X-Chroma-Token``, as the setting chroma_auth_token_transport_header says.

    Raises ValueError for no token, one that no header can carry, or another header.
    """

    def __init__(self, system: System) -> None:
        token = str(system.settings.require("chroma_client_auth_credentials"))
        if not set(token) <= _PRINTABLE:
            raise ValueError("Invalid token. Must contain only ASCII letters, digits, and punctuation.")
        header = system.settings.chroma_auth_token_transport_header or TokenTransportHeader.AUTHORIZATION
        allowed = [each.value for each in TokenTransportHeader]
        if header not in allowed:
            raise ValueError(f"Invalid token transport header: {header}. Must be one of {allowed}")
        self._header = TokenTransportHeader(header)
        self._token = Secret(token)

    def authenticate(self) -> ClientAuthHeaders:
        """The one header."""
        token = self._token.get_secret_value()
        bearer = self._header is TokenTransportHeader.AUTHORIZATION
        return {self._header.value: Secret(f"Bearer {token}" if bearer else token)}


class BasicAuthClientProvider:
    """A name and a password, ``name:password`` in the settings, in ``Authorization: Basic``. Raises ValueError for none."""

    def __init__(self, system: System) -> None:
        self._credentials = Secret(str(system.settings.require("chroma_client_auth_credentials")))

    def authenticate(self) -> ClientAuthHeaders:
        """The one header."""
        encoded = base64.b64encode(self._credentials.get_secret_value().encode()).decode("ascii")
        return {"Authorization": Secret(f"Basic {encoded}")}


def headers(settings: Settings) -> dict[str, str]:
    """The headers of the provider that the settings name, none if they name none.

    A provider may be ours, under Chroma's module names or this package's, or any class that can be imported.
    Raises ValueError if it cannot be.
    """
    named = settings.chroma_client_auth_provider
    if not named:
        return {}
    provider: ClientAuthProvider = _provider(str(named))(System(settings))
    return {header: value.get_secret_value() for header, value in provider.authenticate().items()}


def sendable(given: Mapping[str, str]) -> dict[str, str]:
    """Headers as they are. Raises ValueError for one that HTTP cannot carry, without its value: libraries below would show it."""
    for name, value in given.items():
        if not all(
            isinstance(each, str) and each.isascii() and each.isprintable() and each == each.strip() for each in (name, value)
        ):
            raise ValueError(f"The header {name!r} cannot be sent: it must be printable ASCII with no space around it.")
    return dict(given)


def _provider(name: str) -> Any:
    if name in _OURS:
        return _OURS[name]
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"chroma_client_auth_provider names {name!r}, which cannot be imported: {error}") from error


_PRINTABLE: Final = frozenset(string.digits + string.ascii_letters + string.punctuation)
_OURS: Final[Mapping[str, type[TokenAuthClientProvider] | type[BasicAuthClientProvider]]] = {
    f"{package}.auth.{module}.{provider.__name__}": provider
    for package in ("chromadb", "chroma_gpu")
    for module, provider in (("token_authn", TokenAuthClientProvider), ("basic_authn", BasicAuthClientProvider))
}
