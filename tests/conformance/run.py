"""Run Chroma's own test suite against chroma_gpu: ``python tests/conformance/run.py [--quick | --normal] [pytest arguments]``.

    (nothing)        the whole suite, property tests at Chroma's "fast" preset of 50 examples
    --normal         the same at Chroma's "normal" preset of 100 examples
    --quick          the files of QUICK with few examples: some minutes, part of ``make test``
    FILE[::TEST]     these alone, for work on one of them: paths as in chromadb/test

The last line says how many tests passed, failed and were deselected; deselected.txt says why. Exits with 1 if one failed, and with 4
if a line of deselected.txt matches nothing any more.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from importlib.metadata import distribution
from pathlib import Path

HERE = Path(__file__).resolve().parent
SITE = Path(str(distribution("chromadb").locate_file(""))).resolve()
SUITE = SITE / "chromadb" / "test"

QUICK = (
    "test_api.py", "test_client.py", "api", "client", "configurations", "data_loader", "ef", "utils",
    "property/test_add.py", "property/test_embeddings.py", "property/test_filtering.py", "property/test_base64_conversion.py",
)  # fmt: skip
QUICK_EXAMPLES = 8


def main(given: list[str]) -> int:
    """Run the suite in a child, in an empty folder, where its files may lie about."""
    quick, normal = "--quick" in given, "--normal" in given
    options = [each for each in given if each not in ("--quick", "--normal")]
    names = [each for each in options if not each.startswith("-") and (SUITE / each.split("::")[0]).exists()]
    options = [each for each in options if each not in names]
    chosen = names or (QUICK if quick else (".",))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--disable-warnings",
        "-p",
        "chroma_suite",
        "-p",
        "no:cacheprovider",
        "-c",
        os.devnull,
    ]
    command += ["--import-mode", "prepend", "--rootdir", str(SITE), "--timeout", "900"]
    command += ["--deselected", str(HERE / "deselected.txt")]
    command += [] if names or quick else ["--whole"]
    command += ["--most-examples", str(QUICK_EXAMPLES)] if quick else []
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PROPERTY_TESTING_PRESET": "normal" if normal else "fast",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    }
    with tempfile.TemporaryDirectory() as folder:
        files = [str(SUITE / each) for each in chosen]
        return subprocess.run([*command, *files, *options], cwd=folder, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
