"""The geometry of a noisy plane curve: curvature with its error, osculating circles, vertices.

A curve is smoothed along its length, not along training: a network rests at saddles and leaps between them (Jacot et
al., arXiv 2106.15933), and no width in steps or checkpoints leaves the leaps as they are while it frees the rests,
where the corners are, of noise. Like curvature, such smoothing does not depend on how fast the curve is run through.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.signal import find_peaks

from sltjax.development.local_polynomial import Smoother, best_width, central_differences, local_cubic

_NODES = 501
_NORMAL_MEDIAN = 0.6745  # of |x|, x ~ N(0, 1)
_MOVES = 3  # times its noise that a step must be
_CLEAR = 4  # standard errors by which an extremum of κ stands out,
_LEAST = 0.1  # and the share of κ, or of 1/length: smoothing changes κ by some per cent, at the ends most


class PlaneCurve(NamedTuple):
    """What is known of a curve at its points.

    Attributes:
        smoothed: the curve r.
        curvature: κ, in 1/units of the curve; positive where it turns from the first axis towards the second. NaN where
            the curve stands still.
        std_error: of κ.
        centre: of the osculating circle; NaN where κ is 0. Over the points it is the evolute.
        vertex: 1 where |κ| is locally largest, −1 where it is smallest (but for inflections), 0 elsewhere.
    """

    smoothed: Float[np.ndarray, "point 2"]
    curvature: Float[np.ndarray, " point"]
    std_error: Float[np.ndarray, " point"]
    centre: Float[np.ndarray, "point 2"]
    vertex: Int[np.ndarray, " point"]


def plane_curve(points: Float[np.ndarray, "point 2"], index: np.ndarray, smoothing: float) -> PlaneCurve:
    """Curvature κ = r′ × r″ / |r′|³ and the circles with centre r + n/κ, of a smoothed curve r.

    The standard error is that of noise which is independent from point to point, to first order. It does not tell of
    corners tighter than the smoothing, which are rounded.

    Args:
        points: along the curve.
        index: which points of an even series these are, ascending, shape [point].
        smoothing: a standard deviation, as a share of the curve's length; 0 for the central differences of the points.
    """
    noise = _noise(points)
    smoother = _along(points, index, smoothing, noise) if smoothing else central_differences(index)
    smoothed, first, second = (matrix @ points for matrix in smoother)
    (dx, dy), (ddx, ddy) = first.T, second.T
    turn, speed = dx * ddy - dy * ddx, np.hypot(dx, dy)
    with np.errstate(divide="ignore", invalid="ignore"):
        curvature = turn / speed**3
        centre = smoothed + np.stack([-dy, dx], axis=1) * (speed**2 / turn)[:, None]
        by_first = (np.stack([ddy, -ddx]) - 3 * curvature * speed * first.T) / speed**3
        by_second = np.stack([-dy, dx]) / speed**3
    centre = np.where(np.isfinite(centre), centre, np.nan)
    std_error = _std_error(by_first, by_second, smoother, noise)
    length = float(np.linalg.norm(np.diff(smoothed, axis=0), axis=1).sum())
    vertex = _vertices(curvature, std_error, length)
    return PlaneCurve(smoothed, curvature, std_error, centre, vertex)


def _noise(points: np.ndarray) -> np.ndarray:
    """The variance of points along each axis, from the middle one of their second differences, [axis].

    Those of noise have six times its variance; leaps and corners are few, and do not move the middle.
    """
    return (np.median(np.abs(np.diff(points, 2, axis=0)), axis=0) / _NORMAL_MEDIAN) ** 2 / 6


def _along(points: np.ndarray, index: np.ndarray, smoothing: float, noise: np.ndarray) -> Smoother:
    """Smooth over length: the lines between points that were smoothed over their index, on even nodes.

    Points where the curve rests are one, their mean, since the length that noise adds there would hide corners.
    """
    first = local_cubic(index, best_width(index, points), index)
    place = _place(first.value, points, noise)
    if place[-1] == 0:
        return first
    places, group = np.unique(place, return_inverse=True)
    means = np.eye(len(places))[:, group] @ first.value / np.bincount(group)[:, None]
    nodes = np.linspace(0, place[-1], _NODES)
    lines = np.stack([np.interp(nodes, places, column) for column in means.T], axis=1)
    return local_cubic(nodes, smoothing * place[-1], place).after(lines)


def _place(smoother: np.ndarray, points: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """How far along the curve each point is; it has moved once it is further away than noise could have made it."""
    smooth, place, last = smoother @ points, np.zeros(len(points)), 0
    for i in range(1, len(points)):
        step = np.linalg.norm(smooth[i] - smooth[last])
        moved = step > _MOVES * np.sqrt(noise.sum() * np.sum((smoother[i] - smoother[last]) ** 2))
        place[i] = place[i - 1] + (step if moved else 0)
        last = i if moved else last
    return place


def _std_error(by_first: np.ndarray, by_second: np.ndarray, smoother: Smoother, noise: np.ndarray) -> np.ndarray:
    """The error of κ, from its derivatives with respect to r′ and r″, [axis, point]."""
    per_point = by_first.T[:, :, None] * smoother.first[:, None] + by_second.T[:, :, None] * smoother.second[:, None]
    return np.sqrt(np.sum(per_point**2, axis=2) @ noise)


def _vertices(curvature: np.ndarray, std_error: np.ndarray, length: float) -> np.ndarray:
    """The extrema of signed κ that stand out from what they rise from."""
    vertex = np.zeros(len(curvature), np.int8)
    if length == 0:
        return vertex
    known = np.flatnonzero(np.isfinite(curvature))
    value, error = curvature[known], np.nan_to_num(std_error[known])
    for sign in (1, -1):
        peaks, found = find_peaks(sign * value, prominence=0)
        bases = np.stack([found["left_bases"], found["right_bases"]])
        base = np.where(sign * (value[bases[0]] - value[bases[1]]) > 0, *bases)
        size = np.maximum(np.maximum(np.abs(value[peaks]), np.abs(value[base])), 1 / length)
        clear = found["prominences"] > np.maximum(_CLEAR * np.hypot(error[peaks], error[base]), _LEAST * size)
        vertex[known[peaks[clear]]] = np.where(sign * value > error, 1, -1)[peaks[clear]]
    return vertex
