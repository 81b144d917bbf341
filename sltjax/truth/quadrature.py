"""The exact value of nβ E[K] at finite nβ, by numerical integration."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

_HALVINGS = 40
_ORDERS = (10, 14)
_AGREEMENT = 1e-4


def finite_nbeta_llc(
    potential: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    nbeta: float,
    bounds: Sequence[tuple[float, float]],
    gamma: float = 0.0,
    center: Sequence[float] | None = None,
) -> float:
    """nβ (E[K] − K(w*)) under p(w) ∝ exp(−nβ K(w) − (γ/2)|w − w*|²) on a box, in one or two dimensions.

    For multiplicity m this approaches λ as λ − (m − 1)/log nβ (Watanabe 2009), slowly: a chain must be
    compared with this value. Gauss–Legendre rules on panels whose lengths halve towards w* along each axis
    resolve ridges of any width along the axes through w*. Two orders of the rule must agree, so what cannot
    be resolved (such as a sharp ridge elsewhere) is an error and not a wrong number. The result is good to
    1e-4.

    Args:
        potential: K in float64 NumPy, from points [..., d] to values [...].
        nbeta: nβ > 0.
        bounds: (low, high) along each of the d ≤ 2 axes.
        gamma: γ ≥ 0.
        center: w*, inside the box; None for the origin.

    Raises:
        ValueError: on more than two axes, an empty or infinite box, w* outside it, nβ ≤ 0 or γ < 0.
        ArithmeticError: if the integral is not resolved.
    """
    anchor = np.zeros(len(bounds)) if center is None else np.asarray(center, float)
    _check(nbeta, bounds, gamma, anchor)
    coarse, fine = (_tempered_mean(potential, nbeta, bounds, gamma, anchor, order) for order in _ORDERS)
    if not abs(fine - coarse) < _AGREEMENT * max(1.0, abs(fine)):
        raise ArithmeticError(
            f"rules of order {_ORDERS} gave {coarse:.6g} and {fine:.6g}, expected them to agree; "
            "rotate or shift the coordinates so that the zeros of K lie on the axes through center"
        )
    return fine


def _check(nbeta: float, bounds: Sequence[tuple[float, float]], gamma: float, anchor: NDArray) -> None:
    if len(bounds) not in (1, 2) or anchor.shape != (len(bounds),):
        raise ValueError(f"got {len(bounds)} bounds and a center of {anchor.size}; expected 1 or 2 of each")
    for (low, high), x in zip(bounds, anchor, strict=True):
        if not (np.isfinite(high - low) and low < high and low <= x <= high):
            raise ValueError(f"bounds: got ({low}, {high}) about {x}, expected a finite low ≤ center ≤ high")
    if not (nbeta > 0 and gamma >= 0):
        raise ValueError(f"got nβ = {nbeta} and γ = {gamma}, expected nβ > 0 and γ ≥ 0")


def _tempered_mean(
    potential: Callable[[NDArray], NDArray],
    nbeta: float,
    bounds: Sequence[tuple[float, float]],
    gamma: float,
    anchor: NDArray,
    order: int,
) -> float:
    # One order more along the second axis: equal nodes would lie on any ridge along the diagonal and hide it.
    axes = [_graded_rule(*bound, x, order + i) for i, (bound, x) in enumerate(zip(bounds, anchor, strict=True))]
    points = np.stack(np.meshgrid(*(nodes for nodes, _ in axes), indexing="ij"), axis=-1)
    weights = axes[0][1] if len(axes) == 1 else np.multiply.outer(axes[0][1], axes[1][1])
    excess = nbeta * (potential(anchor + points) - potential(anchor))
    energy = excess + gamma / 2 * np.sum(points**2, axis=-1)
    density = weights * np.exp(energy.min() - energy)
    return float(np.sum(density * excess) / np.sum(density))


def _graded_rule(low: float, high: float, x: float, order: int) -> tuple[NDArray, NDArray]:
    """Nodes relative to x, so that none are lost to rounding, and their weights."""
    halves = 0.5 ** np.arange(_HALVINGS, -1, -1)
    edges = np.concatenate([[0.0], halves])
    unit_nodes, unit_weights = np.polynomial.legendre.leggauss(order)
    middles, radii = (edges[1:] + edges[:-1]) / 2, np.diff(edges) / 2
    nodes = (middles[:, None] + radii[:, None] * unit_nodes).ravel()
    weights = (radii[:, None] * unit_weights).ravel()
    reaches = [reach for reach in (low - x, high - x) if reach != 0]
    return np.concatenate([nodes * r for r in reaches]), np.concatenate([weights * abs(r) for r in reaches])
