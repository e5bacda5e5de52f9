"""Starting Triton kernels at less cost than Triton's own launcher, and whole searches as one CUDA graph.

``kernel[grid](...)`` binds arguments by name, finds out how each is specialised, makes a key of all that and looks the binary up:
more time than a small search takes on the card. ``launch`` keeps what was found for arguments of the same kind. ``Replay`` goes
further: what was started once between two lines is started again by one call of the driver.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_BUILT: dict[tuple[Any, ...], Any] = {}
"""What was compiled, by kernel, device, constants and how the arguments are specialised. Only ever filled with the same value twice."""

COMPILING = threading.Lock()
"""Held by whoever may compile: Triton does not stand several threads that do, and its interpreter none at all."""


def launch(
    kernel: Any, grid: tuple[int, int, int], *given: Any, num_warps: int = 4, num_stages: int = 3, **constants: Any
) -> None:
    """``kernel[grid](*given, **constants)`` on the device of the first tensor and torch's current stream there.

    kernel     a function under ``@triton.jit``; its constants are its last parameters
    grid       three numbers; nothing is started where one of them is 0
    given      every parameter that is no constant, in order: first a tensor; tensors, ints, floats, bools, None
    constants  every ``tl.constexpr`` parameter, by name
    Raises     what Triton raises when it compiles. Under TRITON_INTERPRET the kernel runs in the interpreter
    Cost       Python's share of a start is 5.6 µs instead of 8.1 (one core of a server, a driver that starts nothing)
    """
    if 0 in grid:
        return
    device = given[0].device
    if device.type == "cuda" and device.index != torch.cuda.current_device():
        with torch.cuda.device(device):
            return launch(kernel, grid, *given, num_warps=num_warps, num_stages=num_stages, **constants)
    # An address divisible by 16 is compiled as such, so is an integer; an integer of 1 becomes a constant; and types and widths count.
    kinds = [each.dtype if type(each) is Tensor and not each.data_ptr() & 15 else _kind(each) for each in given]
    key = (id(kernel), device, num_warps, num_stages, *constants.values(), *kinds)
    built = _BUILT.get(key)
    if built is None:
        with COMPILING:
            compiled = kernel[grid](*given, num_warps=num_warps, num_stages=num_stages, **constants)
        if compiled is not None:  # the interpreter gives nothing that could be kept
            _BUILT[key] = (compiled, [constants[name] for name in kernel.arg_names[len(given) :]], kernel)
        return
    compiled, rest, _ = built
    compiled[grid](*given, *rest)


def _kind(given: Any) -> object:
    """What a launcher has to know of an argument besides its value."""
    if type(given) is int:
        return (given == 1, given & 15 == 0, -0x80000000 <= given < 0x80000000, given < 1 << 63)
    return (given.dtype, given.data_ptr() & 15 == 0) if isinstance(given, Tensor) else type(given)


class Replay:
    """One piece of work on the card, for inputs of one shape, recorded once and started again as a whole.

    For work whose launches take longer than what they do: searches of small tables. The work must not wait for the card (no
    ``.item()``, no shapes that depend on values), and it reads and writes where it did when it was recorded: its inputs are copied
    to where they were then, its outputs lie where they lay and are overwritten by the next call. So the outputs of a call are
    read, or copied, within ``lock``. Other tensors that the work reads must live as long as this: give them in ``keeps``, or let
    whoever owns them own this. The work itself is let go of.
    """

    def __init__(self, work: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor], keeps: object = None) -> None:
        """Run the work three times, the last time recorded.

        Raises  RuntimeError if the work waits for the card, torch.OutOfMemoryError if its memory, which it keeps, is not there
        Cost    three times the work; compiles what is not compiled
        """
        self.lock = threading.Lock()
        self._keeps = keeps
        self._last: torch.cuda.Stream | None = None
        self._inputs = [each.clone() for each in inputs]
        self._graph = torch.cuda.CUDAGraph()
        aside = torch.cuda.Stream(inputs[0].device)  # type: ignore[no-untyped-call]
        with torch.cuda.device(inputs[0].device):
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(2):  # compiles, and takes what workspace libraries take at first
                    work(*self._inputs)
            torch.cuda.current_stream().wait_stream(aside)
            # Other threads may allocate meanwhile: only what this one must not do ends the recording.
            with torch.cuda.graph(self._graph, stream=aside, capture_error_mode="thread_local"):
                self._outputs = tuple(work(*self._inputs))

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Start the work on these inputs, of the shapes it was recorded with, on torch's current stream.  Hold ``lock``"""
        stream = torch.cuda.current_stream(self._inputs[0].device)
        if self._last is not None and self._last != stream:
            stream.wait_stream(self._last)  # there the outputs of the call before may still be being read
        self._last = stream
        for to, given in zip(self._inputs, inputs, strict=True):
            to.copy_(given, non_blocking=True)
        self._graph.replay()
        return self._outputs
