"""``chroma-gpu cache``."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

import chroma_gpu
from chroma_gpu.cli import main
from chroma_gpu.embed.memory.cache import EmbeddingCache


@pytest.fixture
def path(tmp_path):
    """A data directory that remembers two models, the first of which was used last."""
    with chroma_gpu.PersistentClient(tmp_path / "data"):
        pass
    cache = EmbeddingCache(tmp_path / "data" / "embeddings", 8 << 20)
    for name, count in (("first [model]", 300), ("second", 200)):
        cache.of(name, 100).keep([str(at) for at in range(count)], np.ones((count, 100), np.float32))
    [second] = [use for use in cache.models() if use.name == "second"]
    assert second.entries == 200
    for file in cache.files():
        os.utime(file, (1, 1) if b"second" in file.read_bytes()[:100] else (10**9, 10**9))
    return str(tmp_path / "data")


def said(capsys, *arguments):
    assert main(["cache", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_it_shows_what_is_there(path, capsys):
    assert main(["cache", "--path", path]) == 0
    out = capsys.readouterr().out
    assert "first [model]" in out
    assert "300" in out
    found = said(capsys, "--path", path)
    assert [(each["name"], each["dim"], each["entries"]) for each in found["models"]] == [
        ("first [model]", 100, 300), ("second", 100, 200),
    ]  # fmt: skip
    assert found["models"][0]["last_used"].startswith("2001-09-09")
    assert (found["limit"], found["freed"]) == (256 << 20, None)


def test_it_prunes_what_was_not_used_for_longest(path, capsys):
    found = said(capsys, "--path", path, "--max-size", "220kB")
    assert [each["name"] for each in found["models"]] == ["first [model]"]
    assert found["freed"] > 50_000


def test_it_forgets_everything(path, capsys):
    assert main(["cache", "--path", path, "--clear"]) == 0
    assert "given back" in capsys.readouterr().out
    assert said(capsys, "--path", path)["models"] == []


def test_a_directory_that_remembers_nothing(tmp_path, capsys):
    with chroma_gpu.PersistentClient(tmp_path):
        pass
    assert said(capsys, "--path", str(tmp_path), "--clear") == {"limit": 256 << 20, "freed": 0, "models": []}


@pytest.mark.parametrize("arguments", [["--max-size", "10%"], ["--max-size", "much"]])
def test_sizes_that_are_none(path, capsys, arguments):
    assert main(["cache", "--path", path, *arguments]) == 1
    assert "chroma-gpu cache:" in capsys.readouterr().err


def test_looking_makes_no_directory(tmp_path, capsys):
    assert main(["cache", "--path", str(tmp_path / "none")]) == 1
    assert not (tmp_path / "none").exists()
