"""What an inverted index should say of a store, by looking at every record; and the comparison of the two."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from chroma_gpu import roaring
from chroma_gpu.records import Column, SparseVector
from chroma_gpu.rowset import RowSet
from chroma_gpu.store.inverted.layout import places_of
from chroma_gpu.values import Kind, stored

ABSENT = {Kind.STR: ["absent", ""], Kind.BOOL: [True, False], Kind.INT: [77], Kind.FLOAT: [0.5]}


def rows_as_they_are(store):
    """row -> (document, metadata) of the live rows."""
    rows = store.live().rows()
    read = store.read(rows, frozenset({Column.DOCUMENT, Column.METADATA}))
    return dict(zip(rows.tolist(), zip(read.documents, read.metadatas, strict=True), strict=True))


def differences(store, taken):
    """How a store's index differs from the rows that were live when it was last folded, in words."""
    index = store.inverted(store.state().folds)
    assert index.rows == store.state().folded
    known = np.zeros(index.rows, bool)
    known[list(taken)] = True
    posted, having, numbers, grams = _naive(taken)
    fields = {field for field, *_ in having} | {"no such field"}
    found = []

    def compare(what, answer, expected):
        assert answer.size == index.rows
        if set((answer & RowSet.where(known)).rows().tolist()) != set(expected):
            found.append(f"{what}: {answer.rows().tolist()}, not {sorted(expected)}")

    for field in fields:
        for kind, array in [(kind, array) for kind in Kind for array in (False, True)] + [(None, False)]:
            compare(
                ("having", field, kind, array),
                rows_in(index, index.having(field, kind, array)),
                having.get((field, kind, array), ()),
            )
            if kind in (Kind.INT, Kind.FLOAT) and not array:
                got = numbers_in(index, field, kind, known)
                if got != numbers.get((field, kind), {}):
                    found.append(f"numbers {field} {kind}: {got}, not {numbers.get((field, kind))}")
            elif kind is not None:
                values = posted.get((field, kind, array), {})
                for value, rows in values.items():
                    compare(("among", field, kind, array, value), rows_in(index, index.among(field, kind, array, [value])), rows)
                every = [*values, *ABSENT[kind]]
                rows = set().union(*values.values()) if values else set()
                compare(("among", field, kind, array), rows_in(index, index.among(field, kind, array, every)), rows)
    for gram, rows in list(grams.items())[:40]:
        compare(("containing", gram), index.containing([gram]), rows)
    with store._keyvalue.read() as txn:
        for key, value in txn.scan("postings"):
            places = roaring.decoded(value[5:])
            if not len(places) or (places[1:] <= places[:-1]).any():
                found.append(f"{key}: {places.tolist()}")
    statistics = {(each.field, each.kind, each.array): each.count for each in index.statistics()}
    if any(statistics.get(column, 0) < len(rows) for column, rows in having.items()):
        found.append(f"statistics: {statistics}")
    return found


def rows_in(index, postings):
    """The rows of postings that an index gave."""
    words = roaring.union(postings, -(-index.rows // roaring.CHUNK))
    return RowSet(words[: (index.rows + 63) // 64], index.rows)


def numbers_in(index, field, kind, known):
    """row -> number, of the rows that are known; the blocks are checked."""
    got = {}
    chunks = []
    for block in index.numbers(field, kind):
        chunks.append(block.chunk)
        assert (block.values[1:] > block.values[:-1]).all()
        assert block.values.dtype == (np.int64 if kind is Kind.INT else np.float64)
        rows = block.chunk * 65536 + places_of(block).astype(int)
        assert (np.diff(rows) > 0).all()
        assert block.nbytes > 0
        got |= dict(zip(rows.tolist(), block.values[block.ranks].tolist(), strict=True))
    assert chunks == sorted(set(chunks))
    return {row: number for row, number in got.items() if known[row]}


def _naive(taken):
    posted, having = defaultdict(lambda: defaultdict(set)), defaultdict(set)
    numbers, grams = defaultdict(dict), defaultdict(set)
    for row, (document, metadata) in taken.items():
        for field, value in (metadata or {}).items():
            if isinstance(value, SparseVector):
                having[field, None, False].add(row)
                continue
            array = isinstance(value, list)
            for element in value if array else [value]:
                kind, known = stored(element)
                having[field, kind, array].add(row)
                if kind in (Kind.INT, Kind.FLOAT) and not array:
                    numbers[field, kind][row] = known
                else:
                    posted[field, kind, array][known].add(row)
        text = (document or "").encode()
        for at in range(len(text) - 2):
            grams[text[at : at + 3]].add(row)
    return posted, having, numbers, grams
