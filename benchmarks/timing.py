"""Timings that alternate, and what may be said about them."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.protocol import Worker, WorkerFailed

# Between two actions: the threads of the one before may go on spinning for some milliseconds.
_PAUSE_SECONDS = 0.05


class Spread(NamedTuple):
    """Median and quartiles, linear between order statistics."""

    median: float
    low: float  # first quartile
    high: float  # third quartile


def spread(values: Sequence[float]) -> Spread:
    """Return median and quartiles of at least one value."""
    return Spread(*(float(np.percentile(values, p)) for p in (50, 25, 75)))


def ratios(values: Sequence[float], reference: Sequence[float]) -> Spread:
    """Return the spread of value / reference, round by round; rounds that only one has are left."""
    return spread([v / r for v, r in zip(values, reference, strict=False)])


def in_turn(
    workers: Mapping[str, Worker],
    action: str,
    rounds: int,
    progress: Callable[[str], None] = lambda text: None,
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, str]]:
    """Let every worker do one action after the other, so many rounds; only one works at a time.

    Returns:
        Each worker's answers, and what happened to those that failed (they take no more part;
        the others go on).
    """
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
    failed: dict[str, str] = {}
    for number in range(rounds):
        for name, worker in workers.items():
            if name in failed:
                continue
            progress(f"{action} {number + 1}/{rounds} {name}")
            time.sleep(_PAUSE_SECONDS)
            try:
                answers[name].append(worker.ask(action))
            except WorkerFailed as error:
                failed[name] = str(error)
    return answers, failed
