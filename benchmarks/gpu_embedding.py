"""Measure embedding on a GPU: the pipeline beside sentence-transformers, models of real shapes with random weights, three lengths of text.

    python benchmarks/gpu_embedding.py [--minutes 9]
    python benchmarks/gpu_embedding.py --device cpu --tiny

Speed does not depend on what weights hold, and no model has to be fetched. Rows are appended to
``benchmarks/results/embedding-gpu-<card>.jsonl``; cells that the file has for this commit are left out, so the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path[0] = str(ROOT)

import numpy as np  # noqa: E402
import torch  # noqa: E402

from benchmarks import gpu_embedding_ways  # noqa: E402
from benchmarks.gpu_timing import Clock, peaks  # noqa: E402
from benchmarks.machine import commit, machine  # noqa: E402

RESULTS: Final = ROOT / "benchmarks" / "results"
_WORDS: Final = 20_000


@dataclass(frozen=True, slots=True)
class Shape:
    """A BERT: layers, width, heads, width of the layer between."""

    name: str
    layers: int
    hidden: int
    heads: int
    between: int

    def operations(self, length: float) -> float:
        """Of a forward pass, for each token of a text of so many: twice the weights of the layers, and attention."""
        weights = self.layers * (4 * self.hidden**2 + 2 * self.hidden * self.between)
        return 2.0 * weights + 4.0 * self.layers * self.hidden * length


SHAPES: Final = (Shape("MiniLM-L6", 6, 384, 12, 1536), Shape("bge-base", 12, 768, 12, 3072))
LENGTHS: Final = {"short": 16, "medium": 64, "long": 256}
TEXTS: Final = {"short": 400_000, "medium": 100_000, "long": 25_000}
"""For the pipeline; the library gets a twentieth, or a quarter in its fast mode, so that a cell takes seconds."""


def main(given: Sequence[str] | None = None) -> int:
    """The command line. 0: all cells are measured. 1: one failed. 3: the minutes were over, the same command goes on."""
    options = _options(given)
    clock = Clock(options.device)
    card = torch.cuda.get_device_name(options.device) if clock.cuda else "cpu"
    file = options.results / f"embedding-gpu-{re.sub(r'[^a-z0-9]+', '-', card.lower().removeprefix('nvidia ')).strip('-')}.jsonl"
    here = commit(ROOT)
    done = {(row["shape"], row["length"]) for row in _rows(file) if row["commit"] == here and row["error"] is None}
    facts = {"run": datetime.now(UTC).isoformat(timespec="seconds"), "commit": here, "machine": machine(ROOT), "card": card}
    facts |= {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "peaks": peaks(clock, tiny=options.tiny),
        "tiny": options.tiny,
    }
    ends, failed = monotonic() + 60 * options.minutes, 0
    with tempfile.TemporaryDirectory() as folder:
        for shape, length in product(SHAPES, LENGTHS):
            if (shape.name, length) in done:
                continue
            if monotonic() > ends:
                print("the minutes are over: the same command goes on")
                return 3
            try:
                row = _cell(shape, length, Path(folder), options, facts["peaks"], clock)
            except Exception as error:  # the row says why, and the other cells go on
                if options.tiny:
                    raise
                row = {"shape": shape.name, "length": length, "error": f"{type(error).__name__}: {error}"[:500]}
            failed += row["error"] is not None
            options.results.mkdir(parents=True, exist_ok=True)
            with file.open("a") as out:
                out.write(json.dumps({**facts, **row}) + "\n")
            print(row, flush=True)
    return int(failed > 0)


def _cell(
    shape: Shape, length: str, folder: Path, options: argparse.Namespace, ceilings: dict[str, float], clock: Clock
) -> dict[str, Any]:
    """One model and one length of text: the pipeline, the library as it comes, the library in 16 bits with large batches."""
    from sentence_transformers import SentenceTransformer

    from chroma_gpu.embed.local import SentenceTransformerEmbeddingFunction
    from chroma_gpu.embed.stream.stats import Stats

    n = 64 if options.tiny else TEXTS[length]
    directory = model(folder / shape.name, _small(shape) if options.tiny else shape)
    texts = made_texts(n, 4 if options.tiny else LENGTHS[length])
    ours = SentenceTransformerEmbeddingFunction(str(directory), device=options.device)
    stats = Stats()

    def pipeline() -> Any:
        return np.concatenate([block for _, block in ours.blocks(texts, stats=stats)])

    list(ours.blocks(texts[: max(32, n // 10)]))  # loads, finds the budget, fills tables of words
    took, mine = _timed(pipeline)
    tokens = stats.tokens
    rate = tokens / took
    row = {
        "shape": shape.name,
        "length": length,
        "error": None,
        "texts": n,
        "tokens": tokens,
        "tokens_per_second": rate,
        "texts_per_second": n / took,
        "mfu": rate * shape.operations(tokens / n) / 1e12 / ceilings["float16"],
        "waste": stats.waste,
        "busy": max(stats.busy.values(), default=0.0) / took,
    }
    row |= gpu_embedding_ways.measured(ours, pipeline, took, clock)
    library = SentenceTransformer(str(directory), device=options.device, local_files_only=True)
    half = {"dtype": torch.float16} if options.device.startswith("cuda") else {}
    fast = SentenceTransformer(str(directory), device=options.device, local_files_only=True, model_kwargs=half)
    for name, engine, batches, share in (("default", library, (32,), 20), ("fp16", fast, (256, 1024, 4096), 4)):
        part = texts[: max(32, n // share)]
        engine.encode(part[:32], show_progress_bar=False)
        best = 0.0
        for batch in batches:
            seconds, theirs = _timed(
                lambda engine=engine, batch=batch, part=part: engine.encode(part, batch_size=batch, show_progress_bar=False)
            )
            best = max(best, len(part) / seconds)
        row |= {f"st_{name}_texts_per_second": best, f"st_{name}_ratio": row["texts_per_second"] / best}
        row |= {f"st_{name}_least_cosine": float(_cosines(mine[: len(part)], theirs).min())}
    return row


def model(directory: Path, shape: Shape) -> Path:
    """A sentence-transformers directory of this shape: mean of the tokens, normalised; random weights, one token for each word."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    if directory.exists():
        return directory
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: at for at, word in enumerate([*special, *_words()])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", [("[CLS]", 2), ("[SEP]", 3)]
    )
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.between,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(directory)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, **named).save_pretrained(directory)
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for at, (path, kind) in enumerate(kinds.items())
    ]
    for path in kinds:
        (directory / path).mkdir(exist_ok=True)
    (directory / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": shape.hidden, "pooling_mode_mean_tokens": True})
    )
    (directory / "modules.json").write_text(json.dumps(modules))
    (directory / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 512, "do_lower_case": False}))
    return directory


def made_texts(n: int, tokens: int) -> list[str]:
    """Texts of ``tokens`` tokens each on average, from half of it to one and a half, special tokens included."""
    rng = np.random.default_rng(3)
    words = np.array(_words())
    lengths = np.maximum(1, rng.integers(tokens // 2, tokens + tokens // 2 + 1, n) - 2)
    drawn = words[rng.integers(0, len(words), int(lengths.sum()))]
    return [" ".join(part) for part in np.split(drawn, np.cumsum(lengths)[:-1])]


def _words() -> list[str]:
    letters = "abcdefghijklmnopqrstuvwxyz"
    return ["".join(word) for word, _ in zip(product(letters, repeat=4), range(_WORDS), strict=False)]


def _small(shape: Shape) -> Shape:
    return Shape(shape.name, 1, 32, 2, 64)


def _timed(run: Callable[[], Any]) -> tuple[float, Any]:
    began = perf_counter()
    made = run()
    return perf_counter() - began, made


def _cosines(a: Any, b: Any) -> Any:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def _rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def _options(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=600.0, help="no cell is begun after these")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument(
        "--tiny", action="store_true", help="small models and few texts, to see that everything runs; these rows are no results"
    )
    options = parser.parse_args(given)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("torch sees no GPU here; --device cpu --tiny rehearses")
    return options


if __name__ == "__main__":
    sys.exit(main())
