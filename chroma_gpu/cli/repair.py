"""``chroma-gpu repair``: what is derived from records is made anew; what is wrong with records is told."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Final

from rich.console import Console

from chroma_gpu import Repair
from chroma_gpu.api.open import PersistentClient
from chroma_gpu.cli.console import console, require

SHOWN: Final = 10
"""Findings of one kind that are printed; the number of the others is said."""


def run(options: argparse.Namespace) -> int:
    """Repair or check collections; 1 if one is left with something wrong."""
    require(options.path)
    out, wrong = console(), False
    with PersistentClient(options.path) as client:
        names = options.collections or [collection.name for collection in client.list_collections()]
        for collection in [client.get_collection(name) for name in names]:
            repair = collection.repair(check=options.check)
            _tell(out, collection.name, repair)
            wrong |= bool(repair.records) or not (repair.sound or repair.rebuilt)
    return int(wrong)


def _tell(out: Console, name: str, repair: Repair) -> None:
    if repair.records:
        done = "its records are damaged; nothing was changed. Restore it from a copy, or delete the records that are named and add them anew."
    elif repair.rebuilt:
        gone = f"; checkpoints removed: {', '.join(repair.checkpoints)}" if repair.checkpoints else ""
        done = f"its index was made anew{gone}"
    else:
        done = "sound" if repair.sound else "its index is damaged; `chroma-gpu repair` makes it anew"
    out.print(f"{name}: {done}", soft_wrap=True)
    broken = [f"the checkpoint of {kind} is not what was written" for kind in repair.checkpoints]
    for findings in (repair.records, repair.index, broken):
        _list(out, findings)


def _list(out: Console, findings: Sequence[str]) -> None:
    for finding in findings[:SHOWN]:
        out.print(f"  {finding}", soft_wrap=True)
    if len(findings) > SHOWN:
        out.print(f"  and {len(findings) - SHOWN:,} more")
