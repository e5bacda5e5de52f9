"""What is asked of tables whose columns are known before their rows."""

from __future__ import annotations

from collections.abc import Sequence

from chroma_gpu.errors import InvalidArgumentError
from chroma_gpu.jobs.inputs import Input
from chroma_gpu.jobs.options import EmbedOptions


def check_columns(names: Sequence[str], source: Input, options: EmbedOptions) -> None:
    """Raises InvalidArgumentError for a name that is there twice, and for a column that is asked for and is not there."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidArgumentError(f"{source.name} has more than one column {twice[0]!r}.", hint="Give each a name of its own.")
    for name in asked(options):
        if name not in names:
            raise InvalidArgumentError(f"{source.name} has no column {name!r}.", hint=f"It has {', '.join(map(repr, names))}.")


def asked(options: EmbedOptions) -> list[str]:
    """The columns that the options name."""
    single = (options.id_column, options.vector_column, options.uri_column)
    return [*options.text_columns, *(options.metadata_columns or ()), *(name for name in single if name is not None)]
