"""``chroma-gpu repair``: an index that says something else than the records is found and made anew; damaged records are left alone."""

from __future__ import annotations

import numpy as np
import pytest

import chroma_gpu
from chroma_gpu.cli import main
from chroma_gpu.store.encoding import FIELDS, POSTINGS, RECORDS
from chroma_gpu.store.inverted.layout import REPAIR
from chroma_gpu.store.record_store import RecordStore
from chroma_gpu.store.seal import seal, unseal

ROWS, DIM = 5_000, 8
GERMAN = [f"{at}" for at in range(ROWS) if at % 3 == 0]


@pytest.fixture
def path(tmp_path):
    """Two collections that are in the index, with a checkpoint each."""
    place = tmp_path / "data"
    vectors = np.random.default_rng(3).standard_normal((ROWS, DIM), dtype=np.float32)
    with chroma_gpu.PersistentClient(place) as client:
        for name in ("first", "second"):
            made = client.create_collection(name, embedding_function=None)
            made.add(
                ids=[f"{at}" for at in range(ROWS)],
                embeddings=vectors,
                documents=[f"text {at}" for at in range(ROWS)],
                metadatas=[{"lang": "en" if at % 3 else "de", "n": at} for at in range(ROWS)],
            )
            made.wait_indexed()
    return place


def folder_of(path, name):
    with chroma_gpu.PersistentClient(path) as client:
        return path / "collections" / client._engine.entry(client.get_collection(name).id).folder


def store_of(path, name):
    """The store of a collection, for harm; to be closed."""
    return RecordStore.open(folder_of(path, name))


def mix_up(path, name, table):
    """Put what belongs under the second key of a table under its first one too, with a seal that holds."""
    store = store_of(path, name)

    def harm(txn):
        (first, _), (second, value), *_ = txn.scan(table)
        txn.put(table, first, seal(first, unseal(table, second, value)))

    store._keyvalue.write(harm)
    store.close()


def run(capsys, *arguments):
    status = main(["repair", *map(str, arguments)])
    return status, capsys.readouterr().out


def german(path, name):
    with chroma_gpu.PersistentClient(path) as client:
        return client.get_collection(name).get(where={"lang": "de"}, include=[])["ids"]


def test_what_is_sound_is_called_sound(path, capsys):
    assert run(capsys, "--path", path, "--check") == (0, "first: sound\nsecond: sound\n")
    assert run(capsys, "second", "--path", path) == (0, "second: its index was made anew\n")
    assert german(path, "second") == GERMAN


@pytest.mark.parametrize("table", [FIELDS, POSTINGS])
def test_a_wrong_index_is_found_and_made_anew(path, capsys, table):
    mix_up(path, "first", table)
    status, out = run(capsys, "--path", path, "--check")
    assert status == 1
    assert "first: its index is damaged" in out
    assert table in out
    assert "second: sound" in out
    status, out = run(capsys, "first", "--path", path)
    assert status == 0
    assert "first: its index was made anew" in out
    assert run(capsys, "--path", path, "--check")[0] == 0
    assert german(path, "first") == GERMAN
    store = store_of(path, "first")
    assert store.verify() == []
    store.close()


def test_damaged_records_are_named_and_nothing_is_changed(path, capsys):
    mix_up(path, "first", POSTINGS)
    store, key = store_of(path, "first"), (7).to_bytes(4, "big")
    store._keyvalue.write(lambda txn: txn.put(RECORDS, key, txn.get(RECORDS, key)[:-1]))
    before = store.verify(), store.state()
    store.close()
    status, out = run(capsys, "--path", path)
    assert status == 1
    assert "first: its records are damaged; nothing was changed" in out
    assert "table records" in out
    assert "second: its index was made anew" in out
    store = store_of(path, "first")
    assert (store.verify(), store.state()) == before
    store.close()


def test_a_damaged_vector_is_named_by_row_and_id(path, capsys):
    vectors = folder_of(path, "first") / "vectors.f32"
    data = bytearray(vectors.read_bytes())
    data[(7 * DIM + 2) * 4] ^= 1
    vectors.write_bytes(data)
    status, out = run(capsys, "first", "--path", path)
    assert status == 1
    assert "the vector of row 7 (id '7') is damaged" in out


def test_an_id_cannot_pass_for_advice(path, capsys):
    """Findings about records name ids, which may hold any text."""
    with chroma_gpu.PersistentClient(path) as client:
        client.get_collection("first", embedding_function=None).add(ids=[REPAIR], embeddings=[[1.0] * DIM])
    vectors = folder_of(path, "first") / "vectors.f32"
    data = bytearray(vectors.read_bytes())
    data[ROWS * DIM * 4] ^= 1
    vectors.write_bytes(data)
    status, out = run(capsys, "first", "--path", path)
    assert status == 1
    assert "its records are damaged; nothing was changed" in out


def test_a_torn_checkpoint_is_removed_and_made_again(path, capsys):
    saved = folder_of(path, "first") / "index" / "codes.bin"
    data = bytearray(saved.read_bytes())
    data[len(data) // 2] ^= 1
    saved.write_bytes(data)
    status, out = run(capsys, "first", "--path", path, "--check")
    assert status == 1
    assert "the checkpoint of codes is not what was written" in out
    assert saved.exists()
    status, out = run(capsys, "first", "--path", path)
    assert status == 0
    assert "checkpoints removed: codes" in out
    assert not saved.exists()
    with chroma_gpu.PersistentClient(path) as client:
        made = client.get_collection("first", embedding_function=None)
        made.wait_indexed()
        assert made.query(query_embeddings=np.ones((1, DIM), np.float32))["ids"]
    assert saved.exists()


def test_a_fork_is_repaired_on_its_own(path, capsys):
    with chroma_gpu.PersistentClient(path) as client:
        client.get_collection("first", embedding_function=None).fork("fork")
    mix_up(path, "fork", POSTINGS)
    assert run(capsys, "first", "--path", path, "--check")[0] == 1
    assert run(capsys, "fork", "first", "--path", path)[0] == 0
    assert run(capsys, "--path", path, "--check")[0] == 0
    assert german(path, "fork") == german(path, "first") == GERMAN


def test_an_unknown_collection_is_one_line(path, capsys):
    assert main(["repair", "none", "--path", str(path)]) == 1
    assert "does not exist" in capsys.readouterr().err
