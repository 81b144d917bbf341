"""Transitions of a curve that turns without resting: from one of its milestones to the next.

Where λ̂ rises and falls and never stays, as in grokking, there are no levels to find between the milestones; the
posterior draws of the smoothed curve say when each rise and fall has happened.
"""

from itertools import pairwise

import numpy as np
import xarray as xr
from jaxtyping import Float

from sltjax.development.curve import milestones, smooth
from sltjax.development.ramps import Ramp


def turning_ramps(dataset: xr.Dataset, tolerance: float) -> tuple[list[float], list[Ramp]]:
    """The steps of a run's milestones with both ends of the run, and the transitions between them, if there are any.

    Args:
        dataset: one run, as `smooth` takes it.
        tolerance: as `milestones` takes it.

    Returns:
        Steps, one more than transitions; and these, with `start` and `stop` in checkpoint indices, such that 10 % and
        90 % of the change lie a tenth of the way from either. Nothing where the curve does not turn.
    """
    curve = smooth(dataset)
    found = milestones(curve, tolerance=tolerance)
    if found.empty:
        return [], []
    steps = curve["step"].to_numpy()
    places = [0, *np.searchsorted(steps, found["step"].to_numpy()).clip(1, len(steps) - 2), len(steps) - 1]
    index = np.interp(np.log1p(steps), np.log1p(dataset["step"].to_numpy()), np.arange(dataset.sizes["checkpoint"]))
    draws = curve["curve"].to_numpy()
    ramps = [_ramp(draws[:, first : last + 1], index[first : last + 1]) for first, last in pairwise(places)]
    return [float(steps[place]) for place in places], ramps


def _ramp(draws: Float[np.ndarray, "draw grid"], index: Float[np.ndarray, " grid"]) -> Ramp:
    """When each draw has made a tenth, and nine tenths, of its way from the one end of the stretch to the other."""
    change = draws[:, -1] - draws[:, 0]
    way = (draws - draws[:, :1]) / np.where(change == 0, np.inf, change)[:, None]
    onset = index[np.argmax(way >= 0.1, axis=1)]
    end = index[len(index) - 1 - np.argmax(way[:, ::-1] <= 0.9, axis=1)]
    margin = (end - onset) / 8
    return Ramp(onset - margin, end + margin, change)
