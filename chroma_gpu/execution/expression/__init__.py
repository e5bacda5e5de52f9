"""Search expressions under Chroma's path."""

from __future__ import annotations

from chroma_gpu.execution.expression import operator
from chroma_gpu.execution.expression.operator import *  # noqa: F403
from chroma_gpu.execution.expression.operator import Where as SearchWhere
from chroma_gpu.execution.expression.plan import Search

__all__ = ["Search", "SearchWhere"]
__all__ += operator.__all__
