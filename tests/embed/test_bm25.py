"""BM25 vectors are Chroma's, to the last bit."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mmh3
import pytest
from chromadb.utils.embedding_functions.chroma_bm25_embedding_function import ChromaBm25EmbeddingFunction as Theirs
from chromadb.utils.embedding_functions.schemas.bm25_tokenizer import DEFAULT_ENGLISH_STOPWORDS
from hypothesis import given
from hypothesis import strategies as st

from chroma_gpu.embed.bm25 import ChromaBm25EmbeddingFunction
from chroma_gpu.embed.words import STOP_WORDS, hashed, murmur3
from chroma_gpu.errors import MissingDependency

PACKAGES = Path(__file__).parents[2] / "examples" / "data" / "packages-5k.jsonl"


def columns(vectors):
    return [(vector.indices, vector.values, vector.labels) for vector in vectors]


@pytest.fixture(scope="module")
def texts():
    with PACKAGES.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    found = [value for row in rows for value in row.values() if isinstance(value, str) and value]
    assert len(found) > 5_000
    return found


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"include_tokens": True},
        {"k": 0.9, "b": 0.4, "avg_doc_length": 12, "token_max_length": 6},
        {"b": 0.0, "stopwords": ["The", "python", "a"]},
        {"stopwords": []},
    ],
)
def test_values_are_those_of_chroma_for_real_texts(texts, options):
    sample = texts[::3] if not options else texts[::9]
    assert columns(ChromaBm25EmbeddingFunction(**options)(sample)) == columns(Theirs(**options)(sample))


@given(st.lists(st.text(max_size=60), min_size=1, max_size=5))
def test_values_are_those_of_chroma_for_any_text(texts):
    ours, theirs = ChromaBm25EmbeddingFunction(include_tokens=True), Theirs(include_tokens=True)
    for text in texts:
        mine, other = columns(ours([text]))[0], columns(theirs([text]))[0]
        assert mine[:2] == other[:2]
        assert (mine[2] or []) == (other[2] or [])


@given(st.binary(max_size=40), st.integers(0, 2**32 - 1))
def test_murmur3(data, seed):
    assert murmur3(data, seed) == mmh3.hash(data, seed, signed=False)


@given(st.text(max_size=40))
def test_places_of_words(word):
    assert hashed(word) == abs(mmh3.hash(word))


def test_stop_words_are_those_of_chroma():
    assert list(STOP_WORDS) == DEFAULT_ENGLISH_STOPWORDS


def test_a_text_without_words_is_an_empty_vector():
    vector = ChromaBm25EmbeddingFunction(include_tokens=True)(["the of and ... !"])[0]
    assert (vector.indices, vector.values, vector.labels) == ([], [], None)


def test_a_weight_by_hand():
    vector = ChromaBm25EmbeddingFunction(k=1.2, b=0.75, avg_doc_length=4.0, include_tokens=True)(["red red blue"])[0]
    weights = dict(zip(vector.labels, vector.values, strict=True))
    usual = 1 - 0.75 + 0.75 * 3 / 4
    assert weights == {"red": 2 * 2.2 / (2 + 1.2 * usual), "blue": pytest.approx(2.2 / (1 + 1.2 * usual))}


def test_threads_do_not_mix_their_words(texts):
    function, sample = ChromaBm25EmbeddingFunction(), texts[:400]
    alone = columns(function(sample))
    with ThreadPoolExecutor(8) as pool:
        together = [columns(vectors)[0] for vectors in pool.map(lambda text: function([text]), sample)]
    assert together == alone


def test_one_text_and_none():
    function = ChromaBm25EmbeddingFunction()
    assert columns(function("one text")) == columns(function(["one text"]))
    assert columns(function.embed_query(["one text"])) == columns(function(["one text"]))
    with pytest.raises(ValueError, match="non-empty list, got 0 sparse vectors"):
        function([])


def test_without_the_stemmer(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "snowballstemmer", None)
    with ThreadPoolExecutor(1) as pool, pytest.raises(MissingDependency, match="pip install snowballstemmer"):
        pool.submit(ChromaBm25EmbeddingFunction(), ["words"]).result()


def test_updates():
    function = ChromaBm25EmbeddingFunction()
    function.validate_config_update(function.get_config(), {"k": 2.0, "stopwords": ["a"]})
    with pytest.raises(ValueError, match="Updating 'language' is not supported for chroma_bm25"):
        function.validate_config_update(function.get_config(), {"language": "german"})
