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
    context = contextvars.copy_context()
    work = functools.partial(context.run, call, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_workers(os.getpid()), work)


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


@functools.cache
def _workers(process: int) -> ThreadPoolExecutor:
    """The threads of a process; those of its parent do not live on in a forked child."""
    return ThreadPoolExecutor(THREADS, thread_name_prefix="chroma_gpu")
