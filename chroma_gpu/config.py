"""Settings: Chroma's fields that mean something here, and our own. The only reader of the environment."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any, Final

DEFAULT_TENANT: Final = "default_tenant"
DEFAULT_DATABASE: Final = "default_database"

# Fields of Chroma's Settings, with Chroma's types and defaults, that change nothing in an embedded engine: they configure clients
# of a server, servers, telemetry or distributed parts. They are taken and kept, so that code written for Chroma runs unchanged.
CHROMA_ONLY: Final[Mapping[str, tuple[type, Any]]] = {
    "environment": (str, ""),
    "chroma_api_impl": (str, "chromadb.api.rust.RustBindingsAPI"),
    "chroma_server_nofile": (int, None),
    "chroma_server_thread_pool_size": (int, 40),
    "tenant_id": (str, "default"),
    "topic_namespace": (str, "default"),
    "chroma_server_host": (str, None),
    "chroma_server_headers": (dict, None),
    "chroma_server_http_port": (int, None),
    "chroma_server_ssl_enabled": (bool, False),
    "chroma_server_ssl_verify": (str, None),
    "chroma_server_api_default_path": (str, "/api/v2"),
    "chroma_server_cors_allow_origins": (list, []),
    "chroma_http_keepalive_secs": (float, 40.0),
    "chroma_http_max_connections": (int, None),
    "chroma_http_max_keepalive_connections": (int, None),
    "chroma_memory_limit_bytes": (int, 0),
    "chroma_segment_cache_policy": (str, None),
    "chroma_auth_token_transport_header": (str, None),
    "chroma_client_auth_provider": (str, None),
    "chroma_client_auth_credentials": (str, None),
    "chroma_server_auth_ignore_paths": (dict, {}),
    "chroma_overwrite_singleton_tenant_database_access_from_auth": (bool, False),
    "chroma_server_authn_provider": (str, None),
    "chroma_server_authn_credentials": (str, None),
    "chroma_server_authn_credentials_file": (str, None),
    "chroma_server_authz_provider": (str, None),
    "chroma_server_authz_config": (str, None),
    "chroma_server_authz_config_file": (str, None),
    "chroma_product_telemetry_impl": (str, ""),
    "chroma_telemetry_impl": (str, ""),
    "anonymized_telemetry": (bool, False),
    "chroma_otel_collection_endpoint": (str, ""),
    "chroma_otel_service_name": (str, "chromadb"),
    "chroma_otel_collection_headers": (dict, {}),
    "chroma_otel_granularity": (str, None),
    "migrations": (str, "apply"),
    "migrations_hash_algorithm": (str, "md5"),
    "worker_memberlist_name": (str, "query-service-memberlist"),
    "chroma_coordinator_host": (str, "localhost"),
    "chroma_server_grpc_port": (int, None),
    "chroma_query_replication_factor": (int, 2),
    "chroma_logservice_host": (str, "localhost"),
    "chroma_logservice_port": (int, 50052),
    "chroma_logservice_request_timeout_seconds": (int, 3),
    "chroma_sysdb_request_timeout_seconds": (int, 3),
    "chroma_query_request_timeout_seconds": (int, 60),
    "chroma_segment_directory_impl": (str, ""),
    "chroma_segment_directory_routing_mode": (str, "id"),
    "chroma_memberlist_provider_impl": (str, ""),
    "chroma_sysdb_impl": (str, ""),
    "chroma_producer_impl": (str, ""),
    "chroma_consumer_impl": (str, ""),
    "chroma_segment_manager_impl": (str, ""),
    "chroma_executor_impl": (str, ""),
    "chroma_quota_provider_impl": (str, None),
    "chroma_rate_limiting_provider_impl": (str, None),
    "chroma_quota_enforcer_impl": (str, ""),
    "chroma_rate_limit_enforcer_impl": (str, ""),
    "chroma_async_rate_limit_enforcer_impl": (str, ""),
    "chroma_db_impl": (str, None),
    "chroma_collection_assignment_policy_impl": (str, ""),
}


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

    devices: str = ""
    """The GPUs over which the rows of exact indexes are dealt: "cuda:0,cuda:1", or "all". Empty: ``device`` alone."""

    vram_limit: str = "80%"
    """How much of a GPU's memory the vectors of all collections may take: bytes, "8GB" (GiB: "8GiB"), or a share of what is free when
    it is first used. What does not fit in 16 bit is kept in 8 bit, with the same answers; then the collections that were not searched
    for longest make room; what does not fit at all is searched on the CPU, with a warning."""

    precision: str = "exact"
    """What a search on a GPU promises: "exact", the answer of float32 brute force, whatever is kept there; "fast", distances by the 16-
    or 8-bit codes, which saves reading the vectors of what was found. Explanations and hits say which it was."""

    index: str = "auto"
    """Which index serves queries: "auto" picks by size and device; "flat" is exact on ``device``, "codes" scans compact codes on
    the CPU and reranks exactly, "hnsw" is a FAISS graph on the CPU. "ivf" and "ivf_pq" are inverted lists of vectors and of codes,
    on ``device`` where FAISS is built for it, else on the CPU; "cagra" is a graph of cuVS on a GPU: these three miss neighbours, as
    many as ``recall`` allows. All find every acknowledged row at once."""

    graph_rows: int = 300_000
    """From how many rows on "auto" builds a graph on a CPU. Costs about 150 µs of one core per row, in the background, and the
    memory of a 16-bit copy of the vectors."""

    vector_index: str = "given"
    """What ``configuration`` and ``schema`` of a new collection show as its vector index: "given" keeps what is given, and hnsw where
    nothing is; "hnsw" and "spann" turn everything into one kind, as Chroma's local engine and its cloud do. Searches go by ``index``."""

    lock_timeout: float = 60.0
    """Seconds a write waits for the other writers of this process before StoreBusy. Nothing is lost: the write did not happen."""

    map_size: int = 1 << 30
    """Bytes of address space a store's LMDB map begins with. It doubles by itself when full, so this only saves remapping.
    The file grows with its content, not with this number."""

    document_index: str = "full"
    """What is indexed of documents when they are written: "full", the three-byte strings and runs of letters that ``$contains`` and
    ``$regex`` look for and the words of ranked full text; "grams", the former alone; "none". Costs 8 µs and 230 bytes of disk for a
    document of 65 bytes, 110 µs and 1,450 bytes for one of 945; "grams" three quarters of the bytes and two thirds of the time. What was not indexed is read whole when
    it is asked for."""

    filter_memory: int = 256 << 20
    """Bytes that filters may keep in memory, all collections of a client together: numbers of metadata, about 2 bytes a row and
    field where few differ and 10 where all do; row sets of values that were asked for and of filters, a bit a row each. What does
    not fit is read again when it is needed: about 1 ms for the numbers of a field of a million rows."""

    embedding_cache: int = 256 << 20
    """Bytes of disk for vectors of texts that were embedded before, so that the same text is not embedded twice by the same model, in
    whatever collection: 1,560 bytes a text at 384 dimensions. Also "1GB"; 0 is off. Clients of a directory have it, in ``embeddings/``
    there; what was of no use for longest makes room. Texts are not kept, only digests of them, but **vectors of deleted records stay**
    until they make room, or `chroma-gpu cache --clear` or ``client.reset()`` removes them. Functions of users are never remembered."""

    device_filters: bool = True
    """Whether filters over a collection whose vectors are on a GPU are evaluated there where that looks faster: metadata that is asked
    for again goes there too, 8 bytes a row for a number, 4 for a string or bool, as far as ``vram_limit`` leaves room. Off: the CPU
    evaluates all filters, with the same answers."""

    recall: float = 0.0
    """Least share of the true neighbours that a search must be able to promise, from 0 to 1. 1 allows only ways that are proved exact,
    0.9999 codes too; a graph counts as what it showed when its table was calibrated, and not under a filter. 0 leaves it to the
    guards, which catch answers that are wrong as a whole. The indexes "ivf", "ivf_pq" and "cagra" are tuned for it, for 0.99 if it
    is 0."""

    calibrate: bool = True
    """Whether the costs that the planner goes by are measured on each table of 20,000 rows or more, once, in the background, in less
    than a second. Off: the shipped figures, which are the same every time."""

    plan_check: float = 0.0
    """Share of the searches, from 0 to 1, after which every other plan is run too, to see how much time the one taken has lost and what
    it has found. Answers stay as they are; the searches that are checked take several times as long."""

    def __init__(self, **given: Any) -> None:
        own = {f.name: f for f in fields(type(self))}
        unknown = given.keys() - own.keys() - CHROMA_ONLY.keys()
        if unknown:
            raise ValueError(f"unknown setting {', '.join(sorted(unknown))}; known are {', '.join(own)}")
        for name, spec in own.items():
            setattr(self, name, given.get(name, _from_environment(name, spec.default)))
        for name, (kind, default) in CHROMA_ONLY.items():
            setattr(self, name, given[name] if name in given else _chroma_default(name, kind, default))

    def __setattr__(self, name: str, value: Any) -> None:
        own = type(self).__dataclass_fields__.get(name)
        if own is None and name not in CHROMA_ONLY:
            raise ValueError(f"Settings has no field {name!r}")
        object.__setattr__(self, name, value if own is None else _checked(name, value, own.default))

    def __getattr__(self, name: str) -> Any:
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
_CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "index": ("auto", "flat", "codes", "hnsw", "ivf", "ivf_pq", "cagra"),
    "document_index": ("full", "grams", "none"),
    "vector_index": ("given", "hnsw", "spann"),
    "precision": ("exact", "fast"),
}
_SHARES: Final = frozenset({"recall", "plan_check"})
_SIZES: Final = frozenset({"embedding_cache"})
"""Bytes, also as text with a unit; 0 is none."""
_TRUE: Final = frozenset({"1", "true", "yes", "on", "t", "y"})
_FALSE: Final = frozenset({"0", "false", "no", "off", "f", "n"})


def _from_environment(name: str, default: Any) -> Any:
    variable = name.upper() if name in _CHROMA_FIELDS else f"CHROMA_GPU_{name.upper()}"
    return os.environ.get(variable, default)


def _chroma_default(name: str, kind: type, default: Any) -> Any:
    """A field of Chroma's from the environment, where containers are JSON; else a fresh copy of its default."""
    text = os.environ.get(name.upper())
    if not text:
        return copy(default)
    try:
        if kind is bool:
            return _checked(name, text, False)
        return json.loads(text) if kind in (dict, list) else kind(text)
    except ValueError as error:
        got = "text of another form" if kind is dict else repr(text)  # headers hold secrets
        raise ValueError(f"the environment variable {name.upper()} must be a {kind.__name__}, got {got}") from error


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
        if name == "vram_limit" and not isinstance(value, str | bool):
            value = default if value is None else str(value)
        if not isinstance(value, str):
            raise ValueError(f"setting {name} must be a str, got {value!r}")
        if name == "vram_limit":
            memory(value)
        if name in _CHOICES and value not in _CHOICES[name]:
            raise ValueError(f"setting {name} must be one of {', '.join(_CHOICES[name])}, got {value!r}")
        return value
    try:
        if name in _SIZES and isinstance(value, str) and not value.strip().isdigit():
            value = memory(value)
            if isinstance(value, float):
                raise ValueError("a share of what?")
        number = type(default)(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"setting {name} must be a {type(default).__name__}, got {value!r}") from error
    if name in _SHARES:
        if not 0 <= number <= 1:
            raise ValueError(f"setting {name} must be from 0 to 1, got {value!r}")
        return number
    if number < 0 or (number == 0 and name not in _SIZES):
        raise ValueError(f"setting {name} must be above 0, got {value!r}")
    return number


_UNITS: Final = {"": 1, **{unit + "B": 1000**i for i, unit in enumerate(("", "K", "M", "G", "T"))}}
_BINARY_UNITS: Final = {unit + "iB": 1024**i for i, unit in enumerate(("K", "M", "G", "T"), 1)}


def memory(text: str) -> int | float:
    """An amount of memory: bytes as an int for "8000000000", "8GB" or "7.5GiB", a share as a float for "80%".  Raises ValueError"""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(%|[KMGT]?i?B|)\s*", text, re.IGNORECASE)
    units = {unit.lower(): size for unit, size in (_UNITS | _BINARY_UNITS).items()}
    if found is not None:
        number, unit = float(found[1]), found[2].lower()
        if unit == "%" and 0 < number <= 100:
            return number / 100
        if unit in units and int(number * units[unit]) > 0:
            return int(number * units[unit])
    raise ValueError(f'an amount of memory is bytes, "8GB", "8GiB" or "80%", got {text!r}')


def cache_directory() -> Path:
    """Where Hugging Face keeps downloaded models: HF_HUB_CACHE, else HF_HOME/hub, else ~/.cache/huggingface/hub."""
    if hub := os.environ.get("HF_HUB_CACHE"):
        return Path(hub)
    home = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    return Path(home) / "hub"


def tuning_file() -> Path:
    """Where block sizes of kernels that a card has measured are kept: CHROMA_GPU_TUNING, else ~/.cache/chroma_gpu/tuning.json
    (below XDG_CACHE_HOME where that is set)."""
    if given := os.environ.get("CHROMA_GPU_TUNING"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "chroma_gpu" / "tuning.json"


def secret(variable: str) -> str | None:
    """The value of an environment variable that holds a key, or None. The one way to read credentials."""
    return os.environ.get(variable) or None


def __getattr__(name: str) -> Any:
    if name == "System":  # Chroma's name for it is here; it opens engines, which is not the ground's to do
        return import_module("chroma_gpu.api.shared").System
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
