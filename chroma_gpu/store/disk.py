"""What the disk says: full or broken, and names that survive a power cut."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path
from typing import Final

from chroma_gpu.errors import DiskFull, StoreError

_COPIED_AT_ONCE: Final = 1 << 30
_READ_AT_ONCE: Final = 8 << 20
_CANNOT_COPY: Final = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM})


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


def copy_file(source: Path, target: Path, size: int | None = None) -> None:
    """Write the first ``size`` bytes of a file, or all, to a new file, durably; shares blocks where the file system can.

    Raises  DiskFull, StoreError, FileNotFoundError
    """
    with (
        source.open("rb") as old,
        os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as new,
    ):
        left = os.fstat(old.fileno()).st_size if size is None else size
        try:
            while left:
                copied = _copy_some(old.fileno(), new.fileno(), left)
                if not copied:
                    raise StoreError(f"{source} ends {left} bytes too early.", hint="Restore it from a copy.")
                left -= copied
            os.fsync(new.fileno())
        except OSError as error:
            raise disk_error(target, error, error.errno) from error


def _copy_some(old: int, new: int, size: int) -> int:
    """Copy some bytes from one file's position to the other's; how many."""
    try:
        return os.copy_file_range(old, new, min(size, _COPIED_AT_ONCE))
    except OSError as error:
        if error.errno not in _CANNOT_COPY:
            raise
    data = memoryview(os.read(old, min(size, _READ_AT_ONCE)))
    copied = len(data)
    while data:
        data = data[os.write(new, data) :]
    return copied


def _is_full(path: Path) -> bool:
    """Whether an input/output error came from a full disk: LMDB reports a write that came short as EIO."""
    disk = os.statvfs(path)
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return disk.f_bavail < disk.f_blocks / 100 or (limit != resource.RLIM_INFINITY and path.stat().st_size >= limit)
