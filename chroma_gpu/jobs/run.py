"""The way of an embedding job: read, decide, embed, commit, until there are no more rows or somebody says stop."""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

from chroma_gpu.api.models.Collection import Collection
from chroma_gpu.api.open import PersistentClient
from chroma_gpu.embed import EmbeddingFunction, embed_blocks
from chroma_gpu.embed.stream.failures import Failures
from chroma_gpu.embed.stream.kept import Kept
from chroma_gpu.embed.stream.stats import Stats
from chroma_gpu.jobs import counting, dedupe, inputs, model, vectors_file
from chroma_gpu.jobs.checkpoint import Checkpoint, Checkpoints, key
from chroma_gpu.jobs.chunking import Chunker
from chroma_gpu.jobs.commits import Commits
from chroma_gpu.jobs.dead_letters import DeadLetters
from chroma_gpu.jobs.events import Event, Events, cut
from chroma_gpu.jobs.intake import Intake, due_after
from chroma_gpu.jobs.mapping import Mapping
from chroma_gpu.jobs.options import EmbedOptions
from chroma_gpu.jobs.progress import Progressed, Tell
from chroma_gpu.jobs.report import Report
from chroma_gpu.jobs.verdicts import Batch
from chroma_gpu.records import DeviceBlock, Vectors

Say = Callable[[str], object]
"""Takes a line for people."""


def run(
    options: EmbedOptions,
    *,
    collection: Collection | None = None,
    function: EmbeddingFunction[Any] | None = None,
    stop: threading.Event,
    tell: Tell = lambda _: None,
    say: Say = lambda _: None,
) -> Report:
    """Run a job to its end, or until ``stop`` is set, and then export what ``options.out`` asks for.

    collection, function  in place of those that the options name
    Returns  the counts of all runs of the job; ``interrupted`` if it was stopped
    Raises   InvalidArgumentError, before anything is read; JobFailed for bad rows that may not be; NoteChanged, StoreBusy if another run
             of it is at work; EngineError for an input that breaks off; what reading, embedding and writing raise. What was
             committed until then is there, and the job goes on from it
    Memory   the texts that the pipeline reads ahead, and two blocks of vectors
    Crash    what was not committed is read and embedded again; no row is lost, and none is there twice
    """
    sources = inputs.found(options)
    if options.out is not None:
        vectors_file.check(options.out)
    with _collection(options, collection, function) as into:
        report = _Job(into, options, sources, stop, tell, say).run()
        if options.out is not None and report.finished:
            vectors_file.write(into, options.out)
    if options.collection is None and collection is None and report.finished:
        # Under another name first: half of a directory would be in the way of the next run.
        gone = _beside(options.out).with_suffix(".gone")
        shutil.rmtree(gone, ignore_errors=True)
        _beside(options.out).rename(gone)
        shutil.rmtree(gone)
    return report


class _Job:
    def __init__(
        self,
        collection: Collection,
        options: EmbedOptions,
        sources: list[inputs.Input],
        stop: threading.Event,
        tell: Tell,
        say: Say,
    ) -> None:
        self._collection, self._options, self._sources = collection, options, sources
        self._stop, self._tell, self._say = stop, tell, say
        self._stored = collection.configuration_json.get("embedding_function")
        self._key = key(options, self._stored)
        self._checkpoints = Checkpoints(collection, self._key)
        self._started = monotonic()
        self._resumed = self._done = self._texts = 0
        self._total: int | None = None

    def run(self) -> Report:
        found, now = self._checkpoints.found(), _identity(self._sources)
        checkpoint = self._start(found, now)
        report = Report(runs=0).added(checkpoint.counts)
        self._resumed = report.rows_in
        if checkpoint.finished:
            self._say(f"nothing to do: all {report.rows_in:,} rows were done before, and the inputs are the same")
            report.finished = True
            return self._named(report, None, checkpoint.dead_letter)
        report.runs += 1
        self._total = counting.about(self._sources, self._options)
        function = None if self._options.vector_column else model.running(self._collection._function(), self._options)
        with ExitStack() as held:
            dead = self._dead_letters(found, checkpoint)
            if dead is not None:
                held.callback(dead.close)
            events = Events()
            seen = dedupe.of(self._options, self._collection)
            commits = Commits(self._collection, self._options, events, seen, self._checkpoints, dead, report, checkpoint)
            held.callback(commits.close)
            commits.keep()
            self._work(function, self._intake(function, seen, events, checkpoint, commits.dim), events, commits)
        self._named(report, function, str(dead.path) if dead is not None and dead.length else None)
        report.interrupted = not report.finished
        return report

    def _start(self, found: Checkpoint | None, now: str | None) -> Checkpoint:
        """Where this run begins."""
        fresh = Checkpoint(inputs=now)
        if found is None or not self._options.resume:
            return fresh
        if now is None or found.inputs != now:
            self._say(
                "the inputs are not those of the last run, so reading begins at the first row; unchanged texts cost nothing"
            )
            return fresh
        if not found.finished:
            self._say(f"going on after {found.counts.get('rows_in', 0):,} rows that were done before")
        return found

    def _dead_letters(self, found: Checkpoint | None, checkpoint: Checkpoint) -> DeadLetters | None:
        if self._options.on_error != "dead-letter":
            return None
        path = (self._options.dead_letter or self._beside_data()).expanduser().absolute()
        same = found is not None and found.dead_letter == str(path)
        letters = DeadLetters(
            path,
            checkpoint.dead_bytes if same else None,
            ours=same or self._options.dead_letter is None,
            tail=(found.dead_bytes, found.dead_tail) if found is not None and same else (0, ""),
        )
        if letters.length < checkpoint.dead_bytes:
            self._say(f"{path}: bad rows of earlier runs are not in it any more, or in another file")
        return letters

    def _beside_data(self) -> Path:
        """The file of bad rows that belongs to this job alone."""
        options = self._options
        if options.collection is None and options.out is not None:
            return options.out.with_name(f"{options.out.name}-{self._key[:8]}{inputs.DEAD_LETTERS}")
        path, collection = Path(options.path).expanduser().absolute(), self._collection
        # Beside it there may be other directories, and in it other databases, with a collection of this name.
        own = f"{self._key}\0{path.name}\0{collection.tenant}\0{collection.database}"
        digest = hashlib.blake2b(own.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
        return path.parent / f"{collection.name}-{digest}{inputs.DEAD_LETTERS}"

    def _intake(self, function: Any, seen: dedupe.Dedupe, events: Events, checkpoint: Checkpoint, dim: int | None) -> Intake:
        options = self._options
        return Intake(
            inputs.rows(self._sources, options, checkpoint.cursor),
            Mapping.of(options, dim).item,
            Chunker.of(options, model.tokenizer(function) if options.chunk in ("tokens", "sentences") else None).items,
            collection=self._collection,
            options=options,
            dedupe=seen,
            events=events,
            start=checkpoint.cursor,
            stop=self._stop,
        )

    def _work(self, function: Any, intake: Intake, events: Events, commits: Commits) -> None:
        """Blocks of vectors as they come, until the rows end. Then, and where a commit is due, what needs no vector."""
        due = due_after(events, self._options, lambda: commits.last)
        stats = Stats()
        while not (intake.ended or self._stop.is_set()):
            self._embed(function, intake.texts(due), events, commits, stats)
            self._put(commits, events.take(0), _counts(stats))
        commits.wait()
        if intake.ended and not len(events):
            commits.keep(finished=True)
            commits.report.finished = True
        self._progress(commits)

    def _embed(self, function: Any, texts: Iterator[str], events: Events, commits: Commits, stats: Stats) -> None:
        """Put the blocks of a stream of texts until it ends or the job is stopped; what was read ahead then waits in ``events``."""
        failures, kept = _Failures(), Kept(self._collection._engine.devices)
        before = self._texts

        def count(done: int, total: int) -> None:
            self._texts = before + done
            self._progress(commits)

        blocks = embed_blocks(
            function, texts, progress=count, kept=kept, failures=failures, memory=self._memory(), stats=stats
        )  # fmt: skip
        for start, vectors in blocks:
            stop = start + len(vectors)
            failed, resident = failures.taken(start, stop), kept.hand_over(start, stop)
            self._put(commits, events.take(len(vectors)), _counts(stats), vectors, failed, resident)
            if self._stop.is_set():
                return

    def _put(
        self,
        commits: Commits,
        taken: list[Event],
        counts: dict[str, int],
        vectors: Vectors | None = None,
        failed: dict[int, Exception] | None = None,
        resident: tuple[DeviceBlock, ...] = (),
    ) -> None:
        """Commit events and their vectors, not more than ``checkpoint_every`` at once."""
        for part, first, last in cut(taken, self._options.checkpoint_every):
            rows = None if vectors is None or first == last else vectors[first:last]
            own = {at - first: error for at, error in (failed or {}).items() if first <= at < last}
            whole = vectors is not None and last - first == len(vectors)
            commits.put(Batch(part, rows, own, resident if whole else (), counts))
            self._progress(commits)

    def _progress(self, commits: Commits) -> None:
        """Tell how far the job is: rows that are committed, and, where a row is a text, those that are embedded."""
        ahead, report = max(0, self._texts - commits.texts), commits.report
        # What is being committed at this moment may be counted nowhere: so the most that was told holds.
        self._done = max(self._done, report.rows_in + (ahead if self._options.chunk == "none" else 0))
        self._tell(
            Progressed(
                done=self._done,
                total=self._total,
                embedded=report.chunks + ahead,
                dead=report.dead,
                tokens=report.tokens,
                seconds=monotonic() - self._started,
                resumed=self._resumed,
            )
        )

    def _memory(self) -> Any:
        return self._collection._engine.memory if self._options.cache else None

    def _named(self, report: Report, function: Any, dead_letter: str | None) -> Report:
        """The report with what was not counted."""
        options = self._options
        report.collection, report.path = options.collection, options.path if options.collection is not None else None
        report.dead_letter, report.out = dead_letter, None if options.out is None else str(options.out)
        for name, value in model.described(self._stored, function).items():
            setattr(report, name, value)
        return report


class _Failures(Failures):
    """Those of a stream without end: what was taken is forgotten."""

    def taken(self, start: int, stop: int) -> dict[int, Exception]:
        """Place after ``start`` -> error, of the texts [start, stop)."""
        here = [position for position in self._found if start <= position < stop]
        return {position - start: self._found.pop(position) for position in here}


@contextmanager
def _collection(
    options: EmbedOptions, collection: Collection | None, function: EmbeddingFunction[Any] | None
) -> Iterator[Collection]:
    """Where the rows go: a collection, or the one of a folder beside ``options.out`` for as long as the job lasts."""
    if collection is not None:
        yield collection
        return
    path = options.path if options.collection is not None else str(_beside(options.out))
    with PersistentClient(path) as client:
        yield model.opened(client, options, function)


def _counts(stats: Stats) -> dict[str, int]:
    """As fields of Report."""
    return {
        "tokens": stats.tokens,
        "padded_tokens": stats.padded,
        "truncated": stats.truncated,
        "remembered": stats.remembered,
    }


def _beside(out: Path | None) -> Path:
    if out is None:
        raise ValueError("there is no file to write to")
    return out.with_name(f"{out.name}.job")


def _identity(sources: list[inputs.Input]) -> str | None:
    """What tells whether all inputs are the same as before; None if nobody can say."""
    told = [source.identity() for source in sources]
    if None in told:
        return None
    return hashlib.blake2b("\0".join(map(str, told)).encode(), digest_size=16).hexdigest()
