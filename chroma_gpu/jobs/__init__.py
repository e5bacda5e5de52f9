"""Jobs over more than fits into one call: texts of files into collections, queries of files to files of hits."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chroma_gpu.api.models.Collection import Collection
    from chroma_gpu.embed import EmbeddingFunction
    from chroma_gpu.jobs.progress import Mode, Tell
    from chroma_gpu.jobs.queries import bulk_query
    from chroma_gpu.jobs.report import Report

__all__ = ["bulk_query", "embed"]


def embed(
    *inputs: str | Path,
    collection: str | Collection | None = None,
    path: str | Path = "./chroma",
    progress: Mode | Tell = "none",
    stop: threading.Event | None = None,
    embedding_function: EmbeddingFunction[Any] | None = None,
    **options: Any,
) -> Report:
    """Embed the texts of files into a collection; run again after whatever has stopped it, it goes on where it was.

    inputs      files, folders, globs, "-" for stdin
    collection  its name, made in ``path`` if it is not there, or the collection itself, wherever it is; None: into the file ``out`` alone
    progress    "auto", "bar", "json", "none", or a function that is called with ``jobs.progress.Progressed``, now and then
    stop        ends the job when it is set, after the block that is being embedded; the report then says ``interrupted``. Without it, a
                first Ctrl-C does the same and KeyboardInterrupt is raised when everything is committed; a second one does not wait
    embedding_function  in place of one that is named by ``model``
    options     the fields of ``jobs.options.EmbedOptions``
    Returns     ``jobs.report.Report``: the counts of all runs of this job, and what it was made with
    Raises      InvalidArgumentError before anything is read; JobFailed if there are more bad rows than may be; what reading, embedding and
                writing raise. What was committed until then is there
    Crash       at any moment: what was not committed is read and embedded again by the next run; no row is lost or there twice, and
                each bad row is in the file of bad rows once
    """
    import signal

    from chroma_gpu.jobs import stopping
    from chroma_gpu.jobs.options import EmbedOptions
    from chroma_gpu.jobs.progress import shown
    from chroma_gpu.jobs.run import run

    for name in ("out", "dead_letter"):
        if isinstance(options.get(name), str):
            options[name] = Path(options[name])
    for name in ("text_columns", "metadata_columns", "encodings"):
        if isinstance(options.get(name), (str, list)):
            options[name] = (options[name],) if isinstance(options[name], str) else tuple(options[name])
    given: dict[str, Any] = {"function": embedding_function}
    if collection is not None and not isinstance(collection, str):
        given["collection"], settings = collection, getattr(collection._engine, "settings", None)
        # Bad rows lie beside its data.
        path = settings.persist_directory if settings is not None and settings.is_persistent else path
        collection = collection.name
    told = EmbedOptions(inputs=tuple(map(str, inputs)), collection=collection, path=str(path), **options)
    with shown(progress) as tell:
        if stop is not None:
            return run(told, **given, stop=stop, tell=tell)
        with stopping.on_signals(signal.SIGINT) as first:
            report = run(told, **given, stop=first, tell=tell)
    if report.interrupted:
        raise KeyboardInterrupt
    return report


def __getattr__(name: str) -> Any:
    """``bulk_query``, loaded when it is first used."""
    if name != "bulk_query":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from chroma_gpu.jobs import queries

    return queries.bulk_query
