"""What a dry run says of a job, and that it leaves nothing behind."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from embed import tiny_models

import chroma_gpu
from chroma_gpu.embed.hashing import HashingEmbeddingFunction
from chroma_gpu.embed.local import SentenceTransformerEmbeddingFunction
from chroma_gpu.errors import InvalidArgumentError
from chroma_gpu.jobs import estimate as estimates
from chroma_gpu.jobs.estimate import estimate
from chroma_gpu.jobs.options import EmbedOptions


@pytest.fixture
def rows(tmp_path):
    made = tmp_path / "rows.jsonl"
    made.write_text(
        "".join(f'{{"text": "the cat number {at}", "year": {at}}}\n' for at in range(100)) + '{"no": 1}\n{"text": 5\n'
    )
    return made


def told(rows, tmp_path, **given):
    return EmbedOptions(
        **({"inputs": (str(rows),), "collection": "cats", "path": str(tmp_path / "data"), "model": "hashing"} | given)
    )


def everything(folder):
    return {
        os.path.join(where, name): os.stat(os.path.join(where, name)).st_size
        for where, _, names in os.walk(folder)
        for name in names
    }


def test_rows_and_texts_are_counted(rows, tmp_path):
    found = estimate(told(rows, tmp_path))
    assert (found.inputs, found.rows, found.bad, found.texts, found.given) == (1, 102, 2, 100, 0)
    assert found.characters == sum(len(f"the cat number {at}") for at in range(100))
    assert len(found.examples) == 2
    assert "row 101" in found.examples[0]
    assert (found.model, found.dim, found.vector_bytes) == ("hashing", 256, 100 * 256 * 4)
    assert found.texts_per_second > 0
    assert found.seconds == pytest.approx(100 / found.texts_per_second)
    assert found.record_bytes > 100 * 300
    assert found.free_bytes > 0
    assert found.gpu_bytes is None
    assert os.listdir(tmp_path) == ["rows.jsonl"]


def test_only_some_rows(rows, tmp_path):
    found = estimate(told(rows, tmp_path, offset=10, limit=20))
    assert (found.rows, found.texts) == (20, 20)


def test_chunks_are_texts(rows, tmp_path):
    found = estimate(told(rows, tmp_path, chunk="chars", chunk_size=8, chunk_overlap=0))
    assert found.rows == 102
    assert found.texts > 150


def test_tokens_are_those_that_the_model_reads(rows, tmp_path):
    model = tiny_models.transformer(tmp_path / "model", max_tokens=6)
    texts = ["the cat", "the cat sits on", "the cat sits on a", "a red dog rests on the mat", "one"]
    rows.write_text("".join(f"{json.dumps({'text': text})}\n" for text in texts))
    found = estimate(told(rows, tmp_path, dtype="fp32"), function=SentenceTransformerEmbeddingFunction(str(model), device="cpu"))
    # With [CLS] and [SEP]: 4, 6, 7, 9 and 3 tokens, of which 6 are read.
    assert (found.tokens_mean, found.tokens_max, found.tokens) == (5.0, 6, 25)
    assert found.truncated_share == pytest.approx(2 / 5)
    assert (found.dim, found.device) == (32, "cpu")
    assert found.tokens_per_second == pytest.approx(5 * found.texts_per_second)


def test_many_texts_are_sampled_evenly(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(estimates, "SAMPLE", 400)
    monkeypatch.setattr(estimates, "FIRST", 8)
    embedded = []

    class Seen(HashingEmbeddingFunction):
        def __call__(self, input):
            embedded.extend(input)
            return super().__call__(input)

    rows.write_text("".join(f'{{"text": "{at}"}}\n' for at in range(4_000)))
    found = estimate(told(rows, tmp_path), function=Seen())
    assert (found.texts, found.sampled) == (4_000, 400)
    drawn = [int(text) for text in embedded[2:]]  # the first two load the model
    assert len(drawn) == len(set(drawn)) == 400
    assert abs(np.mean(drawn) - 2_000) < 250
    assert estimate(told(rows, tmp_path, seed=0), function=Seen()).texts == 4_000
    assert embedded[:402] == embedded[402:]


def test_vectors_that_are_given_need_no_model(rows, tmp_path):
    rows.write_text('{"id": 1, "v": [1, 2, 3]}\n{"id": 2, "v": [1, 2]}\n')
    found = estimate(told(rows, tmp_path, model=None, vector_column="v"))
    assert (found.given, found.bad, found.texts, found.dim, found.vector_bytes) == (1, 1, 0, 3, 12)
    assert (found.model, found.texts_per_second) == (None, None)


def test_a_collection_that_is_there_is_looked_at_and_left_as_it_is(rows, tmp_path):
    with chroma_gpu.PersistentClient(tmp_path / "data") as client:
        made = client.create_collection("cats", embedding_function=HashingEmbeddingFunction(16))
        made.add(ids=list("abc"), documents=["x", "y", "z"])
    before = everything(tmp_path)
    with pytest.raises(InvalidArgumentError, match="Expected a name containing"):
        estimate(told(rows, tmp_path, collection="x"))
    found = estimate(told(rows, tmp_path, model=None))
    assert (found.there, found.model, found.dim) == (3, "hashing", 16)
    assert estimate(told(rows, tmp_path, collection="dogs")).there == 0
    with pytest.raises(InvalidArgumentError):
        estimate(told(rows, tmp_path, model="static"))
    assert everything(tmp_path) == before
    with chroma_gpu.PersistentClient(tmp_path / "data") as client:
        assert [each.name for each in client.list_collections()] == ["cats"]


def test_nothing_to_embed(rows, tmp_path):
    rows.write_text("")
    found = estimate(told(rows, tmp_path))
    assert (found.rows, found.texts, found.texts_per_second, found.vector_bytes) == (0, 0, None, 0)
    assert found.lines()[-1] == "nothing was written"


def test_lines_and_json(rows, tmp_path):
    found = estimate(told(rows, tmp_path))
    text = "\n".join(found.lines())
    for part in (
        "102 rows of 1 input, 2 of them bad",
        "100 texts",
        "tokens",
        "texts/s",
        "of disk: 102 kB of vectors",
        "nothing was written",
    ):
        assert part in text
    assert json.loads(json.dumps(found.to_json()))["rows"] == 102
    found.free_bytes, found.gpu_bytes, found.gpu_total, found.there = 5, 3 * 10**9, 16 * 10**9, 7
    text = "\n".join(found.lines())
    assert "That is not enough" in text
    assert "about 3.0 GB of the GPU's 16.0 GB" in text
    assert "has 7 records" in text
