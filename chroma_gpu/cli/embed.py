"""``chroma-gpu embed``: the texts of files into a collection, as a job that can be stopped at any moment and gone on with."""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
from pathlib import Path
from typing import Any, get_args

from chroma_gpu.errors import InvalidArgumentError
from chroma_gpu.jobs.options import Chunking, Dtype, EmbedOptions, Format, OnConflict, OnError, Space
from chroma_gpu.jobs.report import Report


def add(commands: Any) -> None:
    """The command and its flags."""
    parser = commands.add_parser(
        "embed",
        help="embed the texts of files into a collection; run again, it goes on where it was",
        epilog="Exit status: 0 all rows are in, 1 failed, 2 usage, 3 finished with bad rows, 130 stopped and can be gone on with.",
    )
    parser.set_defaults(run=run)
    parser.add_argument("inputs", nargs="*", metavar="INPUT", help="files, folders, globs, saved datasets; - is standard input")
    parser.add_argument("-c", "--collection", metavar="NAME", help="made if it is not there; needed unless there is --out")
    parser.add_argument("--path", default="./chroma", metavar="DIR", help="data directory (default: %(default)s)")
    _add_reading(parser.add_argument_group("reading"))
    _add_chunking(parser.add_argument_group("chunking"))
    _add_model(parser.add_argument_group("model"))
    _add_rows(parser.add_argument_group("what becomes of rows"))
    _add_running(parser.add_argument_group("running"))


def _add_reading(group: Any) -> None:
    group.add_argument("--format", choices=get_args(Format), default="auto", help="of every input (default: by its name)")
    group.add_argument("--sql", metavar="QUERY", help="rows are what a query gives, asked of --db")
    group.add_argument("--db", dest="database", metavar="FILE", help="SQLite file")
    group.add_argument("--files-glob", default="**/*", metavar="GLOB", help="which files of a folder (default: %(default)s)")
    group.add_argument("--encoding", dest="encodings", action="append", metavar="NAME", help="of text files; the first that fits")
    group.add_argument(
        "--id-column", "--id", metavar="NAME", help="column with ids (default: id; without it, digests of the texts)"
    )
    group.add_argument(
        "--text-column", "--text", dest="text_columns", action="append", metavar="NAME",
        help="column with the text (default: text, document or content); several are joined",
    )  # fmt: skip
    group.add_argument("--join", default="\n", metavar="TEXT", help="put between several text columns (default: a new line)")
    group.add_argument(
        "--metadata-columns", "--metadata", metavar="A,B|all|none", default="all", help="columns kept as metadata (default: all the others)"
    )  # fmt: skip
    group.add_argument("--vector-column", metavar="NAME", help="column with vectors; then nothing is embedded")
    group.add_argument("--uri-column", metavar="NAME", help="column with uris")
    group.add_argument("--prefix-id", default="", metavar="TEXT", help="put before every id")
    group.add_argument("--offset", type=_count, default=0, metavar="N", help="leave out the first N rows")
    group.add_argument("--limit", type=_count, metavar="N", help="no more than N rows")
    group.add_argument("--sample", type=float, metavar="SHARE", help="a share of the rows, 0 to 1, drawn by --seed")
    group.add_argument("--seed", type=int, default=0, metavar="N", help=argparse.SUPPRESS)


def _add_chunking(group: Any) -> None:
    group.add_argument("--chunk", choices=get_args(Chunking), default="none", help="how texts are cut (default: not at all)")
    group.add_argument("--chunk-size", type=_count, default=512, metavar="N", help="characters or tokens (default: %(default)s)")
    group.add_argument(
        "--chunk-overlap", type=_count, default=64, metavar="N", help="of one chunk and the next (default: %(default)s)"
    )


def _add_model(group: Any) -> None:
    group.add_argument(
        "-m", "--model",
        help="a sentence-transformers model by name or directory, or static (small and fast), or hashing (no weights); "
        "default: the collection's own, all-MiniLM-L6-v2 for a new one",
    )  # fmt: skip
    group.add_argument("--revision", help="version of a model on the hub")
    group.add_argument("--prompt", metavar="TEXT", help="put before every text")
    group.add_argument("--prompt-name", metavar="NAME", help="the same, one of the model's own")
    group.add_argument("--instruction", metavar="TEXT", help="the same, for an Instructor model")
    group.add_argument("--truncate-dim", type=_count, metavar="N", help="keep the first N numbers of each vector")
    group.add_argument(
        "--normalize", action=argparse.BooleanOptionalAction, help="give vectors norm 1 (default: as the model does)"
    )
    group.add_argument(
        "--space", choices=get_args(Space), default="cosine", help="distance of a new collection (default: %(default)s)"
    )
    group.add_argument(
        "--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:0,cuda:1, all (default: %(default)s)"
    )
    group.add_argument(
        "--dtype", choices=get_args(Dtype), default="auto", help="what the model computes in (default: %(default)s)"
    )
    group.add_argument(
        "--max-batch-tokens", dest="batch_tokens", type=_count, metavar="N", help="in one batch (default: found out)"
    )


def _add_rows(group: Any) -> None:
    group.add_argument(
        "--on-conflict", choices=get_args(OnConflict), default="upsert",
        help="rows whose id is there: upsert embeds those with another text, skip leaves what is there, error makes them bad rows",
    )  # fmt: skip
    group.add_argument(
        "--dedupe", type=_dedupe, metavar="none|exact|near:T", help="leave out texts that are there, or near to one that is"
    )
    group.add_argument(
        "--on-error", choices=get_args(OnError), default="dead-letter", help="bad rows: kept in a file, left out, or the end"
    )
    group.add_argument(
        "--dead-letter", type=Path, metavar="FILE", help="for bad rows (default: NAME-....bad.jsonl beside the data directory)"
    )
    group.add_argument(
        "--max-errors", type=_errors, metavar="N|P%", help="bad rows after which the job ends: a number, or a share"
    )
    group.add_argument(
        "--out", type=Path, metavar="FILE.parquet", help="write ids, texts, metadata and vectors there; without -c, only there"
    )


def _add_running(group: Any) -> None:
    group.add_argument(
        "--resume", action=argparse.BooleanOptionalAction, default=True, help="go on where this very job stopped (default)"
    )
    group.add_argument(
        "--checkpoint-every",
        "--batch",
        type=_count,
        default=10_000,
        metavar="ROWS",
        help="most rows in a commit (default: %(default)s)",
    )
    group.add_argument(
        "--cache", choices=("on", "off"), default="on", help="remember vectors of texts, and look them up (default: on)"
    )
    group.add_argument("--dry-run", action="store_true", help="only say how much there is to do, and how long it will take")
    group.add_argument(
        "--progress", choices=("auto", "bar", "json", "none"), default="auto", help="on stderr (default: %(default)s)"
    )
    group.add_argument("--report", type=Path, metavar="FILE", help="write the report there, as JSON")
    group.add_argument("--json", action="store_true", help="print the report as JSON")


def run(told: argparse.Namespace) -> int:
    """Run the job. What it did is said on stderr; stdout has nothing but the JSON that was asked for."""
    from chroma_gpu.jobs import inputs, stopping
    from chroma_gpu.jobs.progress import shown
    from chroma_gpu.jobs.run import run as run_job

    try:
        options = _options(told)
        inputs.found(options)
    except InvalidArgumentError as error:
        print(f"chroma-gpu embed: {error}", file=sys.stderr)
        return 2
    if told.dry_run:
        return _estimate(options, as_json=told.json)
    with stopping.on_signals(signal.SIGINT, signal.SIGTERM) as stop, shown(told.progress) as tell:
        report = run_job(options, stop=stop, tell=tell, say=lambda line: print(f"chroma-gpu embed: {line}", file=sys.stderr))
    _print(report, told)
    return report.exit_code


def _options(told: argparse.Namespace) -> EmbedOptions:
    """Raises InvalidArgumentError."""
    given = {name: value for name, value in vars(told).items() if name in EmbedOptions.__dataclass_fields__ and value is not None}
    columns = {"all": None, "none": ()}
    given["metadata_columns"] = columns.get(told.metadata_columns, tuple(told.metadata_columns.split(",")))
    for name in ("inputs", "text_columns", "encodings"):
        if name in given:
            given[name] = tuple(given[name])
    given["cache"] = told.cache == "on"
    return EmbedOptions(**given)


def _estimate(options: EmbedOptions, *, as_json: bool) -> int:
    from chroma_gpu.jobs.estimate import estimate

    found = estimate(options)
    if as_json:
        print(json.dumps(found.to_json(), ensure_ascii=False, indent=1))
    else:
        print("\n".join(found.lines()), file=sys.stderr)
    return 0


def _print(report: Report, told: argparse.Namespace) -> None:
    if told.report is not None:
        report.write(told.report)
    if told.json:
        print(json.dumps(report.to_json(), ensure_ascii=False, indent=1))
    print("\n".join(report.lines()), file=sys.stderr)
    if report.interrupted:
        print(f"go on with: {shlex.join(['chroma-gpu', *told.arguments])}", file=sys.stderr)


def _count(text: str) -> int:
    try:
        value = int(text.replace("_", ""))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from error
    if value < 0:
        raise argparse.ArgumentTypeError("must be 0 or more")
    return value


def _dedupe(text: str) -> str | float | None:
    if text in ("none", "exact"):
        return None if text == "none" else text
    kind, _, threshold = text.partition(":")
    try:
        if kind != "near" or not 0 < float(threshold) <= 1:
            raise ValueError(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not none, exact or near:T with T above 0 and at most 1") from error
    return float(threshold)


def _errors(text: str) -> int | float:
    try:
        if text.endswith("%"):
            return float(text[:-1]) / 100
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor a share like 1%") from error
