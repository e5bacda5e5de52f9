"""Repair: what is derived from the records of a table is made anew; what is wrong with the records themselves is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chroma_gpu.engine import checkpoint
from chroma_gpu.store.inverted.layout import REPAIR
from chroma_gpu.store.record_store import RecordStore


@dataclass(frozen=True, slots=True)
class Repair:
    """What was found, and what was done.

    records      what is wrong with the records themselves: which rows and ids. Only a copy mends that, so nothing was changed
    index        what is wrong with the index of metadata and texts
    checkpoints  kinds of indexes of vectors whose saved state cannot be used
    rebuilt      the index was made anew, and such checkpoints were removed: they are made again when they are next needed
    """

    records: Sequence[str]
    index: Sequence[str]
    checkpoints: Sequence[str]
    rebuilt: bool

    @property
    def sound(self) -> bool:
        """Nothing was found."""
        return not (self.records or self.index or self.checkpoints)


def repaired(store: RecordStore, checkpoints: Path | None, *, check: bool) -> Repair:
    """Verify a store, and unless its records are damaged or ``check`` says to look only, make anew what is derived from them.

    checkpoints  where the checkpoints of its indexes are
    Raises       Moved, StoreBusy, DiskFull; nothing was changed then
    Cost         everything is read twice; the index is written once
    A crash leaves the old index.
    """
    findings = store.verify()
    records = [finding for finding in findings if not finding.endswith(REPAIR)]
    index = [finding for finding in findings if finding.endswith(REPAIR)]
    broken = [] if checkpoints is None else checkpoint.broken(checkpoints)
    if check or records:
        return Repair(records, index, broken, rebuilt=False)
    store.refold()
    if checkpoints is not None:
        for kind in broken:
            checkpoint.remove(checkpoints, kind)
    return Repair(records, index, broken, rebuilt=True)
