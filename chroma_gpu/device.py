"""Which device does the work, what it can do, and what happens when its memory runs out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
import numpy.typing as npt

from chroma_gpu.config import memory
from chroma_gpu.errors import DeviceError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

_DRIVERS: Final = ("/dev/nvidiactl", "/dev/dxg", "/proc/driver/nvidia/version", "/dev/kfd")
"""Where the kernel shows a GPU to CUDA, to CUDA under WSL, and to ROCm."""


@dataclass(frozen=True, slots=True)
class Device:
    """One device of this machine.

    total, free  bytes of its memory; None where the driver does not say
    capability   (major, minor) of a CUDA device
    half         the 16-bit types it computes at full speed: "float16", "bfloat16"
    """

    name: str
    model: str
    total: int | None = None
    free: int | None = None
    capability: tuple[int, int] | None = None
    half: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """What torch sees here; ``cuda`` is the version torch was built for, None for a CPU build."""

    torch: str
    cuda: str | None
    threads: int
    devices: tuple[Device, ...]


def pick(device: str = "auto") -> str:
    """The device to use: "auto" is "cuda" where there is one, else "cpu"; a name is itself if it is there.

    "mps" is taken only when asked for: auto stays with the two devices that every part of the package supports.
    Raises DeviceError, naming the devices that are there.  Cost: imports torch, but for "cpu".
    """
    if device == "cpu":
        return device
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = device.partition(":")
    if kind == "cpu" and not number:
        return device
    if kind == "mps" and number in ("", "0") and torch.backends.mps.is_available():
        return device
    if kind == "cuda" and (not number or number.isdecimal()) and int(number or 0) < torch.cuda.device_count():
        return device
    raise DeviceError(f"device {device!r} is not there.", hint=f"This machine has: {', '.join(available())}.")


def is_gpu(device: str = "auto") -> bool:
    """Whether ``pick(device)`` is a GPU.  Cost: torch is imported only where a GPU driver may be, so that a CPU answers at once."""
    if device == "cpu" or (device == "auto" and sys.platform == "linux" and not any(Path(path).exists() for path in _DRIVERS)):
        return False
    return pick(device) != "cpu"


def available() -> list[str]:
    """The names that ``pick`` takes here, besides "auto"."""
    import torch

    cuda = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return ["cpu", *cuda, *(["mps"] if torch.backends.mps.is_available() else [])]


def describe() -> Report:
    """Versions and devices, for ``doctor``.  Cost: imports torch; asking for free memory starts a CUDA context."""
    import torch

    return Report(torch.__version__, torch.version.cuda, torch.get_num_threads(), tuple(_device(name) for name in available()))


def _device(name: str) -> Device:
    import torch

    if not name.startswith("cuda"):
        return Device(name, name, half=half_types(name))
    free, total = torch.cuda.mem_get_info(name)
    properties = torch.cuda.get_device_properties(name)
    return Device(name, properties.name, total, free, (properties.major, properties.minor), half_types(name))


def half_types(device: str) -> tuple[str, ...]:
    """The 16-bit types that ``device`` computes at full speed: none on a CPU, float16 on Turing, both from Ampere on."""
    import torch

    if device == "mps":
        return ("float16",)
    if not device.startswith("cuda"):
        return ()
    capability = torch.cuda.get_device_capability(device)
    if capability >= (8, 0):
        return ("float16", "bfloat16")
    return ("float16",) if capability >= (7, 0) else ()


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware: AMX or AVX-512 BF16. Then it is faster than float32, though never the default."""
    import torch

    # Older releases have the one, newer ones the other.
    known = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    return torch.backends.mkldnn.is_available() and any(ask() for ask in known if ask is not None)  # type: ignore[no-untyped-call]


def model(device: str) -> str:
    """What the driver calls a CUDA device; the name itself for the others."""
    import torch

    return str(torch.cuda.get_device_name(device)) if device.startswith("cuda") else device


def total_memory(device: str) -> int | None:
    """Bytes of memory of a CUDA device; None for the others."""
    import torch

    return int(torch.cuda.get_device_properties(device).total_memory) if device.startswith("cuda") else None


def free_memory(device: str) -> int | None:
    """Bytes that are free on a CUDA device, for whoever comes first; None for the others.  Cost: starts a CUDA context"""
    import torch

    return int(torch.cuda.mem_get_info(device)[0]) if device.startswith("cuda") else None


def memory_limit(limit: str, device: str) -> int:
    """Bytes of ``Settings.vram_limit`` on a device: an amount, or a share of what is free now; no end where nobody knows that."""
    wanted = memory(limit)
    if isinstance(wanted, int):
        return wanted
    free = free_memory(device)
    return sys.maxsize if free is None else int(wanted * free)


def several(given: str) -> tuple[str, ...]:
    """The devices of a list: names with commas between them, or "all" for every CUDA device there is.

    Raises   DeviceError, naming the devices that are there
    """
    if given == "all":
        return tuple(name for name in available() if name.startswith("cuda")) or (pick(),)
    return tuple(pick(name.strip()) for name in given.split(","))


def with_smaller_batches(
    run: Callable[[npt.NDArray[np.intp]], T],
    rows: npt.NDArray[np.intp],
    last_resort: Callable[[npt.NDArray[np.intp]], T] | None = None,
) -> Iterator[tuple[npt.NDArray[np.intp], T]]:
    """Run over rows; where memory runs out, free what is cached and go on with halves, in order.

    run          gets a part of ``rows``; it is called again, with less, after running out of memory
    last_resort  runs a single row that does not fit; without it such a row raises
    Yields       (part, result): the parts together are ``rows`` in order
    Raises       DeviceError for a single row that does not fit; whatever else ``run`` raises
    """
    waiting = [rows]
    while waiting:
        part = waiting.pop()
        shortage: Exception | None = None
        try:
            result = run(part)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            # The frames of the failed attempt hold its tensors: nothing can be freed before they are let go.
            shortage = error.with_traceback(None)
        if shortage is None:
            yield part, result
            del result
            continue
        free_cached_memory()
        if len(part) > 1:
            half = len(part) // 2
            waiting += [part[half:], part[:half]]
        elif last_resort is not None:
            yield part, last_resort(part)
        else:
            raise DeviceError(
                f"a batch of one does not fit into the memory of the device: {shortage}",
                hint='Free memory there, or use device="cpu".',
            ) from shortage


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error says that an allocation failed, on any device."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        phrase in text for phrase in ("out of memory", "can't allocate memory", "not enough memory", "cublas_status_alloc_failed")
    )


def is_lost(error: BaseException) -> bool:
    """Whether the error says that a device does not work any more, for this process at least."""
    text = str(error).lower()
    return (
        isinstance(error, RuntimeError)
        and not is_out_of_memory(error)
        and any(
            phrase in text
            for phrase in (
                "cuda error",
                "device-side assert",
                "hip error",
                "uncorrectable ecc",
                "driver shutting down",
                "triton error [cuda]",
                "triton error [hip]",
            )
        )
    )


def serves(device: torch.device) -> bool:
    """Whether a device still does what torch asks it for. A device that is lost does nothing more in this process."""
    import torch

    try:
        return bool(torch.ones(1, device=device).item())
    except RuntimeError:
        return False


def free_cached_memory() -> None:
    """Give memory that torch keeps for later allocations back to the device."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()
