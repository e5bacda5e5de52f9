"""Where a server is: from what users give as its host to the URL that requests begin with."""

from __future__ import annotations

from urllib.parse import quote, urlsplit, urlunsplit


def resolve_url(
    chroma_server_host: str,
    chroma_server_ssl_enabled: bool | None = False,
    default_api_path: str | None = "",
    chroma_server_http_port: int | None = 8000,
) -> str:
    """The URL below which the API is.

    chroma_server_host  a name or an address, with or without a port, or a whole URL, which then has its own port and path
    default_api_path    stands at the end, unless the URL ends with it already
    Raises              ValueError for a URL that is neither http nor https
    """
    api = default_api_path or ""
    if "/" not in chroma_server_host:
        scheme = "https" if chroma_server_ssl_enabled else "http"
        return f"{scheme}://{_with_port(chroma_server_host, chroma_server_http_port)}{quote(api)}"
    given = urlsplit(chroma_server_host)
    if given.scheme not in ("http", "https"):
        raise ValueError(f"Invalid URL. Unrecognized protocol - {given.scheme}. Begin it with http:// or https://.")
    if not given.netloc:
        raise ValueError(f"Invalid URL. There is no host in {chroma_server_host}.")
    path = given.path.replace("//", "/")
    if not path.endswith(api):
        path = path.rstrip("/") + api
    scheme = "https" if chroma_server_ssl_enabled else given.scheme
    return urlunsplit((scheme, given.netloc, quote(path.replace("//", "/"), safe="/%"), "", ""))


def _with_port(host: str, port: int | None) -> str:
    """The port that stands in the host wins over the other one; an IPv6 address is put in brackets."""
    if host.count(":") > 1 and not host.startswith("["):
        return f"[{host}]:{port}"
    has_port = ":" in host.rpartition("]")[2]
    return host if has_port else f"{host}:{port}"
