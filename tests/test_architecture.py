"""The directions between rooms, and the one home of each foreign thing."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "chroma_gpu"
FILES = sorted(path for path in PACKAGE.rglob("*.py"))

GROUND = {"errors", "config", "records", "rowset", "roaring", "values", "words", "bytecache", "rwlock", "device", ""}
MAY_IMPORT = {
    **dict.fromkeys(GROUND, GROUND),
    "kernels": GROUND,
    "embed": GROUND | {"kernels"},
    "filter": GROUND | {"kernels"},
    "index": GROUND | {"kernels"},
    "store": GROUND,
    "engine": GROUND | {"filter", "index", "store"},
    "utils": GROUND | {"embed"},
    "auth": {"api"},
    "execution": {"api"},
    "types": {"api", "base_types"},
    "transforms": {"api"},
    "base_types": {"api"},
    "as_chromadb": {"", "errors"},
    "run": {"", "as_chromadb"},
    "api": GROUND | {"engine", "embed", "filter", "utils"},
    "jobs": GROUND | {"api", "embed", "kernels", "utils"},
    "cli": GROUND | {"api", "embed", "index", "jobs", "utils"},
}
# The door names what it opens; it imports it when it is asked for.
MAY_IMPORT[""] = MAY_IMPORT["api"] | {"api", "auth", "execution"}

HOMES = {
    r"^\s*(import|from) lmdb\b": {"store/lmdb.py"},
    r"^\s*(import|from) faiss\b": {"index/faiss_library.py"},
    r"^\s*(import|from) re2\b": {"filter/regex.py"},
    r"^\s*(import|from) triton\b": set(),
    r"\bos\.(environ|getenv)\b": {"config.py"},
    r"\bTypedDict\b": {"api/types.py", "api/collection_configuration.py"},
    r"\bimport (pickle|joblib|shelve|marshal)\b|torch\.load\(|trust_remote_code=True[,)]|allow_pickle=True": set(),
}


def room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    if len(parts) > 1:
        return parts[0]
    return "" if parts[0] == "__init__.py" else path.stem


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = [node.module or ""] + [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {name for name in names if name.split(".")[0] == "chroma_gpu"}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_directions(path):
    here = room(path)
    known = {each.name if each.is_dir() else each.stem for each in PACKAGE.iterdir()} - {"__init__"}
    for name in imported(path):
        parts = name.split(".")
        there = parts[1] if len(parts) > 1 and parts[1] in known else ""
        assert there == here or there in MAY_IMPORT[here], f"{here} must not import {there}"


@pytest.mark.parametrize("pattern", HOMES)
def test_foreign_things_have_one_home(pattern):
    users = {str(path.relative_to(PACKAGE)) for path in FILES if re.search(pattern, path.read_text(), re.MULTILINE)}
    assert users <= HOMES[pattern]


def test_homes_are_lived_in():
    for pattern, homes in HOMES.items():
        for home in homes:
            assert re.search(pattern, (PACKAGE / home).read_text(), re.MULTILINE), f"{home} does not hold {pattern}"


def test_the_engine_and_its_rooms_do_not_know_chroma():
    for path in FILES:
        name = str(path.relative_to(PACKAGE))
        # The directory has to recognise one of Chroma's, to refuse it.
        if room(path) in {"engine", "store", "index", "kernels"} and name != "engine/directory.py":
            assert not re.search(r"chroma(?![_-]gpu)", path.read_text(), re.IGNORECASE), name


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_are_small_and_say_what_they_are(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 460, "split it by verb or by noun"
    assert ast.get_docstring(ast.parse(text)), "the first line of a file says what it is for"
    assert not re.search(r"(manager|helpers?|common|base|core|misc|handlers?|wrappers?)\.py$", path.name)
