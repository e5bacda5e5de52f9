"""An embedding function that counts what it embeds, rows for a job, and what a job must have left behind."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np

from chroma_gpu.embed import EmbeddingFunction, register_embedding_function

DIM = 8
POISON = "poison"


def vector_of(text):
    """[8] float32 that no other text has."""
    seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
    return np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)


@register_embedding_function
class CountingFunction(EmbeddingFunction[list[str]]):
    """Vectors from digests. Texts with ``POISON`` in them raise. Each text that gets a vector is a line of ``log``."""

    def __init__(self, log):
        self.log = str(log)

    def __call__(self, input):
        if any(POISON in text for text in input):
            raise ValueError("poison cannot be embedded")
        with open(self.log, "ab", buffering=0) as log:  # O_APPEND, one write: whole lines, whoever is killed
            log.write("".join(f"{text}\n" for text in input).encode())
        return [vector_of(text) for text in input]

    @staticmethod
    def name():
        return "counting-of-tests"

    def get_config(self):
        return {"log": self.log}

    @staticmethod
    def build_from_config(config):
        return CountingFunction(**config)

    def default_space(self):
        return "l2"


def embedded(log):
    """How often each text got a vector."""
    return Counter(Path(log).read_text().splitlines()) if os.path.exists(log) else Counter()


def write_rows(path, rows, bad_every=100):
    """JSON lines, every so many of which are bad in one of three ways; (good id -> text, numbers of the bad rows)."""
    good, bad, lines = {}, [], []
    for at in range(rows):
        text = f"text number {at}"
        if bad_every and at % bad_every == bad_every // 2:
            kind = at // bad_every % 3
            lines.append(
                ['{"id": "broken', json.dumps({"id": f"r{at}", "n": at}), json.dumps({"id": f"r{at}", "text": f"{POISON} {at}"})][
                    kind
                ]
            )
            bad.append(at + 1)
        else:
            good[f"r{at}"] = text
            lines.append(json.dumps({"id": f"r{at}", "text": text, "n": at}))
    Path(path).write_text("\n".join(lines) + "\n")
    return good, bad


def check(collection, good):
    """Every good row is there once, in order, with its own text, metadata and vector, and nothing else."""
    got = collection.get(include=["documents", "metadatas", "embeddings"])
    assert got["ids"] == list(good)
    assert got["documents"] == list(good.values())
    assert [each["n"] for each in got["metadatas"]] == [int(each[1:]) for each in good]
    np.testing.assert_array_equal(got["embeddings"], [vector_of(text) for text in good.values()])


def letters(path):
    """What a file of bad rows has."""
    return [json.loads(line) for line in Path(path).read_text().splitlines()]
