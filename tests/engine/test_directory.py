"""The data directory: what it refuses, what it sweeps, what it gives back."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import chroma_gpu
import chroma_gpu.errors
from chroma_gpu.engine.directory import Directory
from chroma_gpu.errors import FormatError, StoreError


def size_of(path) -> int:
    return sum(each.stat().st_blocks * 512 for each in path.rglob("*") if each.is_file())


def fill(client, name, n=3000, dim=256):
    collection = client.create_collection(name, embedding_function=None)
    vectors = np.random.default_rng(0).standard_normal((n, dim), dtype=np.float32)
    collection.add(ids=[f"{name}-{at}" for at in range(n)], embeddings=vectors, documents=["text"] * n)
    return collection, vectors


def test_another_format_is_refused(tmp_path):
    chroma_gpu.PersistentClient(tmp_path).close()
    (tmp_path / "format.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(FormatError, match="format 99"):
        chroma_gpu.PersistentClient(tmp_path)
    (tmp_path / "format.json").write_text("{")
    with pytest.raises(FormatError):
        chroma_gpu.PersistentClient(tmp_path)


def test_a_directory_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "chroma.sqlite3").write_text("x")
    with pytest.raises(FormatError, match="original Chroma"):
        chroma_gpu.PersistentClient(tmp_path)
    (tmp_path / "chroma.sqlite3").rename(tmp_path / "thesis.txt")
    with pytest.raises(FormatError, match="not empty"):
        chroma_gpu.PersistentClient(tmp_path)
    assert os.listdir(tmp_path) == ["thesis.txt"]


def test_a_path_that_cannot_be_a_directory_is_said(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="cannot be used"):
        chroma_gpu.PersistentClient(tmp_path / "file" / "below")


def test_a_deleted_collection_gives_its_disk_back_at_once(tmp_path):
    with chroma_gpu.PersistentClient(tmp_path / "data") as client:
        empty = size_of(tmp_path)
        fill(client, "one")
        full = size_of(tmp_path)
        client.delete_collection("one")
        assert size_of(tmp_path) - empty < (full - empty) / 20


def test_compaction_gives_back_what_was_deleted(tmp_path):
    with chroma_gpu.PersistentClient(tmp_path / "data") as client:
        collection, vectors = fill(client, "one")
        full = size_of(tmp_path)
        kept = [f"one-{at}" for at in (5, 2999, 17)]
        collection.delete(where_document={"$contains": "text"}, limit=2)
        collection.delete(ids=[each for each in collection.get(include=[])["ids"] if each not in kept])
        before = collection.get(include=["embeddings", "documents"])
        collection.compact()
        after = collection.get(include=["embeddings", "documents"])
        assert after["ids"] == before["ids"] == ["one-5", "one-17", "one-2999"]
        assert np.array_equal(after["embeddings"], vectors[[5, 17, 2999]])
        assert size_of(tmp_path) < full / 10
        collection.delete(ids=kept)
        collection.compact()
        with pytest.raises(chroma_gpu.errors.InvalidArgumentError):
            collection.add(ids=["x"], embeddings=[[1.0]])  # the dimension stays fixed


def test_compaction_happens_by_itself(tmp_path, monkeypatch):
    monkeypatch.setattr("chroma_gpu.engine.engine.DEAD_ROWS", 100)
    with chroma_gpu.PersistentClient(tmp_path / "data") as client:
        collection, vectors = fill(client, "one")
        collection.delete(ids=[f"one-{at}" for at in range(1000)])

        def occupancy():
            with client._engine.table(collection.id) as table:
                return table.occupancy()

        while occupancy() != (2000, 0):
            assert not client._engine.failures
        assert np.array_equal(collection.get(include=["embeddings"])["embeddings"], vectors[1000:])


def test_leftover_folders_are_swept_at_opening(tmp_path):
    with chroma_gpu.PersistentClient(tmp_path) as client:
        fill(client, "one", n=10)
    (tmp_path / "collections" / "leftover").mkdir()
    with chroma_gpu.PersistentClient(tmp_path) as client:
        assert not (tmp_path / "collections" / "leftover").exists()
        assert client.get_collection("one").count() == 10


def test_nothing_is_swept_while_another_process_makes_folders(tmp_path):
    directory = Directory.open(tmp_path)
    directory.folder("new").mkdir()
    with directory.maintenance():
        other = Directory.open(tmp_path)
        other.sweep(set)
        assert directory.folder("new").exists()
    other.sweep(set)
    assert not directory.folder("new").exists()


def test_a_failed_compaction_leaves_the_collection_as_it_was(tmp_path, monkeypatch):
    with chroma_gpu.PersistentClient(tmp_path / "data") as client:
        collection, vectors = fill(client, "one", n=50)
        collection.delete(ids=["one-0"])

        def broken(*_):
            raise OSError("no space left")

        monkeypatch.setattr("chroma_gpu.store.record_store.copy_live", broken)
        with pytest.raises(OSError, match="no space"):
            collection.compact()
        monkeypatch.undo()
        assert np.array_equal(collection.get(include=["embeddings"])["embeddings"], vectors[1:])
        collection.add(ids=["new"], embeddings=vectors[:1])
        collection.compact()
        assert collection.count() == 50
        assert len(os.listdir(tmp_path / "data" / "collections")) == 1


def test_files_are_private(tmp_path):
    with chroma_gpu.PersistentClient(tmp_path / "data") as client:
        fill(client, "one", n=3)
    for each in (tmp_path / "data").rglob("*"):
        assert each.stat().st_mode & 0o077 == 0 or each.name == "format.json", each


def test_a_forked_child_does_not_keep_its_parents_lock(tmp_path):
    """Another process has the lock as soon as the parent lets go of it, while the child lives on."""
    code = """
import os, sys
from pathlib import Path
from chroma_gpu.engine.directory import Directory
directory = Directory.open(Path(sys.argv[1]))
ready, told = os.pipe()
waiting, live = os.pipe()
with directory.maintenance():
    child = os.fork()
    if not child:
        os.close(live)
        directory.after_fork()
        os.write(told, b"x")
        os.read(waiting, 1)
        os._exit(0)
    os.read(ready, 1)
with Directory.open(Path(sys.argv[1])).maintenance(wait=False) as held:
    print(held)
os.close(live)
os.waitpid(child, 0)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "True\n"
