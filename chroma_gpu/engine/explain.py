"""Explain: how an answer was come by, in words and in numbers."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Final

from chroma_gpu.engine.planner import Plan
from chroma_gpu.engine.trace import Searched, Trace
from chroma_gpu.filter.expr import And, Expr, How, Or, Step, to_dict

NOT_ASKED: Final = "not asked"


@dataclass(frozen=True, slots=True)
class Condition:
    """One node of a filter.

    condition      in JSON form; where there are parts only how these are combined: "$and" or "$or"
    asked, passed  how many rows it was asked about, and how many of them pass
    how            how they were found: a ``How``, or "not asked" where nothing was left to be decided; the parts of what is "kept" are
                   as they were when it was found
    why            of a scan: why there was no better way
    read           documents read for it
    microseconds   of its parts included
    """

    condition: Any
    asked: int
    passed: int
    how: str
    why: str | None
    read: int
    microseconds: float
    parts: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class Considered:
    """One way that the planner weighed.

    microseconds  what it was expected to cost
    recall        share of the true neighbours that it can promise; None where nothing can be said
    why           it was not taken; "" for the one that was
    """

    way: str
    microseconds: float
    recall: float | None
    taken: bool
    why: str


@dataclass(frozen=True, slots=True)
class Search:
    """One search for the best rows.

    field         what was searched: "#embedding", or the metadata key of sparse vectors
    queries, k    how many vectors were asked at once, and how many rows each was to find, at most
    way           the one that was taken
    expected      microseconds by the planner; None where there is only one way
    recall        share of the true neighbours that the way can promise before its guard has looked; None where nothing can be said
    microseconds  what it took, planning included
    exact         the answer is proved to equal brute force
    guard         how an approximate answer was checked: "passed", "widened", "exact"; None where there was nothing to check
    on            of a search on a GPU: what was read there, and where, "a mask of int8 on cuda"
    """

    field: str
    queries: int
    k: int
    way: str
    expected: float | None
    recall: float | None
    microseconds: float
    exact: bool
    guard: str | None
    considered: tuple[Considered, ...] = ()
    on: str | None = None


@dataclass(frozen=True, slots=True)
class Transform:
    """One transform: how many rows it was given, and how many it left."""

    name: str
    asked: int
    left: int
    microseconds: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """How one query, or one ranked search, was answered; ``str`` says it in words.

    rows          rows of the table, those of records that are gone included
    live          records
    candidates    those that pass the filter
    exact         every search of it is proved to equal brute force
    searches      one for a query, however many vectors it has; one for each leaf of a ranking, several vectors where they were asked
                  together
    microseconds  what each stage took: "embed" the texts, catch up with the last "state", "filter", "search", "transforms", "records"
                  to read, "total"
    calibration   where the figures of the planner are from
    checks        what the comparison of plans has found so far, where it is on
    """

    rows: int
    live: int
    candidates: int
    exact: bool
    filter: Condition | None
    searches: tuple[Search, ...]
    transforms: tuple[Transform, ...]
    microseconds: Mapping[str, float]
    calibration: str
    checks: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields and those of their values under their names: dictionaries, lists, texts, numbers, None. To be kept as JSON."""
        return {each.name: _plain(getattr(self, each.name)) for each in fields(self)}

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def explanation(
    trace: Trace, calibration: str, checks: Mapping[str, Any] | None = None, *, embedding: float = 0.0
) -> Explanation:
    """What a trace of one answer says.

    calibration, checks  see ``Explanation``
    embedding            seconds that it took before to make the vectors; 0 if they were given
    """
    if trace.view is None:
        raise ValueError("nothing was answered yet")
    filtered = trace.filters[0]
    embedded = {"embed": embedding} if embedding else {}
    stages = {stage: _microseconds(seconds) for stage, seconds in (embedded | trace.seconds).items()}
    return Explanation(
        rows=trace.view.live.size,
        live=trace.view.count,
        candidates=len(filtered.candidates),
        exact=all(each.hits.exact for each in trace.searches),
        filter=None if filtered.expr is None else _condition(filtered.expr, filtered.steps),
        searches=tuple(map(_search, trace.searches)),
        transforms=tuple(Transform(each.name, each.asked, each.left, _microseconds(each.seconds)) for each in trace.transforms),
        microseconds=stages | {"total": round(sum(stages.values()), 1)},
        calibration=calibration,
        checks=checks,
    )


def _microseconds(seconds: float) -> float:
    return round(seconds * 1e6, 1)


# ---- filters


def _condition(expr: Expr, steps: Sequence[Step]) -> Condition:
    """The tree of an evaluation. Steps come inner ones first; what was never asked has none."""
    found: list[tuple[Expr, Condition]] = []
    for step in steps:
        parts: list[Condition] = []
        if isinstance(step.expr, And | Or):
            missing = Counter(step.expr.children)
            while found and (taken := _taken_by(found[-1][0], step.expr, missing)):
                missing -= taken
                parts.insert(0, found.pop()[1])
            if parts or step.how is How.COMBINED:
                parts += [_not_asked(each) for each in missing.elements()]
        found.append((step.expr, _of_step(step, tuple(parts))))
    return found[-1][1] if found else _not_asked(expr)


def _taken_by(child: Expr, parent: And | Or, missing: Counter[Expr]) -> Counter[Expr]:
    """Which children of a parent a node stands for: itself, or those that were answered together."""
    if missing[child]:
        return Counter([child])
    if isinstance(child, And | Or) and type(child) is type(parent):
        together = Counter(child.children)
        return together if together <= missing else Counter()
    return Counter()


def _of_step(step: Step, parts: tuple[Condition, ...]) -> Condition:
    said, spent = _said(step.expr, parts), _microseconds(step.seconds)
    return Condition(said, step.asked, step.passed, str(step.how), step.why, step.read, spent, parts)


def _not_asked(expr: Expr) -> Condition:
    parts = tuple(map(_not_asked, expr.children)) if isinstance(expr, And | Or) else ()
    return Condition(_said(expr, parts), 0, 0, NOT_ASKED, None, 0, 0.0, parts)


def _said(expr: Expr, parts: Sequence[Condition]) -> Any:
    said = to_dict(expr)
    return next(iter(said)) if parts else said


# ---- searches


def _search(searched: Searched) -> Search:
    hits, plan = searched.hits, searched.plan
    return Search(
        field=searched.field,
        queries=len(hits.counts),
        k=hits.rows.shape[1],
        way="inverted index" if plan is None else plan.name,
        expected=None if plan is None else round(plan.cost, 1),
        recall=1.0 if plan is None else plan.recall,
        microseconds=_microseconds(searched.seconds),
        exact=hits.exact,
        guard=hits.guard,
        considered=() if plan is None else tuple(_considered(plan)),
        on=None if plan is None else plan.on,
    )


def _considered(plan: Plan) -> Iterator[Considered]:
    for each in plan.considered:
        taken = str(each) == plan.name
        if taken:
            why = ""
        elif each.cost < plan.cost:
            why = "not so much cheaper that the way of the last query, which is exact too, is given up"
        else:
            why = f"{each.cost / plan.cost:.2g} times as expensive" if each.cost > 1.05 * plan.cost else "about as expensive"
        yield Considered(str(each), round(each.cost, 1), each.recall, taken, why)


# ---- words


def _lines(said: Explanation) -> Iterator[str]:
    yield f"{said.candidates:,} of {said.live:,} records are candidates ({said.rows:,} rows)"
    yield f"filter     {_time(said.microseconds.get('filter', 0.0))}" + ("" if said.filter else ": none")
    if said.filter is not None:
        tree = list(_tree(said.filter, 1))
        width = max(len(name) for name, _ in tree)
        yield from (f"{name:<{width}}  {facts}" for name, facts in tree)
    for search in said.searches:
        many = "" if search.queries == 1 else f", {search.queries:,} queries at once"
        expected = "" if search.expected is None else f", expected {_time(search.expected)}"
        checked = "" if search.guard is None else f", guard: {search.guard}"
        sure = "exact" if search.exact else "approximate"
        way = search.way if search.on is None else f"{search.way}, {search.on},"
        yield f"search     {_time(search.microseconds)}: {way} for {search.k:,} of {search.field}{many}{expected}; {sure}{checked}"
        for each in search.considered:
            if not each.taken:
                recall = "" if each.recall is None else f", recall {each.recall:g}"
                yield f"  not {each.way}: {_time(each.microseconds)}{recall}; {each.why}"
    for transform in said.transforms:
        yield f"transform  {_time(transform.microseconds)}: {transform.name}, {transform.asked:,} -> {transform.left:,}"
    others = {name: value for name, value in said.microseconds.items() if name not in ("filter", "search", "transforms", "total")}
    yield "others     " + ", ".join(f"{name} {_time(value)}" for name, value in others.items())
    yield f"total      {_time(said.microseconds['total'])}"
    yield f"planner    {said.calibration}"
    if said.checks is not None:
        yield "checks     " + ", ".join(f"{name} {value}" for name, value in said.checks.items())


def _tree(node: Condition, depth: int) -> Iterator[tuple[str, str]]:
    """The lines of a filter: what it says, and what is known of it."""
    name = "  " * depth + _short(node.condition)
    if node.how == NOT_ASKED:
        yield name, node.how
    else:
        read = [f"{node.read:,} documents read"] if node.read else []
        how = ", ".join([*([] if node.how == How.COMBINED else [node.how]), *([node.why] if node.why else []), *read])
        yield name, f"{node.asked:,} -> {node.passed:,}  {_time(node.microseconds)}  {how}".rstrip()
    for part in node.parts:
        yield from _tree(part, depth + 1)


def _short(condition: Any) -> str:
    text = condition if isinstance(condition, str) else json.dumps(condition, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _time(microseconds: float) -> str:
    return f"{microseconds / 1000:.2f} ms" if microseconds < 1e6 else f"{microseconds / 1e6:.2f} s"


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
