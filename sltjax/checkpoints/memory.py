"""Checkpoints that are already in memory."""

import operator
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from sltjax.checkpoints.leaves import compare, flatten, shapes
from sltjax.checkpoints.source import CheckpointError, Skipped, require_finite
from sltjax.types import Params


@dataclass(frozen=True)
class MemoryCheckpoints:
    """Checkpoints held as numpy arrays; a `Source`."""

    params: Mapping[int, Params]
    name: str = "memory"
    skipped: tuple[Skipped, ...] = ()

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps, ascending."""
        return tuple(self.params)

    def load(self, step: int) -> Params:
        """Return the parameters at `step`; see `Source.load`."""
        if step not in self.params:
            raise ValueError(f"got step {step}, expected one of {self.steps}.")
        try:
            compare(shapes(flatten(self.params[step])), shapes(flatten(self.params[self.steps[0]])))
            require_finite(self.params[step])
        except CheckpointError as error:
            raise type(error)(f"step {step}: {error}") from error
        return self.params[step]


def from_memory(
    pairs: Mapping[Any, Params] | Iterable[tuple[Any, Params]],
) -> MemoryCheckpoints:
    """Make a source of checkpoints that are already in memory.

    Args:
        pairs: (step, params) in any order, or a dict of them. The arrays are copied to the host, so the caller may
            go on training and donate them.

    Returns:
        The source.

    Raises:
        ValueError: there are none, a step comes twice, or a step is no whole number.
    """
    taken = [(_step(step), params) for step, params in (pairs.items() if isinstance(pairs, Mapping) else pairs)]
    twice = [step for step, count in Counter(step for step, _ in taken).items() if count > 1]
    if not taken:
        raise ValueError("got no checkpoints, expected at least one pair (step, params).")
    if twice:
        raise ValueError(f"got more than one checkpoint for step {twice}, expected one a step: drop the others.")
    return MemoryCheckpoints({step: jax.tree.map(np.array, params) for step, params in sorted(taken, key=_first)})


def _first(pair: tuple[int, Params]) -> int:
    return pair[0]


def _step(step: Any) -> int:
    try:
        return operator.index(step)
    except TypeError:
        raise ValueError(f"got step {step!r}, expected a whole number.") from None
