"""``chroma-gpu explain``: how a query is answered, in words or as JSON."""

from __future__ import annotations

import argparse
import json

from chroma_gpu.api.open import PersistentClient
from chroma_gpu.cli.console import console, require


def run(options: argparse.Namespace) -> int:
    """Run the query once to have everything in memory, then tell of the second time."""
    require(options.path)
    with PersistentClient(options.path) as client:
        collection = client.get_collection(options.collection)
        vectors = collection.embed_queries([options.text])
        asked = {"n_results": options.n_results, "where": options.where, "where_document": options.where_document}
        collection.query(query_embeddings=vectors, **asked)
        explanation = collection.explain(query_embeddings=vectors, **asked)
    if options.json:
        print(json.dumps(explanation.to_dict(), ensure_ascii=False, indent=1))
    else:
        console().print(str(explanation), soft_wrap=True)
    return 0
