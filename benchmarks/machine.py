"""What a result depends on besides the code: processor, cores, GPU, disk, versions, commit."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any


def machine(folder: Path) -> dict[str, Any]:
    """The hardware, and the file system of the folder where the engines keep their files."""
    return {
        "cpu": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpu": _said("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").splitlines(),
        "file_system": _file_system(folder),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def commit(root: Path) -> str:
    """The checkout's commit, a plus behind it if files differ from it; "none" without one."""
    head = _said("git", "-C", str(root), "rev-parse", "--short=12", "HEAD")
    changed = _said("git", "-C", str(root), "status", "--porcelain", "--", ".", ":!benchmarks/results")
    return (head or "none") + ("+" if changed else "")


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", facts.read_text()) if facts.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def _file_system(folder: Path) -> str:
    """Its type: an fsync costs nothing on tmpfs."""
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return "unknown"
    kinds = {Path(point): kind for _, point, kind, *_ in map(str.split, mounts.read_text().splitlines())}
    here = folder.resolve()
    return next(kinds[each] for each in (here, *here.parents) if each in kinds)


def _said(*command: str) -> str:
    """What a program printed; nothing if it is not there or fails."""
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
