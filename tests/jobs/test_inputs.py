"""What people name is found, in one order, and checked before anything is read; rows of several inputs, some of them."""

from __future__ import annotations

import gzip
import io
import os
import sqlite3
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chroma_gpu.errors import InvalidArgumentError, MissingDependency
from chroma_gpu.jobs import inputs
from chroma_gpu.jobs.inputs import ENDINGS, READERS
from chroma_gpu.jobs.options import EmbedOptions
from chroma_gpu.jobs.rows import BadRow, Cursor


def options(*given, **more):
    return EmbedOptions(inputs=tuple(map(str, given)), collection="c", **more)


def names(*given, **more):
    return [(each.name, each.format) for each in inputs.found(options(*given, **more))]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (
        "b.jsonl",
        "a.csv",
        "sub/c.md",
        "sub/d.txt.gz",
        "sub/e.TXT",
        "x.bad.jsonl",
        ".hidden.txt",
        ".git/f.txt",
        "g.py",
        "h.parquet.gz",
    ):
        path = tmp_path / "docs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path


def test_every_format_has_a_reader():
    assert set(ENDINGS.values()) | {"hf", "sql"} == set(READERS)
    for form in READERS:
        assert callable(inputs.reader(form))


def test_folders_give_their_files_sorted(folder):
    assert names("docs") == [
        ("docs/a.csv", "csv"),
        ("docs/b.jsonl", "jsonl"),
        ("docs/sub/c.md", "md"),
        ("docs/sub/d.txt.gz", "txt"),
        ("docs/sub/e.TXT", "txt"),
    ]
    assert names("docs", files_glob="*") == [("docs/a.csv", "csv"), ("docs/b.jsonl", "jsonl")]
    assert names("docs", files_glob="**/*.py", format="md") == [("docs/g.py", "md")]


def test_named_files_and_globs(folder):
    assert names("docs/sub/c.md", "docs/b.jsonl") == [("docs/sub/c.md", "md"), ("docs/b.jsonl", "jsonl")]
    assert names("docs/**/*.[ct]*[dv]") == [("docs/a.csv", "csv")]
    assert names("docs/*l") == [("docs/b.jsonl", "jsonl"), ("docs/x.bad.jsonl", "jsonl")]
    assert names("docs/x.bad.jsonl") == [("docs/x.bad.jsonl", "jsonl")]
    assert names("docs/g.py", format="txt") == [("docs/g.py", "txt")]


def test_what_is_named_twice_is_taken_once(folder):
    assert names("docs/b.jsonl", "docs", str(folder / "docs" / "a.csv"))[:2] == [("docs/b.jsonl", "jsonl"), ("docs/a.csv", "csv")]
    assert len(names("docs/b.jsonl", "docs", str(folder / "docs" / "a.csv"))) == 5


def test_names_with_signs_of_globs(folder):
    (folder / "a[1].txt").write_text("x")
    assert names("a[1].txt") == [("a[1].txt", "txt")]


@pytest.mark.parametrize(
    ("given", "more", "message"),
    [
        ([], {}, "nothing to read"),
        (["gone.txt"], {}, "gone.txt is not there"),
        (["gone:train"], {}, "is not there"),
        (["gone/*.txt"], {}, "matches no file"),
        (["docs/g.py"], {}, r"docs/g.py: what this is cannot be told.*\.jsonl.*--format"),
        (["docs/*.py"], {}, "cannot be told"),
        (["docs/h.parquet.gz"], {}, "cannot be told"),
        (["docs"], {"files_glob": "*.nothing"}, r"no file in docs matches \*\.nothing"),
        (["-"], {"format": "parquet"}, "cannot be read from standard input"),
        (["docs/b.jsonl"], {"format": "sql"}, "takes no files"),
        (["docs/b.jsonl"], {"encodings": ("utf-9",)}, "no encoding is called 'utf-9'"),
        (["docs/b.jsonl"], {"encodings": ()}, "no encoding"),
        (["docs/b.jsonl"], {"limit": -1}, "0 or more"),
        (["docs/b.jsonl"], {"offset": -1}, "0 or more"),
        (["docs/b.jsonl"], {"sample": 1.5}, "from 0 to 1"),
        (["docs/b.jsonl"], {"database": "x"}, "asked nothing"),
        ([], {"sql": "SELECT 1"}, "has no database"),
        ([], {"sql": "SELECT 1", "database": "gone.sqlite"}, "gone.sqlite cannot be read"),
        ([], {"sql": "SELECT 1", "database": "docs"}, "docs cannot be read"),
    ],
)
def test_what_cannot_be_read_is_said_first(folder, given, more, message):
    with pytest.raises(InvalidArgumentError, match=message):
        inputs.found(options(*given, **more))


def test_a_file_that_may_not_be_opened(folder, monkeypatch):
    def refused(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(folder), "open", refused)
    with pytest.raises(InvalidArgumentError, match=r"b\.jsonl cannot be read: Permission denied"):
        inputs.found(options("docs/b.jsonl"))


def test_pyarrow_is_asked_for_before_anything_is_read(folder, monkeypatch):
    (folder / "a.parquet").write_bytes(b"")
    monkeypatch.setattr(inputs, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match="pip install pyarrow"):
        inputs.found(options("docs", "a.parquet"))
    assert len(inputs.found(options("docs"))) == 5


def test_identity_changes_with_the_content(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"x" * 200_000)
    first = inputs.found(options(path))[0]
    before = first.identity()
    assert before == first.identity() == inputs.found(options(path))[0].identity()
    stat = path.stat()
    for at in (0, 199_999):
        raw = bytearray(b"x" * 200_000)
        raw[at] = 0
        path.write_bytes(raw)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert first.identity() != before
    path.write_bytes(b"x" * 200_000)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert first.identity() == before
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert first.identity() != before
    assert inputs.found(options("-"), io.BytesIO(b""))[0].identity() is None


def test_identity_of_a_query(tmp_path):
    path = tmp_path / "a.sqlite"
    sqlite3.connect(path).close()
    asked = [
        inputs.found(EmbedOptions(sql=query, database=str(path), collection="c"))[0].identity()
        for query in ("SELECT 1", "SELECT 2", "SELECT 1")
    ]
    assert asked[0] == asked[2] != asked[1]


@pytest.fixture
def three(tmp_path):
    """Three inputs of 4, 0 and 5 rows, a blank line and a bad row among them."""
    (tmp_path / "a.jsonl").write_text('{"n": 0}\n\n{"n": 1}\nbad\n{"n": 3}\n')
    (tmp_path / "b.txt").write_text("")
    (tmp_path / "c.csv.gz").write_bytes(gzip.compress(b"n\n4\n5\n6\n7\n8\n"))
    return [tmp_path / name for name in ("a.jsonl", "b.txt", "c.csv.gz")]


def numbers(rows):
    return ["bad" if isinstance(row, BadRow) else int(row.fields["n"]) for row in rows]


def test_rows_of_several_inputs_from_every_cursor(three):
    asked = options(*three)
    found = inputs.found(asked)
    rows = list(inputs.rows(found, asked))
    assert numbers(rows) == [0, 1, "bad", 3, 4, 5, 6, 7, 8]
    assert [row.after.input for row in rows] == [0] * 4 + [2] * 5
    for at, row in enumerate(rows):
        assert numbers(inputs.rows(found, asked, row.after)) == numbers(rows[at + 1 :])
    assert numbers(inputs.rows(found, asked, Cursor(3))) == []


@pytest.mark.parametrize(
    "more",
    [
        {"limit": 0},
        {"limit": 3},
        {"limit": 6},
        {"limit": 99},
        {"offset": 2},
        {"offset": 6, "limit": 2},
        {"offset": 99},
        {"sample": 0.5},
        {"offset": 1, "limit": 7, "sample": 0.6},
    ],
    ids=str,
)
def test_some_of_the_rows_are_the_same_wherever_reading_starts(three, more):
    asked = options(*three, **more)
    found = inputs.found(asked)
    rows = list(inputs.rows(found, asked))
    if "sample" not in more:
        every = [0, 1, "bad", 3, 4, 5, 6, 7, 8][more.get("offset", 0) :]
        assert numbers(rows) == every[: more.get("limit")]
    for at, row in enumerate(rows):
        assert numbers(inputs.rows(found, asked, row.after)) == numbers(rows[at + 1 :])
        if not isinstance(row, BadRow):
            assert numbers(inputs.rows(found, asked, row.before)) == numbers(rows[at:])
            again = Cursor(row.before.input, row.before.row, row.before.offset, chunks=2)
            assert numbers(inputs.rows(found, asked, again)) == numbers(rows[at:])


def test_samples_are_drawn_by_the_seed(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"n": {at}}}\n' for at in range(2_000)))

    def drawn(share, seed):
        asked = options(path, sample=share, seed=seed)
        return numbers(inputs.rows(inputs.found(asked), asked))

    assert drawn(0.3, 1) == drawn(0.3, 1) != drawn(0.3, 2)
    assert 500 < len(drawn(0.3, 1)) < 700
    assert set(drawn(0.1, 1)) < set(drawn(0.3, 1))
    assert (len(drawn(0, 1)), len(drawn(1, 1))) == (0, 2_000)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=4), st.integers(0, 12), st.integers(0, 12), st.data())
def test_windows_over_any_inputs(tmp_path_factory, sizes, offset, limit, data):
    path = tmp_path_factory.mktemp("window")
    for at, size in enumerate(sizes):
        (path / f"{at}.txt").write_text("".join(f"{at}-{row}\n\n" for row in range(size)))
    asked = options(path, offset=offset, limit=limit)
    found = inputs.found(asked)
    rows = list(inputs.rows(found, asked))
    every = [f"{at}-{row}" for at, size in enumerate(sizes) for row in range(size)]
    assert [row.fields["text"] for row in rows] == every[offset : offset + limit]
    if rows:
        at = data.draw(st.integers(0, len(rows) - 1))
        assert [row.fields["text"] for row in inputs.rows(found, asked, rows[at].after)] == every[offset : offset + limit][
            at + 1 :
        ]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.txt", "a.jsonl.gz"])
def test_memory_does_not_grow_with_the_file(tmp_path, name):
    line = {"jsonl": '{"text": "%s"}\n' % ("x" * 2_000), "csv": "x" * 2_000 + "\n", "txt": "x" * 2_000 + "\n"}[name.split(".")[1]]
    raw = (line * 10_000).encode()
    (tmp_path / name).write_bytes(gzip.compress(raw, 1) if name.endswith("gz") else raw)
    asked = options(tmp_path / name)
    found = inputs.found(asked)
    tracemalloc.start()
    try:
        count = sum(1 for _ in inputs.rows(found, asked))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count >= 9_999
    assert peak < len(raw) / 8
