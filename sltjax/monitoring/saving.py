"""Which checkpoints are worth keeping, by λ̂: a policy for Orbax."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sltjax.monitoring.writers import Scalars


@dataclass(frozen=True)
class SavePolicy:
    """A save decision policy of Orbax's CheckpointManager: dense where λ̂ moves, sparse where it rests.

    A step is saved if none was before, if `longest` steps have passed since the last, or if λ̂ has moved since and at
    least `shortest` have: by more than the share `change` of itself, and by more than three standard errors. `Monitor`
    measures before `CheckpointManager.save` is called, so that the step at which a move is seen is kept. Goes with
    others in orbax's `AnySavePolicy`; by itself it also saves where the scheduler is about to end the job.

    Attributes:
        found: step -> what was measured there: `Monitor.found`.
        longest: steps between checkpoints where λ̂ rests.
        shortest: steps between them where it moves.
        change: the least move, as a share of the larger of two λ̂.
    """

    found: Mapping[int, Scalars]
    longest: int
    shortest: int = 1
    change: float = 0.05

    def __post_init__(self) -> None:
        if not 1 <= self.shortest <= self.longest:
            raise ValueError(
                f"got shortest = {self.shortest} and longest = {self.longest}, expected 1 ≤ shortest ≤ longest"
            )
        if not self.change >= 0:
            raise ValueError(f"change: got {self.change}, expected a share of λ̂ of at least 0, such as 0.05")

    def should_save(self, step: Any, previous_steps: Any, *, context: Any) -> bool:
        """Orbax's question; `step` and each of the sequence `previous_steps` have a `step`."""
        if not previous_steps or context.reached_preemption:
            return True
        last = previous_steps[-1].step
        passed = step.step - last
        return passed >= self.longest or (passed >= self.shortest and self.moved(last, step.step))

    def moved(self, before: int, now: int) -> bool:
        """Whether λ̂ as last measured up to one step differs from that up to another."""
        then, here = self._latest(before), self._latest(now)
        if then is None or here is None:
            return here is not None  # the first number that there is
        apart = abs(here["llc"] - then["llc"])
        noise = 3 * math.hypot(here["llc_std_error"], then["llc_std_error"])
        return apart > max(noise, self.change * max(abs(here["llc"]), abs(then["llc"])))

    def _latest(self, step: int) -> Scalars | None:
        known = [at for at in list(self.found) if at <= step and math.isfinite(self.found[at]["llc"])]
        return self.found[max(known)] if known else None
