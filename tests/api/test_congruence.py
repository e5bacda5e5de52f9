"""The same calls against the real chromadb: results, types, order and exception classes are the same, but for wanted differences."""

from __future__ import annotations

import functools
import re
import warnings
from uuid import UUID

import numpy as np
import pytest
from api.congruence_cases import CASES

# What we do otherwise on purpose, and why. A difference that is gone must be taken out here.
WANTED = {
    "create with spann": "chromadb's local engine turns spann into hnsw; here it is kept as it was given",
    "add metadata that is no dict": "chromadb lets an AttributeError of its own out; we say what was expected",
    "query n_results 2**33": "chromadb overflows; there is no limit here",
    "query NaN": "chromadb gives any answer with distances NaN, and refuses it over HTTP",
    "query inf": "chromadb gives any answer with distances inf, and refuses it over HTTP",
    "query an empty vector": "chromadb lets an IndexError of its own out",
    "add an empty vector": "chromadb lets an IndexError of its own out",
    "add NaN in metadata": "chromadb drops the metadata in process, and refuses it over HTTP",
    "add the key chroma:uri": "chromadb keeps uris in the metadata under this key; here it is a key like any other",
    "where {'v': 2.5}": "chromadb cuts a float operand to an int, so that 2.5 matches 2",
}

# Where we say something else in an error of the same class, and why.
_ORDER = "chromadb names them in the order of a set, another one in each process"
_SHORT = "chromadb says so in front only where it looks the collection up first"
_LIMIT = "chromadb says neither which number nor what it may be"
MESSAGES = {
    "add 12 duplicate ids": _ORDER,
    "add nothing to embed": _ORDER,
    "query texts and uris": _ORDER,
    "upsert nothing to embed": _ORDER,
    "schema: hnsw below its range": _ORDER,
    "add on a deleted collection": _SHORT,
    "update on a deleted collection": _SHORT,
    "upsert on a deleted collection": _SHORT,
    "query on a deleted collection": _SHORT,
    "get a negative limit": _LIMIT,
    "get a negative offset": _LIMIT,
    "list_collections with a negative limit": _LIMIT,
    "schema: modify unknown": "chromadb lists two names in other words than three",
    "modify the name to one that is taken": "chromadb shows the error of its database",
}


@pytest.fixture(scope="module", params=["memory", "disk"])
def clients(request, tmp_path_factory):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import chromadb
    from chromadb.config import Settings as TheirSettings

    import chroma_gpu

    theirs_settings = TheirSettings(anonymized_telemetry=False, allow_reset=True)
    ours_settings = chroma_gpu.Settings(allow_reset=True)
    if request.param == "memory":
        pair = chroma_gpu.EphemeralClient(ours_settings), chromadb.EphemeralClient(theirs_settings)
    else:
        path = tmp_path_factory.mktemp("congruence")
        pair = (
            chroma_gpu.PersistentClient(path / "ours", ours_settings),
            chromadb.PersistentClient(str(path / "theirs"), theirs_settings),
        )
    yield pair
    pair[0].close()
    pair[1].clear_system_cache()


def outcome(case, client, name):
    """("returned", value) or ("raised", exception)."""
    function, given = case
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return "returned", function(client, name, **given)
        except BaseException as error:  # chromadb panics with a BaseException
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
            return "raised", error


def same(ours, theirs) -> bool:
    """Equal in value and type; floats as close as float32 allows."""
    if isinstance(theirs, np.ndarray):
        if not isinstance(ours, np.ndarray) or ours.dtype != theirs.dtype or ours.shape != theirs.shape:
            return False
        return bool(np.allclose(ours, theirs, rtol=1e-5, atol=1e-6))
    if isinstance(theirs, dict):
        return isinstance(ours, dict) and ours.keys() == theirs.keys() and all(same(ours[key], theirs[key]) for key in theirs)
    if isinstance(theirs, (list, tuple)):
        return type(ours) is type(theirs) and len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(theirs, float):
        return type(ours) is float and abs(ours - theirs) <= 1e-5 * max(1.0, abs(theirs))
    if isinstance(theirs, UUID):
        return isinstance(ours, UUID)
    return type(ours) is type(theirs) and ours == theirs


def spoken(error) -> str:
    """What an error says, without ids of collections and without places in JSON texts. Ours may say more after that."""
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "<id>", str(error))
    return re.sub(r" at line \d+ column \d+| in \w+\.$|\.$", "", text)


def names(error) -> set[str]:
    return {each.__name__ for each in type(error).__mro__}


@functools.cache
def number(name: str) -> str:
    return f"case-{list(CASES).index(name)}"


@pytest.mark.parametrize("name", CASES)
def test_congruence(name, clients):
    """Our exceptions must be caught by every except clause that catches theirs."""
    ours, theirs = (outcome(CASES[name], client, number(name)) for client in clients)
    if theirs[0] == "returned":
        agree = ours[0] == "returned" and same(ours[1], theirs[1])
    else:
        agree = ours[0] == "raised" and type(theirs[1]).__name__ in names(ours[1])
        if agree and name not in MESSAGES:
            agree = spoken(ours[1]).startswith(spoken(theirs[1]))
    if name in WANTED:
        assert not agree, f"no difference any more: {WANTED[name]}"
    else:
        assert agree, f"ours {ours}\ntheirs {theirs}"
