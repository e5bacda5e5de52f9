"""The command line: ``chroma-gpu embed | query | bulk-query | explain | info | compact | repair | cache | doctor``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from chroma_gpu.errors import ChromaError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 0, or 1 with one line on stderr that says what went wrong and what to do, or what it says else."""
    _open_streams()
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = _parser().parse_args(given, argparse.Namespace(arguments=given))
    try:
        return int(options.run(options))
    except (ChromaError, ValueError, TypeError, OSError) as error:
        print(f"chroma-gpu {options.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        kept = (
            "nothing was written" if options.command == "bulk-query" else "what was acknowledged is kept, run it again to go on"
        )
        print(f"\nchroma-gpu {options.command}: stopped; {kept}", file=sys.stderr)
        return 130


def _open_streams() -> None:
    """Where a standard stream was closed, nothing: else the next file that is opened takes its number, and what is said goes into it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


def _parser() -> argparse.ArgumentParser:
    from chroma_gpu import __version__
    from chroma_gpu.cli import bulk_query, embed

    parser = argparse.ArgumentParser(prog="chroma-gpu", description="Embed, store and search texts.")
    parser.add_argument("--version", action="version", version=f"chroma-gpu {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    embed.add(commands)

    query = commands.add_parser("query", help="find the nearest records of texts")
    query.set_defaults(run=_query)
    query.add_argument("collection", metavar="NAME")
    query.add_argument("texts", nargs="+", metavar="TEXT")
    _add_search(query)

    bulk = commands.add_parser("bulk-query", help="find the nearest records of every query in a file, and write them to a file")
    bulk.set_defaults(run=bulk_query.run)
    bulk.add_argument("collection", metavar="NAME")
    bulk_query.add_arguments(bulk)
    _add_filters(bulk)

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

    cache = commands.add_parser("cache", help="show what is remembered of embeddings, by model, and give its disk back")
    cache.set_defaults(run=_cache)
    _add_path(cache)
    cache.add_argument("--clear", action="store_true", help="forget everything")
    cache.add_argument("--max-size", metavar="SIZE", help="forget what was not used for longest, down to a size like 100MB")
    cache.add_argument("--json", action="store_true", help="print it as JSON")

    doctor = commands.add_parser("doctor", help="show device and versions, and what is missing with the command that fixes it")
    doctor.set_defaults(run=_doctor)
    return parser


def _add_path(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--path", default="./chroma", metavar="DIR", help="data directory (default: %(default)s)")


def _add_search(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-n", "--n-results", type=int, default=5, metavar="N", help="answers per text (default: %(default)s)")
    _add_filters(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _add_filters(parser: argparse.ArgumentParser) -> None:
    _add_path(parser)
    parser.add_argument("--where", type=_json, metavar="JSON", help='filter on metadata, like \'{"year": {"$gte": 2020}}\'')
    parser.add_argument(
        "--where-document", type=_json, metavar="JSON", help='filter on the text, like \'{"$contains": "async"}\''
    )


def _json(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("a filter is a JSON object")
    return value


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


def _cache(options: argparse.Namespace) -> int:
    from chroma_gpu.cli.cache import run

    return run(options)


def _doctor(options: argparse.Namespace) -> int:
    from chroma_gpu.cli.doctor import run

    return run(options)
