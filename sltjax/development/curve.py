"""A smooth curve through a recorded series: Gaussian-process regression on log(step + 1), and where it turns."""

import math
import warnings
from itertools import pairwise

import numpy as np
import pandas as pd
import xarray as xr
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

_MOST_FITTED = 200  # points that the hyperparameters are fitted to, evenly taken: each trial costs their cube
_MILESTONES = {
    "step": float,
    "step_low": float,
    "step_high": float,
    "kind": str,
    "value": float,
    "sd": float,
    "probability": float,
}


def smooth(
    dataset: xr.Dataset, name: str = "llc", *, num_grid: int = 200, num_draws: int = 1000, seed: int = 0
) -> xr.Dataset:
    """Smooth a series over training by a Gaussian process that knows its standard errors.

    A Matérn-5/2 prior on log(step + 1), noise variance `std_error²` at each point, and fitted white noise for
    what the errors leave out (Rasmussen & Williams 2006, §2.2 and §5.4). A series without standard errors, such as the
    loss, has only the fitted noise. Checkpoints with a value or an error that is not finite are left
    out; the curve widens where they are missing.

    Args:
        dataset: one run, with `step` and the series of shape [checkpoint]; `{name}_std_error`, in the units of the
            series, is used where present.
        name: the series: "llc", "loss" or a metric with one number a checkpoint.
        num_grid: points of the grid.
        num_draws: joint posterior draws.
        seed: of the draws.

    Returns:
        The posterior of the curve, with dims (draw, grid), in the units of the series: `mean` and `sd` [grid] (of new
        estimates it would be larger); `curve` [draw, grid], joint draws; `slope` [draw, grid], their derivatives with
        respect to log(step + 1). The coordinate `step` [grid] is evenly spaced in log(step + 1). Attributes: `series`,
        its name, and `excess`, the standard deviation of the fitted noise.

    Raises:
        ValueError: if a variable is missing or has more than one number a checkpoint, steps do not ascend, or fewer
            than three entries are finite.
    """
    step, value, std_error = series(dataset, name)
    if len(step) < 3:
        raise ValueError(f"a curve needs at least 3 finite values of {name}, got {len(step)}: add checkpoints")
    x, centre, scale = np.log1p(step), value.mean(), value.std() or 1.0
    process = _fit(x, (value - centre) / scale, std_error / scale)
    grid = np.linspace(x[0], x[-1], num_grid)
    mean, covariance = process.predict(grid[:, None], return_cov=True)
    white = process.kernel_.k2.noise_level
    covariance = covariance - white * np.eye(num_grid)
    draws = centre + scale * _draws(mean, covariance, num_draws, np.random.default_rng(seed))
    return xr.Dataset(
        {
            "mean": ("grid", centre + scale * mean),
            "sd": ("grid", scale * np.sqrt(np.clip(np.diag(covariance), 0, None))),
            "curve": (("draw", "grid"), draws),
            "slope": (("draw", "grid"), np.gradient(draws, grid, axis=1)),
        },
        coords={"step": ("grid", np.expm1(grid))},
        attrs={"series": name, "excess": float(scale * np.sqrt(white))},
    )


def milestones(
    curve: xr.Dataset, *, confidence: float = 0.95, least: float = 0.99, tolerance: float = 0.04
) -> pd.DataFrame:
    """Find where the slope of a smoothed curve changes sign: maxima and minima, as Hoogland et al. set milestones.

    The extrema of the posterior mean are candidates. While there are two neighbours between which the curve does not
    rise, or fall, by the tolerance with probability `least`, the least certain are taken out (persistence, Edelsbrunner
    et al. 2002, with probability in the place of height). A staircase has no milestone of this kind: its slope keeps
    its sign, and where it rests is what `stages` finds.

    Args:
        curve: as `smooth` returns it.
        confidence: mass of the central intervals.
        least: probability of every rise and fall.
        tolerance: smallest rise or fall to count, as a share of the curve's larger absolute value at its two ends.
            A Gaussian process overshoots at sharp steps, so it takes one. 0 counts all.

    Returns:
        One row a milestone: `step`, the median over posterior draws of where the extremum lies, with the central
        interval `step_low` to `step_high`; `kind`, "maximum" or "minimum"; `value` of the curve there with its `sd`;
        `probability` that the curve does rise on one side of it and fall on the other.

    Raises:
        ValueError: if the confidence is not between 0 and 1.
    """
    check_confidence(confidence)
    mean, draws, step = (curve[name].to_numpy() for name in ("mean", "curve", "step"))
    extrema = (np.flatnonzero(np.diff(np.sign(np.diff(mean)))) + 1).tolist()
    places = _persistent([0, *extrema, len(mean) - 1], draws, least, tolerance)
    rows = []
    for before, here, after in zip(places, places[1:], places[2:], strict=False):
        sign = 1.0 if mean[here] > mean[before] else -1.0
        real = (sign * (draws[:, here] - draws[:, before]) > 0) & (sign * (draws[:, here] - draws[:, after]) > 0)
        at = step[before + np.argmax(sign * draws[real, before : after + 1], axis=1)]
        low, middle, high = np.quantile(at, [(1 - confidence) / 2, 0.5, (1 + confidence) / 2])
        kind, sd = "maximum" if sign > 0 else "minimum", float(curve["sd"][here])
        rows.append((middle, low, high, kind, mean[here], sd, real.mean()))
    return pd.DataFrame(rows, columns=list(_MILESTONES)).astype(_MILESTONES)


def series(dataset: xr.Dataset, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Step, value and standard error, as floats, where value and error are finite; errors of 0 where there are none.

    Raises:
        ValueError: as `smooth`.
    """
    missing = [needed for needed in ("step", name) if needed not in dataset.variables]
    if missing:
        raise ValueError(f"{', '.join(missing)} not in the dataset: it has {', '.join(map(str, dataset.variables))}")
    if dataset[name].dims != dataset["step"].dims:
        raise ValueError(f"{name} has dims {dataset[name].dims}, expected one number a checkpoint: select one series")
    step, value = (np.asarray(dataset[each], float) for each in ("step", name))
    if np.any(np.diff(step) <= 0):
        raise ValueError("steps must ascend: sort the dataset with dataset.sortby('step') and drop repeated steps")
    error = f"{name}_std_error"
    std_error = np.asarray(dataset[error], float) if error in dataset.variables else np.zeros(len(step))
    keep = np.isfinite(value) & np.isfinite(std_error)
    return step[keep], value[keep], std_error[keep]


def check_confidence(confidence: float) -> None:
    """Refuse a mass that is none."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, for instance 0.95, got {confidence}")


def _fit(x: np.ndarray, y: np.ndarray, error: np.ndarray) -> GaussianProcessRegressor:
    span = max(x[-1] - x[0], 1e-6)
    # What is shorter than three spacings is not told from noise.
    shortest = 3 * span / len(x)
    signal = ConstantKernel(1.0, (1e-3, 1e3)) * Matern(max(span / 5, shortest), (shortest, span * 10), nu=2.5)
    kernel = signal + WhiteKernel(1e-2, (1e-8, 10.0))
    noise = error**2 + 1e-10
    few = slice(None, None, math.ceil(len(x) / _MOST_FITTED))
    with warnings.catch_warnings():
        # A white-noise level at its lower bound is the good case: the stated errors suffice.
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = GaussianProcessRegressor(kernel, alpha=noise[few]).fit(x[few, None], y[few]).kernel_
    return GaussianProcessRegressor(fitted, alpha=noise, optimizer=None).fit(x[:, None], y)


def _draws(mean: np.ndarray, covariance: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    normal = rng.standard_normal((count, len(mean)))
    return mean + (normal * np.sqrt(np.clip(values, 0, None))) @ vectors.T


def _persistent(places: list[int], draws: np.ndarray, least: float, tolerance: float) -> list[int]:
    """Both ends and the extrema between them, less those between which the curve may as well be flat."""
    while len(places) > 2:
        sure = [_certainty(draws[:, a], draws[:, b], tolerance) for a, b in pairwise(places)]
        k = int(np.argmin(sure))
        if sure[k] >= least:
            break
        # Two inner extrema go together; beside an end, the extremum takes its place.
        gone = {k} if k == 0 else {k + 1} if k == len(sure) - 1 else {k, k + 1}
        places = [place for index, place in enumerate(places) if index not in gone]
    return places


def _certainty(here: np.ndarray, there: np.ndarray, tolerance: float) -> float:
    """The larger of the probabilities of a rise and of a fall by the tolerance."""
    least = tolerance * np.maximum(np.abs(here), np.abs(there))
    return float(max(np.mean(there - here > least), np.mean(here - there > least)))
