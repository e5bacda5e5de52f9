"""Ways to run a model that are not taken yet: what they would bring on this card, so that it can be decided by figures."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any, Final

import torch

from benchmarks.gpu_timing import Clock

_QUERY: Final = 16
"""Tokens of a short question."""


def measured(function: Any, pipeline: Callable[[], Any], seconds: float, clock: Clock) -> dict[str, Any]:
    """For a function that has embedded before: one text as it is, its forward pass eager and as a recorded graph, and a compiled model.

    pipeline, seconds  the stream that was timed, and how long it took as it is
    Returns            milliseconds; compiled_ratio is above 1 where the compiled model is faster; what a way failed with is in NAME_error
    """
    made: dict[str, Any] = {"query_ms": clock.median(lambda: function(["how do i parse dates"])) * 1e3}
    if not clock.cuda:
        return made
    encoder = function._encoder
    for name, way in {"graph": _graph, "compiled": _compiled}.items():
        try:
            made |= way(encoder, pipeline, seconds, clock)
        except Exception as error:  # an experiment: the row says why there is no figure
            made[f"{name}_error"] = f"{type(error).__name__}: {error}"[:300]
    return made


def _graph(encoder: Any, pipeline: Callable[[], Any], seconds: float, clock: Clock) -> dict[str, Any]:
    """The forward pass of one short text, and the same as one recorded graph."""
    ids = torch.full((1, _QUERY), 7, dtype=torch.int64, device=clock.device)
    mask = torch.ones_like(ids)

    def forward() -> Any:
        return encoder._model(input_ids=ids, attention_mask=mask)[0]

    with torch.inference_mode():
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            for _ in range(3):
                forward()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            forward()
        return {"forward_ms": clock.median(forward) * 1e3, "forward_graph_ms": clock.median(graph.replay) * 1e3}


def _compiled(encoder: Any, pipeline: Callable[[], Any], seconds: float, clock: Clock) -> dict[str, Any]:
    """The stream with the model compiled for shapes that vary."""
    plain = encoder._model
    encoder._model = torch.compile(plain, dynamic=True)
    try:
        began = perf_counter()
        pipeline()
        first = perf_counter() - began
        began = perf_counter()
        pipeline()
        return {"compiled_ratio": seconds / (perf_counter() - began), "compiling_s": first}
    finally:
        encoder._model = plain
