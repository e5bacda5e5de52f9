"""What is installed is what is here: the kernels link, the list of packages, the wheel's contents."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_kernels_is_a_relative_link_and_no_package_of_its_own():
    link = ROOT / "chroma_gpu" / "kernels"
    assert link.is_symlink()
    assert os.readlink(link) == "../kernels"
    assert not (ROOT / "kernels" / "__init__.py").exists()


def test_every_package_is_listed():
    on_disk = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "chroma_gpu").rglob("*.py")
        if "kernels" not in path.parts
    } | {"chroma_gpu.kernels"}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == on_disk


def test_only_what_is_used_is_a_dependency():
    modules = {"google-re2": "re2", "sentence-transformers": "sentence_transformers"}
    source = "\n".join(path.read_text() for path in (ROOT / "chroma_gpu").rglob("*.py"))
    source += "\n".join(path.read_text() for path in (ROOT / "kernels").glob("*.py"))
    for requirement in PROJECT["project"]["dependencies"]:
        name = re.split(r"[<>=\[]", requirement)[0]
        assert re.search(rf"(import|from) {modules.get(name, name.replace('-', '_'))}\b", source), f"{name} is not used"


def test_constraints_name_a_version_for_every_dependency():
    pinned = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    extras = PROJECT["project"]["optional-dependencies"]
    for requirement in PROJECT["project"]["dependencies"] + [each for name in extras if name != "gpu" for each in extras[name]]:
        assert re.split(r"[<>=\[]", requirement)[0].lower() in pinned


def test_the_wheel_holds_the_kernels_and_nothing_at_top_level(tmp_path):
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--quiet",
        "-w",
        str(tmp_path),
        str(ROOT),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "chroma_gpu/kernels/scan.py" in names
    assert "chroma_gpu/py.typed" in names
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"chroma_gpu"}
