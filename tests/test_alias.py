"""``import chroma_gpu.as_chromadb``: what is imported as chromadb afterwards is chroma_gpu, installed or not; and isinstance without it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent

HIDDEN = """
import importlib.abc, sys
class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "chromadb":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
try:
    import chromadb
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("chromadb is not hidden")
"""


def run(code: str, *, hide: bool = False) -> str:
    """What a fresh Python prints."""
    code = f"import sys; sys.path.insert(0, {str(HERE)!r})\n{HIDDEN if hide else ''}\n{code}"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def ran(where: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """What ``python -m chroma_gpu.run`` comes to, in a directory."""
    return subprocess.run(
        [sys.executable, "-m", "chroma_gpu.run", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=where,
        env=os.environ | {"PYTHONPATH": str(HERE.parent)},
    )


@pytest.mark.parametrize("hide", [False, True], ids=["installed", "not installed"])
def test_modules_and_classes_are_the_same_objects(hide):
    run(
        """
import chroma_gpu, chroma_gpu.as_chromadb
from importlib import import_module
from chroma_names import DOOR, PAIRS
import chromadb
assert chromadb is chroma_gpu
from chromadb.api.types import EmbeddingFunction
from chroma_gpu.api.types import EmbeddingFunction as Ours
assert EmbeddingFunction is Ours
for name in DOOR:
    getattr(chromadb, name)
for module, name in PAIRS:
    ours = import_module(module.replace("chromadb", "chroma_gpu", 1))
    assert import_module(module) is ours
    assert getattr(ours, name) is not None
    assert ours.__spec__.name == ours.__name__ and ours.__name__.startswith("chroma_gpu")
import chromadb.config
assert chromadb.config.Settings is chroma_gpu.Settings
with chromadb.EphemeralClient() as client:
    assert isinstance(client, chromadb.ClientAPI) and isinstance(client, chromadb.api.client.Client)
    assert client.__class__ is type(client)
    collection = client.create_collection("some")
    assert isinstance(collection, chromadb.Collection) and collection.__class__ is type(collection)
    try:
        client.get_collection("none")
    except chromadb.errors.NotFoundError:
        pass
""",
        hide=hide,
    )


def test_a_module_that_is_not_here_is_an_import_error():
    code = "import chroma_gpu.as_chromadb\ntry:\n  import chromadb.{}\nexcept ImportError as error:\n  print(error)"
    for missing in ("server", "segment.impl", "config.nothing"):
        assert "chromadb" in run(code.format(missing))


def test_the_version_is_chromas_only_under_the_alias():
    before, after, own = run(
        """
import chroma_gpu
from importlib.metadata import version
print(chroma_gpu.__version__)
import chroma_gpu.as_chromadb, chromadb
print(chromadb.__version__, version("chroma-gpu"), sep="\\n")
"""
    ).split("\n")
    assert before == own
    assert after == "1.5.9"
    import chroma_gpu

    assert chroma_gpu.compat_version == "1.5.9"


def test_it_refuses_when_the_real_one_is_there_already():
    said = run(
        """
import chromadb
from chroma_gpu.errors import AliasError
try:
    import chroma_gpu.as_chromadb
except AliasError as error:
    print(error)
import chromadb.api.types
assert "chroma_gpu" not in chromadb.api.types.__name__
"""
    )
    assert "chromadb is imported already" in said
    assert "before anything that imports chromadb" in said


def test_installing_twice_is_once():
    assert (
        run("import chroma_gpu.as_chromadb as a\nbefore = list(sys.meta_path)\na.install()\nprint(before == sys.meta_path)")
        == "True"
    )


@pytest.mark.parametrize("form", ["script", "module"])
def test_run_runs_a_program_under_the_alias(tmp_path, form):
    (tmp_path / "beside.py").write_text("value = 7\n")
    (tmp_path / "program.py").write_text(
        "import sys, chromadb, beside\nassert __name__ == '__main__'\nprint(chromadb.__name__, beside.value, sys.argv[1:])\nsys.exit(3)\n"
    )
    which = [str(tmp_path / "program.py")] if form == "script" else ["-m", "program"]
    done = ran(tmp_path, *which, "a", "-b")
    assert (done.returncode, done.stdout) == (3, "chroma_gpu 7 ['a', '-b']\n"), done.stderr


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_run_holds_in_processes_that_multiprocessing_starts(tmp_path, method):
    """And in those that they start; before anything of the program runs there."""
    (tmp_path / "program.py").write_text(
        "import chromadb, multiprocessing\n"
        "def work(deeper, said):\n"
        "    said.put(chromadb.__name__)\n"
        "    if deeper:\n"
        "        start(deeper - 1, said)\n"
        "def start(deeper, said):\n"
        "    process = context.Process(target=work, args=(deeper, said))\n"
        "    process.start(), process.join()\n"
        f"context = multiprocessing.get_context('{method}')\n"
        "if __name__ == '__main__':\n"
        "    said = context.Queue()\n"
        "    start(1, said)\n"
        "    print(said.get(timeout=30), said.get(timeout=30))\n"
    )
    done = ran(tmp_path, str(tmp_path / "program.py"))
    assert (done.returncode, done.stdout) == (0, "chroma_gpu chroma_gpu\n"), done.stderr


def test_run_leaves_the_current_directory_out_of_a_scripts_path(tmp_path):
    """As python does: a file there could stand before a module of the same name."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "program.py").write_text(
        "import sys\nprint(sys.path[0], [each for each in sys.path if 'elsewhere' in each or not each])\n"
    )
    done = ran(tmp_path / "elsewhere", str(tmp_path / "program.py"))
    assert done.stdout == f"{tmp_path} []\n", done.stderr


def test_run_says_how_it_is_used():
    done = subprocess.run([sys.executable, "-m", "chroma_gpu.run"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "usage" in done.stderr


def test_isinstance_passes_for_the_real_classes_without_the_alias():
    run(
        """
import chroma_gpu
client = chroma_gpu.EphemeralClient()
collection = client.create_collection("some")
assert client.__class__ is type(client) and collection.__class__ is type(collection)
import chromadb, chromadb.api.client
assert chromadb.__name__ == "chromadb"
assert isinstance(client, chromadb.ClientAPI) and isinstance(client, chromadb.api.client.Client)
assert isinstance(collection, chromadb.Collection)
assert isinstance(client, chroma_gpu.ClientAPI) and isinstance(collection, chroma_gpu.Collection)
assert type(collection) is chroma_gpu.Collection and type(client) is not chromadb.api.client.Client
assert not isinstance(client, chromadb.Collection) and not isinstance(collection, chromadb.ClientAPI)
admin = chroma_gpu.AdminClient()
assert isinstance(admin, chromadb.api.AdminAPI) and isinstance(admin, chroma_gpu.AdminAPI)
client.close()

import asyncio, chromadb.api.async_client, chromadb.api.models.AsyncCollection
async def awaited():
    client = await chroma_gpu.AsyncEphemeralClient()
    collection = await client.create_collection("other")
    assert isinstance(client, chromadb.api.AsyncClientAPI) and not isinstance(client, chromadb.ClientAPI)
    assert isinstance(collection, chromadb.api.models.AsyncCollection.AsyncCollection)
    await client.close()
asyncio.run(awaited())
"""
    )
