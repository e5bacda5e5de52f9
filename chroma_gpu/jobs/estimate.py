"""How much an embedding job has to do, and how long that will take, before anything is written."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Mapping as Fields
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np

from chroma_gpu import device as devices
from chroma_gpu.api import names
from chroma_gpu.api.collection_configuration import stored_function
from chroma_gpu.api.open import PersistentClient
from chroma_gpu.embed import EmbeddingFunction, embed_blocks
from chroma_gpu.embed.local import DefaultEmbeddingFunction
from chroma_gpu.embed.stream.team import members_of
from chroma_gpu.errors import NotFoundError
from chroma_gpu.jobs import inputs, model
from chroma_gpu.jobs.chunking import Chunker
from chroma_gpu.jobs.mapping import Mapping
from chroma_gpu.jobs.options import EmbedOptions
from chroma_gpu.jobs.report import duration
from chroma_gpu.jobs.rows import BadRow, Item, Row

SAMPLE: Final = 4_096
"""Texts that are drawn, to be tokenised and embedded."""

FIRST: Final = 64
"""Texts of the first measurement; each next one has four times as many, until one takes ENOUGH."""
ENOUGH: Final = 2.0
"""Seconds of embedding that say how long the rest will take."""

RECORD_BYTES: Final = 320
TEXT_BYTES: Final = 1.6
"""Disk of a record without its vector, and more for each byte of its text, metadata and id: measured on 20,000 short texts, with and
without metadata (1.2), and on abstracts of 1,000 characters."""

EXAMPLES: Final = 3
"""Bad rows of which it is said what is wrong."""


@dataclass(slots=True, kw_only=True)
class Estimate:
    """What a job would do.

    rows, bad         all of them were read and counted; ``examples`` says what is wrong with the first bad ones
    texts             that would be embedded, if none is there or known already; given: vectors that come with their rows
    characters        of all texts
    there             records that the collection has
    tokens            of all texts as the model reads them, by a sample of ``sampled`` texts, as are tokens_mean and tokens_max; None where
                      nobody can count them
    truncated_share   of texts that are longer than what the model reads, in the sample; None if that is not known
    texts_per_second  as measured; seconds: for all texts. None if there was nothing to measure
    vector_bytes, record_bytes  disk; free_bytes: what is free where they would go
    gpu_bytes         memory of the GPU with the model and its largest batch, of gpu_total; None without a GPU
    """

    inputs: int = 0
    rows: int = 0
    bad: int = 0
    examples: list[str] = field(default_factory=list)
    texts: int = 0
    given: int = 0
    characters: int = 0
    there: int = 0
    sampled: int = 0
    tokens: int | None = None
    tokens_mean: float | None = None
    tokens_max: int | None = None
    truncated_share: float | None = None
    model: str | None = None
    dtype: str | None = None
    device: str | None = None
    dim: int | None = None
    texts_per_second: float | None = None
    seconds: float | None = None
    vector_bytes: int = 0
    record_bytes: int = 0
    free_bytes: int = 0
    gpu_bytes: int | None = None
    gpu_total: int | None = None

    @property
    def tokens_per_second(self) -> float | None:
        """As measured."""
        return None if self.tokens_mean is None or self.texts_per_second is None else self.tokens_mean * self.texts_per_second

    def to_json(self) -> dict[str, Any]:
        """Every field, and the rate."""
        return asdict(self) | {"tokens_per_second": self.tokens_per_second}

    def lines(self) -> list[str]:
        """The estimate for people; nothing was written."""
        lines = [f"{self.rows:,} rows of {self.inputs:,} {'input' if self.inputs == 1 else 'inputs'}, {self.bad:,} of them bad"]
        lines += [f"  {example}" for example in self.examples]
        texts = f"{self.texts:,} texts, {self.characters:,} characters"
        lines.append(texts + (f", and {self.given:,} vectors that are given" if self.given else ""))
        if self.there:
            lines.append(
                f"  the collection has {self.there:,} records; rows that are there with the same text are not embedded again"
            )
        if self.tokens is not None and self.tokens_mean is not None:
            cut = "" if self.truncated_share is None else f"; {self.truncated_share:.1%} are cut at the model's length"
            about = "about " if self.sampled < self.texts else ""
            lines.append(f"{about}{self.tokens:,} tokens: {self.tokens_mean:,.1f} a text, {self.tokens_max:,} at most{cut}")
        made = [self.model, self.dtype and f"in {self.dtype}", self.device and f"on {self.device}"]
        if any(made):
            lines.append(", ".join(each for each in made if each))
        if self.texts_per_second is not None and self.seconds is not None:
            rate = f"{self.texts_per_second:,.0f} texts/s"
            rate += "" if self.tokens_per_second is None else f", {self.tokens_per_second:,.0f} tokens/s"
            lines.append(f"about {duration(self.seconds)} to embed them: {rate}")
        if self.gpu_bytes is not None:
            lines.append(f"about {_size(self.gpu_bytes)} of the GPU's {_size(self.gpu_total or 0)}")
        disk = self.vector_bytes + self.record_bytes
        short = " That is not enough." if disk > self.free_bytes else ""
        lines.append(
            f"about {_size(disk)} of disk: {_size(self.vector_bytes)} of vectors, {_size(self.record_bytes)} of records; "
            f"{_size(self.free_bytes)} are free.{short}"
        )
        return [*lines, "nothing was written"]


def estimate(options: EmbedOptions, *, function: EmbeddingFunction[Any] | None = None) -> Estimate:
    """What a job with these options would do. Writes nothing and makes no folder; a collection that is there is looked at.

    function  in place of the one that the options name
    Raises    as the job does before it reads, and what reading raises; what loading the model and embedding raise
    Cost      all inputs are read, and cut into chunks; some thousand texts are tokenised, and embedded for some seconds
    """
    sources = inputs.found(options)
    found = Estimate(inputs=len(sources))
    stored, runs = _function(options, function, found)
    tokenizer = None if runs is None or options.chunk not in ("tokens", "sentences") else model.tokenizer(runs)
    sample = _count(sources, options, Chunker.of(options, tokenizer), found)
    if runs is not None and sample:
        _measure(runs, sample, found)
        found.model, found.dtype, found.device = (model.described(stored, runs)[name] for name in ("model", "dtype", "device"))
    found.vector_bytes = 4 * (found.dim or 0) * (found.texts + found.given)
    found.free_bytes = shutil.disk_usage(
        _there(Path(options.path if options.collection is not None else options.out or "."))
    ).free
    return found


def _function(
    options: EmbedOptions, given: EmbeddingFunction[Any] | None, found: Estimate
) -> tuple[Fields[str, Any] | None, EmbeddingFunction[Any] | None]:
    """(how it is stored, what runs) of the function that would embed; None where rows bring their vectors."""
    chosen = given if given is not None else model.chosen(options)
    folder = Path(options.path).expanduser()
    if options.collection is not None:
        names.check_collection(options.collection)
    if options.collection is not None and (folder / "format.json").exists():
        with suppress(NotFoundError), PersistentClient(folder) as client:
            collection = client.get_collection(options.collection)
            model.check_same(options.collection, collection.configuration_json.get("embedding_function"), chosen)
            found.there, found.dim = collection.count(), collection.describe()["dimension"]
            chosen = collection._function() if chosen is None else chosen
    if options.vector_column is not None:
        return None, None
    chosen = DefaultEmbeddingFunction() if chosen is None else chosen
    return stored_function(chosen), model.running(chosen, options)


def _count(sources: Sequence[inputs.Input], options: EmbedOptions, chunker: Chunker, found: Estimate) -> list[str]:
    """Read everything; a sample of the texts, each of them as likely to be in it (Vitter 1985, algorithm R)."""
    mapping, draw, sample = Mapping.of(options, found.dim), random.Random(options.seed), list[str]()  # noqa: S311  no secret
    raw = 0
    for row in inputs.rows(sources, options):
        found.rows += 1
        made = mapping.item(row) if isinstance(row, Row) else row
        if isinstance(made, BadRow):
            _note(made, found)
            continue
        for item in chunker.items(made):
            raw += _bytes(item)
            if item.vector is not None:
                found.given += 1
                found.dim = len(item.vector)
                continue
            text = item.text or ""
            found.texts += 1
            found.characters += len(text)
            if len(sample) < SAMPLE:
                sample.append(text)
            elif (place := draw.randrange(found.texts)) < SAMPLE:
                sample[place] = text
    found.record_bytes = round(RECORD_BYTES * (found.texts + found.given) + TEXT_BYTES * raw)
    draw.shuffle(sample)
    return sample


def _note(row: BadRow, found: Estimate) -> None:
    found.bad += 1
    if len(found.examples) < EXAMPLES:
        found.examples.append(f"{row.source}, row {row.number:,}: {row.error}: {row.message}")


def _bytes(item: Item) -> int:
    """Of id, text, uri and metadata."""
    texts = (item.id, item.text or "", item.uri or "")
    return sum(map(len, texts)) + (len(json.dumps(item.metadata, default=str)) if item.metadata else 0)


def _measure(function: EmbeddingFunction[Any], sample: list[str], found: Estimate) -> None:
    """Embed more and more of the sample, until it takes long enough to tell."""
    list(embed_blocks(function, sample[:2]))  # which loads the model
    _reset_peak()
    done = 0
    while done < len(sample) and (found.seconds or 0.0) < ENOUGH:
        part = sample[done : done + max(FIRST, 3 * done)]
        started = perf_counter()
        blocks = [vectors for _, vectors in embed_blocks(function, part)]
        found.seconds = perf_counter() - started
        found.texts_per_second, found.dim = len(part) / found.seconds, blocks[-1].shape[1]
        done += len(part)
    found.sampled = len(sample)
    found.seconds = None if found.texts_per_second is None else found.texts / found.texts_per_second
    encoder = getattr(function, "_encoder", None)
    if encoder is not None:
        encoder = members_of(encoder)[0]
        _count_tokens(encoder, function, sample, found)
        found.gpu_bytes, found.gpu_total = _memory(encoder, found.tokens_max or 1)


def _count_tokens(encoder: Any, function: Any, sample: list[str], found: Estimate) -> None:
    prompt = function.prompt(False)
    lengths = encoder.pre(sample, prompt).lengths
    found.tokens_mean, found.tokens_max = float(lengths.mean()), int(lengths.max())
    found.tokens = round(found.tokens_mean * found.texts)
    tokenizer = model.tokenizer(function)
    if tokenizer is None:
        return
    from tokenizers import Tokenizer

    whole = Tokenizer.from_str(tokenizer.to_str())
    whole.no_truncation()
    whole.no_padding()
    # Some models leave out what frames a text: a short one tells how many tokens that are.
    short, *all_of_it = (len(each.ids) for each in whole.encode_batch_fast([prompt.text + text for text in ("a", *sample)]))
    framing = short - int(encoder.pre(["a"], prompt).lengths[0])
    found.truncated_share = float((np.array(all_of_it) - framing > lengths).mean())


def _reset_peak() -> None:
    if devices.is_gpu() and devices.pick().startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats()


def _memory(encoder: Any, length: int) -> tuple[int | None, int | None]:
    """(bytes on the GPU with the model and a full batch of texts of some length, bytes that it has)."""
    device = str(getattr(encoder, "device", "cpu"))
    if not device.startswith("cuda"):
        return None, None
    import torch

    # More than that is not needed to know whether a batch fits: what was used while the sample was embedded is in it too.
    batch = encoder.peak(max(1, encoder.budget // length), length) or 0
    return max(torch.cuda.max_memory_allocated(device), torch.cuda.memory_allocated(device) + batch), devices.total_memory(device)


def _there(path: Path) -> Path:
    """The nearest folder above that is there."""
    path = Path(os.path.abspath(path.expanduser()))
    return next(each for each in (path, *path.parents) if each.is_dir())


def _size(count: int) -> str:
    """Bytes for people."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:,.0f} {unit}" if unit == "B" or size >= 99.5 else f"{size:,.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"
