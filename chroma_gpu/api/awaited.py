"""How a method becomes a coroutine: the call runs in a worker thread, so that the event loop goes on meanwhile."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import os
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Concatenate, Final, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")
W = TypeVar("W")
S_co = TypeVar("S_co", covariant=True)

THREADS: Final = 32
"""Calls that run at once, over all clients of the process; more wait for their turn. They are ours alone: the loop's own threads,
which look up names and read files for everybody, are not taken away."""


class Holder(Protocol[S_co]):
    """An object that stands before another one, whose methods it offers as coroutines."""

    @property
    def _sync(self) -> S_co: ...


async def in_thread(call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """The result of a call that runs in a worker thread, in the context of the caller.

    If the waiting task is cancelled, a call that has not begun never does; one that has begun goes on to its end, unheard.
    """
    # A call that a running one waits for, say of an embedding function that asks the loop, must not queue behind its like.
    nested = _in_worker.get()
    workers = ThreadPoolExecutor(1) if nested else _workers(os.getpid())
    context = contextvars.copy_context()
    context.run(_in_worker.set, True)
    work = functools.partial(context.run, _outcome, functools.partial(call, *args, **kwargs))
    waiting = asyncio.get_running_loop().run_in_executor(workers, work)
    if nested:
        workers.shutdown(wait=False)
    return await waiting


def awaited(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[Holder[S], P], Coroutine[Any, Any, T]]:
    """The same method as a coroutine, with its signature and documentation."""

    @functools.wraps(method)
    async def call(self: Holder[S], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await in_thread(method, self._sync, *args, **kwargs)

    return call


def awaited_as(
    convert: Callable[[T], W],
) -> Callable[[Callable[Concatenate[S, P], T]], Callable[Concatenate[Holder[S], P], Coroutine[Any, Any, W]]]:
    """``awaited``, for a method whose result is handed out in another form."""

    def change(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[Holder[S], P], Coroutine[Any, Any, W]]:
        @functools.wraps(method)
        async def call(self: Holder[S], /, *args: P.args, **kwargs: P.kwargs) -> W:
            return convert(await in_thread(method, self._sync, *args, **kwargs))

        return call

    return change


def _outcome(call: Callable[[], T]) -> T:
    """The result of a call. Raises what it raises; StopIteration, which a future never hands on, as RuntimeError, as generators do."""
    try:
        return call()
    except StopIteration as error:
        raise RuntimeError("a call raised StopIteration") from error


_in_worker: Final = contextvars.ContextVar("_in_worker", default=False)
"""Whether a worker of ours waits for what runs in this context."""


@functools.cache
def _workers(process: int) -> ThreadPoolExecutor:
    """The threads of a process; those of its parent do not live on in a forked child."""
    return ThreadPoolExecutor(THREADS, thread_name_prefix="chroma_gpu")
