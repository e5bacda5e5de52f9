"""What a model directory says about itself."""

from __future__ import annotations

import json

import pytest
from embed.tiny_models import write_modules

from chroma_gpu.embed.encoders.layout import Dense, Layout, Normalize, read
from chroma_gpu.errors import EmbeddingFailed


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.fixture
def directory(tmp_path):
    """Transformer, Pooling, Dense, Normalize."""
    write_modules(tmp_path, ["Transformer", "Pooling", "Dense", "Normalize"])
    write(tmp_path / "1_Pooling" / "config.json", {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False})
    return tmp_path


def test_an_old_directory(directory):
    write(directory / "sentence_roberta_config.json", {"max_seq_length": 99, "do_lower_case": True})
    write(directory / "config_sentence_transformers.json", {"prompts": {"q": "query: ", "d": None}, "default_prompt_name": "q"})
    write(directory / "2_Dense" / "config.json", {"activation_function": "torch.nn.modules.linear.Identity"})
    assert read(directory) == Layout(
        directory,
        pooling=("cls",),
        steps=(Dense(directory / "2_Dense", "Identity"), Normalize()),
        max_tokens=99,
        lower_case=True,
        prompts={"q": "query: ", "d": ""},
        default_prompt="q",
    )


def test_a_plain_transformers_directory(tmp_path):
    write(tmp_path / "config.json", {"model_type": "bert"})
    assert read(tmp_path) == Layout(tmp_path)


def test_model2vec(tmp_path):
    write(tmp_path / "config.json", {"model_type": "model2vec", "normalize": True})
    assert read(tmp_path) == Layout(tmp_path, static=True, steps=(Normalize(),))


def test_several_modes(directory):
    write(directory / "1_Pooling" / "config.json", {"pooling_mode": ["mean", "max"], "include_prompt": False})
    assert read(directory).pooling == ("mean", "max")
    assert not read(directory).include_prompt


@pytest.mark.parametrize(
    ("path", "content", "reason"),
    [
        ("1_Pooling/config.json", {"pooling_mode": "attention"}, "it pools by attention"),
        ("2_Dense/config.json", {"use_residual": True}, "its module Dense in 2_Dense is not plain"),
        ("2_Dense/config.json", {"module_input_name": "token_embeddings"}, "its module Dense in 2_Dense is not plain"),
        ("2_Dense/config.json", {"activation_function": "mine.Swish"}, "its activation mine.Swish is code of its own"),
        ("sentence_bert_config.json", {"transformer_task": "text-generation"}, "its task is text-generation"),
        ("sentence_bert_config.json", {"modality_config": {"image": {}}}, "it takes more than text"),
        ("sentence_bert_config.json", {"model_args": {"attn_implementation": "eager"}}, "its configuration has model_args"),
        ("adapter_config.json", {"base": "other"}, "it is an adapter of another model"),
    ],
)
def test_what_is_left_to_the_library(directory, path, content, reason):
    assert read(directory).unusual is None
    write(directory / path, content)
    assert reason in (read(directory).unusual or "")


@pytest.mark.parametrize(
    "kinds", [["Transformer"], ["CLIPModel"], ["Transformer", "Pooling", "LSTM"], ["StaticEmbedding", "Dense"]]
)
def test_other_modules_are_left_to_the_library(tmp_path, kinds):
    write_modules(tmp_path, kinds)
    assert read(tmp_path).unusual is not None


def test_modules_with_code_of_their_own_are_left_to_the_library(tmp_path):
    write(tmp_path / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": "custom_st.Transformer"}])
    assert read(tmp_path).unusual == "module custom_st.Transformer is code of its own"


def test_a_plain_causal_model_is_left_to_the_library(tmp_path):
    write(tmp_path / "config.json", {"architectures": ["GPT2ForCausalLM"]})
    assert read(tmp_path).unusual == "it is a plain GPT2ForCausalLM"


def test_pickled_weights_are_refused(directory):
    (directory / "2_Dense").mkdir()
    (directory / "2_Dense" / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(EmbeddingFailed, match=r"are a pickle \(pytorch_model.bin\).*save_pretrained"):
        read(directory)
    (directory / "2_Dense" / "other.safetensors").write_bytes(b"")
    with pytest.raises(EmbeddingFailed, match="are a pickle"):
        read(directory)  # a library would take the pickle
    (directory / "2_Dense" / "model.safetensors").write_bytes(b"")
    read(directory)


def test_a_damaged_file_is_named(directory):
    write(directory / "1_Pooling" / "config.json", "{")
    with pytest.raises(EmbeddingFailed, match=r"1_Pooling/config.json cannot be read"):
        read(directory)
