"""Where the commands print, and where they look."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from chroma_gpu.errors import NotFoundError


def console() -> Console:
    """The terminal, taking every text as it is: documents may hold what rich would read as markup."""
    return Console(markup=False, emoji=False, highlight=False)


def require(path: str) -> None:
    """Looking must not make a directory. Raises NotFoundError."""
    if not (Path(path) / "format.json").exists():
        raise NotFoundError(f"{path} holds no data of chroma_gpu.", hint="Name its directory with --path.")
