"""One file for each checkpoint of an index: a header that says what it is, then arrays, then what FAISS writes.

    8 bytes   b"CGINDEX" and the format version
    4 bytes   length of the header, little-endian
    header    JSON: kind, metric, dim, params, count, version of FAISS, names, types and shapes of the arrays, what the kind adds
    arrays    one after the other, little-endian, C order
    rest      a FAISS index, in the kinds that have one

A checkpoint is disposable: it holds nothing that cannot be built again from the vectors. So a file that does not fit is refused,
never repaired. The caller owns checksums and renaming.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from chroma_gpu.errors import FormatError, StoreError
from chroma_gpu.index import IndexSpec
from chroma_gpu.index.faiss_library import faiss_version, read_faiss, write_faiss
from chroma_gpu.records import VectorSource

_MAGIC: Final = b"CGINDEX\x01"
_SEARCHING: Final = frozenset({"ef_search", "fetch", "device", "limit", "recall"})
"""Parameters that say how to search, not how to build: a checkpoint fits whatever they are."""

_REBUILD: Final = "Delete it: the index is built again from the vectors."


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """What a file held.

    count   rows [0, count) are in the index
    extra   what the kind wrote beside its arrays
    faiss   the FAISS index, or None
    """

    count: int
    extra: Mapping[str, Any]
    arrays: Mapping[str, npt.NDArray[Any]]
    faiss: Any = None

    def column(self, name: str) -> npt.NDArray[np.float32]:
        """An array with one float32 for each row.  Raises FormatError if it is another."""
        array = self.arrays.get(name)
        self.require(array is not None and array.dtype == np.float32 and array.shape == (self.count,), f"{name} of every row")
        return self.arrays[name]

    def require(self, holds: bool, what: str) -> None:
        """Raise FormatError unless the checkpoint holds what its kind needs."""
        if not holds:
            raise FormatError(f"the checkpoint does not hold {what}.", hint=_REBUILD)


def write(path: Path, spec: IndexSpec, checkpoint: Checkpoint) -> None:
    """Write a checkpoint. A crash leaves a file that ``read`` refuses, or none.

    Raises   StoreError if the file cannot be written
    """
    arrays = {name: np.ascontiguousarray(array) for name, array in checkpoint.arrays.items()}
    header = {
        **_identity(spec),
        "faiss": faiss_version() if checkpoint.faiss is not None else None,
        "count": checkpoint.count,
        "extra": dict(checkpoint.extra),
        "arrays": [[name, array.dtype.str, list(array.shape)] for name, array in arrays.items()],
    }
    encoded = json.dumps(header).encode()
    try:
        with path.open("wb") as file:
            file.write(_MAGIC + struct.pack("<I", len(encoded)) + encoded)
            for array in arrays.values():
                file.write(array.data if array.size else b"")
            if checkpoint.faiss is not None:
                write_faiss(checkpoint.faiss, file)
    except (OSError, RuntimeError) as error:
        raise StoreError(f"the checkpoint {path} could not be written: {error}") from error


def read(path: Path, spec: IndexSpec, source: VectorSource) -> Checkpoint:
    """Read a checkpoint that was written for this spec, of rows that the source has.

    Raises   FormatError if it was written for another spec or by another version, StoreError if it cannot be read or is not whole
    """
    try:
        with path.open("rb") as file:
            header = _header(path, file)
            _check(path, header, spec, source)
            arrays = {name: _array(file, kind, shape) for name, kind, shape in header["arrays"]}
            faiss = read_faiss(file) if header["faiss"] is not None else None
            return Checkpoint(header["count"], header["extra"], arrays, faiss)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, MemoryError) as error:
        raise StoreError(f"the checkpoint {path} could not be read: {error}", hint=_REBUILD) from error


def _header(path: Path, file: BinaryIO) -> dict[str, Any]:
    magic = file.read(len(_MAGIC))
    if magic != _MAGIC:
        raise FormatError(f"{path} is not an index checkpoint of this version.", hint=_REBUILD)
    (length,) = struct.unpack("<I", _exactly(file, 4))
    header = json.loads(_exactly(file, length))
    if not isinstance(header, dict):
        raise ValueError("the header is not an object")
    return header


def _check(path: Path, header: Mapping[str, Any], spec: IndexSpec, source: VectorSource) -> None:
    wanted = _identity(spec)
    differing = [name for name, value in wanted.items() if header[name] != value]
    if header["faiss"] not in (None, faiss_version()):
        differing.append("faiss")
    if differing:
        raise FormatError(f"{path} was written with another {', '.join(differing)}.", hint=_REBUILD)
    if not 0 <= header["count"] <= len(source):
        raise FormatError(f"{path} knows {header['count']} rows, the table has {len(source)}.", hint=_REBUILD)


def _identity(spec: IndexSpec) -> dict[str, Any]:
    built = {name: value for name, value in spec.params.items() if name not in _SEARCHING}
    return {"kind": spec.kind, "metric": spec.metric.value, "dim": spec.dim, "params": built}


def _array(file: BinaryIO, kind: str, shape: list[int]) -> npt.NDArray[Any]:
    dtype = np.dtype(kind)
    if dtype.hasobject:
        raise ValueError("arrays of objects are not read")
    raw = _exactly(file, dtype.itemsize * int(np.prod(shape, dtype=np.int64)))
    return np.frombuffer(raw, dtype).reshape(shape)


def _exactly(file: BinaryIO, length: int) -> bytes:
    raw = file.read(length) if length >= 0 else b""
    if len(raw) != length:
        raise ValueError("the file ends too early")
    return raw
