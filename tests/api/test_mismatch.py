"""What does not fit together is named, with the line that helps; Chroma's text is the beginning."""

from __future__ import annotations

import pytest

from chroma_gpu.embed.hashing import HashingEmbeddingFunction
from chroma_gpu.errors import DimensionMismatch

BEGINNING = "Collection expecting embedding with dimension of 8, got "


@pytest.fixture
def collection(client):
    made = client.create_collection("packages", embedding_function=HashingEmbeddingFunction(8))
    made.add(ids=["a"], documents=["one"])
    return made


@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("add", {"ids": ["b"], "embeddings": [[1.0, 2.0]]}),
        ("upsert", {"ids": ["b"], "embeddings": [[1.0, 2.0]]}),
        ("update", {"ids": ["a"], "embeddings": [[1.0, 2.0]]}),
        ("query", {"query_embeddings": [[1.0, 2.0]]}),
    ],
)
def test_vectors_of_another_dimension_name_both_sides(collection, method, given):
    with pytest.raises(DimensionMismatch) as refused:
        getattr(collection, method)(**given)
    said = str(refused.value)
    assert said.startswith(f"{BEGINNING}2. ")
    assert "'packages' was made with hashing; the vectors of this call were given" in said
    assert "client.get_collection('packages').reembed(embedding_function)" in said
    assert refused.value.hint in said
    assert collection.count() == 1


def test_a_function_of_another_dimension_is_named(client, collection):
    class Other:
        def __call__(self, input):
            return [[1.0, 2.0, 3.0] for _ in input]

    collection._embedding_function = Other()
    with pytest.raises(DimensionMismatch, match="are from the embedding function Other") as refused:
        collection.query(query_texts=["x"])
    assert str(refused.value).startswith(f"{BEGINNING}3. ")


def test_another_function_is_refused_with_both_names_and_the_line_that_changes_over(client, collection):
    from chroma_gpu.utils.embedding_functions import StaticEmbeddingFunction

    with pytest.raises(ValueError, match=r"Embedding function conflict: new: .* vs persisted: hashing") as refused:
        client.get_collection("packages", embedding_function=StaticEmbeddingFunction())
    assert "client.get_collection(name).reembed(embedding_function)" in str(refused.value)
