"""Evaluating an expression on a device: one pass over columns there, what the index does not know from the host, and a mask on both."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import and_, or_
from typing import TYPE_CHECKING

import numpy as np

from chroma_gpu.filter.columns import ColumnView
from chroma_gpu.filter.device.columns import DeviceColumns, codes_of
from chroma_gpu.filter.device.cost import FilterCost
from chroma_gpu.filter.device.translate import ColumnKey, reads, test_of
from chroma_gpu.filter.expr import And, Expr, Or
from chroma_gpu.filter.operators import Operator
from chroma_gpu.filter.view import IndexedView
from chroma_gpu.rowset import RowSet

if TYPE_CHECKING:
    from torch import Tensor


class OnDevice:
    """What one evaluation asks of a device; see ``filter.evaluation.Accelerator``.

    live    the rows of all records
    words   the words of a row set on the device, [2 * len(words)] int32, and keep: what there is of one on the device already
    failed  told of what torch raised; whether the host answers instead
    """

    def __init__(
        self,
        columns: DeviceColumns,
        view: IndexedView,
        live: RowSet,
        words: Callable[[RowSet], Tensor],
        keep: Callable[[RowSet, Tensor], None],
        failed: Callable[[Exception], bool],
        cost: FilterCost,
    ) -> None:
        self._columns, self._view, self._live = columns, view, live
        self._words, self._keep, self._failed, self._cost = words, keep, failed, cost
        self._counted: set[ColumnKey] = set()

    def takes(self, expr: Expr) -> bool:
        """Whether columns can answer a tree."""
        return bool(reads(expr, self._view.index.columns))

    def rows(self, expr: Expr, within: RowSet, asked: int) -> RowSet | None:
        """The rows of ``within``, ``asked`` of them, that pass; None if the host had better find them.

        Raises  KeyError if the inverted index has gone on
        Cost    a launch, which reads 8 or 4 bytes a row and condition, and a copy of the mask to the host
        """
        index = self._view.index
        keys = reads(expr, index.columns)
        if not keys or not self._cost.pays(within.size, asked, [kind for _, kind in keys]):
            return None
        needed = list(dict.fromkeys(keys))
        counted = set(needed) - self._counted
        self._counted |= counted
        try:
            with self._columns.lock:
                return self._found(expr, within, asked, needed, counted)
        except KeyError:
            raise
        except Exception as error:
            if not self._failed(error):
                raise
            return None

    def _found(self, expr: Expr, within: RowSet, asked: int, needed: list[ColumnKey], counted: set[ColumnKey]) -> RowSet | None:
        """With the lock of the columns."""
        from chroma_gpu.kernels.predicate import predicate

        index, size = self._view.index, within.size
        columns = self._columns.current(index, needed, counted)
        if columns is None:
            return None
        places = {key: place for place, key in enumerate(needed)}
        test = test_of(expr, places, index.columns, lambda key, values: codes_of(index, key[1], columns[key], values))
        all_pass, whole = asked == size, within is self._live
        alive = self._words(within) if whole and not all_pass else None
        words = predicate(test, [columns[key].first(index.rows) for key in needed], size, alive)
        words = self._with_overlay(expr, words, within)
        found = RowSet(words.cpu().numpy().view(np.uint64), size)
        if whole or all_pass:
            self._keep(found, words)
            return found
        return within & found

    def _with_overlay(self, expr: Expr, words: Tensor, within: RowSet) -> Tensor:
        """[2 * ceil(size / 64)] int32: as evaluated, and from their metadata the rows that the index does not answer for."""
        import torch

        words = torch.nn.functional.pad(words, (0, len(words) % 2))
        overlay = self._view.overlay
        inside = np.flatnonzero(overlay.rows < within.size)
        if not len(inside):
            return words
        passed = overlay.spread(_passing(expr, overlay.columns), self._view.size).resized(within.size) & within
        late = RowSet.of(overlay.rows[inside], within.size)
        at = np.flatnonzero(late.words.view(np.int32))
        change = np.stack((at.astype(np.int32), ~late.words.view(np.int32)[at], passed.words.view(np.int32)[at]))
        places, others, more = torch.from_numpy(change).to(words.device)
        words[places.long()] = (words[places.long()] & others) | more
        return words


def _passing(expr: Expr, columns: ColumnView) -> RowSet:
    """The places of columns that pass a tree of conditions on metadata."""
    if isinstance(expr, And):
        return reduce(and_, (_passing(child, columns) for child in expr.children), RowSet.full(columns.size))
    if isinstance(expr, Or):
        return reduce(or_, (_passing(child, columns) for child in expr.children), RowSet.empty(columns.size))
    if isinstance(expr, Operator):
        return expr.rows(columns)
    raise ValueError(f"metadata cannot answer {expr}")
