"""What a job makes of rows that meet each other: one id or text several times, chunks of one document, files of bad rows of others."""

from __future__ import annotations

import json
import shutil
import threading

import pytest
from jobs.job_cases import POISON, CountingFunction, check, letters, write_rows

import chroma_gpu
from chroma_gpu import jobs
from chroma_gpu.errors import InvalidArgumentError
from chroma_gpu.jobs import run as run_module
from chroma_gpu.jobs import vectors_file

WORDS = [f"word{at}" for at in range(40)]
CHUNKS = {"chunk": "chars", "chunk_size": 50, "chunk_overlap": 0}


@pytest.fixture
def client(tmp_path):
    with chroma_gpu.PersistentClient(tmp_path / "data") as made:
        yield made


@pytest.fixture
def collection(client, tmp_path):
    return client.create_collection("rows", embedding_function=CountingFunction(tmp_path / "log"))


@pytest.fixture
def embed(collection, tmp_path):
    def made(*rows, **options):
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return jobs.embed(tmp_path / "rows.jsonl", collection=collection, path=tmp_path / "data", **options)

    return made


def part(path, **options):
    """A run that is stopped after its first commit."""
    stop = threading.Event()
    return jobs.embed(path, stop=stop, progress=lambda now: stop.set() if now.done > now.resumed else None, **options)


@pytest.mark.parametrize("between", [0, 3_000])
@pytest.mark.parametrize("lengths", [(40, 11), (11, 40), (40, 11, 25)])
def test_of_a_document_that_is_there_several_times_the_last_one_stays(between, lengths, embed, collection):
    """In one batch, and in several: chunks of a longer one before must not stay behind."""
    others = [{"id": f"other{at}", "text": f"text {at}"} for at in range(between)]
    rows = [row for length in lengths for row in ({"id": "a", "text": " ".join(WORDS[:length])}, *others)]
    report = embed(*rows, **CHUNKS)
    there = collection.get(where={"document_id": "a"})
    texts = dict(zip((each["chunk"] for each in there["metadatas"]), there["documents"], strict=True))
    assert " ".join(texts[at] for at in sorted(texts)).split() == WORDS[: lengths[-1]]
    assert report.rows_in == len(rows) == report.rows_out + report.unchanged


def test_what_was_removed_before_a_commit_failed_is_written_again(embed, collection, tmp_path, monkeypatch):
    """Chunks are removed before the checkpoint: the run that goes on in the middle of a long text must find no gap, nor leave one."""
    rows = [{"id": "a", "text": " ".join(f"word{at}" for at in range(9_000))}, {"id": "a", "text": "a short text"}]
    options = {"chunk": "chars", "chunk_size": 20, "chunk_overlap": 0}
    write, removed = type(collection)._commit_job, []

    def failing(self, *given, **named):
        if removed:
            raise OSError("the disk is gone")
        return write(self, *given, **named)

    def remove(self, *given, **named):
        removed.append(None)
        return delete(self, *given, **named)

    delete = type(collection).delete
    monkeypatch.setattr(type(collection), "_commit_job", failing)
    monkeypatch.setattr(type(collection), "delete", remove)
    with pytest.raises(OSError, match="disk is gone"):
        embed(*rows, **options)
    monkeypatch.undo()
    assert collection.count() == 1
    report = jobs.embed(tmp_path / "rows.jsonl", collection=collection, path=tmp_path / "data", **options)
    assert collection.get()["documents"] == ["a short text"]
    assert (report.rows_in, report.rows_out) == (2, 2)


def test_a_document_of_which_the_last_chunk_is_unchanged_is_counted_alone(embed):
    rest = ({"id": "b", "text": "short"}, {"id": "c", "text": " ".join(WORDS)})
    embed({"id": "a", "text": " ".join(WORDS)}, *rest, **CHUNKS)
    report = embed({"id": "a", "text": " ".join(["WORD0", *WORDS[1:]])}, *rest, **CHUNKS)
    assert (report.rows_out, report.unchanged, report.chunks) == (1, 2, 1)


def test_a_document_with_many_bad_chunks_is_one_bad_row(embed, tmp_path):
    text = f"{POISON} {'x' * 15} "
    rows = [{"id": "a", "text": text * 1_000}, {"id": "b", "text": "good"}, {"id": "c", "text": text * 20}]
    options = {"chunk": "chars", "chunk_size": 20, "chunk_overlap": 0}
    report = embed(*rows, checkpoint_every=500, **options)
    assert [each["row"] for each in letters(report.dead_letter)] == [1, 3]
    assert (report.rows_in, report.rows_out, report.dead) == (3, 1, 2)


def test_a_bad_document_is_not_told_again_by_the_run_that_goes_on_in_its_middle(embed, tmp_path, collection):
    text = f"{POISON} {' '.join(f'word{at}' for at in range(9_000))} {POISON}"
    (tmp_path / "long.jsonl").write_text(json.dumps({"id": "a", "text": text}) + "\n")
    options = {"collection": collection, "chunk": "chars", "chunk_size": 20, "chunk_overlap": 0}
    stop = threading.Event()
    first = jobs.embed(tmp_path / "long.jsonl", stop=stop, progress=lambda now: stop.set() if now.embedded else None, **options)
    assert first.rows_in == 0 < first.chunks
    last = jobs.embed(tmp_path / "long.jsonl", **options)
    assert (len(letters(last.dead_letter)), last.rows_in, last.dead) == (1, 1, 1)


@pytest.mark.parametrize("on_conflict", ["skip", "error"])
def test_a_text_that_is_not_taken_makes_no_other_one_a_duplicate(on_conflict, embed, collection):
    rows = [("a", "apple"), ("a", "pear"), ("b", "pear"), ("c", "apple")]
    report = embed(*({"id": id, "text": text} for id, text in rows), on_conflict=on_conflict, dedupe="exact")
    got = collection.get()
    assert dict(zip(got["ids"], got["documents"], strict=True)) == {"a": "apple", "b": "pear"}
    assert (report.rows_in, report.rows_out, report.duplicates, report.skipped + report.dead) == (4, 2, 1, 1)


def test_values_of_another_type_are_other_values(embed, collection):
    embed({"id": "a", "text": "x", "one": 1, "list": [1, 2]}, {"id": "b", "text": "y", "one": 1.0})
    report = embed({"id": "a", "text": "x", "one": True, "list": [1.0, 2.0]}, {"id": "b", "text": "y", "one": 1})
    assert [str(each) for each in collection.get()["metadatas"]] == ["{'one': True, 'list': [1.0, 2.0]}", "{'one': 1}"]
    assert (report.rows_out, report.unchanged) == (2, 0)


def test_directories_side_by_side_have_bad_rows_of_their_own(tmp_path):
    write_rows(tmp_path / "rows.jsonl", 300)
    files = []
    for name in ("one", "two"):
        report = jobs.embed(tmp_path / "rows.jsonl", collection="rows", path=tmp_path / name, model="hashing")
        files.append(report.dead_letter)
    assert files[0] != files[1]
    assert letters(files[0])


@pytest.mark.parametrize("resume", [True, False])
def test_a_file_that_another_job_has_written_meanwhile_is_left_alone(resume, collection, tmp_path):
    good, bad = write_rows(tmp_path / "rows.jsonl", 5_000)
    file = tmp_path / "bad.jsonl"
    options = {"collection": collection, "dead_letter": file}
    part(tmp_path / "rows.jsonl", **options)
    theirs = file.read_text().replace("ValueError", "TypeError") * 3
    file.write_text(theirs)
    with pytest.raises(InvalidArgumentError, match="was changed"):
        jobs.embed(tmp_path / "rows.jsonl", **options, resume=resume)
    assert file.read_text() == theirs
    file.unlink()
    jobs.embed(tmp_path / "rows.jsonl", **options)
    check(collection, good)
    assert [each["row"] for each in letters(file)] == [row for row in bad if row in {each["row"] for each in letters(file)}]


def test_a_folder_is_no_file_for_vectors_which_is_said_at_once(tmp_path, monkeypatch):
    write_rows(tmp_path / "rows.jsonl", 10)
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(run_module, "_Job", None)
    with pytest.raises(IsADirectoryError):
        jobs.embed(tmp_path / "rows.jsonl", out=tmp_path / "out", model="hashing")


def test_half_a_folder_that_was_being_removed_is_not_in_the_way(tmp_path, monkeypatch):
    write_rows(tmp_path / "rows.jsonl", 300)
    options = {"out": tmp_path / "vectors.parquet", "model": "hashing"}
    remove = shutil.rmtree

    def killed(path, **named):
        if named:
            return remove(path, **named)
        for each in path.rglob("*"):
            if each.is_file():
                each.unlink()
                raise KeyboardInterrupt

    monkeypatch.setattr(run_module.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        jobs.embed(tmp_path / "rows.jsonl", **options)
    monkeypatch.undo()
    assert not (tmp_path / "vectors.parquet.job").exists()
    assert jobs.embed(tmp_path / "rows.jsonl", **options).finished
    assert not [each for each in tmp_path.iterdir() if each.is_dir()]


def test_a_file_of_vectors_can_be_checked_before(tmp_path):
    vectors_file.check(tmp_path / "vectors.parquet")
    with pytest.raises(IsADirectoryError):
        vectors_file.check(tmp_path)
