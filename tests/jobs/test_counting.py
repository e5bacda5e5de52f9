"""How many rows there are, before they are read."""

import gzip

import pytest

from chroma_gpu.jobs import counting, inputs
from chroma_gpu.jobs.options import EmbedOptions


def about(*files, **more):
    options = EmbedOptions(inputs=tuple(map(str, files)), collection="rows", **more)
    return counting.about(inputs.found(options), options)


@pytest.fixture
def lines(tmp_path):
    made = tmp_path / "rows.jsonl"
    made.write_text('{"text": "a"}\n' * 99 + '{"text": "last"}')
    return made


def test_lines_are_rows(lines, tmp_path):
    table = tmp_path / "rows.csv"
    table.write_text("id,text\n" + "1,a\n" * 10)
    assert about(lines) == 100
    assert about(lines, table) == 110


def test_options_leave_out_rows(lines):
    assert about(lines, offset=30) == 70
    assert about(lines, offset=30, limit=20) == 20
    assert about(lines, sample=0.25) == 25


def test_a_long_file_is_estimated(lines, monkeypatch):
    monkeypatch.setattr(counting, "COUNTED", 700)
    monkeypatch.setattr(counting, "_PIECE", 100)
    assert about(lines) == pytest.approx(100, abs=3)


def test_parquet_says_how_many(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="parquet is read by pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet", reason="parquet is read by pyarrow")
    parquet.write_table(pyarrow.table({"text": ["a"] * 7}), tmp_path / "rows.parquet")
    assert about(tmp_path / "rows.parquet") == 7


def test_what_is_packed_is_not_known(tmp_path):
    packed = tmp_path / "rows.jsonl.gz"
    packed.write_bytes(gzip.compress(b'{"text": "a"}'))
    assert about(packed) is None
