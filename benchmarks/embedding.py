"""Measure embedding on this machine's CPU: our pipeline beside sentence-transformers, the whole job, what it finds, its memory.

    python benchmarks/embedding.py [--texts 20000] [--steps speed,job,quality,flat] [--tiny]

Data are real texts in a folder beside the checkout (``--data``): packages.jsonl.gz, and cranfield/; without them the examples of the
repository, several joined where long texts are wanted, and then the step ``quality`` has nothing to judge by and is left out. Texts are measured in slices, every
way on every slice in turn, in an order that rotates; ratios are medians over pairs on one slice, as these machines are noisy. Rows are
appended to ``benchmarks/results/embedding-cpu.jsonl``; ``benchmarks/report.py`` makes the table of docs/embedding.md of the newest run.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Final, Self

ROOT: Final = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    # Not this folder: its datasets.py would be taken for the library of that name.
    sys.path[0] = str(ROOT)

import numpy as np  # noqa: E402

from benchmarks.cranfield import AT, Cranfield  # noqa: E402
from benchmarks.machine import commit, machine  # noqa: E402
from chroma_gpu.records import Vectors  # noqa: E402

DATA: Final = ROOT.parent / "shared" / "data"
EXAMPLES: Final = ROOT / "examples" / "data" / "packages-5k.jsonl"
JOINED: Final = 16
"""Examples in a long text."""
RESULTS: Final = ROOT / "benchmarks" / "results"
MODEL: Final = "all-MiniLM-L6-v2"
STEPS: Final = ("speed", "job", "quality", "flat")
TYPES: Final = {"fp32": "float32", "bf16": "bfloat16"}
BATCHES: Final = (16, 32, 64, 128)
"""Batch sizes among which the library's best is looked for; 32 is its default."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured: texts, slices of them, texts of the search for the best batch, of jobs, rows of the step ``flat``."""

    texts: int = 20_000
    slices: int = 4
    job: int = 10_000
    sample: int = 500
    flat: int = 199_955


TINY: Final = Size(texts=64, slices=2, sample=16, flat=3_000)


@dataclass(frozen=True, slots=True)
class Way:
    """Something that embeds texts; ``ours`` is what the others are compared with at the same precision. ``batch`` is the library's."""

    name: str
    dtype: str
    batch: int = 0

    @property
    def ours(self) -> bool:
        """Whether it is our pipeline."""
        return self.batch == 0

    def function(self) -> Callable[[Sequence[str]], Vectors]:
        """What embeds, loaded."""
        if self.ours:
            return _ours(TYPES[self.dtype])
        return partial(self.model().encode, batch_size=self.batch, show_progress_bar=False)

    def model(self) -> Any:
        """The library's model."""
        from sentence_transformers import SentenceTransformer

        from chroma_gpu.embed.encoders.sources import Request, find

        given = {"device": "cpu", "local_files_only": True, "model_kwargs": {"dtype": TYPES[self.dtype]}}
        return SentenceTransformer(str(find(Request(MODEL))), **given)


class Workers:
    """A process for each way, so that no way finds threads and memory as another has left them. They wait while others work."""

    def __init__(self) -> None:
        self._pools: dict[Way, ProcessPoolExecutor] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        for pool in self._pools.values():
            pool.shutdown()

    def embed(self, way: Way, texts: Sequence[str]) -> tuple[float, Vectors]:
        """Seconds that the texts took, and their vectors."""
        if way not in self._pools:
            self._pools[way] = ProcessPoolExecutor(1, get_context("spawn"))
        return self._pools[way].submit(_embedded, way, list(texts)).result()


def _embedded(way: Way, texts: list[str]) -> tuple[float, Vectors]:
    """In a process of ``Workers``."""
    if way not in _LOADED:
        _LOADED[way] = way.function()
        _LOADED[way](texts[:32])
    began = perf_counter()
    vectors = _LOADED[way](texts)
    return perf_counter() - began, vectors


_LOADED: Final[dict[Way, Callable[[Sequence[str]], Vectors]]] = {}


def main(given: Sequence[str] | None = None) -> int:
    """The command line."""
    options = _options(given)
    size = TINY if options.tiny else Size(texts=options.texts)
    run = {
        "run": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(Path(tempfile.gettempdir())),
        "commit": commit(ROOT),
        "model": MODEL,
        "version": _version(),
    }
    steps: dict[str, Callable[[Path, Size], Iterator[dict[str, Any]]]] = {
        "speed": _speed,
        "job": _job,
        "quality": _quality,
        "flat": _flat,
    }
    for step in options.steps:
        for row in steps[step](options.data, size):
            print({key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}, flush=True)
            if options.results is not None:
                options.results.mkdir(parents=True, exist_ok=True)
                with (options.results / "embedding-cpu.jsonl").open("a") as file:
                    file.write(json.dumps({**run, **row}) + "\n")
    return 0


def _speed(data: Path, size: Size) -> Iterator[dict[str, Any]]:
    """Texts a second of the pipeline alone, against the library at its default and at its best batch."""
    for name, texts in _texts(data, size).items():
        few = min(size.sample, max(1, len(texts) // 14))
        with Workers() as workers:
            ways = _ways(texts[:: len(texts) // few][:few])
            took: dict[Way, list[float]] = {way: [] for way in ways}
            vectors: dict[Way, list[Vectors]] = {way: [] for way in ways}
            parts = [texts[at :: size.slices] for at in range(size.slices)]
            for turn, part in enumerate(parts):
                for way in ways[turn % len(ways) :] + ways[: turn % len(ways)]:
                    seconds, made = workers.embed(way, part)
                    took[way].append(seconds)
                    vectors[way].append(made)
        exact = np.concatenate(vectors[next(way for way in ways if way.dtype == "fp32" and not way.ours)])
        for way in ways:
            ours = took[next(each for each in ways if each.ours and each.dtype == way.dtype)]
            yield {
                "case": f"speed_{name}",
                "way": way.name,
                "dtype": way.dtype,
                "texts": len(texts),
                "texts_per_second": median(len(part) / seconds for part, seconds in zip(parts, took[way], strict=True)),
                "ratio": median(theirs / mine for theirs, mine in zip(took[way], ours, strict=True)),
                "least_cosine": float(_cosines(np.concatenate(vectors[way]), exact).min()),
            }


def _ways(sample: Sequence[str]) -> list[Way]:
    """Ours and the library's, at full and at half precision; the library's best batch is found on a sample, before its slices."""
    ways = []
    for dtype in TYPES:
        with ProcessPoolExecutor(1, get_context("spawn")) as trying:
            best = trying.submit(_best_batch, dtype, list(sample)).result()
        library = [Way(f"sentence-transformers {dtype} batch {batch}", dtype, batch) for batch in dict.fromkeys((32, best))]
        ways += [Way(f"chroma_gpu {dtype}", dtype), *library]
    return ways


def _best_batch(dtype: str, sample: Sequence[str]) -> int:
    """The batch size at which the library is fastest, each tried twice; in a process of its own."""
    encode = Way("", dtype, 32).model().encode

    def seconds(batch: int) -> float:
        return min(_seconds(partial(encode, batch_size=batch, show_progress_bar=False), sample) for _ in range(2))

    encode(sample[:32], show_progress_bar=False)
    return min(BATCHES, key=seconds)


def _ours(dtype: str) -> Callable[[Sequence[str]], Vectors]:
    from chroma_gpu.embed.local import SentenceTransformerEmbeddingFunction

    function = SentenceTransformerEmbeddingFunction(MODEL, device="cpu", model_kwargs={"dtype": dtype})
    return lambda texts: np.concatenate([block for _, block in function.blocks(list(texts))])


def _job(data: Path, size: Size) -> Iterator[dict[str, Any]]:
    """The job from file to committed collection, against the pipeline alone on the same texts."""
    texts = _texts(data, size)["short"][: size.job]
    parts = [texts[at :: size.slices] for at in range(size.slices)]
    for dtype, name in TYPES.items():
        ways: list[Callable[[Sequence[str]], object]] = [_ours(name), partial(_whole_job, dtype)]
        took: list[list[float]] = [[], []]
        for way in ways:
            way(texts[:32])
        for turn, part in enumerate(parts):
            for which in (0, 1) if turn % 2 else (1, 0):
                took[which].append(_seconds(ways[which], part))
        alone, whole = took
        yield {
            "case": "job",
            "way": f"job {dtype}",
            "dtype": dtype,
            "texts": len(texts),
            "texts_per_second": median(len(part) / seconds for part, seconds in zip(parts, whole, strict=True)),
            "of_pipeline": median(mine / job for mine, job in zip(alone, whole, strict=True)),
        }


def _whole_job(dtype: str, texts: Sequence[str]) -> None:
    from chroma_gpu import jobs

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "texts.jsonl"
        file.write_text("".join(json.dumps({"id": str(at), "text": text}) + "\n" for at, text in enumerate(texts)))
        jobs.embed(str(file), collection="texts", path=f"{folder}/data", device="cpu", dtype=dtype, cache=False, progress="none")


def _quality(data: Path, size: Size) -> Iterator[dict[str, Any]]:
    """nDCG@10 of Cranfield: job, bulk-query and all between, against brute force over the library's vectors."""
    from sentence_transformers import SentenceTransformer

    from chroma_gpu import PersistentClient, jobs
    from chroma_gpu.embed.encoders.sources import Request, find

    if not (data / "cranfield").is_dir():
        print(f"quality is left out: {data} has no judged texts")
        return
    judged = Cranfield.load(data / "cranfield")
    documents = judged.documents[: size.sample] if size is TINY else judged.documents
    library = SentenceTransformer(str(find(Request(MODEL))), device="cpu", local_files_only=True)
    known = library.encode(documents, batch_size=16, show_progress_bar=False)
    asked = library.encode(judged.questions, batch_size=16, show_progress_bar=False)
    best = np.argsort(-(asked @ known.T), axis=1, kind="stable")[:, :AT]
    exact = judged.ndcg(best.tolist())
    for dtype in ("fp32", "auto"):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "documents.jsonl"
            # A document without text is none that can be found.
            rows = [{"id": str(at), "text": text} for at, text in enumerate(documents) if text]
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
            jobs.embed(str(file), collection="abstracts", path=f"{folder}/data", device="cpu", dtype=dtype, progress="none")
            with PersistentClient(f"{folder}/data") as client:
                found = client.get_collection("abstracts").query(query_texts=judged.questions, n_results=AT)["ids"]
        ours = judged.ndcg([[int(each) for each in ids] for ids in found])
        yield {"case": "quality", "way": f"job {dtype}", "dtype": dtype, "ndcg": ours, "exact_ndcg": exact}


def _flat(data: Path, size: Size) -> Iterator[dict[str, Any]]:
    """Memory and rate over many rows with the static model, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(Path(__file__).resolve()), "--flat-job", folder, "--data", str(data)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [*command, "--rows", str(size.flat)], env=environment, check=True, stdout=subprocess.PIPE, text=True
        )
    yield {"case": "flat", "way": "job, static model", "dtype": "fp32", **json.loads(done.stdout.splitlines()[-1])}


def flat_job(data: Path, folder: Path, rows: int) -> dict[str, Any]:
    """Embed the rows; the rate of each tenth and the memory after it."""
    from chroma_gpu import jobs

    marks: list[tuple[int, float, int]] = []
    file = folder / "texts.jsonl"
    with file.open("w") as target:
        target.writelines(json.dumps({"id": str(at), "text": text}) + "\n" for at, text in enumerate(_short(data, rows)))
    began = perf_counter()

    def mark(progressed: Any) -> None:
        marks.append((progressed.done, perf_counter(), _resident()))

    jobs.embed(str(file), collection="texts", path=str(folder / "data"), model="static", progress=mark)
    ended = perf_counter()
    tenth = rows // 10
    first = next(each for each in marks if each[0] >= tenth)
    second = next(each for each in marks if each[0] >= 2 * tenth)
    late = next(each for each in marks if each[0] >= rows - 2 * tenth)
    last = marks[-1]
    rate = [(after[0] - before[0]) / max(1e-9, after[1] - before[1]) for before, after in ((first, second), (late, last))]
    return {
        "texts": rows,
        "texts_per_second": rows / (ended - began),
        "second_tenth_per_second": rate[0],
        "last_fifth_per_second": rate[1],
        "end_of_start": rate[1] / rate[0],
        "memory_at_tenth": first[2],
        "memory_at_end": last[2],
    }


def _resident() -> int:
    """Bytes of memory that are this process's own: what is mapped of files can be taken back at any time."""
    found = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(found["RssAnon"].split()[0]) * 1024


def _texts(data: Path, size: Size) -> dict[str, list[str]]:
    """Short texts: one-line descriptions. Long ones: abstracts."""
    short = _short(data, size.texts)
    if (data / "cranfield").is_dir():
        long = [text for text in Cranfield.load(data / "cranfield").documents if text]
    else:
        long = [" ".join(short[at : at + JOINED]) for at in range(0, len(short) - JOINED, JOINED)]
    return {"short": short, "long": long[: size.texts]}


def _short(data: Path, n: int) -> list[str]:
    """n one-line descriptions, all different."""
    file = data / "packages.jsonl.gz"
    with gzip.open(file, "rt") if file.exists() else EXAMPLES.open() as lines:
        texts = [json.loads(line)["text"] for _, line in zip(range(n), lines, strict=False)]
    return [texts[at % len(texts)] + ("" if at < len(texts) else f" {at}") for at in range(n)]


def _cosines(a: Vectors, b: Vectors) -> Vectors:
    """[n] cosines of the rows of two matrices."""
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    return (a64 * b64).sum(axis=1) / np.linalg.norm(a64, axis=1) / np.linalg.norm(b64, axis=1)


def _seconds(run: Callable[[Sequence[str]], object], texts: Sequence[str]) -> float:
    began = perf_counter()
    run(texts)
    return perf_counter() - began


def _version() -> str:
    import sentence_transformers
    import torch

    return f"torch {torch.__version__}, sentence-transformers {sentence_transformers.__version__}"


def _options(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--steps", type=lambda text: text.split(","), default=list(STEPS))
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--no-results", dest="results", action="store_const", const=None)
    parser.add_argument("--tiny", action="store_true", help="rehearse with few texts")
    parser.add_argument("--flat-job", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    if unknown := set(options.steps) - set(STEPS):
        parser.error(f"no step {', '.join(sorted(unknown))}; there are {', '.join(STEPS)}")
    return options


if __name__ == "__main__":
    if "--flat-job" in sys.argv:
        asked = _options(None)
        print(json.dumps(flat_job(asked.data, asked.flat_job, asked.rows)))
        sys.exit(0)
    sys.exit(main())
