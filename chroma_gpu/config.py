"""Settings: Chroma's fields that mean something here, and our own. The only reader of the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

DEFAULT_TENANT: Final = "default_tenant"
DEFAULT_DATABASE: Final = "default_database"

# Fields of Chroma's Settings that change nothing here: they configure its server, its telemetry or its distributed parts.
# They are taken and kept, so that code written for Chroma runs unchanged.
CHROMA_ONLY: Final = frozenset(
    [
        "environment",
        "chroma_api_impl",
        "chroma_server_nofile",
        "chroma_server_thread_pool_size",
        "chroma_server_host",
        "chroma_server_headers",
        "chroma_server_http_port",
        "chroma_server_ssl_enabled",
        "chroma_server_ssl_verify",
        "chroma_server_api_default_path",
        "chroma_server_cors_allow_origins",
        "chroma_http_keepalive_secs",
        "chroma_http_max_connections",
        "chroma_http_max_keepalive_connections",
        "chroma_server_authn_provider",
        "chroma_server_authn_credentials",
        "chroma_server_authn_credentials_file",
        "chroma_server_authz_provider",
        "chroma_server_authz_config",
        "chroma_server_authz_config_file",
        "chroma_client_auth_provider",
        "chroma_client_auth_credentials",
        "chroma_auth_token_transport_header",
        "chroma_server_auth_ignore_paths",
        "chroma_overwrite_singleton_tenant_database_access_from_auth",
        "chroma_otel_collection_endpoint",
        "chroma_otel_service_name",
        "chroma_otel_collection_headers",
        "chroma_otel_granularity",
        "chroma_product_telemetry_impl",
        "chroma_telemetry_impl",
        "anonymized_telemetry",
        "migrations",
        "migrations_hash_algorithm",
        "chroma_segment_cache_policy",
        "chroma_memory_limit_bytes",
        "chroma_segment_manager_impl",
        "chroma_sysdb_impl",
        "chroma_producer_impl",
        "chroma_consumer_impl",
        "chroma_executor_impl",
        "chroma_quota_provider_impl",
        "chroma_rate_limiting_provider_impl",
        "chroma_async_rate_limit_provider_impl",
        "chroma_quota_enforcer_impl",
        "chroma_logservice_host",
        "chroma_logservice_port",
        "chroma_logservice_request_timeout_seconds",
        "chroma_sysdb_request_timeout_seconds",
        "chroma_query_request_timeout_seconds",
        "chroma_collection_assignment_policy_impl",
        "chroma_coordinator_host",
        "worker_memberlist_name",
        "chroma_server_grpc_port",
        "tenant_id",
        "topic_namespace",
    ]
)


@dataclass(kw_only=True, eq=True)
class Settings:
    """How a client behaves. Every field can be given here; an environment variable of its name, in capitals, is its default.

    Our own fields read ``CHROMA_GPU_<NAME>`` from the environment, Chroma's read ``<NAME>`` as in Chroma.
    """

    allow_reset: bool = False
    """Whether ``client.reset()`` may remove everything. Off: it raises AuthorizationError."""

    is_persistent: bool = False
    """Whether ``Client(settings)`` keeps its data in ``persist_directory``. Off: in memory."""

    persist_directory: str = "./chroma"
    """Where a persistent client keeps its data."""

    device: str = "auto"
    """Where models and GPU indexes run: "auto", "cpu", "cuda", "cuda:1", "mps". auto takes CUDA where there is one."""

    index: str = "auto"
    """Which index serves queries: "auto" picks by size and device; "flat" is exact on ``device``, "codes" scans compact codes on
    the CPU and reranks exactly, "hnsw" is a FAISS graph on the CPU. All find every acknowledged row at once."""

    graph_rows: int = 300_000
    """From how many rows on "auto" builds a graph on a CPU. Costs about 150 µs of one core per row, in the background, and the
    memory of a 16-bit copy of the vectors."""

    lock_timeout: float = 60.0
    """Seconds a write waits for the other writers of this process before StoreBusy. Nothing is lost: the write did not happen."""

    map_size: int = 1 << 30
    """Bytes of address space a store's LMDB map begins with. It doubles by itself when full, so this only saves remapping.
    The file grows with its content, not with this number."""

    def __init__(self, **given: Any) -> None:
        own = {f.name: f for f in fields(type(self))}
        unknown = given.keys() - own.keys() - CHROMA_ONLY
        if unknown:
            raise ValueError(f"unknown setting {', '.join(sorted(unknown))}; known are {', '.join(own)}")
        for name, spec in own.items():
            value = given.get(name, _from_environment(name, spec.default))
            object.__setattr__(self, name, _checked(name, value, spec.default))
        self._chroma = {name: value for name, value in given.items() if name in CHROMA_ONLY}

    def __getattr__(self, name: str) -> Any:
        if name in CHROMA_ONLY:
            return self.__dict__.get("_chroma", {}).get(name)
        raise AttributeError(f"Settings has no field {name!r}")

    def require(self, key: str) -> Any:
        """The value of a field. Raises ValueError if it is None."""
        value = self[key]
        if value is None:
            raise ValueError(f"Missing required config value '{key}'")
        return value

    def __getitem__(self, key: str) -> Any:
        return getattr(self, key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Settings) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]


_CHROMA_FIELDS: Final = frozenset({"allow_reset", "is_persistent", "persist_directory"})
_CHOICES: Final[Mapping[str, tuple[str, ...]]] = {"index": ("auto", "flat", "codes", "hnsw")}
_TRUE: Final = frozenset({"1", "true", "yes", "on", "t", "y"})
_FALSE: Final = frozenset({"0", "false", "no", "off", "f", "n"})


def _from_environment(name: str, default: Any) -> Any:
    variable = name.upper() if name in _CHROMA_FIELDS else f"CHROMA_GPU_{name.upper()}"
    return os.environ.get(variable, default)


def _checked(name: str, value: Any, default: Any) -> Any:
    """The value in the type of the field's default; text is parsed."""
    if isinstance(default, bool):
        if isinstance(value, str) and value.lower() in _TRUE | _FALSE:
            return value.lower() in _TRUE
        if not isinstance(value, bool):
            raise ValueError(f"setting {name} must be a bool, got {value!r}")
        return value
    if isinstance(default, str):
        value = os.fspath(value) if isinstance(value, Path) else value
        if not isinstance(value, str):
            raise ValueError(f"setting {name} must be a str, got {value!r}")
        if name in _CHOICES and value not in _CHOICES[name]:
            raise ValueError(f"setting {name} must be one of {', '.join(_CHOICES[name])}, got {value!r}")
        return value
    try:
        number = type(default)(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"setting {name} must be a {type(default).__name__}, got {value!r}") from error
    if number <= 0:
        raise ValueError(f"setting {name} must be above 0, got {value!r}")
    return number


def cache_directory() -> Path:
    """Where Hugging Face keeps downloaded models: HF_HUB_CACHE, else HF_HOME/hub, else ~/.cache/huggingface/hub."""
    if hub := os.environ.get("HF_HUB_CACHE"):
        return Path(hub)
    home = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    return Path(home) / "hub"


def secret(variable: str) -> str | None:
    """The value of an environment variable that holds a key, or None. The one way to read credentials."""
    return os.environ.get(variable) or None
