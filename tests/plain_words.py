"""Words of a text one character after the other, and BM25 over dictionaries: what the fast ways must agree with."""

from __future__ import annotations

import math
from collections import Counter
from unicodedata import category

from chroma_gpu.words import LONGEST, MOST

UNSPACED = [(0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3005, 0x3007), (0x3040, 0x312F), (0x31A0, 0x31BF)]
UNSPACED += [(0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0xFF66, 0xFF9F), (0x1B000, 0x1B16F)]
UNSPACED += [(0x20000, 0x3FFFF)]
BASE, MASK = 0x9E3779B97F4A7C15, (1 << 64) - 1


def in_word(char):
    return category(char)[0] in "LMN" or category(char) == "Pc"


def unspaced(char):
    return in_word(char) and any(first <= ord(char) <= last for first, last in UNSPACED)


def words_of(text):
    """Every word as often as it is there."""
    found, run, before = [], "", ""
    for char in text.lower() + " ":
        if in_word(char) and not unspaced(char):
            run, before = run + char, ""
            continue
        found += [run] * bool(run)
        run = ""
        if unspaced(char):
            found += [char] + [before + char] * bool(before)
        before = char if unspaced(char) else ""
    return found


def hash_of(word):
    total = 0
    for at, char in enumerate(word):
        state = (ord(char) + 1) * BASE & MASK
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & MASK
        state = (state ^ state >> 27) * 0x94D049BB133111EB & MASK
        total += (state ^ state >> 31) * pow(BASE, at, 1 << 64)
    return (total & MASK) >> 16


def bm25(texts, query, candidates, k):
    """[(key, score)], best first: 1 - BM25 of the candidates; ``texts`` by key, all that are live."""
    counts = {key: Counter(words_of(text)) for key, text in texts.items() if text}
    lengths = {key: min(sum(count.values()), LONGEST) for key, count in counts.items() if count}
    average = sum(lengths.values()) / len(lengths) if lengths else 0.0
    scored = {}
    for word, weight in sorted(Counter(words_of(query)).items(), key=lambda item: hash_of(item[0])):
        having = [key for key in lengths if word in counts[key]]
        idf = math.log1p((len(lengths) - len(having) + 0.5) / (len(having) + 0.5))
        for key in having:
            tf = min(counts[key][word], MOST)
            part = weight * idf * tf * 2.2 / (tf + 1.2 * (1.0 - 0.75 + 0.75 * lengths[key] / average))
            scored[key] = scored.get(key, 0.0) + part
    passing = [(1.0 - score, key) for key, score in scored.items() if key in candidates]
    return [(key, score) for score, key in sorted(passing)[:k]]
