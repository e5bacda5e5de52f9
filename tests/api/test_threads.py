"""Many threads on one collection."""

from __future__ import annotations

import threading

import numpy as np
import pytest

BATCH, DIM = 20, 8


@pytest.mark.parametrize("place", ["memory", "disk"])
def test_readers_see_whole_batches_while_others_write(place, client, open_client):
    """Each batch carries one tag on every row; a reader that sees part of one has seen half a transaction."""
    opened = client if place == "memory" else open_client()
    collection = opened.create_collection("c-1", embedding_function=None)
    failures, done = [], threading.Event()

    def guarded(work):
        def run(*arguments):
            try:
                work(*arguments)
            except BaseException as error:
                failures.append(error)

        return run

    @guarded
    def write(owner):
        rng = np.random.default_rng(owner)
        for number in range(40):
            ids = [f"{owner}-{number}-{at}" for at in range(BATCH)]
            vectors = rng.standard_normal((BATCH, DIM), dtype=np.float32)
            collection.add(ids=ids, embeddings=vectors, metadatas=[{"tag": f"{owner}-{number}"}] * BATCH)
            if number % 5 == 4:
                collection.delete(where={"tag": f"{owner}-{number - 1}"})
            if number % 10 == 9:
                collection.compact()

    @guarded
    def read():
        rng = np.random.default_rng()
        while not done.is_set():
            tags = [each["tag"] for each in collection.get(include=["metadatas"])["metadatas"]]
            assert all(tags.count(tag) == BATCH for tag in set(tags))
            got = collection.query(query_embeddings=rng.standard_normal((2, DIM)), n_results=5, where={"tag": {"$ne": "0-0"}})
            assert all(each["tag"] != "0-0" for row in got["metadatas"] for each in row)

    writers = [threading.Thread(target=write, args=(owner,)) for owner in range(3)]
    readers = [threading.Thread(target=read) for _ in range(3)]
    for thread in writers + readers:
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    for thread in readers:
        thread.join()
    assert not failures, failures[0]
    assert collection.count() == 3 * (40 - 8) * BATCH
