"""Which of two phases the Bayesian posterior prefers: Watanabe's free energy, a trade of loss against λ."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import xarray as xr
from scipy.special import lambertw

from sltjax.development.curve import series

Phase: TypeAlias = int | tuple[int, int]
"""A checkpoint's step, or the first and last step of a plateau."""


@dataclass(frozen=True)
class PhaseComparison:
    """The free energy of one phase less that of another, F_n ≈ n L_n + λ log n each (Watanabe 2009, theorem 6.7).

    What stays bounded as n grows, and (m − 1) log log n of the multiplicity, are left out.

    Attributes:
        delta_loss: L_n after less L_n before, in nats an example.
        delta_loss_std_error: 0 between single checkpoints.
        delta_llc: λ̂ after less λ̂ before.
        delta_llc_std_error: its error.
    """

    delta_loss: float
    delta_loss_std_error: float
    delta_llc: float
    delta_llc_std_error: float

    def free_energy(self, n: int | float | Sequence[float] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """F(after) − F(before) = n ΔL + Δλ log n in nats and its standard error, at n examples of any shape.

        Negative: the posterior prefers the phase after. The log-odds of after against before are minus this.
        """
        n = np.asarray(n, float)
        value = n * self.delta_loss + self.delta_llc * np.log(n)
        std_error = np.hypot(n * self.delta_loss_std_error, self.delta_llc_std_error * np.log(n))
        return np.asarray(value), np.asarray(std_error)

    @property
    def critical_n(self) -> tuple[float, float]:
        """The n > e at which neither is preferred, and its standard error to first order; NaN where there is none.

        There is one where loss and λ change in opposite directions, and the loss by less than |Δλ|/e. Above it the
        phase of lower loss is preferred, below it that of lower λ.
        """
        ratio = -self.delta_loss / self.delta_llc if self.delta_llc else 0.0
        if not 0 < ratio < np.exp(-1):
            return np.nan, np.nan
        # log n = ratio · n
        n = float(np.exp(-lambertw(-ratio, -1).real))
        _, std_error = self.free_energy(n)
        return n, float(std_error / abs(self.delta_loss + self.delta_llc / n))


def compare_phases(dataset: xr.Dataset, before: Phase, after: Phase, *, loss: str = "loss") -> PhaseComparison:
    """Compare two checkpoints or plateaus of a run by their free energies (Hoogland et al., arXiv 2402.02364, §2).

    On a plateau, loss and λ̂ are means over its checkpoints. The error of such a mean comes from the spread of the
    checkpoints or from their own errors, whichever is larger.

    Args:
        dataset: one run with `step`, `llc`, `llc_std_error` and the loss, of shape [checkpoint].
        before: the step of a checkpoint, or (first, last) step of a plateau.
        after: likewise.
        loss: the mean negative log-likelihood an example, in nats; a squared error ½|y − f|² over the variance of the
            noise. The behavioural loss is 0 at every checkpoint: record the training loss as a metric.

    Raises:
        ValueError: if a variable is missing, steps do not ascend, a phase has no finite value, or the loss is 0
            at every checkpoint.
    """
    if loss in dataset and not np.any(np.nan_to_num(dataset[loss])):
        raise ValueError(f"{loss} is 0 at every checkpoint, as the behavioural loss is: record the training loss")
    losses, llcs = ([_mean(*series(dataset, name), name, phase) for phase in (before, after)] for name in (loss, "llc"))
    return PhaseComparison(*_difference(*losses), *_difference(*llcs))


def _mean(step: np.ndarray, value: np.ndarray, error: np.ndarray, name: str, phase: Phase) -> tuple[float, float]:
    first, last = (phase, phase) if isinstance(phase, int | np.integer) else phase
    inside = (first <= step) & (step <= last)
    count = np.count_nonzero(inside)
    if not count:
        raise ValueError(f"no finite {name} from step {first} to step {last}: steps go from {step[:1]} to {step[-1:]}")
    own = np.sqrt(np.sum(error[inside] ** 2)) / count
    spread = value[inside].std(ddof=1) / np.sqrt(count) if count > 1 else 0.0
    return float(value[inside].mean()), float(max(own, spread))


def _difference(before: tuple[float, float], after: tuple[float, float]) -> tuple[float, float]:
    return after[0] - before[0], float(np.hypot(before[1], after[1]))
