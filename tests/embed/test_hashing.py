"""The function without weights."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from chroma_gpu.embed.hashing import HashingEmbeddingFunction


def test_norms_and_dimensions():
    for dimension in (1, 7, 256):
        vectors = np.stack(HashingEmbeddingFunction(dimension)([f"some words {n}" for n in range(20)]))
        assert vectors.shape == (20, dimension)
        norms = np.linalg.norm(vectors, axis=1)
        assert set(np.round(norms, 5)) <= {0.0, 1.0}
    assert not HashingEmbeddingFunction()(["", "?!"])[0].any()


def test_shared_words_are_near():
    a, b, c = HashingEmbeddingFunction(1_024)(["red kitten on a mat", "the red kittens mat", "quarterly revenue fell"])
    assert a @ b > 0.5
    assert abs(a @ c) < 0.2


def test_the_vectors_are_the_same_in_every_process_and_version():
    code = "from chroma_gpu.embed.hashing import *; print([round(float(x), 4) for x in HashingEmbeddingFunction(6)(['Red kitten'])[0]])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    want = [round(float(x), 4) for x in HashingEmbeddingFunction(6)(["Red kitten"])[0]]
    assert done.stdout.strip() == str(want)
    assert want == [-0.2582, -0.5164, -0.2582, 0.5164, -0.5164, -0.2582], "stored vectors would no longer fit"
