"""Small random models on disk, in the layout of sentence-transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

WORDS = ["a", "the", "cat", "dog", "kitten", "sits", "rests", "on", "mat", "rug", "steel", "company", "revenue", "fell", "red"]
WORDS += ["green", "blue", "one", "two", "three", "query", "doc", ":"]


def transformer(
    directory: Path,
    *,
    family: str = "bert",
    pooling: str | list[str] = "mean",
    include_prompt: bool = True,
    dense: int | None = None,
    normalize: bool = True,
    max_tokens: int | None = 16,
    left: bool = False,
    **config: Any,
) -> Path:
    """A random two-layer model of 32 dimensions; ``config`` goes into config_sentence_transformers.json."""
    import torch

    directory.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = _bert() if family == "bert" else _t5()
        layer = torch.nn.Linear(32, dense) if dense else None
    model.save_pretrained(directory)
    tokenizer(special=family == "bert", left=left).save_pretrained(directory)
    modules = ["Transformer", "Pooling"]
    _write(directory / "1_Pooling" / "config.json", _pooling(pooling) | {"include_prompt": include_prompt})
    if layer is not None:
        from safetensors.torch import save_file

        modules.append("Dense")
        activation = "torch.nn.modules.activation.Tanh"
        _write(
            directory / "2_Dense" / "config.json",
            {"in_features": 32, "out_features": dense, "bias": True, "activation_function": activation},
        )
        weights = {f"linear.{name}": tensor.contiguous() for name, tensor in layer.state_dict().items()}
        save_file(weights, directory / "2_Dense" / "model.safetensors")
    modules += ["Normalize"] if normalize else []
    write_modules(directory, modules)
    _write(directory / "sentence_bert_config.json", {"max_seq_length": max_tokens, "do_lower_case": False})
    _write(directory / "config_sentence_transformers.json", config)
    return directory


def static(directory: Path, *, normalize: bool = True) -> Path:
    """A random StaticEmbedding model of 8 dimensions."""
    import numpy as np
    from safetensors.numpy import save_file

    table = np.random.default_rng(3).standard_normal((len(WORDS) + 6, 8)).astype(np.float32)
    directory.mkdir(parents=True, exist_ok=True)
    save_file({"embedding.weight": table}, directory / "model.safetensors")
    tokenizer(special=False).backend_tokenizer.save(str(directory / "tokenizer.json"))
    write_modules(directory, ["StaticEmbedding", *(["Normalize"] if normalize else [])])
    return directory


def cross_encoder(directory: Path, *, family: str = "bert", labels: int = 1, **config: Any) -> Path:
    """A random classifier of pairs; ``config`` goes into config.json."""
    import torch
    import transformers

    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    with torch.random.fork_rng():
        torch.manual_seed(5)
        kinds = {"bert": "BertConfig", "roberta": "RobertaConfig"}
        # A large spread of weights, so that scores differ from pair to pair.
        given = getattr(transformers, kinds[family])(
            vocab_size=len(WORDS) + 6,
            max_position_embeddings=64,
            num_labels=labels,
            initializer_range=0.4,
            pad_token_id=0,
            **size,
            **config,
        )
        model = getattr(transformers, f"{family.capitalize()}ForSequenceClassification")(given)
    model.save_pretrained(directory)
    pair_tokenizer(typed=family == "bert").save_pretrained(directory)
    return directory


def splade(directory: Path, *, after: dict[str, Any] | None = None, prompts: dict[str, str] | None = None) -> Path:
    """A random SPLADE model: a plain directory, or with ``after``, the configuration of its pooling, one of sentence-transformers."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        config = BertConfig(vocab_size=len(WORDS) + 6, max_position_embeddings=64, initializer_range=0.3, **size)
        BertForMaskedLM(config).save_pretrained(directory)
    tokenizer(special=True).save_pretrained(directory)
    if after is not None:
        kinds = ["base.modules.transformer.Transformer", "sparse_encoder.modules.splade_pooling.SpladePooling"]
        modules = [
            {"idx": i, "name": str(i), "path": "1_SpladePooling" if i else "", "type": f"sentence_transformers.{kind}"}
            for i, kind in enumerate(kinds)
        ]
        _write(directory / "modules.json", modules)
        _write(directory / "1_SpladePooling" / "config.json", after)
        _write(directory / "sentence_bert_config.json", {"transformer_task": "fill-mask", "max_seq_length": 16})
        _write(directory / "config_sentence_transformers.json", {"model_type": "SparseEncoder", "prompts": prompts or {}})
    return directory


def clip(directory: Path, *, modules: list[str] | None = None, **images: Any) -> Path:
    """A random CLIP model of 24 dimensions that sees 16 x 16 pixels; ``images`` goes into preprocessor_config.json."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    layers = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "initializer_range": 0.3,
    }
    config = CLIPConfig(
        text_config={**layers, "vocab_size": len(WORDS) + 6, "max_position_embeddings": 12, "eos_token_id": 5, "bos_token_id": 4},
        vision_config={**layers, "image_size": 16, "patch_size": 8},
        projection_dim=24,
    )
    with torch.random.fork_rng():
        torch.manual_seed(11)
        CLIPModel(config).save_pretrained(directory)
    made = tokenizer(special=False)
    made.model_max_length = 12
    made.save_pretrained(directory)
    size = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}, "do_center_crop": True}
    _write(directory / "preprocessor_config.json", {"image_processor_type": "CLIPImageProcessor"} | size | images)
    if modules:
        write_modules(directory, modules)
    return directory


def pair_tokenizer(*, typed: bool) -> Any:
    """Frames pairs as BERT does, the second text of another type, or as RoBERTa does."""
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    made = tokenizer(special=True).backend_tokenizer
    pair = "[CLS] $A [SEP] $B:1 [SEP]:1" if typed else "[CLS] $A [SEP] [SEP] $B [SEP]"
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair=pair, special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = ["input_ids", *(["token_type_ids"] if typed else []), "attention_mask"]
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=20, model_input_names=names, **special)


def tokenizer(*, special: bool, left: bool = False) -> Any:
    """Whole words; with ``special`` framed as BERT does, else ended as T5 does."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "</s>"]
    plain = Tokenizer(models.WordLevel({word: i for i, word in enumerate(names + WORDS)}, unk_token="[UNK]"))
    plain.normalizer = normalizers.Lowercase()
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    form, ends = ("[CLS] $A [SEP]", ("[CLS]", "[SEP]")) if special else ("$A </s>", ("</s>",))
    plain.post_processor = processors.TemplateProcessing(single=form, special_tokens=[(end, names.index(end)) for end in ends])
    given = {"pad_token": "[PAD]", "unk_token": "[UNK]", "padding_side": "left" if left else "right", "model_max_length": 64}
    given |= {"cls_token": "[CLS]", "sep_token": "[SEP]"} if special else {"eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=plain, **given)


def write_modules(directory: Path, kinds: list[str]) -> None:
    """modules.json, as the versions before 5 of sentence-transformers wrote it."""
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    _write(directory / "modules.json", modules)


def _bert() -> Any:
    from transformers import BertConfig, BertModel

    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    return BertModel(BertConfig(vocab_size=len(WORDS) + 6, max_position_embeddings=64, **size))


def _t5() -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(vocab_size=len(WORDS) + 6, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4))


def _pooling(modes: str | list[str]) -> dict[str, Any]:
    if isinstance(modes, list):
        return {"embedding_dimension": 32, "pooling_mode": modes}
    legacy = {"cls": "cls_token", "max": "max_tokens", "mean": "mean_tokens", "lasttoken": "lasttoken"}
    legacy |= {"weightedmean": "weightedmean_tokens", "mean_sqrt_len_tokens": "mean_sqrt_len_tokens"}
    return {"word_embedding_dimension": 32} | {f"pooling_mode_{key}": name == modes for name, key in legacy.items()}


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), "utf-8")
