"""A store as a dictionary, random writes, and the comparison of the two."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from chroma_gpu.records import NO_ROW, Column, Mode, RecordBatch, SparseVector

DIM = 6
ALL = frozenset(Column)


@dataclass
class Kept:
    vector: bytes
    document: str | None = None
    metadata: dict | None = None
    uri: str | None = None


class Model:
    """What a store should hold, in insertion order."""

    def __init__(self):
        self.records: dict[str, Kept] = {}

    def write(self, batch, mode):
        for at, id_ in enumerate(batch.ids):
            old = self.records.get(id_)
            if (old is None and mode is Mode.UPDATE) or (old is not None and mode is Mode.ADD):
                continue
            if old is None:
                old = self.records[id_] = Kept(b"")
            if batch.vectors is not None:
                old.vector = batch.vectors[at].tobytes()
            if batch.documents is not None and batch.documents[at] is not None:
                old.document = batch.documents[at]
            if batch.uris is not None and batch.uris[at] is not None:
                old.uri = batch.uris[at]
            if batch.metadatas is not None and batch.metadatas[at] is not None:
                merged = {**(old.metadata or {}), **batch.metadatas[at]}
                old.metadata = {key: value for key, value in merged.items() if value is not None} or None

    def delete(self, ids):
        for id_ in ids:
            self.records.pop(id_, None)

    def copy(self):
        other = Model()
        other.records = {id_: Kept(*vars(kept).values()) for id_, kept in self.records.items()}
        return other


def contents(store):
    """All that a store holds, in insertion order, read through its public face."""
    live, (moved, births) = store.live(), store.births()
    order = np.arange(live.size)
    order[moved] = births
    rows = live.rows()
    batch = store.read(rows[np.argsort(order[rows], kind="stable")], ALL)
    columns = zip(batch.ids, batch.vectors, batch.documents, batch.metadatas, batch.uris, strict=True)
    return {id_: Kept(vector.tobytes(), document, metadata, uri) for id_, vector, document, metadata, uri in columns}


def differs(store, model, universe):
    """How a store differs from a model, in words, or None."""
    if store.state().live != len(model.records):
        return f"{store.state().live} live, {len(model.records)} expected"
    held = contents(store) if model.records else {}
    if list(held) != list(model.records):
        return f"ids {list(held)} in place of {list(model.records)}"
    for id_, kept in model.records.items():
        if held[id_] != kept or repr(held[id_].metadata) != repr(kept.metadata):
            return f"{id_!r} is {held[id_]}, not {kept}"
    known = [row != NO_ROW for row in store.rows_of(universe)]
    if known != [id_ in model.records for id_ in universe]:
        return "the id table differs"
    return None


UNIVERSE = [*(f"id-{n}" for n in range(40)), "ü" * 260, "x" * 480, "y" * 481, "nul\0nul", "日本語", "z" * 5000, "\x00", " "]


def random_write(seed, step, universe=UNIVERSE):
    """(batch, mode), or (ids, None) to delete: a function of seed and step alone."""
    rng = np.random.default_rng([seed, step])
    count = int(rng.integers(1, 2 * len(universe) // 3)) if rng.random() < 0.5 else int(rng.integers(1, 4))
    ids = [universe[at] for at in rng.permutation(len(universe))[:count]]
    kind = rng.random()
    if kind < 0.15:
        return ids, None
    mode = (Mode.ADD, Mode.UPDATE, Mode.UPSERT)[rng.integers(3)]
    vectors = rng.standard_normal((count, DIM)).astype(np.float32)
    given = vectors if mode is not Mode.UPDATE or rng.random() < 0.5 else None

    def column(make):
        return [make() if rng.random() < 0.7 else None for _ in ids] if rng.random() < 0.7 else None

    batch = RecordBatch(
        ids,
        given,
        column(lambda: "" if rng.random() < 0.1 else f"text {rng.integers(5)} " * int(rng.integers(1, 90))),
        column(lambda: _random_metadata(rng)),
        column(lambda: f"file:///{rng.integers(4)}"),
    )
    return batch, mode


def apply(target, write, mode, *, by_row=False):
    """Run one random write on a store or a model."""
    if mode is not None:
        return target.write(write, mode)
    if not by_row:
        return target.delete(write)
    rows = target.rows_of(write)
    return target.delete(rows[rows != NO_ROW])


SPARSE = SparseVector([0, 7, 2**32 - 1], [1.5, -0.0, 3.0]), SparseVector([3], [0.1], ["ß"])


def _random_metadata(rng):
    values = [
        None,
        True,
        False,
        0,
        1,
        -(2**63),
        2**63 - 1,
        0.0,
        -0.0,
        1.0,
        1e300,
        "",
        "a\0b",
        "ß",
        [1, 2],
        [1.0],
        ["x", ""],
        [True],
        *SPARSE,
    ]
    return {f"key{rng.integers(5)}": values[rng.integers(len(values))] for _ in range(rng.integers(0, 5))}
