"""Batches without padding give the vectors of padded ones, for every family that runs so; what does not is run padded."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from embed import tiny_models
from embed.tiny_models import WORDS

from chroma_gpu.embed.encoders import packed
from chroma_gpu.embed.encoders import transformer as encoders
from chroma_gpu.embed.encoders.layout import read
from chroma_gpu.embed.encoders.resident import Resident
from chroma_gpu.embed.encoders.transformer import TransformerEncoder
from chroma_gpu.embed.stream.protocol import Prompt
from chroma_gpu.embed.tokens.tokeniser import TokenIds

SIZE = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "initializer_range": 0.3, "hidden_size": 32}
TEXTS = ["a cat sits on the mat", "steel", "", "one two three", " ".join(WORDS), "one [PAD] two [PAD]", "red cat", "[PAD]"]


def model(directory, family, left=False, **config):
    """A random model of a family; its large weights make every position and neighbour count."""
    given = {"vocab_size": len(WORDS) + 6, "max_position_embeddings": 80, "pad_token_id": 0, **SIZE, **config}
    if family == "distilbert":
        given |= {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
    torch.manual_seed(1)
    transformers.AutoModel.from_config(transformers.AutoConfig.for_model(family, **given)).save_pretrained(directory)
    tiny_models.tokenizer(special=True, left=left).save_pretrained(directory)
    return read(directory)


def vectors(encoder, texts=TEXTS, prompt=None, places=None):
    tokens = encoder.pre(texts, prompt or Prompt())
    return encoder.post(encoder.core(tokens, np.arange(len(texts)) if places is None else places))


def never(device, dtype, config):
    return "not here"


@pytest.mark.parametrize("family", sorted(packed.FROM_ZERO | packed.AFTER_PAD))
def test_every_family(family, tmp_path, monkeypatch):
    layout = model(tmp_path, family)
    encoder = TransformerEncoder(layout, "cpu")
    assert encoder.why_padded is None
    assert encoder.packed
    assert not encoder.padded
    monkeypatch.setattr(packed, "why_not", never)
    plain = TransformerEncoder(layout, "cpu")
    assert plain.padded
    assert plain.why_padded == "not here"
    want = vectors(plain)
    np.testing.assert_allclose(vectors(encoder), want, rtol=1e-4, atol=1e-5)
    # Any order and part of them, alone, and with a prompt that does not count.
    places = np.array([4, 1, 0])
    np.testing.assert_allclose(vectors(encoder, places=places), want[places], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(vectors(encoder, TEXTS[:1]), want[:1], rtol=1e-4, atol=1e-5)
    prompt = Prompt("query : ", pooled=False)
    np.testing.assert_allclose(vectors(encoder, prompt=prompt), vectors(plain, prompt=prompt), rtol=1e-4, atol=1e-5)
    assert np.ptp(want, axis=0).max() > 0.1, "the texts are told apart"


def test_half_precision(tmp_path, monkeypatch):
    layout = model(tmp_path, "bert", initializer_range=0.1)
    encoder = TransformerEncoder(layout, "cpu", "bfloat16")
    assert encoder.why_padded is None
    monkeypatch.setattr(packed, "why_not", never)
    got, want = vectors(encoder), vectors(TransformerEncoder(layout, "cpu", "bfloat16"))
    assert encoders._least_cosine(got, want) >= 0.999


@pytest.mark.parametrize(
    ("family", "given", "why"),
    [
        ("mpnet", {}, "mpnet is not known"),
        ("bert", {"is_decoder": True}, "do not see each other in the usual way"),
        ("bert", {"left": True}, "from the left"),
    ],
)
def test_what_is_run_padded(family, given, why, tmp_path):
    encoder = TransformerEncoder(model(tmp_path, family, **given), "cpu")
    assert encoder.padded
    assert why in encoder.why_padded
    assert np.isfinite(vectors(encoder)).all()


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (lambda ids, where, pad: torch.arange(len(ids)) % 5, "the cosine to padded batches fell to"),
        (lambda ids, where, pad: torch.full((len(ids),), 1 << 20), "it cannot be run without padding: "),
    ],
)
def test_a_model_that_fails_its_test_is_run_padded(wrong, why, tmp_path, monkeypatch):
    layout = model(tmp_path, "bert")
    want = vectors(TransformerEncoder(layout, "cpu"))
    monkeypatch.setattr(packed, "positions", wrong)
    encoder = TransformerEncoder(layout, "cpu")
    assert encoder.padded
    assert why in encoder.why_padded
    np.testing.assert_allclose(vectors(encoder), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("device", "dtype", "capability", "why"),
    [
        ("cuda:0", "float16", (8, 0), None),
        ("cuda:0", "bfloat16", (9, 0), None),
        ("cuda:0", "float32", (9, 0), "16 bits only"),
        ("cuda:0", "float16", (7, 5), "capability 8.0"),
        ("mps", "float16", None, "no attention for it on mps"),
    ],
)
def test_where_it_can_be_done(device, dtype, capability, why, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda name: capability)
    found = packed.why_not(device, dtype, transformers.BertConfig())
    assert found is None if why is None else why in found


@pytest.mark.parametrize("lengths", [[3], [5, 5, 2, 1], [4, 7, 7, 1, 1, 1]])
@pytest.mark.parametrize("way", ["runs", "one call"])
def test_attention_within_texts(lengths, way, monkeypatch):
    """Against each text alone. The one call, which needs a GPU, is stood in for by what its page says that it does."""

    def varlen(query, key, value, starts, others, longest, other, *, scale=None):
        assert starts is others
        assert starts.dtype == torch.int32
        assert longest == other == max(lengths)
        parts = [
            torch.nn.functional.scaled_dot_product_attention(*(x[a:b].transpose(0, 1) for x in (query, key, value)), scale=scale)
            for a, b in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)
        ]
        return torch.cat([part.transpose(0, 1) for part in parts])

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen)
    heads, size = 3, 8
    q, k, v = torch.randn(3, 1, heads, sum(lengths), size, generator=torch.Generator().manual_seed(4)).unbind(0)
    offsets = torch.tensor([0, *np.cumsum(lengths)])
    where = packed.packing(offsets, np.array(lengths))
    assert sum(texts for _, texts, _ in where.runs) == len(lengths)
    if way == "one call":
        where = packed.Packing(where.offsets, (), where.longest)
    got, weights = packed.attention(None, q, k, v, None, scaling=0.2, packing=where)
    assert weights is None
    assert got.shape == (1, sum(lengths), heads, size)
    for a, b in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        scores = torch.softmax(q[0, :, a:b] @ k[0, :, a:b].transpose(1, 2) * 0.2, dim=-1)
        torch.testing.assert_close(got[0, a:b], (scores @ v[0, :, a:b]).transpose(0, 1))


def test_a_padded_batch_is_refused():
    q = torch.zeros(2, 1, 4, 8)
    with pytest.raises(ValueError, match="without padding was given a batch with padding"):
        packed.attention(None, q, q, q, None)


def test_a_batch_is_a_slice_of_what_was_sent():
    lengths = np.array([2, 5, 0, 5, 3, 1])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = TokenIds(np.arange(lengths.sum(), dtype=np.int32) + 10, offsets)
    sent = Resident(tokens, "cpu")
    falling = np.array([1, 3, 4, 0, 5, 2])
    whole = sent.batch(falling, "cpu")
    for places in (falling[1:4], falling[3:], falling[:1], np.array([5, 1, 2]), np.array([2]), falling[::-1], falling[:0]):
        batch = sent.batch(places, "cpu")
        want = [tokens.ids[offsets[p] : offsets[p + 1]] for p in places]
        assert batch.ids.tolist() == [i for ids in want for i in ids]
        assert batch.offsets.tolist() == [0, *np.cumsum([len(ids) for ids in want])]
        assert batch.lengths.tolist() == [len(ids) for ids in want]
        for left in (False, True):
            if not len(places):
                continue
            ids, mask = batch.padded(7, left)
            theirs = tokens.padded(places, 7, left)
            np.testing.assert_array_equal(ids, theirs[0])
            np.testing.assert_array_equal(mask, theirs[1])
    memory = whole.ids.untyped_storage().data_ptr()
    assert sent.batch(falling[1:4], "cpu").ids.untyped_storage().data_ptr() == memory, "nothing was copied"
    assert sent.batch(np.array([5, 1]), "cpu").ids.untyped_storage().data_ptr() != memory
    # Another device gets a copy of all, once.
    assert sent.batch(falling[1:4], "cpu:0").ids.tolist() == sent.batch(falling[1:4], "cpu").ids.tolist()
    assert sent._copies.keys() == {"cpu", "cpu:0"}


def test_even_batches_need_no_mask(tmp_path, monkeypatch):
    monkeypatch.setattr(packed, "why_not", never)
    encoder = TransformerEncoder(model(tmp_path, "bert"), "cpu")
    masks = []
    inner = encoder._model.forward

    def forward(*given, attention_mask=None, **named):
        masks.append(attention_mask)
        return inner(*given, attention_mask=attention_mask, **named)

    monkeypatch.setattr(encoder._model, "forward", forward)
    even = vectors(encoder, ["a cat", "red mat"])
    uneven = vectors(encoder, ["a cat", "red mat", "steel"])
    assert masks[0] is None
    assert masks[1] is not None
    np.testing.assert_allclose(even, uneven[:2], atol=1e-5)


def test_four_dimensional_masks_mean_the_same(tmp_path, monkeypatch):
    """What a GPU is given so that it need not be waited for."""
    monkeypatch.setattr(packed, "why_not", never)
    for family in ("bert", "roberta", "distilbert", "albert"):
        encoder = TransformerEncoder(model(tmp_path / family, family), "cpu")
        tokens = encoder.pre(TEXTS, Prompt())
        ids, mask = tokens.batch(np.arange(len(TEXTS)), "cpu").padded(0, False)
        with torch.inference_mode():
            flat = encoder._model(input_ids=ids, attention_mask=mask.long())[0]
            wide = encoder._model(input_ids=ids, attention_mask=mask[:, None, None, :])[0]
        torch.testing.assert_close(wide[mask], flat[mask])


def test_texts_without_a_single_token(tmp_path):
    encoder = TransformerEncoder(model(tmp_path, "bert"), "cpu")
    nothing = Resident(TokenIds(np.empty(0, np.int32), np.zeros(3, np.int64)), "cpu")
    got = encoder.post(encoder.core(nothing, np.arange(2)))
    assert got.shape == (2, 32)
    assert not got.any()
