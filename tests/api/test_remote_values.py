"""URLs of servers, credentials, who may see what, and the cloud's client."""

from __future__ import annotations

import base64

import httpx
import pytest

import chroma_gpu
from chroma_gpu import errors
from chroma_gpu.api.remote import credentials
from chroma_gpu.api.remote.url import resolve_url
from chroma_gpu.auth import UserIdentity
from chroma_gpu.auth.basic_authn import BasicAuthClientProvider
from chroma_gpu.auth.token_authn import TokenAuthClientProvider, TokenTransportHeader
from chroma_gpu.auth.utils import maybe_set_tenant_and_database


@pytest.mark.parametrize(
    ("host", "ssl", "url"),
    [
        ("localhost", False, "http://localhost:8000/api/v2"),
        ("localhost", True, "https://localhost:8000/api/v2"),
        ("localhost:9000", False, "http://localhost:9000/api/v2"),
        ("::1", False, "http://[::1]:8000/api/v2"),
        ("[::1]:9000", False, "http://[::1]:9000/api/v2"),
        ("http://example.com", False, "http://example.com/api/v2"),
        ("http://example.com", True, "https://example.com/api/v2"),
        ("https://example.com:444/db/", False, "https://example.com:444/db/api/v2"),
        ("https://example.com/api/v2", False, "https://example.com/api/v2"),
        ("https://example.com//a b/", False, "https://example.com/a%20b/api/v2"),
    ],
)
def test_urls(host, ssl, url):
    assert resolve_url(host, ssl, "/api/v2", 8000) == url


@pytest.mark.parametrize("host", ["ftp://example.com", "example.com/api", "://x/y", "http:///nobody"])
def test_urls_that_are_none(host):
    with pytest.raises(ValueError, match=r"^Invalid URL"):
        resolve_url(host)


def settings(**given):
    return chroma_gpu.Settings(**given)


@pytest.mark.parametrize(
    ("header", "name", "value"),
    [
        (None, "Authorization", "Bearer s3cret"),
        ("Authorization", "Authorization", "Bearer s3cret"),
        ("X-Chroma-Token", "X-Chroma-Token", "s3cret"),
        (TokenTransportHeader.X_CHROMA_TOKEN, "X-Chroma-Token", "s3cret"),
    ],
)
@pytest.mark.parametrize("package", ["chromadb", "chroma_gpu"])
def test_tokens(package, header, name, value):
    given = settings(
        chroma_client_auth_provider=f"{package}.auth.token_authn.TokenAuthClientProvider",
        chroma_client_auth_credentials="s3cret",
        chroma_auth_token_transport_header=header,
    )
    assert credentials.headers(given) == {name: value}


def test_basic():
    given = settings(
        chroma_client_auth_provider="chromadb.auth.basic_authn.BasicAuthClientProvider", chroma_client_auth_credentials="me:pw:x"
    )
    assert credentials.headers(given) == {"Authorization": "Basic " + base64.b64encode(b"me:pw:x").decode()}
    provider = BasicAuthClientProvider(chroma_gpu.config.System(given))
    assert "me" not in repr(provider.authenticate())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"chroma_client_auth_credentials": "bad token"}, "Invalid token"),
        ({"chroma_client_auth_credentials": "tökén"}, "Invalid token"),
        (
            {"chroma_client_auth_credentials": "t", "chroma_auth_token_transport_header": "X-Other"},
            "Invalid token transport header",
        ),
        ({}, "Missing required config value 'chroma_client_auth_credentials'"),
    ],
)
def test_tokens_that_are_none(given, message):
    with pytest.raises(ValueError, match=message):
        TokenAuthClientProvider(chroma_gpu.config.System(settings(**given)))


class OwnProvider:
    """A provider as users write them."""

    def __init__(self, system):
        self._token = system.settings.chroma_client_auth_credentials

    def authenticate(self):
        return {"X-Own": credentials.Secret(f"own {self._token}")}


def test_a_provider_of_the_users(monkeypatch):
    monkeypatch.setattr(credentials, "OwnProvider", OwnProvider, raising=False)
    given = settings(
        chroma_client_auth_provider="chroma_gpu.api.remote.credentials.OwnProvider", chroma_client_auth_credentials="t"
    )
    assert credentials.headers(given) == {"X-Own": "own t"}
    with pytest.raises(ValueError, match=r"names 'no\.such\.Provider', which cannot be imported"):
        credentials.headers(settings(chroma_client_auth_provider="no.such.Provider"))
    assert credentials.headers(settings()) == {}


@pytest.mark.parametrize(
    ("sees", "only", "asked", "settled"),
    [
        (("t1", ["d1"]), True, ("default_tenant", "default_database"), ("t1", "d1")),
        (("t1", ["d1"]), True, (None, None), ("t1", "d1")),
        (("t1", ["d1"]), True, ("t1", "d1"), ("t1", "d1")),
        (("t1", ["d1"]), False, (None, "d2"), (None, "d2")),
        (("*", ["*"]), True, (None, "d2"), (None, "d2")),
        (("t1", ["d1", "d2"]), True, (None, None), ("t1", None)),
        (("t1", ["d1", "d1"]), True, (None, None), ("t1", "d1")),
        ((None, None), True, (None, None), (None, None)),
    ],
)
def test_where_a_user_works(sees, only, asked, settled):
    assert maybe_set_tenant_and_database(UserIdentity("u", *sees), only, *asked) == settled


@pytest.mark.parametrize("asked", [("t2", None), (None, "d2")])
def test_where_a_user_may_not_work(asked):
    with pytest.raises(errors.ChromaAuthError, match=r"does not match .* from the server\. Are you sure"):
        maybe_set_tenant_and_database(UserIdentity("u", "t1", ["d1"]), True, *asked)


@pytest.fixture
def cloud(monkeypatch):
    """A cloud whose key opens one database; the requests it got."""
    for variable in ("CHROMA_API_KEY", "CHROMA_TENANT", "CHROMA_DATABASE"):
        monkeypatch.delenv(variable, raising=False)
    asked, real = [], httpx.Client

    def handle(request):
        asked.append(request)
        path = request.url.path
        if path.endswith("/auth/identity"):
            return httpx.Response(200, json={"user_id": "u", "tenant": "t1", "databases": ["d1"]})
        if path.endswith("/databases/d1"):
            return httpx.Response(200, json={"id": "00000000-0000-0000-0000-000000000000", "name": "d1", "tenant": "t1"})
        return httpx.Response(200, json={"name": "t1"})

    monkeypatch.setattr(httpx, "Client", lambda **given: real(transport=httpx.MockTransport(handle), **given))
    return asked


def test_the_cloud_is_reached_with_a_key_alone(cloud):
    with chroma_gpu.CloudClient(api_key="k3y") as client:
        assert (client.tenant, client.database) == ("t1", "d1")
    assert {str(each.url.copy_with(path="/")) for each in cloud} == {"https://api.trychroma.com/"}
    assert {each.headers["x-chroma-token"] for each in cloud} == {"k3y"}


def test_the_clouds_key_and_names_come_from_the_environment(cloud, monkeypatch):
    with pytest.raises(ValueError, match=r"^Missing required arguments: api_key"):
        chroma_gpu.CloudClient()
    monkeypatch.setenv("CHROMA_API_KEY", "from-env")
    monkeypatch.setenv("CHROMA_TENANT", "t1")
    monkeypatch.setenv("CHROMA_DATABASE", "d1")
    with chroma_gpu.CloudClient(cloud_host="cloud.example", cloud_port=444, enable_ssl=True) as client:
        assert (client.tenant, client.database) == ("t1", "d1")
    assert cloud[0].headers["x-chroma-token"] == "from-env"
    assert str(cloud[0].url) == "https://cloud.example:444/api/v2/auth/identity"
    with pytest.raises(errors.ChromaAuthError, match="Database other does not match d1"):
        chroma_gpu.CloudClient(database="other")


def test_the_settings_of_a_caller_stay_as_they_are(cloud):
    given = settings()
    with chroma_gpu.CloudClient(api_key="k3y", settings=given):
        assert given == settings()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"chroma_server_host": "127.0.0.1"}, r"host provided in settings\[127.0.0.1\] is different .*: \[localhost\]"),
        ({"chroma_server_http_port": 8001}, r"http port provided in settings\[8001\] is different .*: \[8000\]"),
    ],
)
def test_settings_that_name_another_server(given, message):
    with pytest.raises(ValueError, match=message):
        chroma_gpu.HttpClient(settings=settings(**given))
