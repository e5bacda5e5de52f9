"""Which device, and what happens when its memory runs out."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch

from chroma_gpu import device as devices
from chroma_gpu.errors import DeviceError

ROWS = np.arange(10)


@pytest.fixture
def two_gpus(monkeypatch):
    """A machine with two CUDA devices, as far as names go."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def test_auto_without_a_gpu(no_gpu):
    assert devices.pick() == devices.pick("auto") == devices.pick("cpu") == "cpu"
    assert devices.available() == ["cpu"]


def test_auto_with_gpus(two_gpus):
    assert devices.pick() == "cuda"
    assert [devices.pick(name) for name in ("cuda", "cuda:0", "cuda:1", "cpu")] == ["cuda", "cuda:0", "cuda:1", "cpu"]


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps", "gpu", "", "cpu:1", "cuda:", "tpu:0"])
def test_a_device_that_is_not_there(name, no_gpu):
    with pytest.raises(DeviceError, match=r"is not there. This machine has: cpu\."):
        devices.pick(name)


@pytest.mark.parametrize("name", ["cuda:2", "cuda:-1", "cuda:x", "cuda:0:0"])
def test_the_error_names_what_is_there(name, two_gpus):
    with pytest.raises(DeviceError, match="This machine has: cpu, cuda:0, cuda:1"):
        devices.pick(name)


@pytest.mark.parametrize(
    ("capability", "half"),
    [((6, 1), ()), ((7, 5), ("float16",)), ((8, 0), ("float16", "bfloat16")), ((9, 0), ("float16", "bfloat16"))],
)
def test_16_bits_by_capability(capability, half, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda name: capability)
    assert devices.half_types("cuda:0") == half
    assert devices.half_types("cpu") == ()


def test_the_report():
    report = devices.describe()
    assert report.torch == torch.__version__
    assert [device.name for device in report.devices] == devices.available()
    assert report.threads >= 1


def run_up_to(size):
    calls = []

    def run(rows):
        calls.append(len(rows))
        if len(rows) > size:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return rows.tolist()

    return run, calls


@pytest.mark.parametrize("size", [1, 2, 3, 5, 9, 10, 11])
def test_halves_in_order(size):
    run, _ = run_up_to(size)
    parts = list(devices.with_smaller_batches(run, ROWS))
    assert np.concatenate([part for part, _ in parts]).tolist() == ROWS.tolist()
    assert [result for _, result in parts] == [part.tolist() for part, _ in parts]
    assert max(len(part) for part, _ in parts) <= size


def test_one_row_that_does_not_fit():
    run, calls = run_up_to(0)
    with pytest.raises(DeviceError, match="a batch of one does not fit") as caught:
        list(devices.with_smaller_batches(run, ROWS))
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)
    assert calls == [10, 5, 2, 1]
    assert list(devices.with_smaller_batches(run, ROWS[:2], lambda rows: "elsewhere"))[1][1] == "elsewhere"


def test_other_errors_are_raised_at_once():
    calls = []

    def run(rows):
        calls.append(len(rows))
        raise RuntimeError("CUDA error: device-side assert triggered")

    with pytest.raises(RuntimeError, match="device-side assert"):
        list(devices.with_smaller_batches(run, ROWS))
    assert calls == [10]


def test_what_the_failed_attempt_held_is_let_go_before_memory_is_freed(monkeypatch):
    class Big:
        pass

    held = []

    def free():
        gc.collect()
        assert not any(reference() is not None for reference in held)

    monkeypatch.setattr(devices, "free_cached_memory", free)

    def run(rows):
        big = Big()
        held.append(weakref.ref(big))
        if len(rows) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return None

    list(devices.with_smaller_batches(run, ROWS))
    assert len(held) == 7


@pytest.mark.parametrize(
    ("error", "yes"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), True),
        (MemoryError(), True),
        (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error, yes):
    assert devices.is_out_of_memory(error) == yes
