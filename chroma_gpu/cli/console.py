"""Where the commands print."""

from __future__ import annotations

from rich.console import Console


def console() -> Console:
    """The terminal, taking every text as it is: documents may hold what rich would read as markup."""
    return Console(markup=False, emoji=False, highlight=False)
