"""Builds what the kernels launch in production for some architectures, without a card; run by test_compile.py, one process each.

python build_variants.py CAPABILITY [PART PARTS]    prints one JSON object for each variant: what it takes, or why it cannot be built
"""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def main(capability: int, part: int = 0, parts: int = 1) -> None:
    sys.path.insert(0, str(ROOT))
    for path in sorted((ROOT / "kernels").glob("*_triton.py")):
        module = importlib.import_module(f"chroma_gpu.kernels.{path.stem}")
        for number, variant in enumerate(getattr(module, "VARIANTS", ())):
            if variant.least_capability <= capability and number % parts == part:
                sys.stdout.write(json.dumps({"file": path.name, "name": variant.name, **built(variant, capability)}) + "\n")


def built(variant, capability: int) -> dict[str, object]:
    """Bytes of shared memory, registers a thread, bytes a thread that did not fit into them; or the error."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = variant.fn.arg_names
    if missing := set(names) ^ {*variant.signature, *variant.constexprs}:
        return {"error": f"arguments missing, or given too much: {sorted(missing)}"}
    signature = {name: variant.signature.get(name, "constexpr") for name in names}
    # What torch allocates is aligned, and this is compiled in.
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if signature[name].startswith("*")}
    options = {"num_warps": variant.num_warps, "num_stages": variant.num_stages}
    try:
        source = ASTSource(variant.fn, signature, dict(variant.constexprs), aligned)
        kernel = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    except Exception as error:  # Triton's passes and ptxas raise many kinds
        return {"error": f"{type(error).__name__}: {error}"[-2_000:] + f" ({error.__cause__!r})"}
    registers, stack, local = usage(kernel.asm["cubin"])
    return {
        "shared": kernel.metadata.shared,
        "registers": registers,
        "spilled": stack + local,
        "threads": 32 * kernel.metadata.num_warps,
        "unordered": unordered(
            kernel.asm["ptx"], variant.constexprs.get("ROWS", 0) * variant.constexprs.get("BATCH", 0), 32 * variant.num_warps
        ),
    }


def unordered(ptx: str, entries: int, threads: int) -> list[str]:
    """What the threads of a card could do in another order than the one that is meant: lines of PTX, and what they lack.

    entries  how many numbers an atomic of this kernel has, or 0; where threads are more, several stand for one number
    """
    faults = []
    lines = [each.strip() for each in ptx.splitlines()]
    marks = [(i, found[0]) for i, line in enumerate(lines) if (found := _MARKS.search(line))]
    kinds = [kind for _, kind in marks]
    for place, (i, kind) in enumerate(marks):
        before, after = kinds[:place][::-1], kinds[place + 1 :]
        line, lacks = lines[i], []
        if kind == "atom.":
            if ".gpu." not in line or not line.startswith("@%p"):
                lacks.append("the whole card, or one thread for each number")
            if (".acq_rel." if ".cas." in line or ".exch." in line else ".relaxed.") not in line:
                lacks.append("its order")
            if ".cas." in line and _first(after, "bar.sync", "ld.global", "st.global", "atom.") != "bar.sync":
                lacks.append("that all threads wait for what was taken")
            if ".exch." in line and _first(before, "bar.sync", "ld.global", "st.global", "atom.") != "bar.sync":
                lacks.append("that all threads are done before it is given back")
            if ".add." in line and 0 < entries < threads and _first(after, "st.shared", "st.global") != "st.shared":
                lacks.append("that all threads of a number learn its place")
        elif "ld.global.cg" in line and _first(before, "bar.sync", "st.global") != "bar.sync":
            lacks.append("that all threads have written")
        faults += [f"{line}: {lack}" for lack in lacks]
    return faults


_MARKS = re.compile(r"\batom\.|\bbar\.sync|\b(?:ld|st)\.(?:global|shared)")


def _first(kinds: list[str], *wanted: str) -> str | None:
    return next((kind for kind in kinds if kind in wanted), None)


def usage(cubin: bytes) -> tuple[int, int, int]:
    """Registers, bytes of stack and bytes of local memory of a thread."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        said = subprocess.run([tool, "-res-usage", file.name], check=True, capture_output=True, text=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", said)
    registers, stack, local = map(int, found.groups())
    return registers, stack, local


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
