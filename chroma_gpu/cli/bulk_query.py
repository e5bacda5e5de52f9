"""``chroma-gpu bulk-query``: a file of queries to a file of hits."""

from __future__ import annotations

import argparse
import json
import sys


def run(options: argparse.Namespace) -> int:
    """Read, embed, search, write. What was done is said on stderr, so that hits can go to stdout. 3 if there were bad queries."""
    from chroma_gpu.api.open import PersistentClient
    from chroma_gpu.cli.console import require
    from chroma_gpu.jobs.queries import bulk_query
    from chroma_gpu.jobs.stopping import ended_like_ctrl_c

    require(options.path)
    with ended_like_ctrl_c(), PersistentClient(options.path) as client:
        report = bulk_query(
            client.get_collection(options.collection),
            options.input,
            options.output,
            k=options.n_results,
            where=options.where,
            where_document=options.where_document,
            max_distance=options.max_distance,
            include=[each for each in options.include.split(",") if each],
            text_column=options.text_column,
            id_column=options.id_column,
            vector_column=options.vector_column,
            format=options.format,
            encodings=options.encoding or ("utf-8",),
            batch=options.batch,
            dead_letter=options.dead_letter,
            progress=options.progress,
        )
    if options.report:
        report.write(options.report)
    if options.json and options.output != "-":
        print(json.dumps(report.to_json(), ensure_ascii=False, indent=1))
    sys.stderr.write("".join(f"{line}\n" for line in report.lines()))
    return report.exit_code


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is particular to this command: where queries come from and hits go to."""
    parser.add_argument("-i", "--input", required=True, metavar="FILE", help=".jsonl, .csv, .tsv, .parquet, .txt; - is stdin")
    parser.add_argument(
        "-o", "--output", required=True, metavar="FILE", help=".jsonl, .parquet, .csv, .tsv; - is stdout, as JSON lines"
    )
    parser.add_argument(
        "-k", "-n", "--n-results", type=int, default=10, metavar="K", help="hits per query (default: %(default)s)"
    )
    parser.add_argument("--max-distance", type=float, metavar="D", help="leave out hits that are farther")
    parser.add_argument(
        "--include", default="distances", metavar="NAMES", help="of distances,documents,metadatas,uris (default: %(default)s)"
    )
    parser.add_argument("--text-column", metavar="NAME", help="column with the text (default: text, query or question)")
    parser.add_argument(
        "--id-column", metavar="NAME", help="column with the id (default: query_id, id or _id, else the row's number)"
    )
    parser.add_argument(
        "--vector-column", metavar="NAME", help="column with a vector in place of a text (default: vector or embedding)"
    )
    parser.add_argument(
        "--format",
        default="auto",
        choices=("auto", "jsonl", "json", "csv", "tsv", "parquet", "arrow", "txt"),
        help="of the queries",
    )
    parser.add_argument("--encoding", action="append", metavar="NAME", help="of texts (default: utf-8); may be given again")
    parser.add_argument("--batch", type=int, default=4096, metavar="N", help="queries embedded at once (default: %(default)s)")
    parser.add_argument("--dead-letter", metavar="FILE", help="for bad queries (default: the output's name and .bad.jsonl)")
    parser.add_argument(
        "--progress", default="auto", choices=("auto", "bar", "json", "none"), help="on stderr (default: %(default)s)"
    )
    parser.add_argument("--report", metavar="FILE", help="write what was done as JSON")
    parser.add_argument("--json", action="store_true", help="print the report as JSON, unless hits go there")
