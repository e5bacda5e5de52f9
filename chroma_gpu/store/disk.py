"""What the disk says: full or broken, and names that survive a power cut."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

from chroma_gpu.errors import DiskFull, StoreError


def disk_error(path: Path, error: Exception, code: int | None) -> StoreError:
    """DiskFull if that is the reason of an error with errno ``code`` on a file, else StoreError."""
    full = code in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG} or (code == errno.EIO and _is_full(path))
    if full:
        return DiskFull(f"no space left for {path}.", hint="Free some, then write again; all acknowledged writes are there.")
    return StoreError(f"{path}: {error}")


def sync_directory(path: Path) -> None:
    """Make a directory and the names in it survive a power cut."""
    for each in (path, path.absolute().parent):
        descriptor = os.open(each, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _is_full(path: Path) -> bool:
    """Whether an input/output error came from a full disk: LMDB reports a write that came short as EIO."""
    disk = os.statvfs(path)
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return disk.f_bavail < disk.f_blocks / 100 or (limit != resource.RLIM_INFINITY and path.stat().st_size >= limit)
