"""At which steps of a training a monitor is to measure."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

import numpy as np


def log_spaced(last: int, count: int) -> tuple[int, ...]:
    """Steps from 0, then evenly spaced in log up to `last`: at most `count`, fewer where neighbours coincide.

    Raises:
        ValueError: there are none such.
    """
    if last < 1 or count < 2:
        raise ValueError(f"last and count: got {last} and {count}, expected at least 1 and 2")
    return (0, *np.unique(np.geomspace(1, last, count - 1).round().astype(int)).tolist())


class Due:
    """Whether a call is due: whether a step of the grid lies behind the call before it, and not ahead of it.

    At the first call, and after the training has gone back, the step must be one of the grid.
    """

    def __init__(self, every: int | None, at: Sequence[int] | None) -> None:
        if (every is None) == (at is None):
            raise ValueError(f"got every = {every} and at = {at}, expected one of them: steps between, or which steps")
        if every is not None and every < 1:
            raise ValueError(f"every: got {every}, expected a number of steps, at least 1")
        steps = [] if at is None else [int(step) for step in at]
        if at is not None and (not steps or any(b <= a for a, b in pairwise(steps))):
            raise ValueError(f"at: got {at}, expected steps in ascending order, such as log_spaced(100_000, 60)")
        self._every, self._at = every, steps
        self._last: int | None = None

    def __call__(self, step: int) -> bool:
        """Whether the call at this step is due; it is told of every call."""
        last = step - 1 if self._last is None or self._last >= step else self._last
        self._last = step
        return self._count(step) > self._count(last)

    def _count(self, step: int) -> int:
        """Steps of the grid up to this one."""
        return bisect_right(self._at, step) if self._every is None else step // self._every
