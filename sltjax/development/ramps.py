"""One transition between two levels: the posterior over where its ramp starts and stops, and over its height."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Float

SHORTEST_PLATEAU = 3
_DRAWS = 2000
_KNOTS = 80

Data: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Checkpoint index, λ̂ and σ of the checkpoints that have a λ̂."""


@dataclass(frozen=True)
class Level:
    """A plateau, or a turning point: checkpoints first … last, the level, and the variance of that."""

    first: int
    last: int
    value: float
    variance: float

    @property
    def is_plateau(self) -> bool:
        """Whether enough estimates hold it."""
        return self.last - self.first + 1 >= SHORTEST_PLATEAU


@dataclass(frozen=True)
class Ramp:
    """Posterior draws of one transition: where it starts and stops (checkpoint index), and its height."""

    start: Float[np.ndarray, " draw"]
    stop: Float[np.ndarray, " draw"]
    change: Float[np.ndarray, " draw"]


def draw_ramp(before: Level, after: Level, data: Data, rng: np.random.Generator) -> Ramp:
    """Draw from the posterior of level, ramp, level, with flat priors on both levels and both ends.

    Where the shape fits worse than σ allows (a curved ramp), σ is scaled up until it fits.
    """
    fit = _template(before, after, data, _KNOTS)
    misfit = max(1.0, fit.residual.min() / max(after.last - before.first - 3, 1))
    log_mass = -fit.residual / (2 * misfit) - np.linalg.slogdet(fit.precision)[1] / 2
    mass = np.exp(log_mass - log_mass.max())
    drawn = rng.choice(len(mass), _DRAWS, p=mass / mass.sum())
    root = np.linalg.cholesky(misfit * np.linalg.inv(fit.precision))[drawn]
    ends = fit.levels[drawn] + (root @ rng.standard_normal((_DRAWS, 2, 1)))[..., 0]
    return Ramp(fit.start[drawn], fit.stop[drawn], ends[:, 1] - ends[:, 0])


def least_residual(before: Level, after: Level, data: Data) -> float:
    """How badly level, ramp, level fits at best: Σ r²/σ²."""
    return float(_template(before, after, data, _KNOTS // 2).residual.min())


@dataclass(frozen=True)
class _Template:
    """Level, ramp, level for every pair of knots: the levels' weighted least squares and what it leaves over."""

    start: Float[np.ndarray, " pair"]
    stop: Float[np.ndarray, " pair"]
    levels: Float[np.ndarray, "pair 2"]
    precision: Float[np.ndarray, "pair 2 2"]
    residual: Float[np.ndarray, " pair"]


def _template(before: Level, after: Level, data: Data, most_knots: int) -> _Template:
    window = slice(before.first, after.last + 1)
    u, y, sigma = (column[window] for column in data)
    # Heights are counted from the first level: what is left over then keeps its digits.
    y, weight = y - before.value, sigma**-2.0
    knots = _knots(u, before.last - before.first, after.first - before.first, most_knots)
    # A jump (start = stop) is a ramp too, but at the last knot it leaves the upper level without an estimate.
    i, j = (index[:-1] for index in np.triu_indices(len(knots)))
    start, stop = knots[i], knots[j]
    rise = np.clip((u - start[:, None]) / np.maximum(stop - start, 1e-9)[:, None], 0, 1)
    design = np.stack([1 - rise, rise], axis=1)
    precision = (design * weight) @ design.swapaxes(1, 2)
    levels = np.linalg.solve(precision, (design @ (weight * y))[..., None])[..., 0]
    fitted = (levels[:, None, :] @ design)[:, 0]
    return _Template(start, stop, levels, precision, ((y - fitted) ** 2) @ weight)


def _knots(u: np.ndarray, last_before: int, first_after: int, most: int) -> np.ndarray:
    """Return the places where a ramp may start or stop: about it, four to a checkpoint if that is not too many."""
    margin = max(6.0, u[first_after] - u[last_before])
    low, high = max(u[0], u[last_before] - margin), min(u[-1], u[first_after] + margin)
    return np.linspace(low, high, int(np.clip(4 * (high - low) + 1, 3, most)))
