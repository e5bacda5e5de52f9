"""What a stream of texts has cost so far, for reports."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Stats:
    """Counts of one stream, or of several one after another. They grow while it runs; read them between blocks.

    texts       that have been put out in blocks, repeated, remembered and failed ones too
    remembered  distinct texts of a window that were known already
    failed      distinct texts of a window without a vector
    tokens      that went through the model
    padded      the same with what the texts of a batch were filled up with
    truncated   texts that were cut to the model's length, where the tokeniser says so
    batches     that gave vectors
    retries     batches that were run again, as a whole or in parts, because memory ran out or the model failed
    busy        seconds that each lane had work: lane -> s. On a GPU from a launch until nothing launched is left
    """

    texts: int = 0
    remembered: int = 0
    failed: int = 0
    tokens: int = 0
    padded: int = 0
    truncated: int = 0
    batches: int = 0
    retries: int = 0
    busy: dict[str, float] = field(default_factory=dict)

    @property
    def waste(self) -> float:
        """The share of padding in what the model computed, 0 to 1."""
        return 1 - self.tokens / self.padded if self.padded else 0.0
