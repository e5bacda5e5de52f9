"""Encoders without a model: what they make of a text can be told by looking, and how they fail is up to the test."""

from __future__ import annotations

import threading

import numpy as np
import torch


class Tokens:
    def __init__(self, texts):
        self.texts = texts
        self.lengths = np.array([len(text) for text in texts], np.int64)


class FakeEncoder:
    """The vector of a text is its length and its first letter.

    before  called with the texts of a batch before it is run; raises what it likes
    """

    dim, window, fingerprint, padded, lanes = 2, 8_192, None, True, 1

    def __init__(self, budget=100, before=lambda texts: None, **given):
        self.budget, self.before = budget, before
        self.batches, self.posted, self.threads = [], [], set()
        self.__dict__.update(given)

    def pre(self, texts, prompt):
        return Tokens([prompt.text + text for text in texts])

    def core(self, tokens, places):
        texts = [tokens.texts[place] for place in places]
        self.before(texts)
        self.threads.add(threading.current_thread().name)
        self.batches.append(texts)
        return texts

    def post(self, result):
        self.posted.append(result)
        return expected(result)

    def on_cpu(self):
        return None

    def peak(self, batch, length):
        return None


def expected(texts):
    return np.array([[len(text), ord(text[0]) if text else 0] for text in texts], np.float32).reshape(-1, 2)


def some_texts(n, seed=5, longest=40):
    random = np.random.default_rng(seed)
    return ["".join(chr(97 + n) for n in random.integers(0, 26, random.integers(1, longest))) for _ in range(n)]


def short_of_memory(most):
    """A ``before`` for a device that holds so many characters."""

    def before(texts):
        if len(texts) * max(map(len, texts)) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    return before


def workers():
    """The threads of streams that are there now."""
    return [thread for thread in threading.enumerate() if thread.name.startswith(("lane ", "tokenise "))]


class Remembering:
    """A memory in a dictionary."""

    def __init__(self):
        self.known, self.asked, self.kept = {}, [], []

    def of(self, fingerprint, dim):
        self.asked.append((fingerprint, dim))
        return self

    def find(self, texts):
        known = np.array([text in self.known for text in texts], bool)
        return known, np.array([self.known[text] for text in texts if text in self.known], np.float32).reshape(-1, 2)

    def keep(self, texts, vectors):
        assert np.isfinite(vectors).all()
        self.kept.append(list(texts))
        self.known.update(zip(texts, vectors, strict=True))
