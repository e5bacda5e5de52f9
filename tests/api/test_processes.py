"""Several processes on one path."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import chroma_gpu
import chroma_gpu.errors

ROWS, BATCH, DIM = 3_000, 50, 16

SHARED = f"""
import sys, numpy as np, chroma_gpu
path, name = sys.argv[1:3]
def vector(owner, at):
    return np.random.default_rng([ord(owner), at]).standard_normal({DIM}, dtype=np.float32)
client = chroma_gpu.PersistentClient(path)
collection = client.get_or_create_collection("shared", embedding_function=None)
"""
WRITER = (
    SHARED
    + f"""
for start in range(0, {ROWS}, {BATCH}):
    rows = range(start, start + {BATCH})
    collection.add(ids=[f"{{name}}{{at}}" for at in rows], embeddings=np.stack([vector(name, at) for at in rows]),
                   metadatas=[{{"owner": name, "batch": start}}] * {BATCH})
client.close()
"""
)
READER = (
    SHARED
    + f"""
seen = 0
while seen < {2 * ROWS}:
    got = collection.get(include=["metadatas", "embeddings"])
    assert len(got["ids"]) % {BATCH} == 0, "part of a batch was seen"
    assert len(got["ids"]) >= seen, "a commit was unseen again"
    new = range(seen, len(got["ids"]))
    for at in list(new)[:: max(1, len(new) // 20)]:
        owner, row = got["ids"][at][0], int(got["ids"][at][1:])
        assert np.array_equal(got["embeddings"][at], vector(owner, row).astype(np.float64))
        hit = collection.query(query_embeddings=[vector(owner, row)], n_results=1, where={{"owner": owner}})
        assert hit["ids"] == [[got["ids"][at]]]
    seen = len(got["ids"])
    if seen: print(seen, flush=True)
client.close()
"""
)


def start(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return out


def test_two_writers_and_a_reader(tmp_path):
    processes = [start(WRITER, tmp_path, "a"), start(WRITER, tmp_path, "b"), start(READER, tmp_path, "r")]
    for process in processes:
        finish(process)
    with chroma_gpu.PersistentClient(tmp_path) as client:
        collection = client.get_collection("shared", embedding_function=None)
        got = collection.get(include=["embeddings"])
        assert sorted(got["ids"]) == sorted(f"{owner}{at}" for owner in "ab" for at in range(ROWS))
        for name, vector in zip(got["ids"], got["embeddings"], strict=True):
            want = np.random.default_rng([ord(name[0]), int(name[1:])]).standard_normal(DIM, dtype=np.float32)
            assert np.array_equal(vector, want.astype(np.float64))
        with client._engine.table(collection.id) as table:
            assert table._store.verify() == []


def test_a_killed_writer_leaves_nothing_stuck(tmp_path):
    with chroma_gpu.PersistentClient(tmp_path) as client:
        collection = client.get_or_create_collection("shared", embedding_function=None)
        writer = start(
            WRITER.replace("client.close()", "while True: collection.upsert(ids=['loop'], embeddings=[vector('z', 0)])"),
            tmp_path,
            "a",
        )
        while collection.count() < ROWS:
            assert writer.poll() is None, writer.stderr.read()
        os.kill(writer.pid, signal.SIGKILL)
        writer.communicate()
        collection.add(ids=["after"], embeddings=np.ones((1, DIM)))
        assert collection.query(query_embeddings=np.ones((1, DIM)), n_results=1)["ids"] == [["after"]]


@pytest.fixture
def other(tmp_path):
    """Runs code in another process that has ``client`` open on the same path."""

    def run(code):
        return finish(
            start(
                "import sys, chroma_gpu\nclient = chroma_gpu.PersistentClient(sys.argv[1])\n" + code + "\nclient.close()",
                tmp_path,
            )
        )

    return run


def test_what_another_process_does_is_seen_at_the_next_call(tmp_path, other):
    with chroma_gpu.PersistentClient(tmp_path) as client:
        collection = client.create_collection("one", embedding_function=None)
        collection.add(ids=["a", "b", "c"], embeddings=np.eye(3), metadatas=[{"k": 1}, {"k": 2}, {"k": 3}])
        assert collection.query(query_embeddings=[[1, 0, 0]], n_results=1, where={"k": 1})["ids"] == [["a"]]
        mine = "c = client.get_collection('one', embedding_function=None)\n"
        other(mine + "c.update(ids=['b'], embeddings=[[9, 0, 0]], metadatas=[{'k': 1}])")
        assert collection.query(query_embeddings=[[9, 0, 0]], n_results=1, where={"k": 1})["ids"] == [["b"]]
        assert collection.get()["ids"] == ["a", "b", "c"]
        other(mine + "c.delete(ids=['a'])")
        assert collection.get()["ids"] == ["b", "c"]
        other(mine + "c.compact()")
        assert collection.get()["ids"] == ["b", "c"]
        collection.add(ids=["d"], embeddings=[[0, 0, 5]])
        assert other(mine + "print(c.get()['ids'])").strip() == "['b', 'c', 'd']"
        other(mine + "c.modify(name='two')")
        assert client.get_collection("two", embedding_function=None).count() == 3
        other("client.delete_collection('two')")
        with pytest.raises(chroma_gpu.errors.NotFoundError):
            collection.count()


def test_a_write_that_meets_a_compaction_lands_in_the_new_folder(tmp_path):
    """One process compacts again and again while another writes; nothing acknowledged is lost."""
    compacting = (
        SHARED
        + """
for _ in range(15):
    collection.compact()
client.close()
"""
    )
    processes = [start(WRITER, tmp_path, "a"), start(compacting, tmp_path, "b")]
    for process in processes:
        finish(process)
    with chroma_gpu.PersistentClient(tmp_path) as client:
        collection = client.get_collection("shared", embedding_function=None)
        assert collection.get(include=[])["ids"] == [f"a{at}" for at in range(ROWS)]
        assert len(os.listdir(tmp_path / "collections")) == 1


def test_a_forked_child_can_use_the_client(tmp_path):
    code = """
import os
collection = client.create_collection("one", embedding_function=None)
vectors = np.random.default_rng(0).standard_normal((6_000, 64), dtype=np.float32)
collection.add(ids=[str(at) for at in range(6_000)], embeddings=vectors)
collection.wait_indexed()
collection.query(query_embeddings=vectors[:50])  # starts FAISS's threads, which a child does not have
child = os.fork()
if child == 0:
    collection.add(ids=["b"], embeddings=vectors[:1] * 100)
    collection.wait_indexed()
    hits = collection.query(query_embeddings=np.vstack([vectors[:50], vectors[:1] * 100]), n_results=1)["ids"]
    os._exit(0 if hits == [[str(at)] for at in range(50)] + [["b"]] else 1)
assert os.waitpid(child, 0)[1] == 0
assert collection.query(query_embeddings=vectors[:1] * 100, n_results=1)["ids"] == [["b"]]
"""
    finish(
        start(
            "import sys, numpy as np, chroma_gpu\nclient = chroma_gpu.PersistentClient(sys.argv[1])\n" + code + "client.close()",
            tmp_path,
        )
    )


def test_many_processes_make_one_directory(tmp_path):
    making = "import sys, chroma_gpu\nwith chroma_gpu.PersistentClient(sys.argv[1]) as client: print(client.get_or_create_collection('shared', embedding_function=None).id)"
    for attempt in range(4):
        processes = [start(making, tmp_path / str(attempt)) for _ in range(6)]
        assert len({finish(process) for process in processes}) == 1
