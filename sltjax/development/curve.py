"""A smooth curve through estimates that carry errors: Gaussian-process regression on log(step + 1)."""

import warnings
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel


@dataclass(frozen=True)
class Curve:
    """The posterior of a curve over training, on a dense grid of steps.

    Attributes:
        step: the grid, evenly spaced in log(step + 1), shape [grid].
        mean: posterior mean, in the units of the series, shape [grid].
        sd: posterior standard deviation of the curve (of new estimates it would be larger), shape [grid].
        draws: joint posterior draws of the curve, shape [draw, grid].
        slopes: their derivatives with respect to log(step + 1), shape [draw, grid].
        excess: standard deviation of the noise that the stated errors do not cover.
    """

    step: Float[np.ndarray, " grid"]
    mean: Float[np.ndarray, " grid"]
    sd: Float[np.ndarray, " grid"]
    draws: Float[np.ndarray, "draw grid"]
    slopes: Float[np.ndarray, "draw grid"]
    excess: float


def smooth(
    step: np.ndarray,
    value: np.ndarray,
    std_error: np.ndarray,
    *,
    num_grid: int = 200,
    num_draws: int = 200,
    seed: int = 0,
) -> Curve:
    """Smooth a series by a Gaussian process that knows its standard errors.

    A Matérn-5/2 prior on log(step + 1), noise variance `std_error²` at each point, and fitted white noise for
    what the errors leave out (Rasmussen & Williams 2006, §2.2 and §5.4). Entries with a value or an error
    that is not finite (failed checkpoints) are left out.

    Args:
        step: training steps, ascending, shape [checkpoint].
        value: the series, for instance λ̂, shape [checkpoint].
        std_error: its standard errors in the same units, shape [checkpoint].
        num_grid: points of the grid.
        num_draws: joint posterior draws.
        seed: of the draws.

    Raises:
        ValueError: if fewer than three entries are finite.
    """
    x, y, error = finite(step, value, std_error)
    if len(x) < 3:
        raise ValueError(f"a curve needs at least 3 finite estimates, got {len(x)}: add checkpoints")
    x, centre, scale = np.log1p(x), y.mean(), y.std() or 1.0
    process = _fit(x, (y - centre) / scale, error / scale)
    grid = np.linspace(x[0], x[-1], num_grid)
    mean, covariance = process.predict(grid[:, None], return_cov=True)
    white = process.kernel_.k2.noise_level
    covariance = covariance - white * np.eye(num_grid)
    draws = centre + scale * _draws(mean, covariance, num_draws, np.random.default_rng(seed))
    return Curve(
        step=np.expm1(grid),
        mean=centre + scale * mean,
        sd=scale * np.sqrt(np.clip(np.diag(covariance), 0, None)),
        draws=draws,
        slopes=np.gradient(draws, grid, axis=1),
        excess=float(scale * np.sqrt(white)),
    )


def finite(step: np.ndarray, value: np.ndarray, std_error: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the three arrays, as floats, where value and error are both finite."""
    columns = [np.asarray(column, float) for column in (step, value, std_error)]
    keep = np.isfinite(columns[1]) & np.isfinite(columns[2])
    return tuple(column[keep] for column in columns)


def _fit(x: np.ndarray, y: np.ndarray, error: np.ndarray) -> GaussianProcessRegressor:
    span = max(x[-1] - x[0], 1e-6)
    signal = ConstantKernel(1.0, (1e-3, 1e3)) * Matern(span / 5, (span / 100, span * 10), nu=2.5)
    kernel = signal + WhiteKernel(1e-2, (1e-8, 10.0))
    process = GaussianProcessRegressor(kernel, alpha=error**2 + 1e-10, n_restarts_optimizer=0)
    with warnings.catch_warnings():
        # A white-noise level at its lower bound is the good case: the stated errors suffice.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return process.fit(x[:, None], y)


def _draws(mean: np.ndarray, covariance: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    normal = rng.standard_normal((count, len(mean)))
    return mean + (normal * np.sqrt(np.clip(values, 0, None))) @ vectors.T
