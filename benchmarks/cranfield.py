"""Cranfield: 1,400 abstracts of aerodynamics, 225 questions, judged. Read from a folder beside the checkout; how good a ranking of it is.

Source   Cleverdon 1967; files cran.all.1400, cran.qry, cranqrel. Judgements count questions by position; code 1 is the best, 4 the least.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

AT: Final = 10


@dataclass(frozen=True, slots=True)
class Cranfield:
    """Texts of documents and questions; gains[q][d] is 4 for the best answers of a question, 1 for the least."""

    documents: list[str]
    questions: list[str]
    gains: list[dict[int, int]]

    @classmethod
    def load(cls, folder: Path) -> Cranfield:
        """Raises FileNotFoundError."""
        questions = _texts(folder / "cran.qry")
        gains: list[dict[int, int]] = [{} for _ in questions]
        for line in (folder / "cranqrel").read_text().splitlines():
            question, document, code = map(int, line.split())
            if 1 <= code <= 4:
                gains[question - 1][document - 1] = 5 - code
        return cls(_texts(folder / "cran.all.1400"), questions, gains)

    def ndcg(self, found: Sequence[Sequence[int]]) -> float:
        """Mean nDCG@10 of the documents found for each question, best first; gains are linear, places count 1 / log2(place + 1)."""
        return float(np.mean([_ndcg(gains, documents) for gains, documents in zip(self.gains, found, strict=True)]))


def _ndcg(gains: Mapping[int, int], found: Sequence[int]) -> float:
    weights = 1 / np.log2(np.arange(2, AT + 2))
    best = np.zeros(AT)
    best[: len(gains)] = sorted(gains.values(), reverse=True)[:AT]
    mine = np.zeros(AT)
    mine[: len(found)] = [gains.get(document, 0) for document in found[:AT]]
    return float(mine @ weights / (best @ weights)) if gains else 0.0


def _texts(file: Path) -> list[str]:
    """Title and text of each entry, white space made single. Questions have no title."""
    entries = re.split(r"^\.I \d+\s*\n", file.read_text(), flags=re.MULTILINE)[1:]
    fields = [dict(re.findall(r"^\.([TABW])\n(.*?)(?=^\.[TABW]\n|\Z)", each, re.MULTILINE | re.DOTALL)) for each in entries]
    return [" ".join(f"{each.get('T', '')} {each.get('W', '')}".split()) for each in fields]
