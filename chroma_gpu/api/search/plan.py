"""``Search``: a filter, a ranking, groups, a page, and what is returned of each record."""

# ruff: noqa: S105 - a token is a word of the grammar here

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from typing import Any, ClassVar

from chroma_gpu.api.search.conditions import Key, Where, name_of
from chroma_gpu.api.search.expression import Expression, expect, only_item, refuse_others
from chroma_gpu.api.search.ranks import Rank

Keys = Key | str | list[Key | str]


@dataclass(eq=False)
class Limit(Expression):
    """One page of the answer: ``limit`` records after the first ``offset``; None is all of them."""

    offset: int = 0
    limit: int | None = None

    def to_dict(self) -> dict[str, Any]:
        return {"offset": self.offset} | ({} if self.limit is None else {"limit": self.limit})

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Limit:
        """The page that a dictionary means. Raises TypeError, ValueError."""
        expect(data, dict, "Expected dict for Limit")
        offset, limit = data.get("offset", 0), data.get("limit")
        expect(offset, int, "Limit offset must be an integer")
        if offset < 0:
            raise ValueError(f"Limit offset must be non-negative, got {offset}")
        if limit is not None:
            expect(limit, int, "Limit limit must be an integer")
            if limit <= 0:
                raise ValueError(f"Limit limit must be positive, got {limit}")
        refuse_others(data, {"offset", "limit"}, "Limit")
        return Limit(offset, limit)


@dataclass(eq=False)
class Select(Expression):  # noqa: PLW1641  the base says that there is no hash
    """What is returned of each record besides its id: Key.DOCUMENT, EMBEDDING, METADATA, SCORE, or single metadata keys."""

    keys: set[Key | str] = field(default_factory=set)

    def to_dict(self) -> dict[str, Any]:
        return {"keys": list(dict.fromkeys(map(name_of, self.keys)))}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Select) and {*map(name_of, self.keys)} == {*map(name_of, other.keys)}

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Select:
        """The selection that a dictionary means. Raises TypeError, ValueError."""
        expect(data, dict, "Expected dict for Select")
        keys = data.get("keys", [])
        expect(keys, (list, tuple, set), "Select keys must be a list/tuple/set")
        for each in keys:
            expect(each, str, "Select key must be a string")
        refuse_others(data, {"keys"}, "Select")
        return Select(set(map(Key, keys)))


class Aggregate(Expression):
    """Which records of a group stay."""

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Aggregate:
        """The aggregation that a dictionary means. Raises TypeError, ValueError."""
        token, said = only_item(data, "Aggregate")
        kinds = {kind.token: kind for kind in (MinK, MaxK)}
        if token not in kinds:
            raise ValueError(f"Unknown aggregate operator: {token}")
        expect(said, dict, f"{token} requires a dict")
        for name in ("keys", "k"):
            if name not in said:
                raise ValueError(f"{token} requires '{name}' field")
        keys, k = _keys(said["keys"], token), said["k"]
        expect(k, int, f"{token} k must be an integer")
        if k <= 0:
            raise ValueError(f"{token} k must be positive, got {k}")
        return kinds[token](keys, k)


@dataclass(eq=False)
class _BestK(Aggregate):
    token: ClassVar[str]

    keys: Keys
    k: int

    def to_dict(self) -> dict[str, Any]:
        return {self.token: {"keys": _names(self.keys), "k": self.k}}


class MinK(_BestK):
    """The k records with the smallest values; the first key in which two differ decides."""

    token = "$min_k"


class MaxK(_BestK):
    """The k records with the largest values."""

    token = "$max_k"


@dataclass(eq=False)
class GroupBy(Expression):
    """Cut the answer into groups of equal metadata values, keep some records of each, and order all of them by score again."""

    keys: Keys = field(default_factory=list)
    aggregate: Aggregate | None = None

    def to_dict(self) -> dict[str, Any]:
        if not self.keys or self.aggregate is None:
            return {}
        expect(self.aggregate, Aggregate, "GroupBy aggregate must be an Aggregate")
        return {"keys": _names(self.keys), "aggregate": self.aggregate.to_dict()}

    @staticmethod
    def from_dict(data: dict[str, Any]) -> GroupBy:
        """The grouping that a dictionary means; none for {}. Raises TypeError, ValueError."""
        expect(data, dict, "Expected dict for GroupBy")
        if not data:
            return GroupBy()
        for name in ("keys", "aggregate"):
            if name not in data:
                raise ValueError(f"GroupBy requires '{name}' field")
        keys = _keys(data["keys"], "GroupBy")
        expect(data["aggregate"], dict, "GroupBy aggregate must be a dict")
        return GroupBy(keys, Aggregate.from_dict(data["aggregate"]))


class Search:
    """One search, given as arguments or built step by step; every step returns a new object.

    Search().where(K("year") > 2020).rank(Knn("bridges")).limit(5).select(K.DOCUMENT, K.SCORE)

    where     a condition, as an expression or a dictionary; None looks at all records
    rank      how records are scored, as an expression or a dictionary; None leaves them in the order of insertion
    group_by  a GroupBy or a dictionary
    limit     a Limit, a dictionary, or a number of records
    select    a Select, a dictionary, or a list or set of keys
    Raises    TypeError, ValueError
    """

    def __init__(
        self,
        where: Where | dict[str, Any] | None = None,
        rank: Rank | dict[str, Any] | None = None,
        group_by: GroupBy | dict[str, Any] | None = None,
        limit: Limit | dict[str, Any] | int | None = None,
        select: Select | dict[str, Any] | list[str] | set[str] | None = None,
    ) -> None:
        if isinstance(limit, int):
            limit = {"limit": limit}
        if isinstance(select, (list, set)):
            select = {"keys": list(select)}
        self._where: Where | None = _part("where", where, Where, "Where object, dict, or None")
        self._rank: Rank | None = _part("rank", rank, Rank, "Rank object, dict, or None")
        self._group_by: GroupBy = _part("group_by", group_by, GroupBy, "GroupBy object, dict, or None") or GroupBy()
        self._limit: Limit = _part("limit", limit, Limit, "Limit object, dict, int, or None") or Limit()
        self._select: Select = _part("select", select, Select, "Select object, dict, list, set, or None") or Select()

    def where(self, where: Where | dict[str, Any] | None) -> Search:
        """The same search among the records that satisfy a condition."""
        return self._with("_where", Search(where=where))

    def rank(self, rank_expr: Rank | dict[str, Any] | None) -> Search:
        """The same search with another scoring."""
        return self._with("_rank", Search(rank=rank_expr))

    def group_by(self, group_by: GroupBy | dict[str, Any] | None) -> Search:
        """The same search with its answer grouped."""
        return self._with("_group_by", Search(group_by=group_by))

    def limit(self, limit: int, offset: int = 0) -> Search:
        """Another page of the same search."""
        return self._with("_limit", Search(limit=Limit(offset, limit)))

    def select(self, *keys: Key | str) -> Search:
        """The same search returning these keys."""
        return self._with("_select", Search(select=Select(set(keys))))

    def select_all(self) -> Search:
        """The same search returning document, embedding, metadata and score."""
        return self.select(Key.DOCUMENT, Key.EMBEDDING, Key.METADATA, Key.SCORE)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "filter": None if self._where is None else self._where.to_dict(),
            "rank": None if self._rank is None else self._rank.to_dict(),
            "group_by": self._group_by.to_dict(),
            "limit": self._limit.to_dict(),
            "select": self._select.to_dict(),
        }

    def __repr__(self) -> str:
        said = {name: value for name, value in self.to_dict().items() if value}
        return f"Search({', '.join(f'{name}={value}' for name, value in said.items())})"

    def _with(self, name: str, other: Search) -> Search:
        changed = copy(self)
        setattr(changed, name, getattr(other, name))
        return changed


def _part(name: str, given: Any, kind: Any, words: str) -> Any:
    if given is None or isinstance(given, kind):
        return given
    if isinstance(given, dict):
        parse: Callable[[dict[str, Any]], Any] = kind.from_dict
        return parse(given)
    raise TypeError(f"{name} must be a {words}, got {type(given).__name__}")


def _keys(keys: Any, of: str) -> list[Key | str]:
    expect(keys, (list, tuple), f"{of} keys must be a list")
    if not keys:
        raise ValueError(f"{of} keys cannot be empty")
    for each in keys:
        expect(each, str | Key, f"{of} key must be a string")
    return [Key(each) if isinstance(each, str) else each for each in keys]


def _names(keys: Keys) -> list[str]:
    return [name_of(each) for each in (keys if isinstance(keys, list) else [keys])]
