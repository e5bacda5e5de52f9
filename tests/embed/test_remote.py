"""The door to services: batches, order, retries, errors that name their inputs and show no key."""

from __future__ import annotations

import copy
import email.utils
import json
import sys
import threading
import time
import traceback
import warnings

import httpx
import numpy as np
import pytest
from embed.services import KEY, MINE, TEXTS, Answer, data, vector

from chroma_gpu.embed.services import remote
from chroma_gpu.errors import EmbeddingFailed, MissingDependency
from chroma_gpu.utils import embedding_functions as ef

pytestmark = pytest.mark.usefixtures("keys")


def test_order_holds_when_batches_overtake_each_other(play):
    late = threading.Event()

    def answers(asked):
        if "text 0" in asked.body["inputs"]:
            assert late.wait(10)  # the first batch is answered last
        elif "text 90" in asked.body["inputs"]:
            late.set()
        return Answer([vector(text) for text in asked.body["inputs"]])

    service = play(answers)
    texts = [f"text {i}" for i in range(100)]
    got = ef.HuggingFaceEmbeddingServer("http://tei/embed")(texts)
    assert np.array(got).tolist() == np.array([vector(text) for text in texts], np.float32).tolist()
    assert sorted(len(asked.body["inputs"]) for asked in service.asked) == [4, 32, 32, 32]


def test_long_texts_make_smaller_batches(play):
    service = play(lambda asked: Answer(data(asked.body["input"])))
    texts = ["a" * 20_000, "b" * 9_000, "c" * 2_000, "d" * 50_000, "e"]
    assert len(ef.MistralEmbeddingFunction("m", **MINE)(texts)) == 5
    assert sorted("".join(text[0] for text in asked.body["input"]) for asked in service.asked) == ["ab", "c", "d", "e"]


def test_late_chunking_is_one_request(play):
    service = play(lambda asked: Answer(data(asked.body["input"])))
    texts = ["x" * 60_000] * 600
    assert len(ef.JinaEmbeddingFunction(late_chunking=True, **MINE)(texts)) == 600
    assert len(service.asked) == 1


def test_parallel_requests_are_limited(play):
    lock, now, most, gate = threading.Lock(), [0], [0], threading.Barrier(4)

    def answers(asked):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        gate.wait(10)  # four at a time get past, and only four come
        with lock:
            now[0] -= 1
        return Answer([vector(text) for text in asked.body["inputs"]])

    play(answers)
    assert len(ef.HuggingFaceEmbeddingServer("http://tei/embed")(["t"] * 32 * 8)) == 256
    assert most[0] == 4


@pytest.mark.parametrize(
    ("header", "low", "high"),
    [
        ("7", 7, 7),
        ("0", 0, 0),
        ("in half a minute", 15, 31),
        ("soon", 0.25, 0.5),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.25, 0.5),
        ("-3", 0.25, 0.5),
        ("nan", 0.25, 0.5),
        (None, 0.25, 0.5),
    ],
)
def test_a_busy_service_is_asked_again_when_it_says(header, low, high, play, waits):
    if header == "in half a minute":
        header = email.utils.formatdate(time.time() + 30, usegmt=True)
    script = [Answer("slow down", 429, {"Retry-After": header} if header else {}), Answer(data(TEXTS))]
    service = play(lambda asked: script.pop(0))
    assert len(ef.OpenAIEmbeddingFunction(**MINE)(TEXTS)) == 2
    assert len(service.asked) == 2
    assert len(waits) == 1
    assert low <= waits[0] <= high


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 529])
def test_trouble_that_stays_is_an_error_that_names_the_inputs(status, play, waits):
    service = play(lambda asked: Answer(f"trouble with {KEY}", status))
    with pytest.raises(
        EmbeddingFailed, match=rf"of openai gave, for inputs 0 to 1 of 2, HTTP {status}: trouble with \*\*\* \(attempt 5 of 5"
    ):
        ef.OpenAIEmbeddingFunction(**MINE)(TEXTS)
    assert len(service.asked) == 5
    assert len(waits) == 4
    for n, seconds in enumerate(waits):
        assert 0.25 * 2**n <= seconds <= 0.5 * 2**n


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 301])
def test_a_refusal_is_not_repeated(status, play, waits):
    service = play(lambda asked: Answer({"error": f"no such model for {KEY}"}, status, {"Location": "http://elsewhere/"}))
    with pytest.raises(EmbeddingFailed, match=rf"HTTP {status}: .*no such model") as caught:
        ef.OllamaEmbeddingFunction()(["one"])
    assert "for input 0 of 1" in str(caught.value)
    assert (len(service.asked), waits) == (1, [])


def test_a_key_at_the_end_of_an_excerpt_is_not_shown_in_part(play):
    play(lambda asked: Answer("x" * 295 + KEY, 400))
    with pytest.raises(EmbeddingFailed) as caught:
        ef.OpenAIEmbeddingFunction(**MINE)(TEXTS)
    assert "sk-" not in str(caught.value)
    assert "xxx***" in str(caught.value)


def test_a_header_that_cannot_be_sent_is_not_shown(play, waits):
    service = play(lambda asked: Answer(data(TEXTS)))
    with pytest.raises(EmbeddingFailed, match="a header cannot be sent") as raised:
        ef.OpenAIEmbeddingFunction(default_headers={"X-Key": f"{KEY}-2\n"}, **MINE)(TEXTS)
    assert KEY not in "".join(traceback.format_exception(raised.value))
    assert (service.asked, waits) == ([], [])


def test_a_text_that_is_no_unicode_is_an_error_with_its_cause(play):
    play(lambda asked: Answer(data(["a"])))
    with pytest.raises(EmbeddingFailed, match="for input 0 of 1, UnicodeEncodeError") as caught:
        ef.OpenAIEmbeddingFunction(**MINE)(["lone surrogate \ud800"])
    assert isinstance(caught.value.__cause__, UnicodeEncodeError)


def test_a_service_that_asks_for_too_long_is_given_up(play, waits):
    service = play(lambda asked: Answer("come back", 429, {"Retry-After": "3600"}))
    with pytest.raises(EmbeddingFailed, match="It asks to be left alone for 3600 s"):
        ef.OpenAIEmbeddingFunction(**MINE)(TEXTS)
    assert (len(service.asked), waits) == (1, [])


def test_one_batch_that_fails_ends_the_call_and_is_named(play, monkeypatch):
    others = threading.Event()

    def pause(stop, seconds):
        others.set()
        return stop.wait(10)

    def answers(asked):
        if "text 40" in asked.body["inputs"]:
            assert others.wait(10)  # another batch is between two attempts
            return Answer("no", 400)
        return Answer("busy", 503)

    monkeypatch.setattr(remote, "pause", pause)
    play(answers)
    with pytest.raises(EmbeddingFailed, match="for inputs 32 to 63 of 100, HTTP 400: no"):
        ef.HuggingFaceEmbeddingServer("http://tei/embed")([f"text {i}" for i in range(100)])


class Broken(httpx.BaseTransport):
    def __init__(self, *errors):
        self.errors = list(errors)
        self.asked = 0

    def handle_request(self, request):
        self.asked += 1
        error = self.errors.pop(0)
        if isinstance(error, Exception):
            raise error
        return httpx.Response(200, json=error)


def test_timeouts_and_broken_connections_are_repeated(monkeypatch, waits):
    errors = (httpx.ReadTimeout("slow"), httpx.RemoteProtocolError("gone"), httpx.ConnectTimeout("slow"))
    transport = Broken(*errors, data(TEXTS))
    monkeypatch.setattr(remote, "shared_client", lambda process: httpx.Client(transport=transport))
    assert len(ef.OpenAIEmbeddingFunction(**MINE)(TEXTS)) == 2
    assert len(waits) == 3
    transport.errors = [httpx.ReadTimeout("slow")] * 5
    with pytest.raises(EmbeddingFailed, match="ReadTimeout: slow") as caught:
        ef.OpenAIEmbeddingFunction(**MINE)(TEXTS)
    assert isinstance(caught.value.__cause__, httpx.ReadTimeout)


def test_a_service_that_is_not_there_is_said_at_once(monkeypatch, waits):
    transport = Broken(httpx.ConnectError("refused"))
    monkeypatch.setattr(remote, "shared_client", lambda process: httpx.Client(transport=transport))
    with pytest.raises(EmbeddingFailed, match="of ollama gave, for input 0 of 1, ConnectError: refused"):
        ef.OllamaEmbeddingFunction()(["one"])
    assert (transport.asked, waits) == (1, [])
    client = httpx.Client()
    monkeypatch.setattr(remote, "shared_client", lambda process: client)
    with client, pytest.raises(EmbeddingFailed, match="UnsupportedProtocol"):
        ef.OllamaEmbeddingFunction("localhost")(["one"])


def test_the_timeout_is_the_one_that_was_chosen(monkeypatch):
    seen = []

    def handle(request):
        seen.append(request.extensions["timeout"])
        return httpx.Response(200, json={"embeddings": [[1.0]]})

    monkeypatch.setattr(remote, "shared_client", lambda process: httpx.Client(transport=httpx.MockTransport(handle)))
    ef.OllamaEmbeddingFunction(timeout=3)(["one"])
    assert set(seen[0].values()) == {3}


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("<html>", "an answer of another form than expected: <html>"),
        ({"detail": "no"}, "an answer of another form than expected: .*detail"),
        ([1], "an answer of another form than expected"),
        ({"data": 3}, "an answer of another form than expected"),
        ({"data": [{"index": 0, "embedding": [1.0]}]}, "1 values for 2 inputs"),
        ({"data": [{"index": i, "embedding": row} for i, row in enumerate([[1.0], []])]}, "no usable value for input 1"),
        ({"data": [{"index": i, "embedding": row} for i, row in enumerate([[1.0], ["a"]])]}, "no usable value for input 1"),
        ({"data": [{"index": i, "embedding": row} for i, row in enumerate([[[1.0]], [1.0]])]}, "no usable value for input 0"),
        (
            {"data": [{"index": i, "embedding": row} for i, row in enumerate([[1.0], [float("nan")]])]},
            "no usable value for input 1",
        ),
        ({"data": [{"index": i, "embedding": row} for i, row in enumerate([[1.0], None])]}, "no usable value for input 1"),
        ({"data": [{"index": i, "embedding": row} for i, row in enumerate([[1.0], [10**400]])]}, "no usable value for input 1"),
        pytest.param("[" * 100_000, "an answer of another form than expected", id="deep"),
    ],
)
def test_answers_of_another_form(answer, message, play):
    play(lambda asked: Answer(answer))
    with pytest.raises(EmbeddingFailed, match=f"(?s)for inputs 0 to 1 of 2, {message}"):
        ef.OpenAIEmbeddingFunction(**MINE)(TEXTS)


def test_keys(monkeypatch):
    with pytest.warns(DeprecationWarning, match="Direct api_key configuration will not be persisted"):
        function = ef.OpenAIEmbeddingFunction(api_key="given\n")
    assert function.api_key == "given"
    assert function.get_config()["api_key_env_var"] == "CHROMA_OPENAI_API_KEY"
    assert "given" not in json.dumps(function.get_config())
    with pytest.raises(ValueError, match=r"The CHROMA_OPENAI_API_KEY environment variable is not set\."):
        ef.OpenAIEmbeddingFunction.build_from_config(function.get_config())
    monkeypatch.setenv("MY_KEY", " ")
    with pytest.raises(ValueError, match=r"The MY_KEY environment variable is not set\."):
        ef.OpenAIEmbeddingFunction(**MINE)
    monkeypatch.setenv("OPENAI_API_KEY", "usual")
    chosen = ef.OpenAIEmbeddingFunction(**MINE)
    assert (chosen.api_key_env_var, chosen.api_key) == ("OPENAI_API_KEY", "usual")
    monkeypatch.setenv("MY_KEY", "clé-secrète")
    with pytest.raises(ValueError, match="the key in MY_KEY has characters that no HTTP header can carry") as caught:
        ef.MistralEmbeddingFunction("m", **MINE)
    assert "secr" not in str(caught.value)
    with pytest.raises(ValueError, match="API key not provided and CHROMA_BASETEN_API_KEY environment variable is not set"):
        ef.BasetenEmbeddingFunction(None, "http://b")
    with pytest.raises(ValueError, match="API key not found in environment variable NO_KEY or in any existing client instances"):
        ef.ChromaCloudSpladeEmbeddingFunction("NO_KEY")


def test_without_httpx(monkeypatch):
    remote.shared_client.cache_clear()
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(MissingDependency, match="pip install httpx"):
        ef.OllamaEmbeddingFunction()(["one"])


def test_connections_are_shared_in_a_process_only():
    remote.shared_client.cache_clear()
    first = remote.shared_client(1)
    assert remote.shared_client(1) is first
    second = remote.shared_client(2)
    assert second is not first
    first.close()
    second.close()
    remote.shared_client.cache_clear()


def test_a_function_can_be_copied(play):
    play(lambda asked: Answer(data(asked.body["input"])))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        function = copy.deepcopy(ef.OpenAIEmbeddingFunction(**MINE))
    assert len(function(TEXTS)) == 2
