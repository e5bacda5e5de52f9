"""Filters on a device find what they find on the host, from columns that follow the index chunk by chunk and take no more than they may."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from filter.naive_inverted import NaiveInverted
from filter.random_metadata import CONDITIONS, METADATAS
from hypothesis import given, settings
from hypothesis import strategies as st

from chroma_gpu.bytecache import ByteCache
from chroma_gpu.filter import And, Contains, DocumentContains, Eq, Gt, Gte, How, In, Lt, Lte, Ne, NotIn, Or, evaluate, matches
from chroma_gpu.filter.device import columns as module
from chroma_gpu.filter.device.columns import DeviceColumns, column_bytes
from chroma_gpu.filter.device.cost import FilterCost
from chroma_gpu.filter.device.evaluation import OnDevice
from chroma_gpu.filter.overlay import Overlay
from chroma_gpu.filter.view import IndexedView, KeptIndex
from chroma_gpu.kernels import predicate
from chroma_gpu.roaring import CHUNK
from chroma_gpu.rowset import RowSet
from chroma_gpu.values import Kind

ALWAYS = FilterCost(launch=-1e9, few=0)
EXPRS = st.recursive(
    CONDITIONS,
    lambda inner: st.builds(
        lambda kind, children: kind(tuple(children)), st.sampled_from([And, Or]), st.lists(inner, max_size=3)
    ),
    max_leaves=6,
)


class Room:
    """So many bytes."""

    def __init__(self, nbytes=1 << 40):
        self.left = self.all = nbytes

    def take(self, nbytes):
        if nbytes > self.left:
            return False
        self.left -= nbytes
        return True

    def give_back(self, nbytes=None):
        self.left = self.all if nbytes is None else self.left + nbytes


class Table:
    """Rows of which the first are in an index, which can be asked on the host and on a device."""

    def __init__(self, device, room=None):
        self.room = room or Room()
        self.columns = DeviceColumns(device, self.room)
        self.cost = ALWAYS
        self.kept = {}
        self.sent = 0

    def holds(self, before, late=(), rewritten=None, changed=None, live=None):
        rewritten, cache = rewritten or {}, ByteCache(1 << 20)
        self.inverted = NaiveInverted(before, pending=rewritten, changed=changed)
        overlay = Overlay(len(before))
        for row, metadata in [*rewritten.items(), *enumerate(late, len(before))]:
            overlay.take(np.array([row], np.uint32), [metadata])
        size = len(before) + len(late)
        self.index = KeptIndex(self.inverted, cache.section(), cache.section())
        self.view = IndexedView(size, self.index, overlay.snapshot())
        self.live = RowSet.full(size) if live is None else RowSet.of(np.array(live, np.uint32), size)
        return self

    def on_device(self):
        def sent(rows):
            self.sent += 1
            return torch.from_numpy(rows.words.view(np.int32).copy()).to(self.columns.device)

        def keep(rows, words):
            self.kept[id(rows)] = rows, words

        return OnDevice(self.columns, self.view, self.live, sent, keep, lambda error: False, self.cost)

    def ask(self, expr, within=None):
        """(rows, how each step found its): on the device."""
        texts = SimpleNamespace(documents=lambda rows: (None for _ in rows), rows_of=None)
        found, steps = evaluate(expr, self.live if within is None else within, self.view, texts, self.on_device())
        if id(found) in self.kept:
            words = self.kept[id(found)][1]
            assert words.cpu().numpy().tolist() == found.words.view(np.int32).tolist()
        return found.rows().tolist(), [step.how for step in steps]


@pytest.fixture
def table(device):
    return Table(device)


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(module, "HOT", 1)


# ---- what is found


@settings(max_examples=100)
@given(
    st.lists(METADATAS, min_size=1, max_size=40),
    st.lists(METADATAS, max_size=6),
    st.dictionaries(st.integers(0, 39), METADATAS, max_size=4),
    st.lists(EXPRS, min_size=1, max_size=3),
    st.sets(st.integers(0, 45)),
    st.booleans(),
)
def test_the_device_finds_what_a_look_at_every_record_finds(device, before, late, rewritten, exprs, dead, narrow):
    rewritten = {row: metadata for row, metadata in rewritten.items() if row < len(before)}
    now = [rewritten.get(row, metadata) for row, metadata in enumerate(before)] + late
    live = sorted({*range(len(now))} - dead)
    table = Table(device).holds(before, late, rewritten, live=live)
    within = RowSet.of(np.array(live[::2], np.uint32), len(now)) if narrow else None
    for expr in exprs:
        found, hows = table.ask(expr, within)
        assert found == [row for row in (live[::2] if narrow else live) if matches(expr, row, now[row], None)]
        if table.on_device().takes(expr) and (live[::2] if narrow else live):
            assert hows == [How.DEVICE]


WIDE = [2**53, 2**53 + 1, -(2**53) - 1, 2.0**53, 2.0**53 + 2, 2**63 - 1, -(2**63), 2.0**63]
EDGES = [*WIDE, -0.0, 0.0, 0, 1, 1.0, 1.5, True, False, "1", ""]


def test_numbers_compare_by_their_exact_values_and_bools_are_no_ints(table):
    table.holds([{"x": value} for value in EDGES] + [None, {"x": [1]}, {"y": 1}])
    for value in EDGES:
        ranges = [] if isinstance(value, bool | str) else [Gt("x", value), Gte("x", value), Lt("x", value), Lte("x", value)]
        for expr in (Eq("x", value), Ne("x", value), In("x", (value, value)), NotIn("x", (value, 2**53 + 3)), *ranges):
            found, hows = table.ask(expr)
            assert hows == [How.DEVICE]
            known = [{"x": each} for each in EDGES] + [None, {"x": [1]}, {"y": 1}]
            assert found == [row for row, metadata in enumerate(known) if expr.matches(metadata)], expr


def test_the_triton_kernel_finds_the_same(table, monkeypatch):
    triton = pytest.importorskip("triton", reason="Triton is there on Linux only")
    assert triton
    from chroma_gpu.kernels import predicate_triton

    monkeypatch.setattr(predicate, "predicate", predicate_triton.predicate)
    known = [{"n": row % 7, "s": "abc"[row % 3], "f": row / 4, "b": row % 2 == 0} if row % 5 else None for row in range(90)]
    table.holds(known[:80], known[80:], {7: {"n": 3, "s": "a"}}, live=range(2, 90))
    now = [{"n": 3, "s": "a"} if row == 7 else metadata for row, metadata in enumerate(known)]
    for expr in (
        And((Gte("n", 3), In("s", ("a", "c")))),
        Or((Ne("s", "a"), And((Lt("f", 9.25), Eq("b", True))))),
        NotIn("n", (1, 2, 6)),
    ):
        found, hows = table.ask(expr)
        assert hows == [How.DEVICE]
        assert found == [row for row in range(2, 90) if matches(expr, row, now[row], None)]


def test_conditions_that_columns_cannot_answer_are_asked_among_what_is_left(table):
    table.holds([{"n": row, "s": "ab"[row % 2], "tags": ["x"] if row % 3 else ["y"]} for row in range(100)])
    found, hows = table.ask(And((Gte("n", 50), Contains("tags", "y"), Eq("s", "b"))))
    assert found == [51, 57, 63, 69, 75, 81, 87, 93, 99]
    assert sorted(hows) == [How.COMBINED, How.DEVICE, How.INDEX]
    found, hows = table.ask(Or((Gte("n", 95), Contains("tags", "none"), Eq("n", 1))))
    assert found == [1, *range(95, 100)]
    assert sorted(hows) == [How.COMBINED, How.DEVICE, How.INDEX]
    found, hows = table.ask(And((DocumentContains("text"), Gte("n", 95), Eq("s", "b"))))
    assert found == []
    assert How.DEVICE in hows


def test_unknown_fields_are_left_to_the_host(table):
    table.holds([{"n": 1}, None], [{"late": 2}])
    assert table.ask(Ne("late", 2)) == ([0, 1], [How.INDEX])
    assert table.ask(Or((Eq("late", 2), Eq("n", 1)))) == ([0, 2], [How.DEVICE])


def test_the_words_of_live_rows_are_asked_for_only_where_rows_died(table):
    known = [{"n": row} for row in range(70)]
    table.holds(known).ask(Gte("n", 3))
    assert table.sent == 0
    assert len(table.kept) == 1
    table.holds(known, live=range(1, 70)).ask(Gte("n", 3))
    assert table.sent == 1
    table.ask(Gte("n", 4), RowSet.of(np.array([5], np.uint32), 70))
    assert table.sent == 1


def test_rows_that_died_are_not_found_wherever_they_are(table):
    table.holds([{"n": 1}] * 5, [{"n": 1}] * 4, {1: {"n": 1}, 2: {"n": 1}}, live=[0, 2, 4, 6, 8])
    assert table.ask(Eq("n", 1)) == ([0, 2, 4, 6, 8], [How.DEVICE])
    assert table.ask(Ne("n", 2)) == ([0, 2, 4, 6, 8], [How.DEVICE])


# ---- what is kept


def test_only_fields_that_are_asked_for_again_are_uploaded(table, monkeypatch):
    monkeypatch.setattr(module, "HOT", 2)
    table.holds([{"n": row, "m": 1} for row in range(10)])
    both = And((Gt("n", 4), Gt("n", 6)))
    assert table.ask(both)[1] == [How.INDEX], "one use of the field, twice in one filter"
    assert table.ask(Gt("n", 4))[1] == [How.DEVICE]
    assert sorted(table.ask(And((Gt("n", 4), Eq("m", 1))))[1]) == [How.COMBINED, How.DEVICE, How.INDEX]
    assert table.ask(And((Gt("n", 4), Eq("m", 1))))[1] == [How.DEVICE]
    assert table.columns.uploaded == 2


ROWS = [0, 3, 65_535, 65_536, 70_000, 131_072, 131_080, 196_607]
"""In three chunks."""
STEPS = st.lists(
    st.tuples(st.dictionaries(st.sampled_from(ROWS), METADATAS, max_size=3), st.integers(0, 3)), min_size=2, max_size=5
)


@settings(max_examples=20)
@given(STEPS, st.lists(EXPRS, min_size=1, max_size=3))
def test_columns_follow_the_index_through_its_changes(device, steps, exprs):
    """Of which each has other values than the last, and more rows, and says in which chunks."""
    table, rows, changed, known = Table(device), 1, [0], [None]
    for number, (change, more) in enumerate(steps, 1):
        grown = min(rows + more * 50_000, 196_608)
        known += [None] * (grown - rows)
        change = {row: metadata for row, metadata in change.items() if row < grown}
        for row, metadata in change.items():
            known[row] = metadata
        changed += [number] * (-(-grown // CHUNK) - len(changed))
        for chunk in {row // CHUNK for row in change} | set(range(rows // CHUNK, len(changed)) if grown > rows else ()):
            changed[chunk] = number
        rows = grown
        asked = [row for row in ROWS if row < rows]
        table.holds(known, changed=list(changed), live=asked)
        for expr in exprs:
            assert table.ask(expr)[0] == [row for row in asked if matches(expr, row, known[row], None)]
    assert table.room.left == table.room.all - table.columns.nbytes


def test_only_chunks_that_changed_are_uploaded_again(table):
    known = [None] * 140_000
    known[5], known[69_000], known[139_999] = {"s": "a", "n": 1}, {"s": "b", "n": 2}, {"s": "a", "n": 3}

    def asked(changed):
        before = table.columns.uploaded
        found = table.holds(known, changed=changed).ask(And((Gte("n", 1), Eq("s", "a"))))[0]
        return found, table.columns.uploaded - before

    assert asked([1, 1, 1]) == ([5, 139_999], 6)
    assert asked([1, 1, 1]) == ([5, 139_999], 0)
    known[69_000], known[5] = {"s": "a", "n": 1}, {"s": "b", "n": 9}
    assert asked([1, 2, 1]) == ([5, 69_000, 139_999], 2), "the first chunk is not said to have changed"
    assert asked([3, 2, 1]) == ([69_000, 139_999], 2)


def test_rows_that_come_without_values_have_none(table):
    """A column that was full must not stay so when the chunk is not said to have changed."""
    assert table.holds([{"n": 1}] * 5, changed=[1]).ask(Eq("n", 1))[0] == [0, 1, 2, 3, 4]
    assert table.holds([{"n": 1}] * 5 + [None] * 2, changed=[1]).ask(Eq("n", 1))[0] == [0, 1, 2, 3, 4]
    assert table.holds([{"n": 1}] * 5 + [None] * 2, changed=[1]).ask(Ne("n", 1))[0] == [5, 6]


def test_an_index_that_went_on_leaves_nothing_half_done(table):
    table.holds([{"n": row, "s": "a"} for row in range(9)])
    assert table.ask(Gt("n", 6))[0] == [7, 8]
    table.holds([{"n": 8 - row, "s": "a"} for row in range(9)], changed=[2])
    table.inverted.went_on = True
    with pytest.raises(KeyError):
        table.ask(And((Gt("n", 6), Eq("s", "a"))))
    assert table.index.gone
    assert table.room.left == table.room.all
    assert table.holds([{"n": 8 - row, "s": "a"} for row in range(9)], changed=[2]).ask(Gt("n", 6))[0] == [0, 1]


def test_threads_that_see_other_states_do_not_disturb_each_other(device):
    old = Table(device).holds([{"n": row % 5} for row in range(500)], changed=[1])
    new = Table(device).holds([{"n": row % 7} for row in range(500)], changed=[2])
    new.columns = old.columns

    def ask(turn):
        table, each = ((old, 5), (new, 7))[turn % 2]
        return table.ask(Eq("n", 3)) == ([row for row in range(500) if row % each == 3], [How.DEVICE])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(200)))
    assert old.columns.uploaded > 1


# ---- memory


def test_where_there_is_no_room_the_host_answers(device):
    table = Table(device, Room(column_bytes(Kind.INT, CHUNK))).holds([{"n": row, "m": row} for row in range(9)])
    assert table.ask(Gt("n", 6)) == ([7, 8], [How.DEVICE])
    assert table.ask(Gt("m", 6)) == ([7, 8], [How.INDEX])
    assert table.ask(And((Gt("m", 6), Gt("n", 7)))) == ([8], [How.INDEX])
    assert table.columns.nbytes == table.room.all


def test_columns_that_were_not_asked_for_long_make_room(device, monkeypatch):
    monkeypatch.setattr(module, "IDLE", 2)
    table = Table(device, Room(column_bytes(Kind.INT, CHUNK))).holds([{"n": row, "m": row} for row in range(9)])
    hows = [table.ask(Gt(field, 6))[1] for field in "nmmmnm"]
    assert hows == [[How.DEVICE], [How.INDEX], [How.INDEX], [How.DEVICE], [How.INDEX], [How.DEVICE]]


def test_fields_of_many_different_strings_stay_in_the_index(table, monkeypatch):
    monkeypatch.setattr(module, "FEW_VALUES", CHUNK // 4)
    strings = [{"s": str(row)} for row in range(5)]
    assert table.holds(strings).ask(Eq("s", "3")) == ([3], [How.INDEX])
    assert table.room.left == table.room.all
    assert table.holds([{"s": "3"}] * 10, changed=[2]).ask(Eq("s", "3"))[1] == [How.INDEX], "not looked at again so soon"
    assert table.holds([{"s": "3"}] * 11, changed=[3]).ask(Eq("s", "3"))[1] == [How.DEVICE]


def test_memory_that_others_need_is_given_back_at_once(table, monkeypatch):
    table.holds([{"n": row, "m": 1} for row in range(9)])
    table.ask(Gt("n", 6))
    assert table.room.left < table.room.all
    table.columns.drop()
    assert (table.room.left, table.columns.nbytes) == (table.room.all, 0)
    put = module.DeviceColumn.put

    def dropped_meanwhile(*given):
        monkeypatch.setattr(module.DeviceColumn, "put", put)
        table.columns.drop()
        put(*given)

    monkeypatch.setattr(module.DeviceColumn, "put", dropped_meanwhile)
    assert table.ask(And((Gt("n", 6), Eq("m", 1)))) == ([7, 8], [How.DEVICE])
    assert (table.room.left, table.columns.nbytes) == (table.room.all, 0)


def test_what_fails_gives_its_memory_back(table, monkeypatch):
    table.holds([{"n": row} for row in range(9)])

    def short(*_):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(module.DeviceColumn, "put", short)
    with pytest.raises(torch.OutOfMemoryError):
        table.ask(Gt("n", 6))
    assert table.room.left == table.room.all


def test_the_device_is_asked_where_that_looks_cheaper():
    cost = FilterCost(launch=150.0, bandwidth=300e3, bus=12e3)
    assert not cost.pays(1_000_000, 1_000_000, [Kind.INT])
    assert cost.pays(10_000_000, 10_000_000, [Kind.INT])
    assert not cost.pays(10_000_000, 4_000, [Kind.INT])
    assert cost.pays(2_000_000, 2_000_000, [Kind.INT, Kind.FLOAT])
    assert not cost.pays(500_000, 500_000, [Kind.STR])
