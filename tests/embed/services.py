"""A server in this process that plays the embedding services: what was asked is kept, what is answered is scripted."""

from __future__ import annotations

import json
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

KEY = "sk-very-secret"
MINE = {"api_key_env_var": "MY_KEY"}
TEXTS = ["one", "two more"]


def vector(text):
    return [float(len(text)), float(zlib.crc32(text.encode()) % 1000), 1.0]


def data(texts):
    """OpenAI's form, out of order."""
    return {"data": [{"index": i, "embedding": vector(text)} for i, text in reversed(list(enumerate(texts)))]}


ROWS = [vector(text) for text in TEXTS]


@dataclass
class Asked:
    """One request: the address it was sent to, its headers in lower case, its JSON."""

    url: str
    headers: dict[str, str]
    body: Any


@dataclass
class Answer:
    """What is sent back; ``body`` that is no text is JSON."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


class Service:
    """``answers(asked)`` gives the Answer to each request."""

    def __init__(self, answers: Callable[[Asked], Answer]) -> None:
        self.asked: list[Asked] = []
        self.answers = answers
        service, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                headers = {name.lower(): value for name, value in self.headers.items()}
                asked = Asked(headers.pop("x-sent-to"), headers, body)
                with lock:
                    service.asked.append(asked)
                answer = service.answers(asked)
                data = (answer.body if isinstance(answer.body, str) else json.dumps(answer.body)).encode()
                self.send_response(answer.status)
                for name, value in {"Content-Length": str(len(data)), **answer.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args):
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.client = httpx.Client(transport=_Diverted(self._server.server_port))

    def close(self) -> None:
        self.client.close()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Diverted(httpx.HTTPTransport):
    """Sends every request to this machine, whatever host it names."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.headers["X-Sent-To"] = str(request.url)
        request.url = request.url.copy_with(scheme="http", host="127.0.0.1", port=self._port)
        return super().handle_request(request)
