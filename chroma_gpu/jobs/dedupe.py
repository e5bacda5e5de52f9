"""Texts that are there already: equal ones by their digests, near ones by their vectors. The first one stays."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import compress
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from chroma_gpu.api.models.Collection import Collection
from chroma_gpu.errors import InvalidArgumentError
from chroma_gpu.jobs.digests import Digests
from chroma_gpu.jobs.options import EmbedOptions
from chroma_gpu.jobs.rows import Item
from chroma_gpu.records import Metric, Vectors

PAGE: Final = 16_384
"""Texts that are read of a collection at once."""

ROUNDING: Final = 1e-6
"""What a cosine may be below the wanted one: float32 vectors of norm 1 are no nearer to it."""

UNIT: Final = 1e-2
"""How far from 1 a norm may be where the collection's distance is not the cosine: half precision is nearer."""

TILE: Final = 2_048
"""Rows of either side whose products are made at once."""


class Dedupe(Protocol):
    """Which items are kept. Asked in the order of a job; what it kept counts at once, committed or not.

    One thread may call ``texts`` while another one calls ``vectors`` and ``committed``.
    """

    def texts(self, items: Sequence[Item]) -> list[bool]:
        """Which items are to be embedded, before they are."""
        ...

    def vectors(self, items: Sequence[Item], vectors: Vectors) -> list[bool]:
        """Which of the items that ``texts`` kept are to be written, now that there are vectors, [n, dim] float32.

        Rows that are not finite are kept: they are somebody else's trouble.
        """
        ...

    def committed(self) -> None:
        """What ``vectors`` kept until now is in the collection, or was given up. Until then, what matters of it stays in memory."""
        ...


def of(options: EmbedOptions, collection: Collection | None) -> Dedupe:
    """What ``options.dedupe`` asks for, over what a collection has; None: over what the job itself has seen.

    Raises   InvalidArgumentError for a cosine that is not above 0 and at most 1
    Cost     every text of the collection is read once, also when a job is resumed
    """
    wanted = options.dedupe
    if wanted is None:
        return Everything()
    if wanted == "exact":
        return Exact(collection)
    if isinstance(wanted, str) or not 0 < wanted <= 1:
        raise InvalidArgumentError(f"near duplicates have a cosine above 0 and at most 1, got {wanted!r}")
    return Near(collection, float(wanted))


class Everything:
    """Keeps everything."""

    def texts(self, items: Sequence[Item]) -> list[bool]:
        """All."""
        return [True] * len(items)

    def vectors(self, items: Sequence[Item], vectors: Vectors) -> list[bool]:
        """All."""
        return [True] * len(items)

    def committed(self) -> None:
        """Nothing to do."""


class Exact:
    """Leaves out texts that are equal to one that is there under another id. Items without a text are kept.

    A record with the same id is not a duplicate of itself; where its text becomes another one, the old one no longer counts.

    Memory  25 to 35 bytes for each different text of collection and job, twice that for moments in which room is made
    Cost    a digest of each text, and the records with the ids of the items are read
    """

    def __init__(self, collection: Collection | None) -> None:
        self._collection = collection
        self._seen = Digests()
        for texts in _texts(collection):
            digests = _digests(texts)
            self._seen.add(digests, np.ones(len(digests), np.int32))
        self._kept: dict[str, bytes] = {}
        """The digests of texts that are not committed yet, by id."""
        self._passed: list[str] = []

    def texts(self, items: Sequence[Item]) -> list[bool]:
        """Which texts are new."""
        texts = [item.text for item in items]
        at = [place for place, text in enumerate(texts) if text is not None]
        if not at:
            return [True] * len(items)
        digests = _digests([texts[place] or "" for place in at])
        counts = self._seen.counts(digests)
        # First what waits, then what is there: what is committed in between is found twice, not missed.
        waiting = {items[place].id: self._kept.get(items[place].id) for place in at}
        there = self._stored([items[place].id for place in at])
        keep = [True] * len(items)
        changes: dict[bytes, int] = {}
        for place, digest, count in zip(at, digests, counts.tolist(), strict=True):
            item, key = items[place], digest.tobytes()
            before = waiting[item.id] or there.get(item.id)
            if before == key:
                continue
            if count + changes.get(key, 0) > 0:
                keep[place] = False
                continue
            changes[key] = changes.get(key, 0) + 1
            if before is not None:
                changes[before] = changes.get(before, 0) - 1
            waiting[item.id] = key
            if self._collection is not None:
                self._kept[item.id] = key
        if changes:
            keys = np.frombuffer(b"".join(changes), np.uint64).reshape(-1, 2)
            self._seen.add(keys, np.fromiter(changes.values(), np.int32, len(changes)))
        return keep

    def vectors(self, items: Sequence[Item], vectors: Vectors) -> list[bool]:
        """All: what ``texts`` kept is written."""
        self._passed += [item.id for item in items]
        return [True] * len(items)

    def committed(self) -> None:
        """Their texts are asked of the collection from now on, where a later item has one of these ids."""
        for each in self._passed:
            self._kept.pop(each, None)
        self._passed.clear()

    def _stored(self, ids: Sequence[str]) -> dict[str, bytes]:
        """The digests of the texts of the records that have these ids."""
        if self._collection is None:
            return {}
        found = self._collection.get(ids=list(dict.fromkeys(ids)), include=["documents"])
        texts = {each: text for each, text in zip(found["ids"], found["documents"] or (), strict=True) if text is not None}
        return dict(zip(texts, map(np.ndarray.tobytes, _digests(list(texts.values()))), strict=True))


class Near(Exact):
    """Leaves out texts whose vector has a cosine of ``threshold`` or more with one that is there under another id.

    Equal texts are found first, and not embedded. Of two near ones the first stays; one that was left out rules nothing out. Exact: every
    pair that matters is compared in float32, and near the threshold in float64. But for rounding, the result does not depend on how items
    are cut into blocks, nor on when they are committed.

    Raises  InvalidArgumentError if the collection's distance is not the cosine and vectors do not have norm 1
    Memory  that of ``Exact``, and the vectors that are kept and not committed yet
    Cost    a query for two neighbours of each vector, and the products of each with those that are not committed yet
    """

    def __init__(self, collection: Collection | None, threshold: float) -> None:
        super().__init__(collection)
        self._least = threshold - ROUNDING
        self._metric = Metric.COSINE if collection is None else Metric(collection.describe()["distance"])
        self._waiting: list[tuple[list[str], Vectors]] = []
        """Ids and vectors of norm 1 that are kept and not committed yet."""

    def vectors(self, items: Sequence[Item], vectors: Vectors) -> list[bool]:
        """Which vectors are near to none that was kept."""
        super().vectors(items, vectors)
        finite = np.flatnonzero(np.isfinite(vectors).all(axis=1))
        given = np.ascontiguousarray(vectors[finite], np.float32)
        ids = [items[at].id for at in finite.tolist()]
        if not ids:
            return [True] * len(items)
        unit = self._unit(given)
        out = self._near_committed(ids, given) | self._near_waiting(ids, unit)
        for left, right in _pairs(unit, self._least):
            # Pairs come by their right row, so whether the left one stays is settled.
            if not out[left] and ids[left] != ids[right]:
                out[right] = True
        if not out.all():
            self._waiting.append((list(compress(ids, ~out)), unit[~out]))
        keep = np.ones(len(items), np.bool_)
        keep[finite] = ~out
        return keep.tolist()

    def committed(self) -> None:
        """Their vectors are found by queries from now on."""
        super().committed()
        if self._collection is not None:
            self._waiting.clear()

    def _unit(self, vectors: Vectors) -> Vectors:
        norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
        if self._metric is not Metric.COSINE and (abs(norms - 1) > UNIT).any():
            raise InvalidArgumentError(
                f"near duplicates are a matter of the cosine, and the vectors have no norm of 1 in a collection of distance {self._metric}.",
                hint="Use a collection with space cosine, or normalised vectors.",
            )
        return (vectors / np.where(norms == 0, 1, norms)).astype(np.float32)

    def _near_committed(self, ids: Sequence[str], vectors: Vectors) -> npt.NDArray[np.bool_]:
        """[n]: whether a record of another id is near. At most one of the two nearest has the id itself."""
        collection = self._collection
        if collection is None or not collection.count():
            return np.zeros(len(ids), np.bool_)
        found = collection.query(query_embeddings=vectors, n_results=2, include=["distances"])
        hits = zip(ids, found["ids"], found["distances"] or (), strict=True)
        return np.array(
            [
                any(each != own and _cosine(d, self._metric) >= self._least for each, d in zip(near, distances, strict=True))
                for own, near, distances in hits
            ],
            np.bool_,
        )

    def _near_waiting(self, ids: Sequence[str], unit: Vectors) -> npt.NDArray[np.bool_]:
        """[n]: whether a vector that is kept and not committed yet is near, of another id."""
        out = np.zeros(len(ids), np.bool_)
        for names, block in self._waiting:
            for start in range(0, len(block), TILE):
                part = block[start : start + TILE]
                for row, other in zip(*_close(unit, part, self._least), strict=True):
                    out[row] |= ids[row] != names[start + other]
        return out


def _texts(collection: Collection | None) -> Iterator[list[str]]:
    """The texts of a collection, a page at a time."""
    offset = 0
    while collection is not None:
        documents = collection.get(limit=PAGE, offset=offset, include=["documents"])["documents"]
        if not documents:
            return
        yield [document for document in documents if document is not None]
        offset += len(documents)


def _digests(texts: Sequence[str]) -> npt.NDArray[np.uint64]:
    """[n, 2] uint64: BLAKE2b of each text."""
    digest = hashlib.blake2b
    joined = b"".join(digest(text.encode("utf-8", "surrogatepass"), digest_size=16).digest() for text in texts)
    return np.frombuffer(joined, np.uint64).reshape(-1, 2)


def _cosine(distance: float, metric: Metric) -> float:
    """Of vectors of norm 1."""
    return 1 - distance / 2 if metric is Metric.L2 else 1 - distance


def _pairs(unit: Vectors, least: float) -> list[tuple[int, int]]:
    """The pairs of rows, left < right, whose cosine is at least so much, by right, then left."""
    import torch

    from chroma_gpu import device as devices
    from chroma_gpu.kernels.buffer import Buffer, Chunk
    from chroma_gpu.kernels.join import join

    place = devices.pick()
    device = torch.device(place if place.startswith("cuda") else "cpu")
    found = join(Buffer.of([Chunk(0, torch.from_numpy(unit).to(device))]), least)
    left, right = found.left.cpu().numpy(), found.right.cpu().numpy()
    doubtful = (found.scores - found.margins).cpu().numpy() < least
    sure = ~doubtful
    sure[doubtful] = _exact(unit[left[doubtful]], unit[right[doubtful]]) >= least
    left, right = left[sure], right[sure]
    order = np.lexsort((left, right))
    return list(zip(left[order].tolist(), right[order].tolist(), strict=True))


def _close(left: Vectors, right: Vectors, least: float) -> tuple[list[int], list[int]]:
    """Pairs of rows of two tables whose cosine is at least so much."""
    margin = left.shape[1] * 2.0**-23
    rows, others = np.nonzero(left @ right.T >= least - margin)
    sure = _exact(left[rows], right[others]) >= least
    return rows[sure].tolist(), others[sure].tolist()


def _exact(left: Vectors, right: Vectors) -> Any:
    """[n] float64: the cosines of pairs of rows of norm 1."""
    return np.einsum("nd,nd->n", left.astype(np.float64), right.astype(np.float64))
