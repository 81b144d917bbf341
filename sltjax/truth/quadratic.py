"""Quadratic losses, and the exact answers of chains on them at finite step size, γ and batch size."""

from collections.abc import Sequence
from fractions import Fraction
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray

from sltjax.truth.problem import Truth, whole_numbers
from sltjax.types import Batch, RngKey

Numbers: TypeAlias = float | int | Sequence[float | int] | np.ndarray
"""A number for all directions, or one a direction."""

# Evenly spaced numbers of unit variance reach √3: beyond this spread a curvature would turn negative.
_MAX_CURVATURE_NOISE = 3**-0.5


def quadratic(
    key: RngKey,
    curvatures: Numbers,
    *,
    num_examples: int = 1000,
    gradient_noise: float = 0.0,
    curvature_noise: float = 0.0,
) -> Truth:
    """Quadratic loss with curvatures h, with minimum w* = 0 on the data as on the population.

        loss_j(w) = ½ Σ_i h_ji w_i² + ⟨ξ_j, w⟩,    L_n(w) = ½ Σ_i h_i w_i²
        λ = #{h_i > 0} / 2,  m = 1

    Over the data set, each coordinate of ξ has mean 0 and variance `gradient_noise`² exactly (to rounding),
    and h_ji ≥ 0 has mean h_i and variance (`curvature_noise`·h_i)² exactly.

    Args:
        key: consumed.
        curvatures: h, shape [d]; 0 is a flat direction.
        num_examples: n.
        gradient_noise: standard deviation over examples of each coordinate of the gradient at w*; √c below.
        curvature_noise: standard deviation over examples of the curvatures, relative to h; below 1/√3.

    Returns:
        Truth with params [d], data {"curvature": [n, d], "gradient": [n, d]}.

    Raises:
        ValueError: on negative or no curvatures, negative noise, curvature noise of 1/√3 or more, or fewer
            than two examples.
    """
    h = _nonnegative("curvatures", curvatures)
    (count,) = whole_numbers("num_examples", [num_examples], minimum=2)
    _nonnegative("gradient_noise", gradient_noise)
    if not 0 <= curvature_noise < _MAX_CURVATURE_NOISE:
        raise ValueError(f"curvature_noise: got {curvature_noise}, expected 0 ≤ noise < 1/√3 ≈ 0.577; lower it")
    gradient_key, curvature_key = jax.random.split(key)
    spread = 1 + curvature_noise * _shuffled_grid(curvature_key, count, h.size)
    data = {
        "curvature": jnp.asarray(h, jnp.float32) * spread,
        "gradient": gradient_noise * _standardised_normal(gradient_key, count, h.size),
    }
    llc = Fraction(int(np.count_nonzero(h)), 2)
    return Truth(_quadratic_loss, jnp.zeros(h.size, jnp.float32), data, llc, 1)


def _quadratic_loss(params: Float[Array, " d"], batch: Batch) -> Float[Array, " batch"]:
    return batch["curvature"] @ params**2 / 2 + batch["gradient"] @ params


def _standardised_normal(key: RngKey, count: int, dim: int) -> Float[Array, "n d"]:
    noise = jax.random.normal(key, (count, dim), jnp.float32)
    centred = noise - noise.mean(0)
    return centred / centred.std(0)


def _shuffled_grid(key: RngKey, count: int, dim: int) -> Float[Array, "n d"]:
    """Evenly spaced numbers of mean 0 and variance 1, in another order in every column."""
    grid = np.arange(count) - (count - 1) / 2
    columns = jnp.tile(jnp.asarray(grid / grid.std(), jnp.float32)[:, None], (1, dim))
    return jax.random.permutation(key, columns, independent=True)


def localized_llc(curvatures: Numbers, nbeta: float, gamma: float) -> float:
    """λ̂ of the localised posterior itself, without any error of sampling.

        λ̂ = ½ Σ nβ h_i / A_i,    A_i = nβ h_i + γ

    Args:
        curvatures: h ≥ 0, shape [d].
        nbeta: nβ > 0.
        gamma: γ ≥ 0.

    Raises:
        ValueError: on negative or no curvatures, nβ ≤ 0 or γ < 0.
    """
    h, precision = _precisions(curvatures, nbeta, gamma)
    return float(np.sum(nbeta * h / precision) / 2)


def sgld_llc(
    curvatures: Numbers,
    nbeta: float,
    gamma: float,
    step_size: float,
    gradient_variance: Numbers = 0.0,
    batch_size: int = 1,
    curvature_variance: Numbers = 0.0,
) -> float:
    """λ̂ of stationary SGLD, w ← w − (ε/2)∇U_B(w) + √ε N(0, 1), at a finite step size (Welling & Teh 2011).

        λ̂ = ½ Σ (nβ h_i/A_i) (1 + ε(nβ)²c_i/(4b)) / (1 − εA_i/4 − ε(nβ)²v_i/(4b A_i))

    for batches of b examples drawn afresh and with replacement at each step, per-example gradient variance c
    and curvature variance v. Without replacement, multiply c and v by (n − b)/(n − 1). The anchored potential
    has c = 0. Where v = 0, the chain is stable iff ε·max A < 4; always iff the denominator is positive.

    Args:
        curvatures: h ≥ 0, shape [d].
        nbeta: nβ > 0.
        gamma: γ ≥ 0.
        step_size: ε ≥ 0.
        gradient_variance: c, scalar or [d].
        batch_size: b.
        curvature_variance: v, scalar or [d]; (`curvature_noise`·h)² for `quadratic`.

    Raises:
        ValueError: if the chain is unstable, or on an argument out of its range.
    """
    h, precision = _precisions(curvatures, nbeta, gamma)
    heat = _batch_noise("gradient_variance", gradient_variance, curvatures, nbeta, batch_size, step_size)
    damping = _damping(curvatures, precision, nbeta, batch_size, step_size, curvature_variance)
    return float(np.sum(nbeta * h / precision * (1 + heat) / damping) / 2)


def leimkuhler_matthews_llc(
    curvatures: Numbers,
    nbeta: float,
    gamma: float,
    step_size: float,
    gradient_variance: Numbers = 0.0,
    batch_size: int = 1,
    curvature_variance: Numbers = 0.0,
) -> float:
    """λ̂ of the stationary Leimkuhler–Matthews chain, w ← w − (ε/2)∇U_B(w) + √ε (z_t + z_{t+1})/2.

        λ̂ = ½ Σ (nβ h_i/A_i) (1 − εA_i/4 + ε(nβ)²c_i/(4b)) / (1 − εA_i/4 − ε(nβ)²v_i/(4b A_i))

    With full gradients (c = v = 0) this is `localized_llc` at every stable step size, ε·max A < 4 (Leimkuhler
    & Matthews 2013). With ρ = 1 − εA/2 and batch noise of variance s² = (nβ)²(c + v w²)/b in the gradient,
    the variance V follows from Cov(w_t, z_t) = √ε/2:

        V = ρ²V + (ε²/4) s² + ε/2 + ρε/2

    Gradient noise thus adds the same to V as in SGLD; the step-size error of SGLD is what goes.

    Args:
        curvatures: h ≥ 0, shape [d].
        nbeta: nβ > 0.
        gamma: γ ≥ 0.
        step_size: ε ≥ 0.
        gradient_variance: c, scalar or [d].
        batch_size: b, drawn with replacement; see `sgld_llc`.
        curvature_variance: v, scalar or [d].

    Raises:
        ValueError: if the chain is unstable, or on an argument out of its range.
    """
    h, precision = _precisions(curvatures, nbeta, gamma)
    heat = _batch_noise("gradient_variance", gradient_variance, curvatures, nbeta, batch_size, step_size)
    damping = _damping(curvatures, precision, nbeta, batch_size, step_size, curvature_variance)
    source = 1 - step_size * precision / 4 + heat
    return float(np.sum(nbeta * h / precision * source / damping) / 2)


def _precisions(curvatures: Numbers, nbeta: float, gamma: float) -> tuple[NDArray, NDArray]:
    """The positive curvatures and their A; a flat direction adds nothing to λ̂ and may have A = 0."""
    h = _nonnegative("curvatures", curvatures)
    _nonnegative("gamma", gamma)
    if not (nbeta > 0 and np.isfinite(nbeta)):
        raise ValueError(f"nbeta: got {nbeta}, expected a positive number")
    h = h[h > 0]
    return h, nbeta * h + gamma


def _batch_noise(
    name: str, variance: Numbers, curvatures: Numbers, nbeta: float, batch_size: int, step_size: float
) -> NDArray:
    """ε(nβ)²·variance/(4b) in the directions of positive curvature."""
    whole_numbers("batch_size", [batch_size], minimum=1)
    _nonnegative("step_size", step_size)
    h = np.atleast_1d(np.asarray(curvatures, float))
    variances = np.broadcast_to(_nonnegative(name, variance), h.shape)[h > 0]
    return step_size * nbeta**2 * variances / (4 * batch_size)


def _damping(
    curvatures: Numbers,
    precision: NDArray,
    nbeta: float,
    batch_size: int,
    step_size: float,
    curvature_variance: Numbers,
) -> NDArray:
    """(1 − E[ρ²])/(εA), which must be positive for the variance to settle."""
    noise = _batch_noise("curvature_variance", curvature_variance, curvatures, nbeta, batch_size, step_size)
    damping = 1 - step_size * precision / 4 - noise / precision
    if damping.size and damping.min() <= 0:
        raise ValueError(
            f"unstable: got ε·max A = {step_size * precision.max():.4g} and 1 − εA/4 − ε(nβ)²v/(4bA) down to "
            f"{damping.min():.4g}, expected ε·max A < 4 and a positive difference; lower step_size"
        )
    return damping


def _nonnegative(name: str, values: Numbers) -> NDArray:
    array = np.atleast_1d(np.asarray(values, float))
    if array.ndim != 1 or array.size == 0 or not np.all(np.isfinite(array) & (array >= 0)):
        raise ValueError(f"{name}: got {values!r}, expected finite numbers of at least 0, one a direction")
    return array
