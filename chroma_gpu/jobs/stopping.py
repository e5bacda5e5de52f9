"""Signals that stop a job: the first one lets it finish what it is at, the second one does not."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Final

SAID: Final = b"\nstopping: what is being embedded is finished and kept; once more stops at once\n"


@contextmanager
def ended_like_ctrl_c() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt in the main thread, so that what is half done is tidied up. In another thread nothing changes."""

    def ended(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, ended)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def on_signals(*signals: signal.Signals) -> Iterator[threading.Event]:
    """An event that the first of some signals sets; the second one raises KeyboardInterrupt in the main thread.

    Outside of the main thread, which alone may handle signals, nothing sets it. The handlers that were there are put back.
    """
    stop = threading.Event()

    def stopped(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        # Not through sys.stderr: the signal may have come in the middle of a write to it.
        with suppress(OSError):
            os.write(2, SAID)

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {each: signal.signal(each, stopped) for each in signals}
    try:
        yield stop
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
