"""The command line: ``chroma-gpu embed | query | explain | info | compact | repair | doctor``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from chroma_gpu.errors import ChromaError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 0, or 1 with one line on stderr that says what went wrong and what to do."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except (ChromaError, ValueError, TypeError, OSError) as error:
        print(f"chroma-gpu {options.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nchroma-gpu {options.command}: stopped; what was acknowledged is kept, run it again to go on", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    from chroma_gpu import __version__

    parser = argparse.ArgumentParser(prog="chroma-gpu", description="Embed, store and search texts.")
    parser.add_argument("--version", action="version", version=f"chroma-gpu {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    embed = commands.add_parser("embed", help="embed the texts of a file into a collection; run again, it goes on where it was")
    embed.set_defaults(run=_embed)
    embed.add_argument("file", help=".jsonl or .csv, also .gz: one record a line; .txt: one text a line")
    _add_collection(embed)
    embed.add_argument("--text", default="text", metavar="FIELD", help="field with the text (default: %(default)s)")
    embed.add_argument(
        "--id",
        default="id",
        metavar="FIELD",
        help="field with the id (default: %(default)s); without it, ids are a digest of the text",
    )
    embed.add_argument("--metadata", metavar="FIELDS", help="fields kept as metadata, comma-separated (default: all the others)")
    embed.add_argument(
        "--model",
        help="a sentence-transformers model by name or path, or static (small and fast), or hashing (no weights); default: all-MiniLM-L6-v2",
    )
    embed.add_argument(
        "--space", choices=("cosine", "l2", "ip"), default="cosine", help="distance of a new collection (default: %(default)s)"
    )
    embed.add_argument("--batch", type=int, default=1024, metavar="ROWS", help="records per commit (default: %(default)s)")

    query = commands.add_parser("query", help="find the nearest records of texts")
    query.set_defaults(run=_query)
    query.add_argument("collection", metavar="NAME")
    query.add_argument("texts", nargs="+", metavar="TEXT")
    _add_search(query)

    explain = commands.add_parser("explain", help="tell how a query is answered: filter, plans, costs")
    explain.set_defaults(run=_explain)
    explain.add_argument("collection", metavar="NAME")
    explain.add_argument("text", metavar="TEXT")
    _add_search(explain)

    info = commands.add_parser("info", help="show what a data directory holds")
    info.set_defaults(run=_info)
    _add_path(info)
    info.add_argument("--json", action="store_true", help="print it as JSON")

    compact = commands.add_parser("compact", help="give back the disk of deleted and replaced records")
    compact.set_defaults(run=_compact)
    compact.add_argument("collection", metavar="NAME")
    _add_path(compact)

    repair = commands.add_parser("repair", help="check everything, and make anew what is derived from the records")
    repair.set_defaults(run=_repair)
    repair.add_argument("collections", nargs="*", metavar="NAME", help="collections (default: all)")
    _add_path(repair)
    repair.add_argument("--check", action="store_true", help="only look; the exit status is 1 if something is wrong")

    doctor = commands.add_parser("doctor", help="show device and versions, and what is missing with the command that fixes it")
    doctor.set_defaults(run=_doctor)
    return parser


def _add_path(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--path", default="./chroma", metavar="DIR", help="data directory (default: %(default)s)")


def _add_search(parser: argparse.ArgumentParser) -> None:
    _add_path(parser)
    parser.add_argument("-n", "--n-results", type=int, default=5, metavar="N", help="answers per text (default: %(default)s)")
    parser.add_argument("--where", type=_json, metavar="JSON", help='filter on metadata, like \'{"year": {"$gte": 2020}}\'')
    parser.add_argument(
        "--where-document", type=_json, metavar="JSON", help='filter on the text, like \'{"$contains": "async"}\''
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _add_collection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-c", "--collection", required=True, metavar="NAME", help="made if it is not there")
    _add_path(parser)


def _json(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("a filter is a JSON object")
    return value


def _embed(options: argparse.Namespace) -> int:
    from chroma_gpu.cli.embed import run

    return run(options)


def _query(options: argparse.Namespace) -> int:
    from chroma_gpu.cli.query import run

    return run(options)


def _explain(options: argparse.Namespace) -> int:
    from chroma_gpu.cli.explain import run

    return run(options)


def _info(options: argparse.Namespace) -> int:
    from chroma_gpu.cli.info import run

    return run(options)


def _compact(options: argparse.Namespace) -> int:
    from chroma_gpu.cli.info import compact

    return compact(options)


def _repair(options: argparse.Namespace) -> int:
    from chroma_gpu.cli.repair import run

    return run(options)


def _doctor(options: argparse.Namespace) -> int:
    from chroma_gpu.cli.doctor import run

    return run(options)
