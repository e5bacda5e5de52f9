"""The one door to any embedding function: whatever a function does, what comes out is sound or an error."""

from __future__ import annotations

import numpy as np
import pytest

from chroma_gpu.embed import EmbeddingFunction, embed_blocks, embed_texts
from chroma_gpu.embed.hashing import HashingEmbeddingFunction
from chroma_gpu.errors import DeviceError, EmbeddingFailed


class Plain:
    """No subclass of anything, as many users write it; keeps what it was asked."""

    def __init__(self, answer):
        self.answer = answer
        self.asked = []

    def __call__(self, input):
        self.asked.append(list(input))
        return self.answer(input)


def lengths(texts):
    return [[float(len(text)), 1.0] for text in texts]


def raises(error):
    def answer(texts):
        raise error

    return answer


HOSTILE = {
    "raises": (raises(RuntimeError("boom")), RuntimeError, "boom"),
    "raises something odd": (raises(KeyError("x")), KeyError, "x"),
    "raises ValueError": (raises(ValueError("as Chroma does")), ValueError, "as Chroma does"),
    "raises an error of ours": (raises(DeviceError("no GPU")), DeviceError, "no GPU"),
    "returns None": (lambda texts: None, ValueError, "non-empty list or numpy array, got None"),
    "returns nothing": (lambda texts: [], ValueError, "non-empty list"),
    "too few": (lambda texts: lengths(texts)[:-1], EmbeddingFailed, "returned 2 vectors for 3 texts"),
    "too many": (lambda texts: lengths(texts) * 2, EmbeddingFailed, "returned 6 vectors for 3 texts"),
    "one flat vector": (lambda texts: [1.0, 2.0, 3.0], EmbeddingFailed, "returned 1 vectors for 3 texts"),
    "ragged": (lambda texts: [[1.0], [1.0, 2.0], [1.0]], EmbeddingFailed, "1 numbers for text 0 and 2 for text 1"),
    "NaN": (lambda texts: [[1.0], [float("nan")], [1.0]], EmbeddingFailed, "NaN or infinity for text 1"),
    "infinity": (lambda texts: [[1.0], [1.0], [float("inf")]], EmbeddingFailed, "NaN or infinity for text 2"),
    "too large for float32": (lambda texts: list(np.full((3, 2), 1e39)), EmbeddingFailed, "NaN or infinity for text 0"),
    "text": (lambda texts: "abc", ValueError, "Expected embeddings to be a list"),
    "words": (lambda texts: [["a"]] * 3, ValueError, "Expected embeddings to be a list"),
    "objects": (
        lambda texts: list(np.array([[1.0]] * 3, object)),
        ValueError,
        "Expected each value in the embedding to be a int or",
    ),
    "complex": (
        lambda texts: list(np.ones((3, 2), complex)),
        ValueError,
        "Expected each value in the embedding to be a int or float",
    ),
    "matrices": (lambda texts: list(np.ones((3, 2, 2))), EmbeddingFailed, "an array of 2 dimensions for text 0"),
    "empty vectors": (lambda texts: list(np.ones((3, 0))), ValueError, "with no values at pos 0"),
    "three dimensions": (lambda texts: np.ones((3, 2, 2)), ValueError, "Expected embeddings to be a list"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_functions_are_caught(case):
    answer, error, message = HOSTILE[case]
    with pytest.raises(error) as caught:
        embed_texts(Plain(answer), ["a", "bb", "ccc"])
    assert message in str(caught.value)
    with pytest.raises(error):
        list(embed_blocks(Plain(answer), ["a", "bb", "ccc"]))


def test_what_a_function_raises_stays_what_it_is_and_says_whose_it_was():
    error = OSError("gone")
    with pytest.raises(OSError, match="gone") as caught:
        embed_texts(Plain(raises(error)), ["a"])
    assert caught.value is error
    assert error.__notes__ == ["Raised by the embedding function Plain. Nothing of this batch was written."]


def test_any_form_becomes_one_array():
    for answer in (
        lengths,
        lambda texts: np.array(lengths(texts)),
        lambda texts: [np.array(row, np.float64) for row in lengths(texts)],
    ):
        vectors = embed_texts(Plain(answer), ["a", "bb", "ccc"])
        assert vectors.dtype == np.float32
        assert vectors.flags.c_contiguous
        assert vectors.tolist() == [[1, 1], [2, 1], [3, 1]]


def test_no_texts():
    assert embed_texts(Plain(lengths), []).shape == (0, 0)
    assert list(embed_blocks(Plain(lengths), [])) == []


def test_a_foreign_function_gets_all_texts_at_once_and_repeated_ones_too():
    function = Plain(lengths)
    embed_texts(function, ["a", "a", "bb"])
    assert function.asked == [["a", "a", "bb"]]


def test_batches_of_a_foreign_function():
    function = Plain(lengths)
    texts = ["x" * n for n in range(1, 6)]
    assert embed_texts(function, texts, batch=2)[:, 0].tolist() == [1, 2, 3, 4, 5]
    assert [len(asked) for asked in function.asked] == [2, 2, 1]
    blocks = list(embed_blocks(function, iter(texts), batch=2))
    assert [(start, block[:, 0].tolist()) for start, block in blocks] == [(0, [1, 2]), (2, [3, 4]), (4, [5])]


def test_the_dimension_may_not_change_between_batches():
    function = Plain(lambda texts: [[1.0] * len(texts[0])])
    with pytest.raises(EmbeddingFailed, match="returned vectors of 1 dimensions, then of 2"):
        embed_texts(function, ["a", "bb"], batch=1)


def test_queries():
    class Both(EmbeddingFunction):
        def __init__(self):
            pass

        def __call__(self, input):
            return [[0.0] for _ in input]

        def embed_query(self, input):
            return [[1.0] for _ in input]

    assert embed_texts(Both(), ["a"], query=True).tolist() == [[1.0]]
    assert embed_texts(Both(), ["a"]).tolist() == [[0.0]]
    assert embed_texts(Plain(lengths), ["a"], query=True).tolist() == [[1.0, 1.0]]


def test_images_are_passed_on():
    images = [np.zeros((2, 2)), np.ones((2, 2))]
    assert embed_texts(Plain(lambda given: [[image.sum()] for image in given]), images).tolist() == [[0], [4]]


def test_our_own_functions_take_texts_only():
    function = HashingEmbeddingFunction()
    for embed in (embed_texts, lambda *given: list(embed_blocks(*given))):
        with pytest.raises(ValueError, match="Expected documents to be strings, got ndarray at position 1"):
            embed(function, ["a", np.zeros((2, 2))])


def test_our_own_function_changed_by_a_subclass_is_called():
    class Shouting(HashingEmbeddingFunction):
        def __call__(self, input):
            return super().__call__([text.replace("quiet", "loud") for text in input])

    changed, plain = Shouting(), HashingEmbeddingFunction()
    assert embed_texts(changed, ["quiet", "loud"]).tolist() == embed_texts(plain, ["loud", "loud"]).tolist()
    assert [block.tolist() for _, block in embed_blocks(changed, ["quiet"])] == [embed_texts(plain, ["loud"]).tolist()]


def test_progress_is_shown_when_asked_and_never_to_a_file(capsys):
    texts = [f"text {n}" for n in range(3_000)]
    embed_texts(HashingEmbeddingFunction(), texts)
    assert capsys.readouterr().err == ""
    embed_texts(HashingEmbeddingFunction(), texts[:10], progress=True)
    assert "10.0/10.0" in capsys.readouterr().err
    embed_texts(Plain(lengths), texts[:10], progress=True)
    assert "10.0/10.0" in capsys.readouterr().err


@pytest.mark.parametrize(("total", "terminal", "wanted", "shown"), [
    (2_000, True, None, True), (1_999, True, None, False), (2_000, False, None, False), (None, True, None, False),
    (5_000, True, False, False), (1, False, True, True),
])  # fmt: skip
def test_who_sees_progress(total, terminal, wanted, shown, capsys, monkeypatch):
    import sys

    from chroma_gpu.embed.progress import bar

    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    with bar(total, wanted) as count:
        count(1)
    assert bool(capsys.readouterr().err) == shown
