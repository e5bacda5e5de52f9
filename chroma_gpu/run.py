"""``python -m chroma_gpu.run script.py args``: a script, or with -m a module, for which ``import chromadb`` means chroma_gpu."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

USAGE = "usage: python -m chroma_gpu.run SCRIPT [ARG ...]\n       python -m chroma_gpu.run -m MODULE [ARG ...]\n"


def main() -> int:
    """Run what the command line names, as ``python`` would. Returns 2 if it names nothing.

    The alias holds in processes that multiprocessing starts too, however it starts them; not in other programs that are started.
    """
    given = sys.argv[1:]
    module = given[:1] == ["-m"]
    if len(given) < 1 + module or given[0] in ("-h", "--help"):
        sys.stderr.write(USAGE)
        return 2
    from chroma_gpu import as_chromadb

    as_chromadb.install_with_children()
    sys.argv = given[module:]
    if module:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        if not sys.flags.safe_path:  # in the place of the current directory, as for any script
            sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
        runpy.run_path(sys.argv[0], run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main())
