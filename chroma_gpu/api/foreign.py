"""Standing in for the classes of the real ``chromadb``, where a program has loaded it and checks with isinstance."""

from __future__ import annotations

import sys


def stands_for(module: str, name: str) -> property:
    """A ``__class__`` for objects that pass ``isinstance(x, <module>.<name>)`` once that module is loaded, beside their own checks.

    ``type(x)`` stays the truth. Where the module is not loaded, or is ours under its name, ``x.__class__`` is ``type(x)`` too.
    """

    def which(self: object) -> type:
        loaded = sys.modules.get(module)
        found = getattr(loaded, name, None)
        return found if isinstance(found, type) else type(self)

    return property(which)
