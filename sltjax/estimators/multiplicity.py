"""What the multiplicity m takes from λ̂ at finite nβ, and how to put it back (Watanabe 2009).

nβ·E[K] = λ − (m − 1)/(log nβ + c) + …,    c set by the loss, and by the region that γ leaves to the chains
"""

from typing import Any

import numpy as np
from flax import struct
from jaxtyping import Float

from sltjax.types import Scalar

_INVERSE_LOGS = 2001  # values of 1/(log nβ + c) over which `fit_llc` sums


@struct.dataclass
class MultiplicityFit:
    """A learning coefficient and a multiplicity that explain a curve over nβ.

    Attributes:
        llc: λ.
        llc_error: its standard error; nothing but Monte-Carlo error.
        multiplicity: m, a real number; 1 means that λ̂ does not depend on nβ.
        multiplicity_error: its standard error; 0 where m was given.
        chi_square: Σ (residual/error)², to be compared with the number of points less 2.
    """

    llc: float
    llc_error: float
    multiplicity: float
    multiplicity_error: float
    chi_square: float


def multiplicity_correction(value: Scalar, nbeta: Scalar, multiplicity: int, offset: float = 0.0) -> Any:
    """λ̂ without the bias that multiplicity m leaves at finite nβ.

        λ ≈ λ̂ + (m − 1)/(log nβ + c)

    The next terms are not known in general, and c = 0 overcorrects where they act like c > 0: for x²y² on [−1, 1]²
    (λ = ½, m = 2, c = 1.96) at nβ = 1000 it turns 0.387 into 0.532. A curve over nβ knows c: `fit_llc`.

    Args:
        value: λ̂, a number or an array; its standard error stays as it is.
        nbeta: the nβ at which it was sampled, like `value`.
        multiplicity: m ≥ 1.
        offset: c.

    Returns:
        λ, like `value`.

    Raises:
        ValueError: m is no whole number of at least 1, or log nβ + c is not positive.
    """
    require_multiplicity(multiplicity)
    logs = np.log(np.asarray(nbeta, float)) + offset
    if not np.all(logs > 0):
        raise ValueError(f"nbeta: got {nbeta}, expected log nβ + offset > 0; the expansion is for large nβ")
    return value + (multiplicity - 1) / logs


def fit_multiplicity(
    nbeta: Float[np.ndarray, " grid"],
    value: Float[np.ndarray, " grid"],
    std_error: Float[np.ndarray, " grid"],
    offset: float = 0.0,
) -> MultiplicityFit:
    """λ and m together, by weighted least squares of λ̂ = λ − (m − 1)/(log nβ + c) at a given c.

    What it returns for m is no better than c: at c = 0, m − 1 comes out too small by (log nβ/(log nβ + c))², which
    is ⅗ for x²y² on [−1, 1]² about nβ = 1000, and λ by less. Curves over nβ cannot tell c from m; where m is known,
    use `fit_llc`.

    Args:
        nbeta: shape [grid], as in `Curve.nbeta`.
        value: λ̂ at each, [grid].
        std_error: its standard errors, [grid]; independent.
        offset: c.

    Raises:
        ValueError: fewer than three points, an error that is not positive, or log nβ + c ≤ 0.
    """
    logs = _logs(nbeta, value, std_error) + offset
    if not np.all(logs > 0):
        raise ValueError(f"nbeta: got {nbeta} with offset {offset}, expected log nβ + offset > 0 throughout")
    design = np.stack([np.ones_like(logs), -1 / logs], axis=1) / std_error[:, None]
    covariance = np.linalg.inv(design.T @ design)
    llc, excess = covariance @ design.T @ (value / std_error)
    residual = value / std_error - design @ np.array([llc, excess])
    llc_error, excess_error = np.sqrt(np.diag(covariance))
    return MultiplicityFit(
        float(llc), float(llc_error), float(1 + excess), float(excess_error), float(residual @ residual)
    )


def fit_llc(
    nbeta: Float[np.ndarray, " grid"],
    value: Float[np.ndarray, " grid"],
    std_error: Float[np.ndarray, " grid"],
    multiplicity: int,
) -> MultiplicityFit:
    """λ where m is known, from a curve over nβ, whatever the constant c.

        λ̂ = λ − (m − 1)/(log nβ + c),    so that  λ = λ̂ + √((m − 1)·dλ̂/dlog nβ)

    c is summed over, at even weight in 1/(log nβ + c) at the middle of the grid; for each c, λ follows by weighted
    least squares.

    Args:
        nbeta: shape [grid], as in `Curve.nbeta`.
        value: λ̂ at each, [grid].
        std_error: its standard errors, [grid]; independent.
        multiplicity: m ≥ 1; 1 gives the weighted mean.

    Raises:
        ValueError: fewer than three points, an error that is not positive, or m no whole number of at least 1.
    """
    require_multiplicity(multiplicity)
    logs = _logs(nbeta, value, std_error)
    middle = np.mean(logs)
    most = 1 / (middle - logs.min() + 0.5)  # log nβ + c stays positive over the grid
    inverse = np.linspace(1e-6, most, _INVERSE_LOGS)
    corrected = value + (multiplicity - 1) / (1 / inverse[:, None] + logs - middle)
    precision = std_error**-2
    llc = corrected @ precision / precision.sum()
    chi_square = (corrected - llc[:, None]) ** 2 @ precision
    weight = np.exp((chi_square.min() - chi_square) / 2)
    weight /= weight.sum()
    best = weight @ llc
    error = np.sqrt(1 / precision.sum() + weight @ (llc - best) ** 2)
    return MultiplicityFit(float(best), float(error), float(multiplicity), 0.0, float(chi_square.min()))


def _logs(nbeta: np.ndarray, value: np.ndarray, std_error: np.ndarray) -> np.ndarray:
    if len(nbeta) < 3:
        raise ValueError(f"got {len(nbeta)} points, expected at least 3: two numbers are fitted; pass a finer grid")
    if not (np.all(np.isfinite(value)) and np.all(np.isfinite(std_error) & (std_error > 0))):
        raise ValueError(f"got values {value} ± {std_error}, expected finite ones; leave out the points that failed")
    return np.log(nbeta)


def require_multiplicity(multiplicity: int) -> None:
    """Refuse what is no multiplicity.

    Raises:
        ValueError: m is no whole number of at least 1.
    """
    if multiplicity < 1 or multiplicity != int(multiplicity):
        raise ValueError(f"multiplicity: got {multiplicity}, expected a whole number of at least 1")
