"""What other processes do with a cache of embeddings."""

from __future__ import annotations

from pathlib import Path

import numpy as np

DIM = 24


def vectors_of(texts, dim=DIM):
    """A vector that follows from its text."""
    seeds = [abs(hash_of(text)) for text in texts]
    return np.array([np.random.default_rng(seed).standard_normal(dim) for seed in seeds], np.float32).reshape(-1, dim)


def hash_of(text):
    import zlib

    return zlib.crc32(text.encode("utf-8", "surrogatepass"))


def write(directory, limit, seed, rounds, pipe=None):
    """Look up and keep random texts of a small world, in several models; how many vectors were found, all of them right."""
    from chroma_gpu.embed.memory.cache import EmbeddingCache

    cache, random, found = EmbeddingCache(Path(directory), limit), np.random.default_rng(seed), 0
    if pipe is not None:
        pipe.send("open")
    for at in range(rounds):
        remembered = cache.of(f"model {at % 2}", DIM)
        texts = [f"{at % 2} {n}" for n in random.choice(400, 50, replace=False).tolist()]
        known, vectors = remembered.find(texts)
        right = vectors_of(texts)
        assert np.array_equal(vectors, right[known])
        found += len(vectors)
        missing = np.flatnonzero(~known)
        remembered.keep([texts[n] for n in missing], right[missing])
    assert not cache.off
    return found


def report(pipe, *args):
    """Send what ``write`` returned, or what it raised."""
    import traceback

    try:
        pipe.send(write(*args))
    except BaseException:
        pipe.send(traceback.format_exc())
    pipe.close()
