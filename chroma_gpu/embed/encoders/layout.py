"""What the files of a sentence-transformers directory say about the model in it, without loading anything heavy.

A directory without modules.json is a plain transformers model; its vectors are the mean of the last hidden states.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from chroma_gpu.errors import EmbeddingFailed

_SBERT_CONFIGS: Final = tuple(
    f"sentence_{kind}_config.json" for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
_LEGACY_MODES: Final = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_MODES: Final = {"mean": "mean", "max": "max", "cls": "cls", "lasttoken": "last"} | {
    "weightedmean": "weighted",
    "mean_sqrt_len_tokens": "root",
}
"""Their modes -> those of ``kernels.pooling``."""

_CONVERT: Final = (
    "Convert a model you trust once: sentence_transformers.SentenceTransformer(old).save_pretrained(new) writes every module of it, "
    "dense layers too, as safetensors."
)


@dataclass(frozen=True, slots=True)
class Dense:
    """A linear layer after pooling: its folder and the name of its activation in torch.nn."""

    folder: Path
    activation: str


@dataclass(frozen=True, slots=True)
class Normalize:
    """L2 normalising after pooling."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A model directory, read.

    pooling         modes of ``kernels.pooling``, concatenated in this order
    include_prompt  whether the tokens of a prompt count in pooling
    steps           what happens to the pooled vectors, in order
    max_tokens      None: what tokenizer and model say
    prompts         prompt name -> text that is put before every input; default_prompt is the name used unasked
    static          a table of token vectors, no transformer
    unusual         why only sentence-transformers itself can run this model; None for all others
    """

    directory: Path
    pooling: tuple[str, ...] = ("mean",)
    include_prompt: bool = True
    steps: tuple[Dense | Normalize, ...] = ()
    max_tokens: int | None = None
    lower_case: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    truncate_dim: int | None = None
    static: bool = False
    unusual: str | None = None

    @property
    def unit(self) -> bool:
        """Whether the last thing that happens to the vectors is that they get norm 1."""
        return self.unusual is None and bool(self.steps) and isinstance(self.steps[-1], Normalize)


class UnusualModelError(Exception):
    """A part of a model that only sentence-transformers itself can run."""


def read(directory: Path) -> Layout:
    """The layout of a model directory.

    Raises EmbeddingFailed if a file cannot be read, or if weights are there only as pickles, which are never loaded.
    """
    model = read_json(directory / "config_sentence_transformers.json")
    found: dict[str, Any] = {
        "directory": directory,
        "prompts": {name: text or "" for name, text in model.get("prompts", {}).items()},
        "default_prompt": model.get("default_prompt_name"),
        "truncate_dim": model.get("truncate_dim"),
    }
    modules = read_json(directory / "modules.json", default=[])
    for module in modules:
        refuse_pickles(directory / module.get("path", ""))
    try:
        found |= _from_modules(directory, modules) if modules else _from_plain(directory)
    except UnusualModelError as error:
        found["unusual"] = str(error)
    return Layout(**found)


def _from_modules(directory: Path, modules: list[dict[str, Any]]) -> dict[str, Any]:
    kinds = [_kind(module) for module in modules]
    folders = [directory / module.get("path", "") for module in modules]
    if kinds[0] == "StaticEmbedding":
        if any(kind != "Normalize" for kind in kinds[1:]):
            raise UnusualModelError(f"its modules are {', '.join(kinds)}")
        return {"directory": folders[0], "static": True, "steps": _steps(kinds[1:], folders[1:])}
    if kinds[:2] != ["Transformer", "Pooling"]:
        raise UnusualModelError(f"its modules are {', '.join(kinds)}")
    if folders[0].resolve() != directory.resolve() and not (folders[0] / "config.json").is_file():
        raise UnusualModelError("its transformer has no config.json")
    found = transformer_settings(folders[0]) | _from_pooling(read_json(folders[1] / "config.json"))
    steps = _steps(kinds[2:], folders[2:])
    bare = [step.folder for step in steps if isinstance(step, Dense) and not (step.folder / "model.safetensors").is_file()]
    if bare and any(folders[0].glob("*.safetensors")):  # of a hub's pickles none is fetched
        raise EmbeddingFailed(f"{bare[0]} has no weights as safetensors, the only form that is read.", hint=_CONVERT)
    return found | {"directory": folders[0], "steps": steps}


def _from_plain(directory: Path) -> dict[str, Any]:
    config = read_json(directory / "config.json")
    if config.get("model_type") == "model2vec":
        return {"static": True, "steps": (Normalize(),) if config.get("normalize") else ()}
    if config.get("model_type") == "clip":
        raise UnusualModelError("it is a CLIP model")
    architectures = config.get("architectures") or [""]
    if architectures[0].endswith("ForCausalLM"):
        raise UnusualModelError(f"it is a plain {architectures[0]}")
    return transformer_settings(directory)


def _kind(module: dict[str, Any]) -> str:
    path = str(module.get("type", ""))
    if not path.startswith("sentence_transformers."):
        raise UnusualModelError(f"module {path} is code of its own")
    return path.rpartition(".")[2]


def transformer_settings(directory: Path, task: str = "feature-extraction", output: str = "last_hidden_state") -> dict[str, Any]:
    """What a directory says about its transformer: max_tokens and lower_case.  Raises UnusualModelError for another task or more."""
    config: dict[str, Any] = next((found for name in _SBERT_CONFIGS if (found := read_json(directory / name))), {})
    if config.get("transformer_task", task) != task:
        raise UnusualModelError(f"its task is {config['transformer_task']}")
    plain = {"text": {"method": "forward", "method_output_name": output}}
    if config.get("modality_config", plain) != plain:
        raise UnusualModelError("it takes more than text, or an unusual output")
    known = {"max_seq_length", "do_lower_case", "transformer_task", "modality_config", "module_output_name"}
    if extra := [key for key, value in config.items() if key not in known and value]:
        raise UnusualModelError(f"its configuration has {', '.join(sorted(extra))}")
    if (directory / "adapter_config.json").is_file():
        raise UnusualModelError("it is an adapter of another model")
    return {"max_tokens": config.get("max_seq_length"), "lower_case": bool(config.get("do_lower_case", False))}


def _from_pooling(config: dict[str, Any]) -> dict[str, Any]:
    given = config.get("pooling_mode")
    if given is None:
        given = [mode for key, mode in _LEGACY_MODES.items() if config.get(key)] or ["mean"]
    modes = (given,) if isinstance(given, str) else tuple(given)
    if unknown := [mode for mode in modes if mode not in _MODES]:
        raise UnusualModelError(f"it pools by {', '.join(unknown)}")
    return {"pooling": tuple(_MODES[mode] for mode in modes), "include_prompt": bool(config.get("include_prompt", True))}


def _steps(kinds: list[str], folders: list[Path]) -> tuple[Dense | Normalize, ...]:
    steps: list[Dense | Normalize] = []
    for kind, folder in zip(kinds, folders, strict=True):
        config = read_json(folder / "config.json")
        names = {config.get(key) or "sentence_embedding" for key in ("module_input_name", "module_output_name")}
        if kind not in {"Dense", "Normalize"} or names != {"sentence_embedding"} or config.get("use_residual"):
            raise UnusualModelError(f"its module {kind} in {folder.name} is not plain")
        steps.append(Normalize() if kind == "Normalize" else Dense(folder, _activation(config)))
    return tuple(steps)


def _activation(config: dict[str, Any]) -> str:
    path = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    if not path.startswith("torch.nn.modules."):
        raise UnusualModelError(f"its activation {path} is code of its own")
    return path.rpartition(".")[2]


def refuse_pickles(folder: Path) -> None:
    """Raises EmbeddingFailed, saying how to convert them, for weights that are there only as pickles."""
    kinds = {"pytorch_model.bin": "model*.safetensors", "adapter_model.bin": "adapter_model*.safetensors"}
    pickles = [name for name, instead in kinds.items() if (folder / name).is_file() and not any(folder.glob(instead))]
    if pickles:
        raise EmbeddingFailed(
            f"the weights in {folder} are a pickle ({pickles[0]}), which can run code when it is loaded.",
            hint=_CONVERT,
        )


def read_json(path: Path, default: Any = None) -> Any:
    """The content of a JSON file; ``default``, or {}, if there is no such file."""
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {} if default is None else default
    except (OSError, ValueError) as error:
        raise EmbeddingFailed(f"{path} cannot be read: {error}") from error
