"""An embedding job from files to a collection: what is written, what is left alone, what is set apart, what is said."""

from __future__ import annotations

import gzip
import json
import secrets
import signal
import threading

import numpy as np
import pytest
from jobs.job_cases import POISON, CountingFunction, check, embedded, letters, vector_of, write_rows

import chroma_gpu
from chroma_gpu import jobs
from chroma_gpu.errors import EngineError, InvalidArgumentError, JobFailed, NoteChanged
from chroma_gpu.jobs import run as run_module
from chroma_gpu.jobs.commits import Commits


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


@pytest.fixture
def client(tmp_path):
    with chroma_gpu.PersistentClient(tmp_path / "data") as made:
        yield made


@pytest.fixture
def collection(client, log):
    return client.create_collection("rows", embedding_function=CountingFunction(log))


@pytest.fixture
def embed(collection, tmp_path):
    return lambda *inputs, **options: jobs.embed(*inputs, collection=collection, path=tmp_path / "data", **options)


def jsonl(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_good_rows_are_written_and_bad_ones_set_apart(embed, collection, tmp_path, log):
    good, bad = write_rows(tmp_path / "rows.jsonl", 3_000)
    report = embed(tmp_path / "rows.jsonl")
    check(collection, good)
    assert (report.rows_in, report.rows_out, report.dead, report.chunks, report.runs) == (
        3_000,
        len(good),
        len(bad),
        len(good),
        1,
    )
    assert report.finished
    assert report.exit_code == 3
    found = letters(report.dead_letter)
    assert [each["row"] for each in found] == bad
    assert found[1] == {
        "source": str(tmp_path / "rows.jsonl"),
        "row": 151,
        "id": "r150",
        "error": "ValueError",
        "message": found[1]["message"],
        "stage": "read",
        "record": {"id": "r150", "n": 150},
    }
    assert found[0]["stage"] == "read"
    assert (found[2]["stage"], found[2]["error"], found[2]["record"]["text"]) == ("embed", "ValueError", f"{POISON} 250")
    assert max(embedded(log).values()) == 1


def test_bad_rows_that_were_mended_are_read_again(embed, collection, tmp_path):
    rows = jsonl(tmp_path / "rows.jsonl", {"id": "a", "text": f"{POISON}"}, {"id": "b", "text": "pear"})
    report = embed(rows)
    mended = tmp_path / "mended.jsonl"
    with open(report.dead_letter) as file:
        mended.write_text(file.read().replace(POISON, "apple"))
    assert embed(mended).rows_out == 1
    assert sorted(collection.get()["documents"]) == ["apple", "pear"]


def test_only_what_has_changed_is_embedded(embed, collection, tmp_path, log):
    rows = tmp_path / "rows.jsonl"
    jsonl(rows, *({"id": f"{at}", "text": f"text {at}", "n": at} for at in range(5)))
    embed(rows)
    log.unlink()
    jsonl(rows, *({"id": f"{at}", "text": f"text {at}" if at != 3 else "other", "n": at if at != 2 else -2} for at in range(6)))
    report = embed(rows)
    assert dict(embedded(log)) == {"other": 1, "text 5": 1}
    assert (report.rows_out, report.unchanged) == (3, 3)
    got = collection.get()
    assert got["documents"] == ["text 0", "text 1", "text 2", "other", "text 4", "text 5"]
    assert [each["n"] for each in got["metadatas"]] == [0, 1, -2, 3, 4, 5]


def test_a_finished_job_has_nothing_to_do(embed, tmp_path, log):
    write_rows(tmp_path / "rows.jsonl", 50, bad_every=0)
    first = embed(tmp_path / "rows.jsonl")
    log.unlink()
    again = embed(tmp_path / "rows.jsonl")
    assert not embedded(log)
    assert (again.rows_in, again.rows_out, again.runs, again.finished, again.exit_code) == (50, 50, 1, True, 0)
    assert again.seconds == pytest.approx(first.seconds, abs=1e-3)
    anew = embed(tmp_path / "rows.jsonl", resume=False)
    assert (anew.rows_in, anew.unchanged, anew.runs) == (50, 50, 1)


@pytest.mark.parametrize(("on_conflict", "text"), [("upsert", "last"), ("skip", "first"), ("error", "first")])
def test_one_id_several_times(on_conflict, text, embed, collection, tmp_path):
    rows = [{"id": "same", "text": "first"}, {"id": "other", "text": "else"}, {"id": "same", "text": "last"}]
    report = embed(jsonl(tmp_path / "rows.jsonl", *rows), on_conflict=on_conflict)
    got = collection.get()
    assert dict(zip(got["ids"], got["documents"], strict=True)) == {"same": text, "other": "else"}
    np.testing.assert_array_equal(collection.get(ids=["same"], include=["embeddings"])["embeddings"][0], vector_of(text))
    assert (report.rows_in, report.skipped, report.dead) == (3, int(on_conflict == "skip"), int(on_conflict == "error"))


@pytest.mark.parametrize("on_conflict", ["skip", "error"])
def test_the_first_good_row_of_an_id_is_the_one(on_conflict, embed, collection, tmp_path):
    rows = [{"id": "same", "text": POISON}, {"id": "same", "text": "good"}, {"id": "same", "text": "late"}]
    embed(jsonl(tmp_path / "rows.jsonl", *rows), on_conflict=on_conflict)
    assert collection.get()["documents"] == ["good"]


@pytest.mark.parametrize("on_conflict", ["skip", "error"])
def test_ids_that_are_there(on_conflict, embed, collection, tmp_path, log):
    collection.add(ids=["a"], documents=["here before"])
    log.unlink()
    report = embed(jsonl(tmp_path / "rows.jsonl", {"id": "a", "text": "x"}, {"id": "b", "text": "y"}), on_conflict=on_conflict)
    assert collection.get()["documents"] == ["here before", "y"]
    assert dict(embedded(log)) == {"y": 1}
    assert (report.skipped, report.dead, report.rows_out) == ((1, 0, 1) if on_conflict == "skip" else (0, 1, 1))


def test_equal_texts_can_be_left_out(embed, collection, tmp_path, log):
    rows = [{"id": f"{at}", "text": f"text {at % 3}"} for at in range(9)]
    report = embed(jsonl(tmp_path / "rows.jsonl", *rows), dedupe="exact")
    assert collection.get()["ids"] == ["0", "1", "2"]
    assert (report.duplicates, report.rows_out) == (6, 3)


def test_near_vectors_can_be_left_out(embed, client, tmp_path):
    into = client.create_collection("near", configuration={"hnsw": {"space": "cosine"}}, embedding_function=None)
    rows = [{"id": f"{at}", "v": [1.0, 0.001 * at, float(at > 3)]} for at in range(6)]
    report = jobs.embed(
        jsonl(tmp_path / "rows.jsonl", *rows), collection=into, path=tmp_path / "data", vector_column="v", dedupe=0.99
    )
    assert into.get()["ids"] == ["0", "4"]
    assert report.duplicates == 4


def test_vectors_that_are_given_are_not_embedded(client, tmp_path):
    rows = [{"id": f"{at}", "text": f"t{at}", "v": [at, 1.0]} for at in range(5)]
    rows[3]["v"] = [1.0]
    report = jobs.embed(jsonl(tmp_path / "rows.jsonl", *rows), collection="made", path=tmp_path / "data", vector_column="v")
    got = client.get_collection("made").get(include=["embeddings", "documents"])
    assert got["documents"] == ["t0", "t1", "t2", "t4"]
    np.testing.assert_array_equal(got["embeddings"], [[0, 1], [1, 1], [2, 1], [4, 1]])
    assert report.dead == 1


def test_texts_in_chunks(embed, collection, tmp_path, log):
    text = " ".join(f"word{at}" for at in range(60))
    report = embed(jsonl(tmp_path / "rows.jsonl", {"id": "a", "text": text}), chunk="chars", chunk_size=100, chunk_overlap=0)
    got = collection.get()
    assert got["ids"] == [f"a#{at}" for at in range(len(got["ids"]))]
    assert " ".join(got["documents"]) == text
    assert (report.rows_in, report.rows_out, report.chunks) == (1, 1, len(got["ids"]))
    assert report.chunks > 3


@pytest.mark.parametrize("on_error", ["skip", "fail"])
def test_bad_rows_without_a_file(on_error, embed, collection, tmp_path):
    good, bad = write_rows(tmp_path / "rows.jsonl", 500)
    if on_error == "skip":
        report = embed(tmp_path / "rows.jsonl", on_error="skip")
        check(collection, good)
        assert (report.dead, report.dead_letter, report.exit_code) == (len(bad), None, 3)
    else:
        with pytest.raises(JobFailed, match="row 51"):
            embed(tmp_path / "rows.jsonl", on_error="fail")
        check(collection, {id: text for id, text in good.items() if int(id[1:]) < bad[0]})
        # What is mended or allowed is gone on with from there.
        assert embed(tmp_path / "rows.jsonl", on_error="skip").rows_in == 500
        check(collection, good)
    assert not list(tmp_path.glob("*.bad.jsonl"))


@pytest.mark.parametrize(("most", "rows"), [(2, 500), (0.015, 500), (0.015, 80)])
def test_too_many_bad_rows_end_the_job(most, rows, embed, collection, tmp_path):
    good, bad = write_rows(tmp_path / "rows.jsonl", rows, bad_every=50)
    if rows < 100:
        assert embed(tmp_path / "rows.jsonl", max_errors=most).finished  # a share of few rows says nothing
        return
    with pytest.raises(JobFailed, match="--max-errors"):
        embed(tmp_path / "rows.jsonl", max_errors=most, checkpoint_every=100)
    assert embed(tmp_path / "rows.jsonl").dead == len(bad)
    check(collection, good)


def test_a_row_that_the_collection_refuses_is_set_apart(embed, collection, tmp_path, monkeypatch):
    """Mapping finds such rows before; what it misses must not take its block with it."""
    monkeypatch.setattr("chroma_gpu.jobs.mapping.Mapping._check_key", lambda self, key: None)
    rows = [{"id": f"{at}", "text": f"text {at}"} | ({"$bad": 1} if at == 2 else {}) for at in range(5)]
    report = embed(jsonl(tmp_path / "rows.jsonl", *rows))
    assert collection.get()["ids"] == ["0", "1", "3", "4"]
    (letter,) = letters(report.dead_letter)
    assert (letter["id"], letter["stage"]) == ("2", "store")
    assert "$bad" in letter["message"]


def test_progress_is_told(embed, tmp_path):
    write_rows(tmp_path / "rows.jsonl", 3_000, bad_every=0)
    told = []
    embed(tmp_path / "rows.jsonl", progress=told.append)
    done = [each.done for each in told]
    assert done == sorted(done)
    assert len(set(done)) > 2
    assert (done[-1], told[-1].embedded, told[-1].resumed) == (3_000, 3_000, 0)


def test_a_job_that_is_stopped_goes_on(embed, collection, tmp_path, log):
    good, bad = write_rows(tmp_path / "rows.jsonl", 5_000)
    stop = threading.Event()

    def tell(now):
        if now.done:
            stop.set()

    report = embed(tmp_path / "rows.jsonl", stop=stop, progress=tell)
    assert (report.interrupted, report.finished, report.exit_code) == (True, False, 130)
    assert 0 < report.rows_in < 5_000
    assert collection.count() == report.rows_out
    told = []
    report = embed(tmp_path / "rows.jsonl", progress=told.append)
    assert told[0].resumed > 0
    assert (report.rows_in, report.runs, report.dead) == (5_000, 2, len(bad))
    check(collection, good)
    assert [each["row"] for each in letters(report.dead_letter)] == bad
    assert max(embedded(log).values()) == 1


def test_a_run_that_keeps_no_bad_rows_keeps_those_of_others(embed, tmp_path):
    _, bad = write_rows(tmp_path / "rows.jsonl", 5_000)

    def part(**options):
        stop = threading.Event()
        return embed(
            tmp_path / "rows.jsonl", stop=stop, progress=lambda now: stop.set() if now.done > now.resumed else None, **options
        )

    first = part()
    second = part(on_error="skip")
    assert first.dead < second.dead < len(bad)
    last = embed(tmp_path / "rows.jsonl")
    assert [each["row"] for each in letters(last.dead_letter)] == bad[: first.dead] + bad[second.dead :]


def test_what_was_read_ahead_is_not_taken_for_done(client, tmp_path):
    """The pipeline has read all rows when its first block comes."""
    good, _ = write_rows(tmp_path / "rows.jsonl", 20_000, bad_every=0)
    stop = threading.Event()
    report = jobs.embed(
        tmp_path / "rows.jsonl", collection="made", path=tmp_path / "data", model="hashing", stop=stop,
        progress=lambda now: stop.set(),
    )  # fmt: skip
    assert (report.interrupted, report.finished) == (True, False)
    assert report.rows_in == client.get_collection("made").count() < 20_000
    report = jobs.embed(tmp_path / "rows.jsonl", collection="made", path=tmp_path / "data", model="hashing")
    assert (report.rows_in, report.finished) == (20_000, True)
    assert client.get_collection("made").get(include=[])["ids"] == list(good)


def test_a_chunked_row_is_gone_on_with_in_its_middle(embed, collection, tmp_path, log):
    text = " ".join(f"word{at}" for at in range(9_000))
    rows = jsonl(tmp_path / "rows.jsonl", {"id": "a", "text": text}, {"id": "b", "text": "short"})
    stop = threading.Event()
    options = {"chunk": "chars", "chunk_size": 20, "chunk_overlap": 0}
    report = embed(rows, stop=stop, progress=lambda now: stop.set() if now.embedded else None, **options)
    assert report.rows_in == 0
    assert 0 < report.chunks == collection.count()
    report = embed(rows, **options)
    got = collection.get()
    assert " ".join(got["documents"]) == f"{text} short"
    assert (report.rows_in, report.rows_out, report.chunks) == (2, 2, len(got["ids"]))
    assert max(embedded(log).values()) == 1


def test_an_interrupt_is_raised_when_all_is_committed(embed, collection, tmp_path):
    good, _ = write_rows(tmp_path / "rows.jsonl", 5_000)
    before = signal.getsignal(signal.SIGINT)

    def tell(now):
        if now.done:
            signal.raise_signal(signal.SIGINT)
            tell.times += 1

    tell.times = 0
    with pytest.raises(KeyboardInterrupt):
        embed(tmp_path / "rows.jsonl", progress=tell)
    assert signal.getsignal(signal.SIGINT) is before
    assert 0 < collection.count() < len(good)
    embed(tmp_path / "rows.jsonl")
    check(collection, good)


def test_an_input_that_has_changed_is_read_from_its_beginning(embed, collection, tmp_path, log):
    write_rows(tmp_path / "rows.jsonl", 3_000)
    stop = threading.Event()
    embed(tmp_path / "rows.jsonl", stop=stop, progress=lambda now: stop.set() if now.done else None)
    there = collection.count()
    good, bad = write_rows(tmp_path / "rows.jsonl", 4_000)
    report = embed(tmp_path / "rows.jsonl")
    check(collection, good)
    assert (report.rows_in, report.unchanged, report.dead) == (4_000, there, len(bad))
    assert [each["row"] for each in letters(report.dead_letter)] == bad
    assert max(embedded(log).values()) == 1


def test_two_runs_at_once(embed, collection, tmp_path, log):
    """The second one takes over; the first one finds that out before it commits anything more."""
    good, _ = write_rows(tmp_path / "rows.jsonl", 4_000)
    others = []

    def tell(now):
        if now.done and not others:
            others.append(None)
            embed(tmp_path / "rows.jsonl", on_error="skip")

    with pytest.raises(NoteChanged):
        embed(tmp_path / "rows.jsonl", on_error="skip", progress=tell)
    check(collection, good)


def test_a_file_of_bad_rows_is_of_one_run_at_a_time(embed, tmp_path):
    write_rows(tmp_path / "rows.jsonl", 3_000)
    refused = []

    def tell(now):
        if not refused:
            with pytest.raises(chroma_gpu.errors.StoreBusy) as error:
                embed(tmp_path / "rows.jsonl")
            refused.append(error.value)

    assert embed(tmp_path / "rows.jsonl", progress=tell).finished
    assert "another run" in str(refused[0])


def test_a_file_of_others_is_not_written(embed, tmp_path):
    write_rows(tmp_path / "rows.jsonl", 300)
    mine = tmp_path / "mine.jsonl"
    mine.write_text("precious\n")
    with pytest.raises(InvalidArgumentError, match="another job"):
        embed(tmp_path / "rows.jsonl", dead_letter=mine)
    assert mine.read_text() == "precious\n"


def test_a_commit_that_fails_leaves_nothing_and_is_done_again(embed, collection, tmp_path, monkeypatch):
    good, bad = write_rows(tmp_path / "rows.jsonl", 3_000)
    write, calls = type(collection)._commit_job, []

    def failing(self, *given, **named):
        calls.append(None)
        if len(calls) == 3:
            raise OSError("the disk is gone")
        return write(self, *given, **named)

    monkeypatch.setattr(type(collection), "_commit_job", failing)
    with pytest.raises(OSError, match="disk is gone"):
        embed(tmp_path / "rows.jsonl")
    monkeypatch.undo()
    report = embed(tmp_path / "rows.jsonl")
    check(collection, good)
    assert [each["row"] for each in letters(report.dead_letter)] == bad


def test_an_input_that_breaks_off_keeps_what_came_before(embed, collection, tmp_path):
    rows = [{"id": f"r{at}", "text": f"text number {at}", "n": at, "noise": secrets.token_hex(200)} for at in range(3_000)]
    packed = gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())
    (tmp_path / "torn.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(EngineError, match=r"torn\.jsonl\.gz cannot be read past row"):
        embed(tmp_path / "torn.jsonl.gz")
    assert collection.count() >= 1_024
    check(collection, {f"r{at}": f"text number {at}" for at in range(collection.count())})


def test_large_blocks_are_committed_in_parts(embed, collection, tmp_path, monkeypatch):
    good, _ = write_rows(tmp_path / "rows.jsonl", 2_000)
    sizes, commit = [], Commits._commit
    monkeypatch.setattr(Commits, "_commit", lambda self, batch: (sizes.append(len(batch.vectors)), commit(self, batch))[1])
    embed(tmp_path / "rows.jsonl", checkpoint_every=300)
    assert max(sizes) == 300
    check(collection, good)


def test_into_a_file_alone(tmp_path, log):
    from pyarrow import parquet

    good, bad = write_rows(tmp_path / "rows.jsonl", 3_000)
    out = tmp_path / "vectors.parquet"
    stop = threading.Event()
    options = {"out": out, "embedding_function": CountingFunction(log)}
    report = jobs.embed(tmp_path / "rows.jsonl", stop=stop, progress=lambda now: stop.set() if now.done else None, **options)
    assert report.interrupted
    assert not out.exists()
    report = jobs.embed(tmp_path / "rows.jsonl", **options)
    assert (report.rows_out, report.dead) == (len(good), len(bad))
    got = parquet.read_table(out)
    assert got["id"].to_pylist() == list(good)
    np.testing.assert_array_equal(np.stack(got["vector"].to_numpy()), [vector_of(text) for text in good.values()])
    assert max(embedded(log).values()) == 1
    assert [each.name for each in tmp_path.iterdir() if each.name.endswith(".job")] == []


def test_another_model_than_the_collections_is_refused_before_reading(client, tmp_path, monkeypatch):
    write_rows(tmp_path / "rows.jsonl", 10)
    client.create_collection("made", embedding_function=chroma_gpu.utils.embedding_functions.HashingEmbeddingFunction())
    monkeypatch.setattr(run_module, "_Job", None)
    with pytest.raises(InvalidArgumentError, match="vectors of hashing"):
        jobs.embed(tmp_path / "rows.jsonl", collection="made", path=tmp_path / "data", model="static")


def test_a_document_that_got_shorter_leaves_no_chunks_behind(embed, collection, tmp_path):
    rows = tmp_path / "rows.jsonl"
    words = [f"word{at}" for at in range(40)]
    other = {"id": "b", "text": " ".join(words)}
    for length in (40, 11, 25):
        jsonl(rows, {"id": "a", "text": " ".join(words[:length])}, other)
        embed(rows, chunk="chars", chunk_size=50, chunk_overlap=0)
        mine = collection.get(where={"document_id": "a"})
        assert " ".join(mine["documents"]).split() == words[:length]
        assert {each["chunks"] for each in mine["metadatas"]} == {len(mine["ids"])}
        assert " ".join(collection.get(where={"document_id": "b"})["documents"]).split() == words


def test_progress_knows_about_how_many_rows_there_are(embed, tmp_path):
    seen = []
    embed(jsonl(tmp_path / "rows.jsonl", *({"id": f"{at}", "text": f"text {at}"} for at in range(30))), progress=seen.append)
    assert {each.total for each in seen} == {30}
    assert seen[-1].done == 30


def test_vectors_of_another_length_than_the_collection_has_are_bad_rows(embed, collection, tmp_path):
    embed(jsonl(tmp_path / "rows.jsonl", {"id": "a", "text": "apple"}))
    dim = len(collection.get(include=["embeddings"])["embeddings"][0])
    rows = ({"id": f"v{at}", "text": "given", "vector": [1.0] * (dim + (at == 0))} for at in range(2))
    report = embed(jsonl(tmp_path / "vectors.jsonl", *rows), vector_column="vector")
    assert (report.rows_out, report.dead) == (1, 1)
