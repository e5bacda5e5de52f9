"""What makes a job the same job, where it goes on, and its files and queues between two commits."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from chroma_gpu.embed.local import DefaultEmbeddingFunction, InstructorEmbeddingFunction, SentenceTransformerEmbeddingFunction
from chroma_gpu.embed.stream.kept import Kept
from chroma_gpu.errors import InvalidArgumentError, StoreBusy
from chroma_gpu.jobs import model
from chroma_gpu.jobs.checkpoint import Checkpoint, Checkpoints, key
from chroma_gpu.jobs.dead_letters import DeadLetters
from chroma_gpu.jobs.events import Events, Need, Outcome, Passed, Pending, cut
from chroma_gpu.jobs.options import EmbedOptions
from chroma_gpu.jobs.rows import BadRow, Cursor, Item, Row, Stage
from chroma_gpu.records import Mode

OPTIONS = EmbedOptions(inputs=("a.jsonl",), collection="rows")
DEFAULT = {"type": "known", "name": "default", "config": {}}


def bad(number, *, after=None, fields=None):
    return BadRow("rows", number, after, Stage.READ, "ValueError", "bad", None, fields)


def item(number, chunk=0, last=True):
    row = Row("rows", number, Cursor(0, number - 1), Cursor(0, number), {})
    return Item(row, f"r{number}", "text", chunk=chunk, last=last)


def waiting(number, **more):
    return Pending(item(number, **more), Need.VECTOR)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"device": "cuda"}, True),
        ({"dtype": "fp16"}, True),
        ({"checkpoint_every": 5}, True),
        ({"on_error": "skip"}, True),
        ({"out": Path("x.parquet")}, True),
        ({"inputs": ("./a.jsonl",)}, True),
        ({"inputs": ("b.jsonl",)}, False),
        ({"chunk": "chars"}, False),
        ({"text_columns": ("body",)}, False),
        ({"on_conflict": "skip"}, False),
        ({"limit": 7}, False),
        ({"prefix_id": "x"}, False),
    ],
)
def test_which_job_it_is(change, same):
    assert (key(replace(OPTIONS, **change), DEFAULT) == key(OPTIONS, DEFAULT)) is same


def test_the_model_is_part_of_the_job_and_where_it_runs_is_not():
    def stored(**config):
        base = {"model_name": "all-MiniLM-L6-v2", "device": "auto", "normalize_embeddings": False, "kwargs": {}}
        return {"type": "known", "name": "sentence_transformer", "config": base | config}

    assert key(OPTIONS, stored()) == key(OPTIONS, DEFAULT)
    assert key(OPTIONS, stored(device="cuda", kwargs={"model_kwargs": {"dtype": "float16"}})) == key(OPTIONS, DEFAULT)
    assert key(OPTIONS, stored(model_name="other")) != key(OPTIONS, DEFAULT)
    assert key(OPTIONS, stored(kwargs={"truncate_dim": 64})) != key(OPTIONS, DEFAULT)


def test_a_job_is_the_same_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here = key(OPTIONS, None)
    (tmp_path / "deeper").mkdir()
    monkeypatch.chdir(tmp_path / "deeper")
    assert key(OPTIONS, None) != here
    assert key(replace(OPTIONS, inputs=(str(tmp_path / "a.jsonl"),)), None) == here


def test_a_checkpoint_is_found_again_unless_it_is_of_another_version(client):
    collection = client.create_collection("rows", embedding_function=None)
    checkpoints = Checkpoints(collection, "job")
    assert checkpoints.found() is None
    wanted = Checkpoint(inputs="x", cursor=Cursor(2, 7, 100, 3), counts={"rows_in": 4}, dead_bytes=9)
    for checkpoint, there in ((wanted, wanted), (Checkpoint(version=99), None)):
        note = checkpoints.note(checkpoint)
        collection._commit_job([], None, None, None, None, mode=Mode.UPSERT, note=note)
        checkpoints.committed(note)
        assert Checkpoints(collection, "job").found() == there
    assert Checkpoints(collection, "another").found() is None


def test_bad_rows_beyond_the_checkpoint_are_cut_off(tmp_path):
    path = tmp_path / "bad.jsonl"
    file = DeadLetters(path, None, ours=True)
    file.append([bad(1)])
    kept = file.length
    file.append([bad(2)])
    file.close()
    file = DeadLetters(path, kept, ours=False)
    file.append([bad(3, fields={"at": date(2020, 1, 2), "x": math.nan, "half": "\ud800", "raw": b"x"})])
    file.append([bad(4, fields={"word": "größer"})])
    file.close()
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert [line["row"] for line in lines] == [1, 3, 4]
    assert lines[1]["record"] == {"at": "2020-01-02", "x": "nan", "half": "\ud800", "raw": "b'x'"}
    assert "größer" in path.read_text("utf-8")


def test_a_file_of_bad_rows_has_one_writer_and_goes_if_it_is_empty(tmp_path):
    path = tmp_path / "deep" / "bad.jsonl"
    file = DeadLetters(path, None, ours=True)
    with pytest.raises(StoreBusy, match="another run"):
        DeadLetters(path, None, ours=True)
    file.append([bad(1)])
    file.rewind(0)
    file.close()
    assert not path.exists()


def test_a_cut_of_the_queue_ends_where_reading_can_go_on():
    events = Events()
    # A chunk that is bad has no place to go on after it: it waits for the next one of its row.
    for event in (waiting(1), bad(2, after=Cursor(0, 2)), bad(3), waiting(3, chunk=1, last=False), waiting(3, chunk=2)):
        events.add(event)
    assert (events.to_embed, events.settled) == (3, 2)
    assert [type(event) for event in events.take(1)] == [Pending, BadRow]
    assert (events.to_embed, events.settled) == (2, 1)
    assert not events.take(0)
    taken = events.take(2)
    assert [type(event) for event in taken] == [BadRow, Pending, Pending]
    assert [event.item.after for event in taken[1:]] == [Cursor(0, 2, None, 2), Cursor(0, 3)]
    assert (len(events), events.to_embed, events.settled) == (0, 0, 0)


def test_rows_that_need_nothing_are_counted_together():
    events = Events()
    for number in range(1, 2_001):
        events.add(Passed(Outcome.UNCHANGED, Cursor(0, number)))
    events.add(Passed(Outcome.SKIPPED, Cursor(0, 2_001)))
    assert (len(events), events.settled) == (2, 2_001)
    first, second = events.take(0)
    assert (first.rows, first.after.row, second.rows, events.settled) == (2_000, 2_000, 1, 0)


def test_ids_are_on_their_way_until_they_are_committed():
    events = Events()
    events.add(waiting(1))
    events.add(waiting(1))
    first = events.take(1)
    assert events.on_their_way(["r1", "r2"]) == [True, False]
    events.committed(first)
    assert events.on_their_way(["r1"]) == [True]
    events.committed(events.take(1))
    assert events.on_their_way(["r1"]) == [False]


def test_parts_have_their_own_vectors():
    events = [waiting(1), bad(2, after=Cursor(0, 2)), waiting(3), bad(4), waiting(4, chunk=1), waiting(5)]
    parts = list(cut(events, 2))
    assert [(len(part), first, last) for part, first, last in parts] == [(3, 0, 2), (3, 2, 4)]
    assert [event for part, _, _ in parts for event in part] == events


def test_what_a_device_keeps_goes_with_its_block_and_makes_room():
    import torch

    kept, places = Kept(["cpu"], most=2 * 3 * 4 * 4), np.arange(3)
    for start in (0, 3, 6, 9):
        kept.take(places, torch.full((3, 4), float(start)))
        kept.close_window(start, places)
        if start == 3:
            first, second = kept.hand_over(0, 3), kept.hand_over(3, 6)
            assert [(block.first, len(block), block.vectors[0, 0].item()) for block in first + second] == [(0, 3, 0), (0, 3, 3)]
    assert [block.first for block in kept.hand_over(6, 12)] == [0, 3]


@pytest.mark.parametrize(
    ("options", "stored"),
    [
        ({}, None),
        ({"model": "static"}, ("static", "wordllama")),
        ({"model": "some/model"}, ("sentence_transformer", "some/model")),
        ({"prompt": "query: "}, ("sentence_transformer", "all-MiniLM-L6-v2")),
        ({"instruction": "Represent: "}, ("instructor", "hkunlp/instructor-base")),
    ],
)
def test_the_function_that_options_name(options, stored):
    function = model.chosen(replace(OPTIONS, **options))
    assert stored == (None if function is None else (function.name(), function.model_name))


def test_what_runs_is_the_stored_function_elsewhere_and_otherwise():
    stored = SentenceTransformerEmbeddingFunction("some/model", truncate_dim=64, token="secret")
    running = model.running(stored, replace(OPTIONS, device="cuda:1", dtype="bf16"))
    assert (running.device, running.kwargs["model_kwargs"]) == ("cuda:1", {"dtype": "bfloat16"})
    assert (running.kwargs["token"], running.kwargs["truncate_dim"]) == ("secret", 64)
    assert (stored.device, "model_kwargs" in stored.kwargs) == ("auto", False)
    default = model.running(DefaultEmbeddingFunction(), replace(OPTIONS, dtype="fp32"))
    assert (default.model_name, default.kwargs["model_kwargs"]) == ("all-MiniLM-L6-v2", {"dtype": "float32"})
    assert model.running(InstructorEmbeddingFunction(), replace(OPTIONS, device="cpu")).device == "cpu"


@pytest.mark.parametrize(
    "options",
    [
        {"model": "hashing", "prompt": "x"},
        {"instruction": "x", "truncate_dim": 3},
        {"prompt": "x", "prompt_name": "y"},
        {"collection": None},
        {"dtype": "fp8"},
        {"max_errors": -1},
        {"checkpoint_seconds": 0},
    ],
)
def test_what_no_job_can_be(options):
    with pytest.raises(InvalidArgumentError):
        model.chosen(replace(OPTIONS, **options))
