"""Import this first, and ``import chromadb`` means chroma_gpu, everywhere in the process.

    import chroma_gpu.as_chromadb
    from langchain_chroma import Chroma  # imports chromadb: gets chroma_gpu

Works whether the real chromadb is installed or not. ``chromadb.x.y`` is the same module object as ``chroma_gpu.x.y``, so their
classes are the same. A module that chroma_gpu does not have is an ImportError, never the real one.

What changes in the process: ``chroma_gpu.__version__``, which is now ``chromadb.__version__`` too, becomes
``chroma_gpu.compat_version``, because programs compare it. ``importlib.metadata.version("chroma-gpu")`` stays this package's own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module, util
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

import chroma_gpu
from chroma_gpu.errors import AliasError

_FROM, _TO = "chromadb", "chroma_gpu"


def install() -> None:
    """Turn the alias on for this process. Idempotent. Raises AliasError if the real chromadb is imported already."""
    if any(isinstance(each, _Alias) for each in sys.meta_path):
        return
    if _FROM in sys.modules:
        raise AliasError(
            f"chromadb is imported already, from {getattr(sys.modules[_FROM], '__file__', None)}.",
            hint="Import chroma_gpu.as_chromadb before anything that imports chromadb.",
        )
    sys.meta_path.insert(0, _Alias())
    chroma_gpu.__version__ = chroma_gpu.compat_version
    import_module(_FROM)


def install_with_children() -> None:
    """``install``, here and in every process that multiprocessing starts from here, whichever way. Raises as ``install``."""
    install()
    from multiprocessing import spawn

    prepared = spawn.get_preparation_data
    if isinstance(prepared, _Prepared):
        return
    # What a new process reads of its parent comes before all code of the program.
    spawn.get_preparation_data = _Prepared(prepared)


class _Prepared:
    """multiprocessing's description of a process to start, with the alias in it."""

    def __init__(self, prepared: Callable[[str], dict[str, object]]) -> None:
        self._prepared = prepared

    def __call__(self, name: str) -> dict[str, object]:
        return {**self._prepared(name), _TO: _Installs()}


class _Installs:
    """Installs the alias where it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return install_with_children, ()


class _Alias(MetaPathFinder, Loader):
    def find_spec(self, fullname: str, path: object = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != _FROM and not fullname.startswith(f"{_FROM}."):
            return None
        try:
            found = util.find_spec(_TO + fullname.removeprefix(_FROM))
        except ModuleNotFoundError:  # its parent is no package
            found = None
        # None here leads to an ImportError: what is below chromadb is searched for on the path of chroma_gpu.
        return found and ModuleSpec(fullname, self, is_package=found.submodule_search_locations is not None)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(_TO + spec.name.removeprefix(_FROM))
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """It has run already, under its own name; what the import system wrote over its spec is put back."""
        if module.__spec__ is not None:
            module.__spec__ = module.__spec__.loader_state


install()
