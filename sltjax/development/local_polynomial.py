"""A noisy series and its first two derivatives, by local cubic regression with Gaussian weights.

Where the weights see the series from one side only (at its ends, at gaps) a Gaussian average is pulled inwards; a local
polynomial is not: cubic series come out as they are, with their derivatives, at every point (Fan & Gijbels 1996).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

_DEGREE = 3
_REACH = 7  # standard deviations, beyond which weights are below 1e-10
_SUPPORT = 5  # points that lie within two standard deviations of any place


class Smoother(NamedTuple):
    """What takes a series to its smooth value, slope and second derivative at places: matrices [place, point]."""

    value: Float[np.ndarray, "place point"]
    first: Float[np.ndarray, "place point"]
    second: Float[np.ndarray, "place point"]

    def after(self, other: Float[np.ndarray, "point other"]) -> "Smoother":
        """The same of a series that is itself made of another by a matrix."""
        return Smoother(*(matrix @ other for matrix in self))


def local_cubic(u: np.ndarray, width: float, at: np.ndarray) -> Smoother:
    """Fit a cubic around each place, with weights exp(−d²/2h²) at distance d.

    h is `width`, or wider at ends and gaps, so that five points lie within 2h.

    Args:
        u: where the points are, ascending, at least three, shape [point].
        width: in the units of u.
        at: where to fit, shape [place].
    """
    maps = np.zeros((3, len(at), len(u)))
    for place, distance in enumerate(u - at[:, None]):
        h = max(width, np.sort(np.abs(distance))[:_SUPPORT].max() / 2)
        chosen = np.flatnonzero(np.abs(distance) <= _REACH * h)
        d = distance[chosen] / h
        maps[:, place, chosen] = _fit(d, np.exp(-(d**2) / 2), _DEGREE) / np.array([[1], [h], [h**2]])
    return Smoother(*maps)


def central_differences(u: np.ndarray) -> Smoother:
    """A parabola through each point and its two neighbours, or the three at an end: nothing is smoothed.

    For points one apart the derivatives are (c₊ − c₋)/2 and c₊ − 2c₀ + c₋.

    Args:
        u: where the points are, ascending, at least three, shape [point].
    """
    maps = np.zeros((3, len(u), len(u)))
    for i in range(len(u)):
        chosen = np.arange(3) + min(max(i - 1, 0), len(u) - 3)
        maps[:, i, chosen] = _fit(u[chosen] - u[i], np.ones(3), 2)
    return Smoother(*maps)


def best_width(u: np.ndarray, series: Float[np.ndarray, "point column"]) -> float:
    """The width that best predicts each point from the others: of 1, √2, 2, … to an eighth of the points.

    Args:
        u: where the points are, ascending and at least one apart, shape [point].
        series: what is there.
    """
    widths = 2.0 ** np.arange(0, np.log2(max(1, len(u) / 8)) + 1e-9, 0.5)
    return float(min(widths, key=lambda width: _left_out(local_cubic(u, width, u), series)))


def _fit(d: np.ndarray, weight: np.ndarray, degree: int) -> np.ndarray:
    """What gives value, slope and second derivative at 0 of the polynomial nearest to values at d, [3, point]."""
    powers = np.vander(d, min(degree, len(d) - 1) + 1, increasing=True)
    weighted = (powers * weight[:, None]).T
    return np.linalg.solve(weighted @ powers, weighted)[:3] * np.array([[1], [1], [2]])


def _left_out(smoother: Smoother, series: np.ndarray) -> float:
    """The mean square error of points predicted without them."""
    errors = (series - smoother.value @ series) / np.maximum(1 - np.diag(smoother.value), 1e-12)[:, None]
    return float(np.mean(errors**2))
