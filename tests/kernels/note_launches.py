"""Run by test_tuning.py: kernels are compiled and started by a driver that only notes what it is asked for."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from chroma_gpu.kernels import launch as module
from chroma_gpu.kernels.launch import launch


class Binaries:
    def get_device_properties(self, device):
        return {"max_shared_mem": 163 << 10}

    def load_binary(self, *given):
        return 1, 1, 32, 0, 1024


class Notes:
    """The driver: (grid, types of the parameters as compiled, values) of every start."""

    utils = Binaries()

    def __init__(self):
        self.started = []

    def get_current_target(self):
        return GPUTarget("cuda", 80, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def launcher_cls(self, source, metadata):
        return lambda *given: self.started.append((given[:3], tuple(source.signature.items()), metadata.num_warps, given[9:]))


@triton.jit
def scale(x, gain, out, n, factor, BLOCK: tl.constexpr, TWICE: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + at, mask=at < n, other=0.0) * factor
    if gain is not None:
        value *= tl.load(gain + at, mask=at < n, other=0.0)
    tl.store(out + at, value * 2 if TWICE else value, mask=at < n)


def same(a, b) -> bool:
    return a[:3] == b[:3] and all(x is y or (not isinstance(x, torch.Tensor) and x == y) for x, y in zip(a[3], b[3], strict=True))


notes = Notes()
driver.set_active(notes)
x, out = torch.zeros(64), torch.zeros(64)
calls = [
    ((x, None, out, 64, 2.0), {"BLOCK": 32, "TWICE": False}, 4),
    ((x, x, out, 64, 2.0), {"BLOCK": 32, "TWICE": False}, 4),
    ((x, x, out, 1, 2.0), {"BLOCK": 32, "TWICE": False}, 4),  # 1 is compiled in
    ((x[1:], x, out, 63, 2.0), {"BLOCK": 32, "TWICE": False}, 4),  # its address is not aligned
    ((x, x, out, 1 << 40, 2.0), {"BLOCK": 32, "TWICE": True}, 8),
    ((x.half(), x, out, 64, 2.0), {"BLOCK": 64, "TWICE": True}, 8),
]
for given, constants, warps in calls:
    for _ in range(2):
        launch(scale, (2, 1, 1), *given, num_warps=warps, num_stages=2, **constants)
    scale[(2, 1, 1)](*given, num_warps=warps, num_stages=2, **constants)
    first, second, tritons = notes.started[-3:]
    assert same(first, tritons), (first, tritons)
    assert same(second, tritons), (second, tritons)
assert len(module._BUILT) == len(calls)
assert len({started[1:3] for started in notes.started}) == len(calls) - 1  # alignment is no part of the types
launch(scale, (0, 1, 1), *calls[0][0], **calls[0][1])
assert len(notes.started) == 3 * len(calls)
