"""Calling coroutine functions from code that does not await, as tests do. Not for use within a running event loop."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def async_to_sync(function: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, R]:
    """The function, waiting for its own result. In a running loop it gives the coroutine, to be awaited there.

    Objects that it returns, alone or in a list, have their coroutine methods turned too.
    """

    @wraps(function)
    def waiting(*args: P.args, **kwargs: P.kwargs) -> R:
        loop = _loop()
        if loop.is_running():
            return function(*args, **kwargs)  # type: ignore[return-value]
        return _turned(loop.run_until_complete(function(*args, **kwargs)))  # type: ignore[no-any-return]

    return waiting


def async_class_to_sync(cls: Any) -> Any:
    """The class or object with its public coroutine methods turned by ``async_to_sync``."""
    for name, value in inspect.getmembers(cls, inspect.iscoroutinefunction):
        if not name.startswith("__"):
            setattr(cls, name, async_to_sync(value))
    return cls


def _turned(result: Any) -> Any:
    if isinstance(result, list):
        return [_turned(each) for each in result]
    return async_class_to_sync(result)


def _loop() -> asyncio.AbstractEventLoop:
    """One loop for all calls of a thread: connections belong to a loop."""
    try:
        return asyncio.get_event_loop_policy().get_event_loop()
    except RuntimeError:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        return loop
