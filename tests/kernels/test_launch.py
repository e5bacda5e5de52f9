"""Launches: what Triton would start is started, on the device of the tensors; a recorded search answers as the search does."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton is for Linux only")
tl = triton.language

from chroma_gpu.kernels import launch as module  # noqa: E402
from chroma_gpu.kernels.launch import Replay, launch  # noqa: E402


@triton.jit
def scale(x, out, n, factor, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, tl.load(x + at, mask=at < n, other=0.0) * factor, mask=at < n)


def test_launches_start_what_triton_would(tmp_path):
    """With a driver that notes what it is asked to start: the interpreter knows no launches."""
    pytest.importorskip("triton", reason="Triton is for Linux only")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parent.parent.parent)}
    script = Path(__file__).with_name("note_launches.py")
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_launch_runs_the_kernel_with_its_own_arguments(device):
    for n, first in ((100, 0), (1, 0), (99, 1)):
        for factor in (2.0, -3.0):
            x = torch.arange(100, dtype=torch.float32, device=device)[first : first + n]
            out = torch.zeros(100, device=device)
            launch(scale, (4, 1, 1), x, out, n, factor, num_warps=1, num_stages=1, BLOCK=32)
            torch.testing.assert_close(out[:n], x * factor, rtol=0, atol=0)
            assert not out[n:].any()
    assert bool(module._BUILT) == (device != "cpu"), "what the interpreter gives cannot be kept"


def test_nothing_is_launched_on_an_empty_grid(device):
    launch(scale, (0, 1, 1), torch.ones(1, device=device), None, 1, 1.0, BLOCK=32)


def test_a_replay_answers_as_the_work_does(device):
    if device == "cpu":
        pytest.skip("graphs of launches are CUDA's")
    rows, bias = torch.randn(1_000, 16, device=device), torch.randn(1_000, device=device)

    def work(queries, slack):
        scores = queries @ rows.T - bias
        launch(scale, (32, 1, 1), scores, scores, scores.numel(), 2.0, BLOCK=128)  # 4,000 scores in 32 programs
        return torch.topk(scores, 10, dim=1).values - slack[:, None], scores

    replay = Replay(work, [torch.randn(4, 16, device=device), torch.zeros(4, device=device)], keeps=(rows, bias))
    for _ in range(3):
        given = torch.randn(4, 16, device=device), torch.randn(4, device=device)
        with replay.lock:
            found = [each.clone() for each in replay(*given)]
        for got, expected in zip(found, work(*given), strict=True):
            torch.testing.assert_close(got, expected)


def test_work_that_waits_for_the_card_cannot_be_recorded(device):
    if device == "cpu":
        pytest.skip("graphs of launches are CUDA's")
    with pytest.raises(RuntimeError):
        Replay(lambda x: [x * x.sum().item()], [torch.ones(4, device=device)])
    assert torch.ones(1, device=device).item() == 1.0, "the device goes on"


@pytest.mark.parametrize("name", ["collect_triton", "lists_triton"])
def test_numbers_of_a_search_are_not_compiled_in(name):
    """Each of them would make two or three kernels of one, to be built in the middle of some later search."""
    for variant in importlib.import_module(f"chroma_gpu.kernels.{name}").VARIANTS:
        names = {each for each, kind in variant.signature.items() if kind in {"i32", "i64"}}
        left = getattr(variant.fn, "do_not_specialize", None) or getattr(variant.fn, "kwargs", {}).get("do_not_specialize") or ()
        assert names == set(left), variant.name


def test_one_thread_compiles_at_a_time(device):
    """Triton's own state does not stand several, least of all the interpreter's."""
    inside, most = [], []

    class Slow:
        arg_names = ("x",)

        def __getitem__(self, grid):
            def run(*given, **more):
                inside.append(1)
                most.append(len(inside))
                both.wait(0.05) if len(most) == 1 else None
                inside.pop()

            return run

    both = threading.Event()
    kernel, x = Slow(), torch.zeros(1, device=device)
    threads = [threading.Thread(target=launch, args=(kernel, (1, 1, 1), x)) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert most == [1, 1, 1, 1]
