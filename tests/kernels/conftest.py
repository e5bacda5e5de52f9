"""Memory that a kernel did not write shows: every uninitialised tensor is poisoned."""

from __future__ import annotations

import pytest
import torch

POISON = 0x5A5A5A5A


def _poisoned(tensor):
    if tensor.is_floating_point():
        return tensor.fill_(torch.nan)
    return tensor.fill_(POISON if tensor.dtype in {torch.int32, torch.int64} else 1)


@pytest.fixture(autouse=True)
def poison(monkeypatch):
    """torch.empty, empty_like and new_empty return NaN, or a number that is no row."""
    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        made = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *given, _made=made, **named: _poisoned(_made(*given, **named)))
