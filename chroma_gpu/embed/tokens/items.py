"""What is embedded in place of texts, such as images and pairs of texts, in a form that the pipeline takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any


class Item(str):
    """A text that stands for a value and is equal to no other: the pipeline sorts and batches it, ``Encoder.pre`` looks at the value."""

    __slots__ = ("value",)
    value: Any


def items(values: Iterable[Any]) -> Iterator[Item]:
    """Each value as an item, as they are asked for."""
    for number, value in enumerate(values):
        item = Item(number)
        item.value = value
        yield item
