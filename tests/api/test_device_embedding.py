"""Texts whose vectors never leave the device on their way to the index: added, replaced, skipped, refused, killed in between."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import weakref

import numpy as np
import pytest
import torch

from chroma_gpu.embed.local import LocalEmbeddingFunction
from chroma_gpu.engine import engine as engine_module
from chroma_gpu.engine import indexes as indexes_module
from chroma_gpu.engine.indexes import Indexes
from chroma_gpu.errors import EmbeddingFailed, StoreError
from chroma_gpu.index.gpu.staging import Staging
from chroma_gpu.records import RecordBatch
from chroma_gpu.store.record_store import RecordStore

DIM = 8


class Tokens:
    def __init__(self, texts):
        self.texts = texts
        self.lengths = np.ones(len(texts), np.int64)


class Encoder:
    """The vector of a text is drawn by its number; it is made on a device."""

    dim, budget = DIM, 64

    def __init__(self, device):
        self.device, self.made = device, []

    def pre(self, texts, prompt):
        return Tokens(list(texts))

    def core(self, tokens, places):
        numbers = [int(tokens.texts[place].split()[1]) for place in places]
        vectors = torch.from_numpy(np.stack([vector(number) for number in numbers])).to(self.device)
        self.made.append(weakref.ref(vectors))
        return vectors

    def post(self, vectors):
        return vectors.cpu().numpy()

    def on_device(self, vectors):
        return vectors

    def on_cpu(self):
        return None


class Function(LocalEmbeddingFunction):
    def __init__(self, device="cpu"):
        self.device = device
        self._encoder = Encoder(device)

    def encoder(self):
        return self._encoder

    @staticmethod
    def name():
        return "made_on_a_device"

    def get_config(self):
        return {"device": self.device}

    @staticmethod
    def build_from_config(config):
        return Function(**config)

    def default_space(self):
        return "cosine"


def vector(number):
    return np.random.default_rng(number).standard_normal(DIM, dtype=np.float32)


def texts(numbers):
    return [f"text {number}" for number in numbers]


def ids(numbers):
    return [str(number) for number in numbers]


@pytest.fixture
def name(device, monkeypatch):
    """A device that is not the CPU as tables are searched without one."""
    made = f"{device}:0" if device in ("cpu", "cuda") else device
    monkeypatch.setattr(indexes_module, "devices_of", lambda settings: (made,))
    monkeypatch.setattr(engine_module, "devices_of", lambda settings: (made,))
    return made


@pytest.fixture
def sent(monkeypatch):
    """How many rows each upload sent."""
    counted = []
    upload = Staging.upload

    def counting(self, vectors, aside, into):
        counted.append(len(vectors))
        upload(self, vectors, aside, into)

    monkeypatch.setattr(Staging, "upload", counting)
    return counted


@pytest.fixture
def client(open_client, name):
    with open_client(index="flat", vram_limit="1GB", recall=1.0) as made:
        yield made


@pytest.fixture
def collection(client, device):
    return client.create_collection("texts", embedding_function=Function(device))


def assert_right(collection, numbers, asked=5):
    """Each of some records is the nearest to its own vector, through the index on the device."""
    collection.wait_indexed()
    with collection._engine.table(collection.id) as table:
        index = table._indexes.get("flat")
        assert len(index) == table.occupancy()[0]
        assert len(index._residence._offered) == 0
        assert index._residence.layout is not None
        source = index._source
        for part in index._residence._shards.snapshot.parts:
            part.wait()
            for chunk in part.vectors.chunks if part.vectors is not None else ():
                got = chunk.vectors.cpu().numpy()
                np.testing.assert_array_equal(got, source.block(chunk.start, chunk.start + len(chunk)))
    for number in list(numbers)[:: max(1, len(numbers) // asked)]:
        assert collection.query(query_embeddings=[vector(number)], n_results=1)["ids"] == [[str(number)]]


def test_embedded_batches_are_not_sent_again(collection, sent):
    for start in range(0, 3_000, 1_000):
        numbers = range(start, start + 1_000)
        collection.add(ids=ids(numbers), documents=texts(numbers))
    assert_right(collection, range(3_000))
    assert sent == []
    gc.collect()
    assert [ref for ref in collection._function()._encoder.made if ref() is not None] == []


def test_given_vectors_are_sent(collection, sent):
    numbers = range(300)
    collection.add(ids=ids(numbers), embeddings=np.stack([vector(number) for number in numbers]), documents=texts(numbers))
    assert_right(collection, numbers)
    assert sum(sent) == 300


def test_repeated_texts_get_a_row_each(collection, sent):
    numbers = [at % 150 for at in range(600)]
    collection.add(ids=[f"{at}" for at in range(600)], documents=texts(numbers))
    assert_right(collection, range(150), asked=150)
    assert sent == []
    assert len(collection._function()._encoder.made) == 3  # 150 texts, 64 at once


def test_replaced_records_have_new_rows(collection, sent):
    numbers = range(400)
    collection.add(ids=ids(numbers), documents=texts(numbers))
    collection.upsert(ids=ids(numbers), documents=texts(range(1_000, 1_400)))
    collection.wait_indexed()
    assert sent == []
    for number in (1_000, 1_399):
        assert collection.query(query_embeddings=[vector(number)], n_results=1)["ids"] == [[str(number - 1_000)]]
    collection.update(ids=ids(numbers), documents=texts(numbers))
    assert_right(collection, numbers)
    assert sent == []


@pytest.mark.parametrize("verb", ["add", "upsert"])
def test_a_batch_of_which_a_part_is_there_is_sent(collection, sent, verb):
    collection.add(ids=ids(range(200)), documents=texts(range(200)))
    collection.wait_indexed()
    getattr(collection, verb)(ids=ids(range(100, 500)), documents=texts(range(100, 500)))
    assert_right(collection, range(500))
    assert sum(sent) == 300


def test_what_was_not_committed_is_not_offered(collection, sent, monkeypatch):
    collection.add(ids=ids(range(100)), documents=texts(range(100)))

    def full(*_):
        raise StoreError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(RecordStore, "write", full)
        with pytest.raises(StoreError):
            collection.add(ids=ids(range(100, 300)), documents=texts(range(100, 300)))
    numbers = range(500, 700)  # these get the rows that those would have had
    collection.add(ids=ids(numbers), embeddings=np.stack([vector(number) for number in numbers]))
    assert_right(collection, [*range(100), *numbers])
    assert sum(sent) == 200
    gc.collect()
    assert [ref for ref in collection._function()._encoder.made if ref() is not None] == []


def test_an_exception_after_the_commit_loses_nothing(collection, sent, monkeypatch):
    def broken(*_):
        raise RuntimeError("in between")

    with monkeypatch.context() as patch:
        patch.setattr(Indexes, "offer", broken)
        with pytest.raises(RuntimeError, match="in between"):
            collection.add(ids=ids(range(300)), documents=texts(range(300)))
    assert collection.count() == 300
    assert_right(collection, range(300))
    assert sum(sent) == 300


def test_a_table_on_the_cpu_keeps_nothing(open_client, monkeypatch, device):
    written = []
    write = RecordStore.write

    def watched(self, batch: RecordBatch, mode):
        written.append(batch.resident)
        return write(self, batch, mode)

    monkeypatch.setattr(RecordStore, "write", watched)
    with open_client(device="cpu") as client:
        collection = client.create_collection("texts", embedding_function=Function(device))
        collection.add(ids=ids(range(100)), documents=texts(range(100)))
    assert written == [()]


def test_a_failing_model_leaves_nothing_on_the_device(collection, monkeypatch):
    encoder = collection._function()._encoder
    core, calls = encoder.core, []

    def failing(tokens, places):
        calls.append(len(places))
        if len(calls) == 3:
            raise RuntimeError("the model broke")
        return core(tokens, places)

    monkeypatch.setattr(encoder, "core", failing)
    with pytest.raises(EmbeddingFailed):
        collection.add(ids=ids(range(300)), documents=texts(range(300)))
    gc.collect()
    assert [ref for ref in encoder.made if ref() is not None] == []
    assert collection.count() == 0


# ---- other processes

CHILD = """
import os, sys
sys.path[:0] = [sys.argv[1]]
import numpy as np, chroma_gpu
from api.test_device_embedding import Function, ids, texts, vector
from chroma_gpu.engine import engine as engine_module, indexes as indexes_module
device, path, what = sys.argv[2:5]
name = device + ":0"
indexes_module.devices_of = engine_module.devices_of = lambda settings: (name,)
client = chroma_gpu.PersistentClient(path, chroma_gpu.Settings(index="flat", vram_limit="1GB", recall=1.0))
collection = client.get_or_create_collection("texts", embedding_function=Function(device))
if what == "die":
    indexes_module.Indexes.offer = lambda *_: os._exit(9)
    collection.add(ids=ids(range(500)), documents=texts(range(500)))
else:
    print("ready", flush=True)
    for start in range(10_000, 12_000, 100):
        numbers = range(start, start + 100)
        sys.stdin.readline()
        collection.add(ids=ids(numbers), documents=texts(numbers))
        print(start, flush=True)
    client.close()
"""


def child(tmp_path, device, what):
    tests = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CHILD), tests, device, str(tmp_path / "data"), what],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.path.dirname(tests)},
    )


def test_a_process_that_dies_between_commit_and_offer_loses_nothing(tmp_path, open_client, name, device, sent):
    process = child(tmp_path, device, "die")
    process.communicate()
    assert process.returncode == 9
    with open_client(index="flat", vram_limit="1GB", recall=1.0) as client:
        collection = client.get_collection("texts", embedding_function=Function(device))
        assert collection.count() == 500
        assert_right(collection, range(500))
        assert sum(sent) == 500


def test_another_process_writes_meanwhile(tmp_path, client, collection, device, sent):
    process = child(tmp_path, device, "write")
    assert process.stdout.readline() == "ready\n"
    for start in range(0, 2_000, 100):
        process.stdin.write("go\n")
        process.stdin.flush()
        numbers = range(start, start + 100)
        collection.add(ids=ids(numbers), documents=texts(numbers))
    process.communicate()
    assert process.returncode == 0
    numbers = [*range(2_000), *range(10_000, 12_000)]
    assert collection.count() == 4_000
    assert_right(collection, numbers, asked=40)
    assert sum(sent) == 2_000, "what the other process wrote, and nothing else"


def test_blocks_are_taken_in_pieces_where_uploads_would_be(collection, monkeypatch, sent):
    monkeypatch.setattr(Staging, "rows", lambda self, dim: 77)
    collection.add(ids=ids(range(1_000)), documents=texts(range(1_000)))
    assert_right(collection, range(1_000))
    assert sent == []
