"""One model on several devices, as one encoder: a stream gives every device the next batch when it is free."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Final

from chroma_gpu.embed.stream.protocol import Encoder, Places, Prompt
from chroma_gpu.records import Vectors

WINDOW: Final = 65_536
"""Texts that a team sorts together at most."""


class Team:
    """Encoders of the same model. They share the first one's tokeniser; by itself a team works on its first device.

    members  at least one, of the same dimension
    Raises   ValueError for other members
    """

    def __init__(self, members: Sequence[Encoder]) -> None:
        if len({member.dim for member in members}) != 1:
            raise ValueError("a team needs at least one encoder, and all of one dimension")
        self._members = list(members)
        self._lock = threading.Lock()
        self.dim = members[0].dim
        self.budget = members[0].budget
        self.window = max(members[0].window, min(WINDOW, sum(member.window for member in members)))
        self.padded = members[0].padded
        self.lanes = members[0].lanes
        prints = {member.fingerprint for member in members}
        self.fingerprint = prints.pop() if len(prints) == 1 else None

    @property
    def members(self) -> tuple[Encoder, ...]:
        """The encoders whose devices work."""
        with self._lock:
            return tuple(self._members)

    def lose(self, member: Encoder) -> None:
        """A device does not work any more; the last one stays, to say so itself."""
        with self._lock:
            if len(self._members) > 1 and member in self._members:
                self._members.remove(member)

    def pre(self, texts: Sequence[str], prompt: Prompt) -> Any:
        """As the first member."""
        return self.members[0].pre(texts, prompt)

    def core(self, tokens: Any, places: Places) -> tuple[Encoder, Any]:
        """The result of the first member, and who that is."""
        member = self.members[0]
        return member, member.core(tokens, places)

    def post(self, vectors: tuple[Encoder, Any]) -> Vectors:
        """[m, dim] float32 on the host."""
        member, result = vectors
        return member.post(result)

    def on_cpu(self) -> Encoder | None:
        """As the first member."""
        return self.members[0].on_cpu()

    def peak(self, batch: int, length: int) -> int | None:
        """As the first member."""
        return self.members[0].peak(batch, length)


def members_of(encoder: Encoder) -> tuple[Encoder, ...]:
    """The encoders that a stream gives batches to: those of a team, or the one itself."""
    return encoder.members if isinstance(encoder, Team) else (encoder,)
