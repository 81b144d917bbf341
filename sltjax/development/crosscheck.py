"""A second opinion on where λ̂ changes: change points of a piecewise constant mean, found by `ruptures`."""

import numpy as np
import pandas as pd
import ruptures
import xarray as xr
from jaxtyping import Float

from sltjax.development.curve import series

_COLUMNS = {"from_step": int, "to_step": int, "change": float, "change_std_error": float}
_SHORTEST = 3
_PENALTY = 3.0


def change_points(dataset: xr.Dataset) -> pd.DataFrame:
    """Cut λ̂ into constant pieces by another method than `stages`: PELT (Killick, Fearnhead & Eckley 2012).

    Minimises Σ (λ̂ − level)²/σ² + 3 log n a change, exactly, over pieces of at least three estimates.
    σ is the standard error, scaled up to what differences of neighbours show where that is more. There is no slope and
    no tolerance: a long rise, or a drift of the sampler, comes as several changes.

    Args:
        dataset: one run, as `stages` takes it.

    Returns:
        One row a change: `from_step` and `to_step`, the estimates on either side of it; `change` of the level with its
        `change_std_error`.

    Raises:
        ValueError: if a variable is missing or steps do not ascend.
    """
    step, llc, std_error = series(dataset, "llc")
    if len(step) < 2 * _SHORTEST:
        return pd.DataFrame(columns=list(_COLUMNS)).astype(_COLUMNS)
    weight = _noise(llc, std_error) ** -2.0
    search = ruptures.Pelt(custom_cost=_WeightedMean(), min_size=_SHORTEST, jump=1)
    stops = search.fit(np.stack([llc, weight], axis=1)).predict(pen=_PENALTY * np.log(len(step)))
    pieces = [slice(start, stop) for start, stop in zip([0, *stops], stops, strict=False)]
    level = np.array([np.average(llc[piece], weights=weight[piece]) for piece in pieces])
    variance = np.array([1 / weight[piece].sum() for piece in pieces])
    at = np.array(stops[:-1], int)
    columns = (step[at - 1], step[at], np.diff(level), np.sqrt(variance[1:] + variance[:-1]))
    return pd.DataFrame(dict(zip(_COLUMNS, columns, strict=True))).astype(_COLUMNS)


def _noise(llc: np.ndarray, std_error: np.ndarray) -> np.ndarray:
    """σ: most differences of neighbours span no change, so their median tells noise that the errors leave out."""
    floor = 1e-4 * np.ptp(llc) + 1e-12
    sigma = np.maximum(std_error, floor)
    scaled = np.diff(llc) / np.hypot(sigma[1:], sigma[:-1])
    return sigma * max(1.0, np.median(np.abs(scaled)) / 0.6745)


class _WeightedMean(ruptures.base.BaseCost):
    """Σ weight·(value − mean)² of a piece, from running sums; the signal's columns are value and weight."""

    model = ""
    min_size = _SHORTEST

    def fit(self, signal: Float[np.ndarray, "n 2"]) -> "_WeightedMean":
        value, weight = signal.T
        # Counted from the middle, the squares keep their digits.
        value = value - np.median(value)
        sums = np.cumsum([weight, weight * value, weight * value**2], axis=1)
        self.sums = np.concatenate([np.zeros((3, 1)), sums], axis=1).T.tolist()
        self.signal = signal
        return self

    def error(self, start: int, end: int) -> float:
        (w0, s0, q0), (w1, s1, q1) = self.sums[start], self.sums[end]
        return max(0.0, q1 - q0 - (s1 - s0) ** 2 / (w1 - w0))
