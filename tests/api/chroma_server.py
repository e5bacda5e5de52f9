"""Starts the server of the real chromadb for a test module, with reset allowed."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

COMMAND = shutil.which("chroma", path=str(Path(sys.executable).parent)) or shutil.which("chroma")


@contextlib.contextmanager
def running(folder: Path) -> Iterator[int]:
    """The port of a running server, which is stopped at the end."""
    if COMMAND is None:
        pytest.skip("the chroma command of the chromadb package is not installed")
    port = free_port()
    config = folder / "server.yaml"
    config.write_text(f'port: {port}\nlisten_address: "127.0.0.1"\nallow_reset: true\npersist_path: "{folder / "data"}"\n')
    server = subprocess.Popen([COMMAND, "run", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        await_answer(port, server)
        yield port
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def await_answer(port: int, server: subprocess.Popen[bytes]) -> None:
    """Return when the server answers."""
    for _ in range(600):
        if server.poll() is not None:
            raise RuntimeError(f"the server ended with {server.returncode}")
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v2/heartbeat", timeout=1):
            return
        time.sleep(0.05)  # there is no event to wait for in another process
    raise RuntimeError("the server does not answer")
