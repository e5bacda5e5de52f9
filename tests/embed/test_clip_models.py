"""CLIP models of transformers: texts and images in any mix, with the vectors that transformers and sentence-transformers give."""

from __future__ import annotations

import json
import sys
import types
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from embed import tiny_models

from chroma_gpu.embed import clip, embed_texts
from chroma_gpu.embed.encoders import clip_models
from chroma_gpu.embed.encoders.clip_models import ClipImages, ClipTexts, load_texts
from chroma_gpu.embed.images import View
from chroma_gpu.embed.stream.pipeline import stream
from chroma_gpu.embed.tokens.items import items
from chroma_gpu.errors import EmbeddingFailed
from chroma_gpu.utils import embedding_functions as ef

TEXTS = ["a cat sits on the mat", "dog", "a red company fell on the green rug and the blue mat by one dog and a cat", "dog"]
RANDOM = np.random.default_rng(5)
# Far from black and white: resizing overshoots, and is cut off there after each direction.
IMAGES = [RANDOM.integers(80, 176, shape, dtype=np.uint8) for shape in ((16, 16, 3), (40, 23, 3), (17, 60, 3), (9, 7, 3))]
MEAN, STD = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])


def theirs(directory):
    from transformers import AutoTokenizer, CLIPModel

    return CLIPModel.from_pretrained(directory).eval(), AutoTokenizer.from_pretrained(directory)


def features(result):
    return getattr(result, "pooler_output", result).detach().numpy()


def text_features(directory, texts=TEXTS):
    model, tokenizer = theirs(directory)
    given = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    given.pop("token_type_ids", None)
    return features(model.get_text_features(**given))


def image_features(directory, seen):
    pixels = (np.stack(seen) / 255 - MEAN[:, None, None]) / STD[:, None, None]
    return features(theirs(directory)[0].get_image_features(pixel_values=torch.from_numpy(pixels).float()))


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def close(device):
    return {"atol": 3e-6} if device == "cpu" else {"atol": 5e-3}


def test_texts_and_images_in_any_mix(tmp_path, device):
    directory = tiny_models.clip(tmp_path / "model")
    function = ef.OpenCLIPEmbeddingFunction(str(directory), device=device)
    exact = [RANDOM.integers(0, 256, (16, 16, 3), dtype=np.uint8) for _ in range(5)]
    mixed = [TEXTS[0], exact[0], exact[1], TEXTS[1], exact[2], TEXTS[2], exact[3], exact[4], TEXTS[3]]
    want = np.empty((9, 24), np.float32)
    want[[0, 3, 5, 8]] = unit(text_features(directory))
    want[[1, 2, 4, 6, 7]] = unit(image_features(directory, [image.transpose(2, 0, 1) for image in exact]))
    got = function(mixed)
    assert got[0].dtype == np.float32
    np.testing.assert_allclose(got, want, **close(device))
    np.testing.assert_allclose(embed_texts(function, TEXTS, query=True), want[[0, 3, 5, 8]], **close(device))
    assert np.ptp(want @ want.T) > 0.2
    with pytest.raises(ValueError, match="Input must be a list of text documents"):
        function([3])


def test_images_of_any_size_are_seen_as_torch_resizes_them(tmp_path):
    """Equal to float arithmetic but for rounding to bytes, once a direction; Pillow is compared below where it is installed."""
    directory = tiny_models.clip(tmp_path / "model")
    view = clip_models._view(directory)
    for image in IMAGES:
        got = view.of(image)
        assert (got.shape, got.dtype) == ((3, 16, 16), np.uint8)
        height, width = image.shape[:2]
        size = (16, 16 * width // height) if height <= width else (16 * height // width, 16)
        smooth = torch.nn.functional.interpolate(
            torch.from_numpy(image).permute(2, 0, 1)[None].float(), size, mode="bicubic", antialias=True
        )[0]
        top, left = (size[0] - 16) // 2, (size[1] - 16) // 2
        want = smooth.round().clamp(0, 255)[:, top : top + 16, left : left + 16].numpy()
        assert np.abs(got - want).max() <= 2
        assert np.abs(got - want).mean() < 0.5
    got = ef.OpenCLIPEmbeddingFunction(str(directory))(IMAGES)
    np.testing.assert_allclose(got, unit(image_features(directory, [view.of(image) for image in IMAGES])), atol=3e-6)


def test_grey_transparent_and_other_integers(tmp_path):
    view = clip_models._view(tiny_models.clip(tmp_path / "model"))
    grey = np.full((16, 16), 100, np.int64)
    assert view.of(grey).tolist() == np.full((3, 16, 16), 100).tolist()
    glass = np.zeros((16, 16, 4), np.uint8)
    glass[:8, :, 3] = 255
    seen = view.of(glass)
    assert (seen[:, :8].max(), seen[:, 8:].min()) == (0, 255)
    fixed = glass[..., :3].copy()
    fixed.flags.writeable = False  # as Pillow's are
    assert view.of(fixed).shape == (3, 16, 16)
    for bad, message in (
        (np.zeros((4, 4, 2), np.uint8), "must have the shape"),
        (np.zeros((4, 4)), "whole numbers from 0 to 255"),
    ):
        with pytest.raises(ValueError, match=message):
            view.of(bad)


@pytest.mark.parametrize(
    ("given", "shape", "first"),
    [
        ({"size": 8, "crop_size": 8}, (8, 8), 0),
        ({"size": {"height": 6, "width": 4}, "do_center_crop": False}, (6, 4), 0),
        ({"do_resize": False, "do_center_crop": False}, (12, 12), 0),
        ({"do_resize": False, "crop_size": {"height": 16, "width": 14}}, (16, 14), 0),
    ],
)
def test_what_a_configuration_says_of_images(given, shape, first):
    view = View.read({"resample": 2, **given})
    image = RANDOM.integers(1, 256, (12, 12, 3), dtype=np.uint8)
    assert view.of(image).shape == (3, *shape)
    if shape == (16, 14):
        np.testing.assert_array_equal(view.of(image)[:, 2:14, 1:13], image.transpose(2, 0, 1))
        assert view.of(image)[:, :2].max() == 0
    plain = View.read({"do_normalize": False, "do_rescale": False, "do_resize": False, "do_center_crop": False})
    pixels = torch.from_numpy(plain.of(image))[None]
    assert plain.normalised(pixels).tolist() == pixels.float().tolist()


def test_what_cannot_take_images(tmp_path):
    directory = tiny_models.clip(tmp_path / "model", resample=1)
    with pytest.raises(EmbeddingFailed, match="cannot take images: images are resized by an unknown method"):
        ef.OpenCLIPEmbeddingFunction(str(directory))([IMAGES[0]])
    directory = tiny_models.clip(tmp_path / "other", image_processor_type="ViTImageProcessor")
    with pytest.raises(EmbeddingFailed, match="made ready by ViTImageProcessor"):
        ef.OpenCLIPEmbeddingFunction(str(directory))([IMAGES[0]])
    bert = tiny_models.transformer(tmp_path / "bert")
    with pytest.raises(EmbeddingFailed, match="is no CLIP model of transformers"):
        ef.OpenCLIPEmbeddingFunction(str(bert))(["a"])


def test_the_processor_of_newer_directories(tmp_path):
    directory = tiny_models.clip(tmp_path / "model")
    config = json.loads((directory / "preprocessor_config.json").read_text("utf-8"))
    (directory / "preprocessor_config.json").unlink()
    (directory / "processor_config.json").write_text(json.dumps({"image_processor": config}), "utf-8")
    assert clip_models._view(directory).edge == 16


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(tmp_path, dtype):
    directory = tiny_models.clip(tmp_path / "model")
    texts = load_texts(directory, True, "cpu", dtype)
    for encoder, inputs, want in (
        (texts, TEXTS, text_features(directory)),
        (
            ClipImages(texts),
            list(items(IMAGES)),
            image_features(directory, [clip_models._view(directory).of(each) for each in IMAGES]),
        ),
    ):
        got = np.concatenate([block for _, block in stream(encoder, inputs)])
        assert (got * unit(want)).sum(1).min() >= 0.999
        np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-6)


def test_batches_of_images_halve_when_memory_runs_out(tmp_path, monkeypatch):
    directory = tiny_models.clip(tmp_path / "model")
    encoder = ClipImages(load_texts(directory, True, "cpu"))
    images = [RANDOM.integers(0, 256, (16, 16, 3), dtype=np.uint8) for _ in range(40)]
    core, sizes = encoder.core, []

    def short(tokens, places):
        sizes.append(len(places))
        if len(places) > 5:
            raise RuntimeError("CUDA out of memory.")
        return core(tokens, places)

    monkeypatch.setattr(encoder, "core", short)
    got = np.concatenate([block for _, block in stream(encoder, items(images))])
    want = unit(image_features(directory, [image.transpose(2, 0, 1) for image in images]))
    np.testing.assert_allclose(got, want, atol=3e-6)
    assert sizes[0] == clip_models.CPU_IMAGES


@pytest.mark.parametrize("modules", [None, ["Transformer"], ["CLIPModel"], ["Transformer", "Normalize"]], ids=str)
def test_texts_as_sentence_transformers_embeds_them(tmp_path, modules, device):
    directory = tiny_models.clip(tmp_path / "model", modules=modules)
    want = text_features(directory)
    function = ef.SentenceTransformerEmbeddingFunction(str(directory), device=device)
    got = embed_texts(function, TEXTS)
    assert isinstance(function._encoder, ClipTexts)
    scale = {"rtol": 1e-5, "atol": 2e-5} if device == "cpu" else {"rtol": 1e-2, "atol": 5e-2}
    np.testing.assert_allclose(got, unit(want) if modules and "Normalize" in modules else want, **scale)
    normal = ef.SentenceTransformerEmbeddingFunction(str(directory), device=device, normalize_embeddings=True)
    np.testing.assert_allclose(embed_texts(normal, TEXTS), unit(want), **close(device))


@pytest.mark.skipif(find_spec("PIL") is None, reason="transformers makes images ready with Pillow, which is not installed")
def test_images_as_transformers_makes_them_ready(tmp_path):
    from transformers import CLIPImageProcessorPil

    directory = tiny_models.clip(tmp_path / "model")
    view = clip_models._view(directory)
    pixels = CLIPImageProcessorPil.from_pretrained(directory)(IMAGES, return_tensors="pt")["pixel_values"]
    ours = view.normalised(torch.from_numpy(np.stack([view.of(image) for image in IMAGES])))
    assert (ours - pixels).abs().max() <= 1.01 / 255 / STD.min()  # one step of a byte
    want = features(theirs(directory)[0].get_image_features(pixel_values=pixels))
    got = ef.OpenCLIPEmbeddingFunction(str(directory))(IMAGES)
    assert (np.array(got) * unit(want)).sum(1).min() >= 0.9999


@pytest.mark.skipif(
    find_spec("PIL") is None, reason="sentence-transformers makes images ready with Pillow, which is not installed"
)
def test_texts_and_images_as_sentence_transformers_embeds_them(tmp_path):
    from PIL import Image
    from sentence_transformers import SentenceTransformer

    directory = tiny_models.clip(tmp_path / "model", modules=["CLIPModel"])
    model = SentenceTransformer(str(directory), device="cpu")
    kinds = (TEXTS, [Image.fromarray(image) for image in IMAGES])
    want = unit(np.concatenate([model.encode(kind, show_progress_bar=False) for kind in kinds]))
    got = np.array(ef.OpenCLIPEmbeddingFunction(str(directory))([*TEXTS, *IMAGES]))
    assert (got * want).sum(axis=1).min() >= 0.9999


@pytest.fixture
def open_clip(monkeypatch):
    """A stand-in for the package open_clip, and one for Pillow."""

    class Clip:
        sizes = []  # noqa: RUF012

        def to(self, place):
            return self

        def eval(self):
            return self

        def encode_text(self, tokens):
            self.sizes.append(len(tokens))
            return torch.stack([tokens.float(), torch.zeros(len(tokens))], 1)

        def encode_image(self, pixels):
            self.sizes.append(len(pixels))
            return torch.stack([torch.full((len(pixels),), 1.0), pixels.float()], 1)

    package = types.ModuleType("open_clip")
    package.create_model_and_transforms = lambda name, pretrained: (Clip(), None, lambda image: torch.tensor(int(image.sum())))
    package.get_tokenizer = lambda name: lambda texts: torch.tensor([len(text) for text in texts])
    pil = types.ModuleType("PIL")
    pil.Image = types.SimpleNamespace(fromarray=lambda array: array)
    monkeypatch.setitem(sys.modules, "open_clip", package)
    monkeypatch.setitem(sys.modules, "PIL", pil)
    return Clip


def test_models_of_open_clip_go_through_the_pipeline_too(open_clip):
    images = [np.full((1, 1, 3), n, np.uint8) for n in range(1, 41)]
    function = ef.OpenCLIPEmbeddingFunction()
    got = np.array(function(["a", *images[:20], "bc", *images[20:], "d"]))
    assert got.dtype == np.float32
    assert got[[0, 21, 42]].tolist() == [[1, 0]] * 3
    want = np.array([[1, 3 * n] for n in range(1, 41)])
    np.testing.assert_allclose(np.delete(got, [0, 21, 42], axis=0), unit(want), rtol=1e-6)
    assert sorted(open_clip.sizes[2:]) == [2, 8, 16, 16] or sorted(open_clip.sizes[2:]) == [3, 8, 16, 16]


@pytest.mark.parametrize(
    ("name", "hub"),
    [
        ("ViT-B-32", False),
        ("ViT-B/32", False),
        ("RN50", False),
        ("hf-hub:org/model", False),
        ("openai/clip-vit-base-patch32", True),
    ],
)
def test_whose_a_name_is(name, hub):
    assert bool(clip._HUB_NAME.fullmatch(name)) is hub
