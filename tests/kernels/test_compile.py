"""Every kernel compiles for every architecture, without a card: into its registers and its shared memory, with nothing left over."""

from __future__ import annotations

import ast
import importlib
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from chroma_gpu.kernels.tuning import CAPABILITIES, SHARED, Variant

FOLDER = Path(__file__).parent.parent.parent / "kernels"
FILES = sorted(FOLDER.glob("*_triton.py"))
SCRIPT = Path(__file__).with_name("build_variants.py")
PARTS = 2
REGISTERS = 65_536
"""Of one multiprocessor, on every architecture here."""
SPILLED = 32
"""Bytes of a thread that may lie outside of registers: releases of Triton differ by a few words; a tile that does not fit spills hundreds."""


def variants_of(path: Path) -> tuple[Variant, ...]:
    """What a file launches of its own kernels; a file that launches those of another has none."""
    return getattr(importlib.import_module(f"chroma_gpu.kernels.{path.stem}"), "VARIANTS", ())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_kernel_that_is_launched_is_a_variant(path):
    """What a function under ``@triton.jit`` does not call itself is launched from outside; that must be built, whoever adds it."""
    pytest.importorskip("triton", reason="kernels are built by Triton, which is for Linux only")
    tree = ast.parse(path.read_text())
    kernels = {
        each.name: {node.func.id for node in ast.walk(each) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
        for each in tree.body
        if isinstance(each, ast.FunctionDef) and any("triton.jit" in ast.unparse(d) for d in each.decorator_list)
    }
    called = set().union(*kernels.values())
    variants = variants_of(path)
    assert all(isinstance(each, Variant) for each in variants)
    assert len({each.name for each in variants}) == len(variants), "two variants have one name"
    assert kernels.keys() - called <= {each.fn.__name__ for each in variants}


@pytest.fixture(scope="session")
def reports(request):
    """Reports of what was built, by architecture. Processes without the interpreter, two at a time; Triton keeps what it compiled."""
    pytest.importorskip("triton", reason="kernels are built by Triton, which is for Linux only")
    made: dict[int, list[dict]] = {}
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(request.config.cache.mkdir("triton"))

    def of(capability: int) -> list[dict]:
        if capability not in made:
            commands = [[sys.executable, str(SCRIPT), str(capability), str(part), str(PARTS)] for part in range(PARTS)]
            running = [
                subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                for command in commands
            ]
            said = [process.communicate() for process in running]
            assert not any(process.returncode for process in running), "\n".join(error for _, error in said)
            made[capability] = [json.loads(line) for out, _ in said for line in out.splitlines()]
        return made[capability]

    return of


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "capability", [c if c in {75, 90} else pytest.param(c, marks=pytest.mark.soak) for c in CAPABILITIES], ids=lambda c: f"sm_{c}"
)
def test_every_variant_fits(reports, capability):
    found = reports(capability)
    expected = {(path.name, each.name) for path in FILES for each in variants_of(path) if each.least_capability <= capability}
    assert {(each["file"], each["name"]) for each in found} == expected
    wrong = [each for each in found if "error" in each or not _fits(each, capability)]
    assert not wrong, "\n".join(map(str, wrong))


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "capability", [c if c in {75, 90} else pytest.param(c, marks=pytest.mark.soak) for c in CAPABILITIES], ids=lambda c: f"sm_{c}"
)
def test_atomics(reports, capability):
    """Places are given to one thread each, and scratch that programs share is written, read and given back by all threads in turn."""
    assert not [fault for each in reports(capability) for fault in each.get("unordered", ())]


GOOD = """
bar.sync 0;
@%p1 atom.global.acq_rel.gpu.cas.b32 %r1, [ %rd1 + 0 ], %r2, %r3;
@%p1 st.shared.b32 [ %r4 + 0 ], %r1;
bar.sync 0;
st.global.v4.b32 [ %rd2 + 0 ], { %r5 };
bar.sync 0;
ld.global.cg.v4.b32 { %r6 }, [ %rd2 + 0 ];
@%p2 atom.global.gpu.relaxed.add.u32 %r7, [ %rd3 + 0 ], %r8;
st.shared.b32 [ %r9 + 0 ], %r7;
bar.sync 0;
@%p3 st.global.b32 [ %rd4 + 0 ], { %r6 };
bar.sync 0;
@%p1 atom.global.gpu.acq_rel.exch.b32 %r10, [ %rd1 + 0 ], %r11;
"""


def test_what_atomics_lack_is_found():
    unordered = runpy.run_path(str(SCRIPT))["unordered"]
    assert unordered(GOOD, 32, 128) == []
    lines = GOOD.splitlines()
    for number, line in enumerate(lines):
        if line.startswith("bar.sync") and number not in {1, 10}:  # these two are of the compiler's own making
            assert unordered("\n".join(lines[:number] + lines[number + 1 :]), 32, 128), f"without line {number}"
    for was, instead in (
        (".gpu.", ".cta."),
        ("acq_rel", "relaxed"),
        ("@%p2 atom", "atom"),
        ("st.shared.b32 [ %r9", "st.global.b32 [ %r9"),
    ):
        assert unordered(GOOD.replace(was, instead), 32, 128), was


def _fits(each: dict, capability: int) -> bool:
    registers = -(-each["registers"] // 8) * 8 * each["threads"]  # they are given out in eights
    return each["spilled"] <= SPILLED and each["shared"] <= SHARED[capability] and registers <= REGISTERS
