"""What was read and embedded goes into the collection: its records, its bad rows and the checkpoint, block after block, in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from time import monotonic
from typing import Any, Final

from chroma_gpu.api import validate
from chroma_gpu.api.models.Collection import Collection
from chroma_gpu.errors import ChromaError, JobFailed, StoreError
from chroma_gpu.jobs.checkpoint import Checkpoint, Checkpoints
from chroma_gpu.jobs.dead_letters import DeadLetters
from chroma_gpu.jobs.dedupe import Dedupe
from chroma_gpu.jobs.events import Events, Outcome, Passed, after, ends_row
from chroma_gpu.jobs.options import EmbedOptions
from chroma_gpu.jobs.report import Report
from chroma_gpu.jobs.rows import BadRow, Item, Stage
from chroma_gpu.jobs.verdicts import Batch, Verdicts
from chroma_gpu.records import Mode

ENOUGH: Final = 100
"""Rows from which on a share of bad ones says something."""

_COUNTED: Final[Mapping[Outcome, str]] = {
    Outcome.UNCHANGED: "unchanged",
    Outcome.SKIPPED: "skipped",
    Outcome.DUPLICATE: "duplicates",
    Outcome.WRITTEN: "rows_out",
    Outcome.DEAD: "dead",
}


class Commits:
    """Commits in a thread of its own, one at a time, while the next block is embedded. What goes wrong there is raised by the next call.

    A commit appends bad rows to their file and flushes it, then writes records and checkpoint in one transaction. So whatever
    happens, the file has each bad row before the checkpoint once, and what it has beyond is cut off when the job goes on.

    report, checkpoint  of the runs until now; the report is kept up to date with what is committed
    """

    def __init__(
        self,
        collection: Collection,
        options: EmbedOptions,
        events: Events,
        dedupe: Dedupe,
        checkpoints: Checkpoints,
        dead: DeadLetters | None,
        report: Report,
        checkpoint: Checkpoint,
    ) -> None:
        self._collection, self._options, self._events, self._dedupe = collection, options, events, dedupe
        self._checkpoints, self._dead, self.report = checkpoints, dead, report
        self._inputs, self._cursor, self._outcome = checkpoint.inputs, checkpoint.cursor, checkpoint.outcome
        self._letters = checkpoint.dead_letter, checkpoint.dead_bytes, checkpoint.dead_tail
        self._before, self._started = report.counts(), monotonic()
        self._mode = Mode.UPSERT if options.on_conflict == "upsert" else Mode.ADD
        self._rebuilt = collection._entry.rebuilt
        with collection._engine.table(collection.id) as table:
            self.dim = table.dim()
            """Numbers of a vector; None while there is none."""
        self.last = monotonic()
        """When something was put last."""
        self.texts = 0
        """Texts that were embedded in this run and are committed; they are counted here before they are in the report."""
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="commit")
        self._running: Future[None] | None = None

    def put(self, batch: Batch) -> None:
        """Commit a batch, after the one before. Raises as ``wait``, what the one before raised; then this one is not committed."""
        self.wait()
        self.last = monotonic()
        self._running = self._pool.submit(self._commit, batch)

    def wait(self) -> None:
        """Until everything that was put is committed. Raises JobFailed, NoteChanged, OSError, and what a write raises."""
        running, self._running = self._running, None
        if running is not None:
            running.result()

    def keep(self, *, finished: bool = False) -> None:
        """Commit how far the job is, and nothing else. Raises as ``wait``."""
        self.wait()
        self._write(Verdicts(Batch([]), self.dim), [], finished=finished)

    def close(self) -> None:
        """Let what is at work come to its end, whatever that is."""
        self._pool.shutdown()

    def _commit(self, batch: Batch) -> None:
        taken = list(batch.events)
        verdicts = Verdicts(batch, self.dim)
        self._drop_near(verdicts)
        self._settle_contested(verdicts)
        failure = None
        while True:
            if self._options.on_error == "fail":
                failure = verdicts.cut() or failure
            try:
                self._write_all(verdicts)
                break
            except (ChromaError, ValueError, TypeError) as error:
                # One row that cannot be taken refuses its batch: it is found and set apart.
                if isinstance(error, StoreError) or not self._set_apart(verdicts):
                    raise
        self.dim = verdicts.dim
        self._events.committed(taken)
        self._dedupe.committed()
        self._check_errors(failure)

    def _drop_near(self, verdicts: Verdicts) -> None:
        places = verdicts.written()
        if not places:
            return
        keep = self._dedupe.vectors([verdicts.item(place) for place in places], verdicts.vectors_of(places))
        for place, kept in zip(places, keep, strict=True):
            if not kept:
                verdicts.settle(place, Outcome.DUPLICATE)

    def _settle_contested(self, verdicts: Verdicts) -> None:
        """Of several items with one id, all on their way at once: the last one wins an upsert, else the first one that is good."""
        contested = verdicts.written(contested=True)
        if self._mode is Mode.UPSERT or not contested:
            return
        asked = list({verdicts.item(place).id for place in contested})
        taken = set(self._collection.get(ids=asked, include=[])["ids"])
        for place in verdicts.written():
            id = verdicts.item(place).id
            if id in taken and self._options.on_conflict == "skip":
                verdicts.settle(place, Outcome.SKIPPED)
            elif id in taken:
                verdicts.bury(place, Stage.STORE, "IDAlreadyExistsError", f"the id {id!r} is there already")
            taken.add(id)

    def _write_all(self, verdicts: Verdicts) -> None:
        # Before the checkpoint and not with it: done once more, this changes nothing.
        if self._mode is Mode.UPSERT:
            for last in verdicts.shortened():
                document = (last.metadata or {})["document_id"]
                self._collection.delete(where={"$and": [{"document_id": document}, {"chunk": {"$gt": last.chunk}}]})
        replaced = verdicts.replaced() if self._mode is Mode.UPSERT else ()
        updates = {verdicts.item(place).id: verdicts.item(place) for place in verdicts.updated() if place not in replaced}
        if updates:
            columns = _columns(list(updates.values()), documents=False)
            self._collection._commit_job(list(updates), None, *columns, mode=Mode.UPDATE, note=None, rebuilt=self._rebuilt)
        latest = {verdicts.item(place).id: place for place in verdicts.written() if place not in replaced}
        self._write(verdicts, sorted(latest.values()))

    def _write(self, verdicts: Verdicts, places: Sequence[int], *, finished: bool = False) -> None:
        """Bad rows, records and checkpoint. Nothing has changed if it raises."""
        items = [verdicts.item(place) for place in places]
        vectors = verdicts.vectors_of(places) if places else None
        counts, outcome = self._counts(verdicts, len(items))
        cursor = next((found for event in reversed(verdicts.batch.events) if (found := after(event)) is not None), self._cursor)
        length = 0 if self._dead is None else self._dead.length
        try:
            if self._dead is not None:
                self._dead.append(verdicts.bad(told=self._outcome == Outcome.DEAD))
            letters = self._letters if self._dead is None else (str(self._dead.path), self._dead.length, self._dead.tail())
            checkpoint = Checkpoint(
                inputs=self._inputs,
                cursor=cursor,
                outcome=outcome,
                counts=counts,
                dead_letter=letters[0],
                dead_bytes=letters[1],
                dead_tail=letters[2],
                finished=finished,
            )
            note = self._checkpoints.note(checkpoint)
            self._collection._commit_job(
                [item.id for item in items],
                vectors,
                *_columns(items),
                mode=self._mode,
                note=note,
                resident=verdicts.batch.resident if vectors is verdicts.batch.vectors else (),
                rebuilt=self._rebuilt,
            )
        except BaseException:
            if self._dead is not None:
                self._dead.rewind(length)
            raise
        self._checkpoints.committed(note)
        self._cursor, self._outcome = cursor, outcome
        self.texts += 0 if verdicts.batch.vectors is None else len(verdicts.batch.vectors)
        self.report.seconds = counts.pop("milliseconds") / 1000
        for name, value in counts.items():
            setattr(self.report, name, value)

    def _counts(self, verdicts: Verdicts, written: int) -> tuple[dict[str, int], int]:
        """The counts of the job with a batch, and the outcome of the row that is not done with yet."""
        counts, outcome = self.report.counts(), self._outcome
        for own, event in zip(verdicts.outcomes, verdicts.batch.events, strict=True):
            outcome = max(outcome, own)
            if ends_row(event):
                rows = event.rows if isinstance(event, Passed) else 1
                counts["rows_in"] += rows
                counts[_COUNTED[Outcome(outcome)]] += rows
                outcome = 0
        counts["chunks"] += written
        counts |= {name: self._before[name] + value for name, value in verdicts.batch.counts.items()}
        counts["milliseconds"] = self._before["milliseconds"] + round(1000 * (monotonic() - self._started))
        return counts, outcome

    def _set_apart(self, verdicts: Verdicts) -> bool:
        """Make bad rows of the items that the collection cannot take; whether there are any."""
        wrong: dict[int, Exception] = {}
        written = set(verdicts.written())
        for place in sorted(written.union(verdicts.updated())):
            item = verdicts.item(place)
            vectors = verdicts.vectors_of([place]) if place in written else None
            documents, metadatas, uris = _columns([item], documents=vectors is not None)
            try:
                validate.records([item.id], vectors, metadatas, documents, None, uris, merging=self._mode is not Mode.ADD)
            except (ChromaError, ValueError, TypeError) as error:
                wrong[place] = error
        for place, refused in wrong.items():
            verdicts.bury(place, Stage.STORE, type(refused).__name__, str(refused))
        return bool(wrong)

    def _check_errors(self, failure: BadRow | None) -> None:
        """Raises JobFailed for a bad row that ends the job, or too many."""
        if failure is not None:
            raise JobFailed(
                f"{failure.source}, row {failure.number}: {failure.error}: {failure.message}",
                hint="What comes before it is committed. With --on-error dead-letter or skip, the job goes on after such rows.",
            )
        most, report = self._options.max_errors, self.report
        share = isinstance(most, float)
        if most is None or (share and report.rows_in < ENOUGH) or report.dead <= (most * report.rows_in if share else most):
            return
        raise JobFailed(
            f"{report.dead:,} of {report.rows_in:,} rows are bad, and {f'{most:.4%}' if share else f'{most:,}'} may be (--max-errors).",
            hint="What was good is committed. Mend the rows or allow more, and run it again: it goes on from here.",
        )


def _columns(items: Sequence[Item], *, documents: bool = True) -> list[Any]:
    """Documents, metadatas and uris of items; None for a column without a value."""
    texts = [item.text for item in items] if documents else []
    columns: list[list[Any]] = [texts, [item.metadata for item in items], [item.uri for item in items]]
    return [None if all(each is None for each in column) else column for column in columns]
