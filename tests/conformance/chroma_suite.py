"""pytest plugin: Chroma's own tests, from the installed chromadb, run with chroma_gpu under the name ``chromadb``.

Fixtures, strategies and checks are Chroma's; clients, exceptions, Schema and Search come from here, through
``chroma_gpu.as_chromadb``. What is replaced is in this file and nowhere else:

- ``chromadb.test`` is read from the installed package, without importing it;
- modules of INTERNAL, which tests import next to the public API, are empty: only deselected tests use what is in them;
- the default embedding function hashes words, for speed; what the model itself does is tested in ``tests/embed``;
- tests that Chroma leaves out on its own local engine are left in.

``--deselected FILE`` takes a file of ``pattern  # reason``, a pattern being part of a test's id, or the beginning of a path from
``/``, which is then not even imported; one that matches nothing is an error where the whole suite was collected. ``--most-examples N`` is the most examples that a property test may take.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

# Read by the suite's conftest when it is imported: fixtures in this process only, no server.
os.environ["CHROMA_RUST_BINDINGS_TEST_ONLY"] = "1"

from chroma_gpu import as_chromadb

SUITE = Path(str(importlib.metadata.distribution("chromadb").locate_file("chromadb/test")))

# Chroma's server, storage, log and cluster.
INTERNAL = (
    "chromadb.api.async_fastapi",
    "chromadb.api.rust",
    "chromadb.api.segment",
    "chromadb.db",
    "chromadb.ingest",
    "chromadb.proto",
    "chromadb.segment",
    "chromadb.server",
)


class _Suite(MetaPathFinder, Loader):
    """Finds ``chromadb.test`` where it is installed, and INTERNAL as modules in which every name is an empty class."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name == "chromadb.test":
            return spec_from_file_location(name, SUITE / "__init__.py", submodule_search_locations=[str(SUITE)])
        if name.startswith("chromadb.test."):
            return PathFinder.find_spec(name, path, target)
        if any(name == each or name.startswith(f"{each}.") for each in INTERNAL):
            return ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Empty(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


class _Empty(ModuleType):
    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        made = type(name, (), {"__module__": self.__name__})
        setattr(self, name, made)
        return made


as_chromadb.install()
sys.meta_path.insert(0, _Suite())


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--deselected", required=True, help="file of `pattern  # reason`")
    parser.addoption("--whole", action="store_true", help="the whole suite is collected: every pattern must match")
    parser.addoption("--most-examples", type=int, help="the most examples of a property test")


def pytest_configure(config: pytest.Config) -> None:
    _hash_words()
    import chromadb.test.conftest as suite

    suite.is_spann_disabled_mode = LOCAL
    suite.skip_if_not_cluster = lambda: lambda test: test
    suite.is_client_in_process = lambda client: False  # asked only before the size of Chroma's log is looked at
    if most := config.getoption("--most-examples"):
        _limit_examples(most)


class _Local:
    """Whether a test is about Chroma's local engine, which refuses SPANN, or about its cloud.

    The suite skips what it writes for the cloud alone. Such a test is run, as in the cloud; one that knows both is run as local.
    ``Settings.vector_index`` is what either shows of the index of a collection.
    """

    cloud = False

    def __bool__(self) -> bool:
        return not self.cloud


LOCAL = _Local()

# Why the suite skips what Chroma's local engine cannot do; it is done here.
CLUSTER_ONLY = ("Search API only available in distributed mode", "GroupBy is only supported in distributed mode")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    LOCAL.cloud = any(LOCAL in mark.args for mark in item.iter_markers("skipif"))
    os.environ["CHROMA_GPU_VECTOR_INDEX"] = "spann" if LOCAL.cloud else "hnsw"


def _hash_words() -> None:
    """384 dimensions, as the model has, norm 1, nearer the more words two texts share."""
    from chroma_gpu.embed.hashing import HashingEncoder
    from chroma_gpu.embed.local import DefaultEmbeddingFunction

    DefaultEmbeddingFunction.encoder = lambda self: HashingEncoder(384)


def _limit_examples(most: int) -> None:
    """Chroma's tests set their own numbers; the smaller one counts."""
    import hypothesis

    inner = hypothesis.settings.__init__

    def init(self: hypothesis.settings, parent: hypothesis.settings | None = None, **given: object) -> None:
        inner(self, parent, **given)
        object.__setattr__(self, "_max_examples", min(self.max_examples, most))

    hypothesis.settings.__init__ = init


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if not collection_path.is_relative_to(SUITE):
        return None
    name = str(collection_path.relative_to(SUITE))
    matched = [pattern for pattern in _patterns(config) if pattern.startswith("/") and f"/{name}".startswith(pattern)]
    USED.update(matched)
    return True if matched else None


def pytest_pycollect_makemodule(module_path: Path) -> None:
    """Two files of the suite have one name and are in no package: the module of the first makes way for the second."""
    sys.modules.pop(module_path.stem, None)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    kept, dropped = [], []
    for item in items:
        item.own_markers = [mark for mark in item.own_markers if mark.kwargs.get("reason") not in CLUSTER_ONLY]
        matched = [pattern for pattern in _patterns(config) if pattern in item.nodeid]
        USED.update(matched)
        (dropped if matched else kept).append(item)
    unused = [pattern for pattern in _patterns(config) if pattern not in USED]
    if unused and config.getoption("--whole"):
        raise pytest.UsageError(f"nothing matches these lines of {config.getoption('--deselected')}: {unused}")
    config.hook.pytest_deselected(items=dropped)
    items[:] = kept


USED: set[str] = set()


def _patterns(config: pytest.Config) -> list[str]:
    lines = Path(config.getoption("--deselected")).read_text().splitlines()
    return [line.partition("  #")[0].strip() for line in lines if line and not line.startswith("#")]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counts = {word: len(terminalreporter.stats.get(word, ())) for word in ("passed", "failed", "error", "deselected", "skipped")}
    terminalreporter.write_line(
        f"Chroma's suite against chroma_gpu: {counts['passed']} passed / {counts['failed'] + counts['error']} failed / "
        f"{counts['deselected']} deselected / {counts['skipped']} skipped"
    )
