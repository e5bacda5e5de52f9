"""The awaited clients: what they give, and that the event loop goes on meanwhile."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from functools import partial

import numpy as np
import pytest

import chroma_gpu
from chroma_gpu import errors
from chroma_gpu.api.async_client import AsyncAdminClient, AsyncClient
from chroma_gpu.api.awaited import THREADS
from chroma_gpu.api.client import AdminClient, Client
from chroma_gpu.api.models.AsyncCollection import AsyncCollection
from chroma_gpu.api.models.Collection import Collection
from chroma_gpu.api.open import AsyncEphemeralClient, AsyncPersistentClient


class Gate(chroma_gpu.EmbeddingFunction):
    """Embeds nothing before it is let."""

    def __init__(self):
        self.entered, self.open = threading.Event(), threading.Event()

    def __call__(self, input):
        self.entered.set()
        if not self.open.wait(30):
            raise TimeoutError("nobody opened the gate")
        return [np.array([len(text), 1.0], np.float32) for text in input]

    @staticmethod
    def name():
        return "test_async_gate"

    @staticmethod
    def build_from_config(config):
        return Gate()

    def get_config(self):
        return {}


@pytest.fixture
def ephemeral():
    """Opens awaited clients of one fresh memory; forgets it at the end."""
    yield partial(AsyncEphemeralClient, chroma_gpu.Settings(allow_reset=True))
    Client.clear_system_cache()


def test_the_loop_goes_on_while_a_function_embeds(ephemeral):
    async def work():
        async with await ephemeral() as client:
            gate = Gate()
            collection = await client.create_collection("gate", embedding_function=gate)
            adding = asyncio.create_task(collection.add(ids=["a"], documents=["xyz"]))
            while not gate.entered.is_set():
                await asyncio.sleep(0)  # were the loop held up, this would not come to its end
            assert not adding.done()
            gate.open.set()
            await adding
            return await collection.get(include=["embeddings"])

    assert asyncio.run(work())["embeddings"].tolist() == [[3.0, 1.0]]


def test_results_are_those_of_the_sync_client(tmp_path):
    async def work():
        async with await AsyncPersistentClient(tmp_path) as client:
            made = await client.create_collection("both", metadata={"m": 1}, embedding_function=None)
            assert isinstance(made, AsyncCollection)
            assert (made.name, made.metadata, made.tenant, made.database) == ("both", {"m": 1}, client.tenant, client.database)
            await made.add(ids=["a", "b"], embeddings=[[1.0, 2.0], [3.0, 4.0]], metadatas=[{"x": 1}, {"x": 2}])
            await made.update(ids=["a"], metadatas=[{"y": 1}])
            await made.upsert(ids=["c"], embeddings=[[0.0, 0.0]])
            with Client(settings=client.get_settings()) as sync:
                same = sync.get_collection("both", embedding_function=None)
                assert await made.get() == same.get()
                assert await made.peek(1) is not None
                given = {"query_embeddings": [[1.0, 2.0]], "n_results": 2, "where": {"x": {"$gt": 0}}}
                assert await made.query(**given) == same.query(**given)
                assert await made.count() == same.count() == 3
                assert await made.describe() == same.describe()
                assert [each.id for each in await client.list_collections()] == [same.id]
                assert await client.get_collection_by_id(made.id, embedding_function=None) == made
                assert made.configuration_json == same.configuration_json
            assert set(made.schema.keys) < set((await made.get_model()).serialized_schema["keys"])
            await made.modify(name="renamed")
            assert (made.name, repr(made)) == ("renamed", "AsyncCollection(name=renamed)")
            assert (await made.delete(ids=["a"])) == {"deleted": 1}
            forked = await made.fork("forked")
            assert isinstance(forked, AsyncCollection)
            assert await forked.count() == 2
            await client.delete_collection("renamed")
            assert await client.count_collections() == 1

    asyncio.run(work())


def test_errors_are_those_of_the_sync_client(ephemeral):
    async def work():
        async with await ephemeral() as client:
            with pytest.raises(errors.NotFoundError, match=r"Collection \[zzz\] does not exist"):
                await client.get_collection("zzz")
            with pytest.raises(errors.NotFoundError, match="nope"):
                await client.set_tenant("nope")
            collection = await client.create_collection("errors")
            with pytest.raises(ValueError, match=r"in add\."):
                await collection.add(ids=[])
        with pytest.raises(errors.ClosedError):
            await client.heartbeat()
        with pytest.raises(errors.NotFoundError, match="nope"):
            await ephemeral(tenant="nope")

    asyncio.run(work())


def test_fifty_tasks_at_once(ephemeral):
    async def work():
        async with await ephemeral() as client:
            collection = await client.create_collection("many", embedding_function=None)

            async def one(number):
                await collection.add(ids=[f"{number}"], embeddings=[[float(number), 1.0]])
                found = await collection.query(query_embeddings=[[float(number), 1.0]], n_results=1)
                return found["ids"][0][0]

            found = await asyncio.gather(*(one(number) for number in range(50)))
            return found, await collection.count()

    assert asyncio.run(work()) == ([str(number) for number in range(50)], 50)


def test_a_write_that_was_begun_goes_on_when_its_task_is_cancelled(ephemeral):
    async def work():
        async with await ephemeral() as client:
            gate = Gate()
            collection = await client.create_collection("cancelled", embedding_function=gate)
            adding = asyncio.create_task(collection.add(ids=["a", "b"], documents=["x", "yy"]))
            await asyncio.to_thread(gate.entered.wait, 30)
            adding.cancel()
            with pytest.raises(asyncio.CancelledError):
                await adding
            assert await collection.count() == 0
            gate.open.set()
            while await collection.count() == 0:
                await asyncio.sleep(0)
            return await collection.get()

    assert asyncio.run(work())["ids"] == ["a", "b"]


def test_a_client_whose_opening_is_cancelled_is_closed(monkeypatch):
    gate, entered, closed = threading.Event(), threading.Event(), threading.Event()
    opened = Client._unchecked

    def slowly(settings):
        entered.set()
        gate.wait(30)
        client = opened(settings)
        monkeypatch.setattr(client, "close", lambda: (Client.close(client), closed.set()))
        return client

    monkeypatch.setattr(Client, "_unchecked", slowly)

    async def work():
        opening = asyncio.create_task(AsyncClient.create())
        await asyncio.to_thread(entered.wait, 30)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        gate.set()
        await asyncio.to_thread(closed.wait, 30)

    asyncio.run(work())
    assert closed.is_set()


def test_clients_share_memory_with_the_sync_ones(ephemeral):
    async def work():
        async with await ephemeral() as client:
            await client.create_collection("shared")
            with chroma_gpu.EphemeralClient(client.get_settings()) as sync:
                return [each.name for each in sync.list_collections()]

    assert asyncio.run(work()) == ["shared"]


def test_admin(ephemeral):
    async def work():
        async with await ephemeral() as client, AsyncAdminClient(client.get_settings()) as admin:
            await admin.create_tenant("tenant-a")
            await admin.create_database("first", "tenant-a")
            assert (await admin.get_tenant("tenant-a")) == {"name": "tenant-a"}
            assert [each["name"] for each in await admin.list_databases(tenant="tenant-a")] == ["first"]
            await client.set_tenant("tenant-a", "first")
            assert (client.tenant, client.database) == ("tenant-a", "first")
            await admin.delete_database("first", "tenant-a")
            assert await client.reset()

    asyncio.run(work())


def test_the_callers_context_reaches_the_function(ephemeral):
    variable = contextvars.ContextVar("variable", default="unset")
    seen = []

    class Sees(Gate):
        def __call__(self, input):
            seen.append(variable.get())
            return [np.array([1.0, 1.0], np.float32) for _ in input]

    async def work():
        async with await ephemeral() as client:
            collection = await client.create_collection("context", embedding_function=Sees())
            variable.set("set")
            await collection.add(ids=["a"], documents=["x"])

    asyncio.run(work())
    assert seen == ["set"]


def test_calls_that_other_calls_wait_for_get_a_thread(ephemeral):
    """More calls than there are workers, whose functions ask the loop for one more call each."""

    async def work():
        async with await ephemeral() as client:
            loop, cache = asyncio.get_running_loop(), await client.create_collection("cache", embedding_function=None)
            entered = threading.Barrier(THREADS)

            class Asks(Gate):
                def __call__(self, input):
                    entered.wait(30)  # all workers are taken
                    asyncio.run_coroutine_threadsafe(cache.count(), loop).result(30)
                    return [np.array([1.0], np.float32) for _ in input]

            collection = await client.create_collection("asking", embedding_function=Asks())
            await asyncio.gather(*(collection.add(ids=[str(i)], documents=["x"]) for i in range(THREADS)))
            return await collection.count()

    assert asyncio.run(work()) == THREADS


def test_a_stop_iteration_is_raised_and_not_waited_for(ephemeral):
    def loads(uris):
        raise StopIteration

    async def work():
        async with await ephemeral() as client:
            collection = await client.create_collection("stops", embedding_function=Gate(), data_loader=loads)
            await asyncio.wait_for(collection.add(ids=["a"], uris=["x"]), 30)

    with pytest.raises(RuntimeError, match="StopIteration"):
        asyncio.run(work())


def test_opening_has_to_be_awaited():
    with pytest.raises(NotImplementedError, match="from_system_async"):
        AsyncClient.from_system(None)


@pytest.mark.parametrize(
    ("awaited", "sync", "left_out"),
    [
        (AsyncCollection, Collection, set()),
        (AsyncClient, Client, {"from_system"}),
        (AsyncAdminClient, AdminClient, {"from_client", "from_system"}),
    ],
)
def test_every_method_is_there_with_its_signature(awaited, sync, left_out):
    for name, method in inspect.getmembers(sync, inspect.isfunction):
        if name.startswith("_") or name in left_out:
            continue
        same = getattr(awaited, name)
        assert inspect.signature(same).parameters.keys() == inspect.signature(method).parameters.keys(), name
        plain = name in {"get_settings", "clear_system_cache"}
        assert plain or inspect.iscoroutinefunction(same), name
        assert same.__doc__, name
    for name, _ in inspect.getmembers(sync, lambda each: isinstance(each, property)):
        assert name.startswith("_") or isinstance(getattr(awaited, name), property), name
