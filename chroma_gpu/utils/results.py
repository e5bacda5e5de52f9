"""Results as tables: one row for each record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from chroma_gpu.errors import MissingDependency

if TYPE_CHECKING:
    import pandas


def query_result_to_dfs(query_result: Mapping[str, Any]) -> list[pandas.DataFrame]:
    """One data frame for each query, indexed by id, with the included columns in the order they were asked for.

    Raises MissingDependency without pandas.
    """
    frames = []
    for query, ids in enumerate(query_result["ids"]):
        columns: dict[str, Any] = {"id": ids}
        _add_query_fields(columns, query_result, query)
        frames.append(_frame(columns))
    return frames


def get_result_to_df(get_result: Mapping[str, Any]) -> pandas.DataFrame:
    """A data frame indexed by id, with the included columns in the order they were asked for. Raises MissingDependency without pandas."""
    columns: dict[str, Any] = {"id": get_result["ids"]}
    _add_get_fields(columns, get_result)
    return _frame(columns)


def _add_query_fields(data_dict: dict[str, Any], query_result: Mapping[str, Any], query_idx: int) -> None:
    """Put one query's included columns into a dictionary, under singular names."""
    for name in query_result["included"]:
        values = query_result.get(name)
        if values is None or name == "plan":  # of the whole call
            continue
        if isinstance(values, list) and values:
            values = values[query_idx]
        data_dict[name.rstrip("s")] = _transform_embeddings(values) if name == "embeddings" else values


def _add_get_fields(data_dict: dict[str, Any], get_result: Mapping[str, Any]) -> None:
    """Put the included columns into a dictionary, under singular names."""
    for name in get_result["included"]:
        values = get_result.get(name)
        if values is not None:
            data_dict[name.rstrip("s")] = _transform_embeddings(values) if name == "embeddings" else values


def _transform_embeddings(embeddings: Any) -> list[list[float]] | None:
    """Vectors as lists, which a data frame can hold."""
    return None if embeddings is None else [np.asarray(each).tolist() for each in embeddings]


def _frame(columns: dict[str, Any]) -> pandas.DataFrame:
    try:
        import pandas
    except ImportError as error:
        raise MissingDependency("pandas is required to convert results to data frames.", hint="pip install pandas") from error
    return pandas.DataFrame(columns).set_index("id")
