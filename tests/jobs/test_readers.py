"""Rows of every format: what is read, what is bad, and that reading goes on from every cursor exactly."""

from __future__ import annotations

import codecs
import csv
import gzip
import hashlib
import io
import json
import sqlite3
from datetime import datetime
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import feather, ipc, parquet

from chroma_gpu.errors import EngineError, InvalidArgumentError
from chroma_gpu.jobs import inputs
from chroma_gpu.jobs.options import EmbedOptions
from chroma_gpu.jobs.readers import delimited, tables
from chroma_gpu.jobs.readers.html import text_of
from chroma_gpu.jobs.rows import BadRow, Cursor, Row, Stage


def options(*given, **more):
    return EmbedOptions(inputs=tuple(map(str, given)), collection="c", **more)


def told(row):
    """A row without its cursors."""
    if isinstance(row, BadRow):
        return row.number, row.error, dict(row.fields)
    fields = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in row.fields.items()}
    return row.number, fields


def read(path, *, stdin=None, **more):
    """All rows; and that from each cursor the rest comes, the same."""
    asked = options(path, **more)
    found = inputs.found(asked, stdin)
    rows = list(inputs.rows(found, asked))
    before = Cursor()
    for at, row in enumerate(rows):
        if isinstance(row, Row):
            assert (row.before.input, row.before.row) >= (before.input, before.row)
            assert row.before.chunks == 0
        before = row.after
        if stdin is None:
            rest = list(inputs.rows(found, asked, row.after))
            assert [told(each) for each in rest] == [told(each) for each in rows[at + 1 :]]
            assert [each.after for each in rest] == [each.after for each in rows[at + 1 :]]
            if isinstance(row, Row):
                again = next(inputs.rows(found, asked, row.before))
                assert told(again) == told(row)
    return rows


def fields(rows):
    return [row.fields for row in rows if isinstance(row, Row)]


def bads(rows):
    return [(row.number, row.error) for row in rows if isinstance(row, BadRow)]


def packed(path):
    other = path.with_name(path.name + ".gz")
    other.write_bytes(gzip.compress(path.read_bytes()))
    return other


LINES = b'\n{"text": "one", "n": 1}\r\n  \n{"text": "tw\xc3\xb6"}\n[1]\n{"text": \n"three"\n{"text": "\xff"}\n{"a": 1} x\nnull\n{"text": "last", "n": 18446744073709551616}'


def test_json_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINES)
    rows = read(path)
    assert fields(rows) == [{"text": "one", "n": 1}, {"text": "twö"}, {"text": "last", "n": 1 << 64}]
    assert [row.number for row in rows] == [2, 4, 5, 6, 7, 8, 9, 10, 11]
    assert [number for number, _ in bads(rows)] == [5, 6, 7, 8, 9, 10]
    assert rows[2].message == "a row is an object, this is an array"
    assert rows[2].fields == {"line": "[1]"}
    assert rows[2].stage is Stage.READ
    assert [told(row) for row in read(packed(path))] == [told(row) for row in rows]
    assert rows[0].source == str(path)


def test_cursors_of_plain_files_know_bytes(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINES)
    for row in inputs.rows(inputs.found(options(path)), options(path)):
        at = row.after.offset
        assert at == len(LINES) or LINES[at - 1 : at] == b"\n"
    assert at == len(LINES)
    zipped = options(packed(path))
    assert {row.after.offset for row in inputs.rows(inputs.found(zipped), zipped)} == {None}


def test_what_is_passed_over_is_not_read(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINES)
    asked = options(path)
    found = inputs.found(asked)
    third = next(row for row in inputs.rows(found, asked) if row.number == 4)
    path.write_bytes(b"\x00" * third.before.offset + LINES[third.before.offset :])
    assert told(next(inputs.rows(found, asked, third.before))) == told(third)


def test_a_cursor_without_bytes_counts(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINES)
    asked = options(path)
    found = inputs.found(asked)
    rows = list(inputs.rows(found, asked))
    rest = list(inputs.rows(found, asked, Cursor(0, 4)))
    assert [each.after for each in rest] == [each.after for each in rows[2:]]


def test_lines_that_cannot_be_read_are_shown_cut(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"[" * 50_000)
    (row,) = read(path)
    assert len(row.fields["line"]) == 10_000


def test_dead_letters_are_read_as_their_records(tmp_path):
    letter = {"source": "x", "row": 3, "id": None, "error": "E", "message": "m", "stage": "read", "record": {"text": "t"}}
    for name in ("x.bad.jsonl", "other.jsonl"):
        path = tmp_path / name
        path.write_text(
            json.dumps(letter) + "\n" + json.dumps(letter | {"record": None}) + "\n" + '{"record": {"text": "own"}}\n'
        )
        rows = read(path)
        assert fields(rows) == [{"text": "t"}, {"record": {"text": "own"}}]
        assert rows[1].message == "the dead letter has no record: m"
    path = tmp_path / "y.bad.jsonl"
    del letter["id"]
    path.write_text(json.dumps(letter))
    assert fields(read(path)) == [{"text": "t"}]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252"])
def test_encodings_of_whole_files(tmp_path, encoding):
    given = encoding if encoding in ("utf-16-le", "utf-32", "latin-1", "cp1252") else "utf-8"
    texts = ["schön", "naïve", "ÿ"]
    for name, content in [
        ("a.jsonl", "".join(f'{{"text": "{text}"}}\n' for text in texts)),
        ("a.json", json.dumps([{"text": text} for text in texts], ensure_ascii=False)),
        ("a.csv", "text\r\n" + "".join(f"{text}\r\n" for text in texts)),
        ("a.txt", "\n".join(texts)),
    ]:
        path = tmp_path / name
        path.write_bytes(content.encode(encoding))
        assert fields(read(path, encodings=(given,))) == [{"text": text} for text in texts]
        assert fields(read(packed(path), encodings=(given,))) == [{"text": text} for text in texts]


def test_encodings_are_tried_in_turn(tmp_path):
    lines = ["schön".encode(), "schön".encode("latin-1"), b"\x81 in neither"]
    (tmp_path / "a.txt").write_bytes(b"\n".join(lines))
    rows = read(tmp_path / "a.txt", encodings=("utf-8", "cp1252"))
    assert fields(rows) == [{"text": "schön"}, {"text": "schön"}]
    assert bads(rows) == [(3, "UnicodeDecodeError")]
    (tmp_path / "a.csv").write_bytes(b"text,n\n" + b",1\n".join(lines) + b",1\n")
    rows = read(tmp_path / "a.csv", encodings=("utf-8", "cp1252"))
    assert fields(rows) == [{"text": "schön", "n": "1"}] * 2
    assert bads(rows) == [(3, "UnicodeDecodeError")]
    assert rows[2].fields == {"line": "\ufffd in neither,1"}
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(b'{"text": "%s"}' % line for line in lines))
    rows = read(tmp_path / "a.jsonl", encodings=("utf-8", "cp1252"))
    assert fields(rows) == [{"text": "schön"}, {"text": "schön"}]
    assert bads(rows) == [(3, "UnicodeDecodeError")]


def test_json_arrays(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(' [{"text": "a"},\n 3, {"text": {"b": [1]}}, null, {"text": "\\ud800"}]\n')
    rows = read(path)
    assert fields(rows) == [{"text": "a"}, {"text": {"b": [1]}}, {"text": "\ud800"}]
    assert bads(rows) == [(2, "ValidationError"), (4, "ValidationError")]
    assert [told(row) for row in read(packed(path))] == [told(row) for row in rows]
    path.write_text('[{"n": NaN}, {"text": "a"}, 1]')
    assert fields(read(path))[1:] == [{"text": "a"}]
    assert bads(read(path)) == [(3, "ValidationError")]
    path.write_text("[]")
    assert read(path) == []


def test_one_object_and_lines_of_objects_under_the_name_of_json(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{\n "text": "one"\n}')
    assert fields(read(path)) == [{"text": "one"}]
    path.write_text('{"text": "one"}')
    assert fields(read(path)) == [{"text": "one"}]
    path.write_text('\n{"text": "one"}\n{"text": "two"}\n')
    rows = read(path)
    assert fields(rows) == [{"text": "one"}, {"text": "two"}]
    assert rows[0].after.offset


CSV = (
    'id,text,,"a ""b"""\r\n'
    '1,"two\nlines, and ""quotes""",x,y\n'
    "\n"
    "2,short\n"
    "3,too,many,fields,here\n"
    '4,"never closed,x,y\n'
    "5,good,,\n"
    '6,"closed\r\n\r\nlate",1,2'
)


def test_csv(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(CSV.encode())
    rows = read(path)
    names = ["id", "text", "column_3", 'a "b"']
    # The quote of row 4 is closed by the one of row 6: nothing can tell that it was not meant.
    assert fields(rows)[:2] == [
        dict(zip(names, ["1", 'two\nlines, and "quotes"', "x", "y"], strict=True)),
        {"id": "2", "text": "short"},
    ]
    assert bads(rows)[0] == (3, "ValueError")
    assert rows[2].message == "the row has 5 fields, the header 4"
    assert [told(row) for row in read(packed(path))] == [told(row) for row in rows]


def test_a_quote_that_is_never_closed_costs_its_line_alone(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('id,text\n1,a\n2,"never closed\n3,b\n4,c\n')
    rows = read(path)
    assert [each["id"] for each in fields(rows)] == ["1", "3", "4"]
    assert bads(rows) == [(2, "CSVError")]
    assert rows[1].fields == {"line": '2,"never closed'}
    path.write_text('id,text\n1,a\n2,"never closed')
    assert bads(read(path)) == [(2, "CSVError")]


def test_a_field_that_is_too_long_is_a_bad_row(tmp_path, monkeypatch):
    monkeypatch.setattr(delimited, "LONGEST", 1_000)
    before = csv.field_size_limit(500)
    try:
        path = tmp_path / "a.csv"
        path.write_text("id,text\n1," + "x" * 900 + "\n2," + "x" * 1_100 + '\n3,"' + "short\n" * 300 + '"\n4,d\n')
        rows = read(path)
        assert [each["id"] for each in fields(rows)[:1]] == ["1"]
        assert fields(rows)[-1] == {"id": "4", "text": "d"}
        assert bads(rows)[:2] == [(2, "CSVError"), (3, "CSVError")]
    finally:
        csv.field_size_limit(before)


def test_tsv(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('id\ttext\n1\ta, b\n2\t"quo\nted"\n')
    assert fields(read(path)) == [{"id": "1", "text": "a, b"}, {"id": "2", "text": "quo\nted"}]


def test_headers_are_checked(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("")
    with pytest.raises(InvalidArgumentError, match="has no header"):
        read(path)
    path.write_text("a,b,a\n1,2,3\n")
    with pytest.raises(InvalidArgumentError, match="more than one column 'a'"):
        read(path)
    path.write_text("a,b\n1,2\n")
    for name in ("id_column", "vector_column", "uri_column"):
        with pytest.raises(InvalidArgumentError, match=r"has no column 'x'.*It has 'a', 'b'"):
            read(path, **{name: "x"})
    with pytest.raises(InvalidArgumentError, match="no column 'y'"):
        read(path, text_columns=("a", "y"))
    with pytest.raises(InvalidArgumentError, match="no column 'z'"):
        read(path, metadata_columns=("z",))


CELLS = st.text(st.sampled_from('ab,"\n\r ü日'), max_size=6)


@given(st.lists(st.lists(CELLS, min_size=2, max_size=2), max_size=8))
def test_csv_is_read_as_it_was_written_and_from_every_cursor(tmp_path_factory, table):
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["x", "y"], *table])
    # A line ends with \n alone for the cursor; a bare \r inside quotes is kept by both.
    assert [list(each.values()) for each in fields(read(path))] == table


TABLE = {
    "text": ["a", None, "ü", "d", "e", "f", "g"],
    "n": [1, 2, 3, 4, 5, 6, 7],
    "gap": [1, None, 3, None, 5, 6, 7],
    "share": [0.5] * 7,
    "yes": [True, False, None, True, True, True, True],
    "tags": [["x"], [], None, ["y", "z"], ["x"], ["x"], ["x"]],
    "when": [datetime(2024, 1, 2, 3, 4, 5, 678)] * 7,
    "price": [Decimal("1.50")] * 7,
    "deep": [{"a": 1}] * 7,
}


def arrow_table():
    return pa.table(
        TABLE
        | {"ns": pa.array([1_700_000_000_000_000_123] * 7, pa.timestamp("ns")), "kind": pa.array(["k"] * 7).dictionary_encode()}
    )


WANTED = [
    {name: column[at] for name, column in TABLE.items()} | {"ns": datetime(2023, 11, 14, 22, 13, 20), "kind": "k"}
    for at in range(7)
]


def test_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    parquet.write_table(arrow_table(), path, row_group_size=3)
    rows = read(path)
    assert fields(rows) == WANTED
    assert [row.number for row in rows] == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("write", ["file", "stream", "feather"])
def test_arrow(tmp_path, write):
    path = tmp_path / ("a.feather" if write == "feather" else "a.arrow")
    table = arrow_table()
    if write == "feather":
        feather.write_feather(table, path, compression="zstd", chunksize=2)
    else:
        with (ipc.new_file if write == "file" else ipc.new_stream)(path, table.schema) as file:
            file.write_table(table, max_chunksize=2)
    assert fields(read(path)) == WANTED


def test_batches_are_small(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "BATCH", 3)
    parquet.write_table(arrow_table(), tmp_path / "a.parquet")
    assert fields(read(tmp_path / "a.parquet")) == WANTED
    feather.write_feather(arrow_table(), tmp_path / "a.arrow", compression="uncompressed")
    assert fields(read(tmp_path / "a.arrow")) == WANTED


def test_row_groups_that_are_done_with_are_not_read(tmp_path):
    path = tmp_path / "a.parquet"
    parquet.write_table(arrow_table(), path, row_group_size=3, compression="none")
    asked = options(path)
    found = inputs.found(asked)
    end = parquet.ParquetFile(path).metadata.row_group(0)
    size = sum(end.column(at).total_compressed_size for at in range(end.num_columns))
    raw = path.read_bytes()
    path.write_bytes(raw[:4] + b"\xff" * size + raw[4 + size :])
    assert fields(inputs.rows(found, asked, Cursor(0, 4))) == WANTED[4:]


def test_only_columns_that_are_needed_are_read(tmp_path):
    path = tmp_path / "a.parquet"
    parquet.write_table(arrow_table(), path)
    assert fields(read(path, metadata_columns=("n",)))[0] == {"text": "a", "n": 1}
    assert fields(read(path, text_columns=("kind",), metadata_columns=()))[0] == {"kind": "k"}
    with pytest.raises(InvalidArgumentError, match="no column 'x'"):
        read(path, id_column="x")


@pytest.mark.parametrize(
    "column",
    [
        pa.FixedSizeListArray.from_arrays(pa.array(np.arange(14, dtype=np.float32)), 2),
        pa.array([[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11], [12, 13]], pa.list_(pa.float64())),
        pa.array([[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11], [12, 13]], pa.large_list(pa.int32())),
    ],
    ids=lambda column: str(column.type),
)
def test_vectors_are_arrays(tmp_path, column):
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"id": list("abcdefg"), "v": column}), path, row_group_size=4)
    rows = read(path, vector_column="v")
    assert [row.fields["v"].tolist() for row in rows] == [[2 * at, 2 * at + 1] for at in range(7)]
    assert {row.fields["v"].dtype for row in rows} == {np.dtype(np.float32)}


def test_vectors_that_are_not_of_one_length_are_lists(tmp_path):
    for values in ([[1.0], [1.0, 2.0, 3.0]], [[1.0, 2.0], None], [[1.0, None], [1.0, 2.0]], [[], []]):
        parquet.write_table(pa.table({"v": pa.array(values, pa.list_(pa.float32()))}), tmp_path / "a.parquet")
        found = fields(read(tmp_path / "a.parquet", vector_column="v"))
        assert [each["v"] if each["v"] is None else list(each["v"]) for each in found] == values


def test_texts_that_are_no_utf8_make_no_other_row_bad(tmp_path):
    raw = pa.array([b"good", b"\xff", None], pa.binary())
    broken = pa.StringArray.from_buffers(3, raw.buffers()[1], raw.buffers()[2], raw.buffers()[0])
    feather.write_feather(pa.table({"text": broken}), tmp_path / "a.arrow", compression="uncompressed")
    assert [each["text"] for each in fields(read(tmp_path / "a.arrow"))] == ["good", "\udcff", None]


def saved(path, texts, files=2):
    """A dataset as ``save_to_disk`` of the library datasets writes it."""
    path.mkdir(parents=True)
    names = []
    for at in range(files):
        table = pa.table({"text": texts[at::files]})
        names.append(f"data-{at:05}-of-{files:05}.arrow")
        with ipc.new_stream(path / names[-1], table.schema) as file:
            file.write_table(table, max_chunksize=2)
    (path / "state.json").write_text(
        json.dumps({"_data_files": [{"filename": name} for name in names], "_indices_data_files": None})
    )
    (path / "dataset_info.json").write_text(json.dumps({"features": {"text": {"dtype": "string", "_type": "Value"}}}))


def test_datasets(tmp_path):
    saved(tmp_path / "one", list("abcdefg"))
    assert [each["text"] for each in fields(read(tmp_path / "one"))] == list("acegbdf")
    saved(tmp_path / "many" / "train", list("ab"))
    saved(tmp_path / "many" / "test", list("cd"), files=1)
    (tmp_path / "many" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    rows = read(tmp_path / "many")
    assert [(row.source, row.fields["text"]) for row in rows] == [
        *((f"{tmp_path}/many:train", each) for each in "ab"),
        *((f"{tmp_path}/many:test", each) for each in "cd"),
    ]
    assert [each["text"] for each in fields(read(f"{tmp_path}/many:test"))] == ["c", "d"]
    with pytest.raises(InvalidArgumentError, match=r"no split 'dev'.*train, test"):
        read(f"{tmp_path}/many:dev")


def test_datasets_that_cannot_be_read(tmp_path):
    saved(tmp_path / "d", list("ab"))
    state = {"_data_files": [], "_indices_data_files": [{"filename": "indices.arrow"}]}
    (tmp_path / "d" / "state.json").write_text(json.dumps(state))
    with pytest.raises(InvalidArgumentError, match="flatten_indices"):
        read(tmp_path / "d")
    (tmp_path / "d" / "state.json").write_text("no")
    with pytest.raises(InvalidArgumentError, match="cannot be read"):
        read(tmp_path / "d")


def test_text_lines(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("one \r\n\n \ntwö\n".encode())
    rows = read(path)
    assert [told(row) for row in rows] == [(1, {"text": "one "}), (4, {"text": "twö"})]
    assert [told(row) for row in read(packed(path))] == [told(row) for row in rows]


def test_documents(tmp_path):
    (tmp_path / "a.md").write_bytes(b"\xef\xbb\xbfintro\n\n## Sub\n\n# The *title* ##\n\nwords\n")
    (row,) = read(tmp_path / "a.md")
    name = str(tmp_path / "a.md")
    assert row.fields == {"id": name, "source": name, "title": "The *title*", "text": (tmp_path / "a.md").read_text("utf-8-sig")}
    (tmp_path / "b.html").write_text("<title> A\n page </title><p>words")
    (row,) = read(packed(tmp_path / "b.html"))
    assert row.fields == {"id": row.source, "source": row.source, "title": "A page", "text": "words"}
    (tmp_path / "c.md").write_bytes(b"\xff")
    assert bads(read(tmp_path / "c.md")) == [(1, "UnicodeDecodeError")]
    (tmp_path / "whole.txt").write_text("two\nlines")
    assert fields(read(tmp_path / "whole.txt", format="md"))[0]["text"] == "two\nlines"


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<p>one <b>two</b>three</p><p>four</p>", "one twothree\n\nfour"),
        ("a\n  b<br>c<br/>d", "a b\nc\nd"),
        ("<div>a</div><div>b</div>c", "a\nb\nc"),
        ("<style>p {}</style><p>a<script>if (a < b) '<p>x</p>'</script> b</p><noscript>no</noscript>", "a b"),
        ("<ul><li>a<li>b</ul>c", "a\nb\n\nc"),
        ("<table><tr><th>a</th><td> b </td></tr><tr><td>c</td></tr></table>", "a\tb\nc"),
        ("<pre>\n  code\n    more</pre>x", "code\n    more\n\nx"),
        ("&lt;p&gt; &amp; &eacute; &#233;&nbsp;x", "<p> & é é\u00a0x"),
        ("<h1>A</h1>text<hr>more<!-- no -->", "A\n\ntext\n\nmore"),
        ("a <i> b </i> c", "a b c"),
        ("</p></div></script>a</style>", "a"),
        ("<svg><title>no</title>x</svg>a", "a"),
        ("<title/>a", "a"),
        ("", ""),
        ("<p>open <", "open <"),
        ("a<![if x]>b<![endif]>c<![CDATA[d]]>e", "abce"),
        ("a<![other[x]]>b<![ x[y]]>c<![%e;[z]]>d<![", "abcd<!["),
        (f"a&#{'9' * 5_000};b &#{'9' * 9}; &#65;", "a\ufffdb \ufffd A"),
    ],
)
def test_pages(page, text):
    assert text_of(page)[0] == text


def test_a_page_of_things_that_are_never_closed_is_read_in_one_go():
    """Searching all of them at each end would take hours."""
    text, _ = text_of("a" + "<svg>" * 1_000_000 + "</script>" * 1_000_000 + "</svg>b")
    assert text == "ab"


@given(
    st.lists(
        st.sampled_from(
            [
                "<p>",
                "</p>",
                "<pre>",
                "</pre>",
                "<td>",
                "<script>",
                "</script>",
                "<br>",
                "a",
                " ",
                "\n",
                "<",
                "&",
                "<title>",
                "</title>",
                "<!--",
            ]
        )
    )
)
def test_any_page_is_read(parts):
    text, title = text_of("".join(parts))
    assert text == text.strip()
    assert title is None or title


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "f#?.sqlite"
    with sqlite3.connect(path) as made:
        made.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT, v BLOB)")
        made.executemany("INSERT INTO t VALUES (?, ?, ?)", [(at, f"text {at}", b"\0" * 4) for at in range(5)])
        made.execute("INSERT INTO t VALUES (9, CAST(x'ff' AS TEXT), NULL)")
    made.close()
    return path


def asked_sql(database, query, **more):
    return EmbedOptions(sql=query, database=str(database), collection="c", **more)


def test_sql(database):
    asked = asked_sql(database, "SELECT id, text FROM t ORDER BY id")
    found = inputs.found(asked)
    rows = list(inputs.rows(found, asked))
    assert fields(rows) == [*({"id": at, "text": f"text {at}"} for at in range(5)), {"id": 9, "text": "\udcff"}]
    for at, row in enumerate(rows):
        assert [told(each) for each in inputs.rows(found, asked, row.after)] == [told(each) for each in rows[at + 1 :]]
    assert rows[0].source == asked.sql


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELECT nowhere FROM t", "no such column"),
        ("INSERT INTO t VALUES (7, 'x', NULL)", "readonly"),
        ("DELETE FROM t", "readonly"),
        ("SELECT 1; SELECT 2", "one statement"),
        ("", "gives no rows"),
        ("SELECT id, id FROM t", "more than one column"),
    ],
)
def test_queries_that_cannot_be_asked(database, query, message):
    asked = asked_sql(database, query)
    with pytest.raises(InvalidArgumentError, match=message):
        list(inputs.rows(inputs.found(asked), asked))
    with sqlite3.connect(database) as made:
        assert made.execute("SELECT count(*) FROM t").fetchone() == (6,)
    made.close()


def test_sql_columns_are_checked(database):
    asked = asked_sql(database, "SELECT id, text FROM t", id_column="key")
    with pytest.raises(InvalidArgumentError, match="no column 'key'"):
        list(inputs.rows(inputs.found(asked), asked))


def test_standard_input():
    stream = io.BytesIO(LINES)
    rows = read("-", stdin=stream)
    assert [row.number for row in rows] == [2, 4, 5, 6, 7, 8, 9, 10, 11]
    assert rows[0].source == "-"
    assert not stream.closed
    assert fields(read("-", stdin=io.BytesIO(b"text\na\n"), format="csv")) == [{"text": "a"}]
    assert fields(read("-", stdin=io.BytesIO(b"a\nb"), format="txt")) == [{"text": "a"}, {"text": "b"}]
    assert fields(read("-", stdin=io.BytesIO(b'[{"text": "a"}]'), format="json")) == [{"text": "a"}]
    assert fields(read("-", stdin=io.BytesIO(b"# T\n"), format="md")) == [{"text": "# T\n", "title": "T"}]
    marked = io.BufferedReader(io.BytesIO(codecs.BOM_UTF8 + b"a\n"))
    assert fields(read("-", stdin=marked, format="txt")) == [{"text": "a"}]


def test_standard_input_goes_on_by_counting():
    asked = options("-")
    rows = list(inputs.rows(inputs.found(asked, io.BytesIO(LINES)), asked))
    rest = list(inputs.rows(inputs.found(asked, io.BytesIO(LINES)), asked, rows[2].after))
    assert [told(each) for each in rest] == [told(each) for each in rows[3:]]


def test_files_that_break_off_name_themselves_and_how_far_they_went(tmp_path):
    lines = b"".join(b'{"text": "%d", "x": "%s"}\n' % (at, hashlib.md5(b"%d" % at).hexdigest().encode()) for at in range(20_000))
    whole = gzip.compress(lines)
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(whole[: len(whole) // 2])
    asked = options(path)
    seen = []
    with pytest.raises(EngineError, match=r"a\.jsonl\.gz cannot be read past row [1-9][\d,]+: EOFError") as caught:
        seen.extend(row.number for row in inputs.rows(inputs.found(asked), asked))
    assert f"past row {seen[-1]:,}:" in str(caught.value)
    assert isinstance(caught.value.__cause__, EOFError)


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.json", "a.jsonl.gz", "a.feather"])
def test_files_that_are_something_else(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"this is something else altogether, and long enough")
    asked = options(path)
    with pytest.raises(EngineError, match=f"{name} cannot be read past row 0"):
        list(inputs.rows(inputs.found(asked), asked))


def test_damaged_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    parquet.write_table(
        pa.table({"text": [f"text {at}" for at in range(100)]}), path, row_group_size=10, compression="none", use_dictionary=False
    )
    asked = options(path)
    found = inputs.found(asked)
    at = parquet.ParquetFile(path).metadata.row_group(5).column(0).data_page_offset
    raw = path.read_bytes()
    path.write_bytes(raw[:at] + b"\xff" * 40 + raw[at + 40 :])
    with pytest.raises(EngineError, match="cannot be read past row 50"):
        list(inputs.rows(found, asked))
