"""Saved indexes: derived state that makes opening fast and may be lost at any time.

A checkpoint is two files in a collection's ``index/`` folder: ``<kind>.bin`` as the index wrote it, which says what it is, and
``<kind>.json``, its size and sha256. The latter is renamed into place last, so a checkpoint without one that fits does not exist.
A checkpoint that cannot be used is a reason to build anew, never a reason not to open.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path

from chroma_gpu.errors import StoreError
from chroma_gpu.index import Index, IndexSpec, load
from chroma_gpu.records import VectorSource


def save(index: Index, folder: Path) -> None:
    """Write a checkpoint of the index.  A crash on the way leaves the older one, or none."""
    folder.mkdir(mode=0o700, exist_ok=True)
    kind = index.spec.kind
    # Forks that share a folder share its checkpoints, and may write one at the same time.
    temporary = folder / f"{kind}.{os.getpid()}.{threading.get_ident()}.tmp"
    try:
        index.save(temporary)
        manifest = {"size": temporary.stat().st_size, "sha256": _sha256(temporary)}
        _flush(temporary)
        # An old manifest must not describe the new file, were we to stop between the two renames.
        (folder / f"{kind}.json").unlink(missing_ok=True)
        os.replace(temporary, folder / f"{kind}.bin")
        temporary.write_text(json.dumps(manifest, indent=1))
        _flush(temporary)
        os.replace(temporary, folder / f"{kind}.json")
        _flush(folder)
    finally:
        temporary.unlink(missing_ok=True)


def restore(folder: Path, spec: IndexSpec, source: VectorSource) -> Index | None:
    """The index of a checkpoint that is whole and was made for this spec and source; else None, and the checkpoint is removed.

    Cost: reading the file twice, once for its sha256.
    """
    if not (folder / f"{spec.kind}.json").exists():
        return None
    try:
        if _whole(folder, spec.kind):
            return load(folder / f"{spec.kind}.bin", spec, source)
    except StoreError:
        pass  # of another version, or of another spec: as useless as a torn one
    remove(folder, spec.kind)
    return None


def broken(folder: Path) -> list[str]:
    """The kinds whose checkpoints are not what was written.  Cost: every file is read."""
    kinds = sorted(data.stem for data in folder.glob("*.bin") if data.with_suffix(".json").exists())
    return [kind for kind in kinds if not _whole(folder, kind)]


def remove(folder: Path, kind: str) -> None:
    """Remove a checkpoint, if there is one."""
    (folder / f"{kind}.json").unlink(missing_ok=True)
    (folder / f"{kind}.bin").unlink(missing_ok=True)


def size(folder: Path, kind: str) -> int:
    """Bytes of the checkpoint of a kind; 0 if there is none."""
    try:
        return (folder / f"{kind}.bin").stat().st_size
    except FileNotFoundError:
        return 0


def _whole(folder: Path, kind: str) -> bool:
    """Whether the file of a checkpoint is the one that its manifest describes."""
    data = folder / f"{kind}.bin"
    try:
        said = json.loads((folder / f"{kind}.json").read_text())
        return bool(said["size"] == data.stat().st_size and said["sha256"] == _sha256(data))
    except (OSError, ValueError, KeyError, TypeError):
        return False  # every one of these means the same: there is no usable checkpoint


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
