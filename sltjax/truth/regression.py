"""Linear and logistic regression: regular models with real data, at the minimum of the loss on these data."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.special import expit

from sltjax.truth.problem import Truth, whole_numbers
from sltjax.types import Batch, RngKey

# Largest mean margin, per unit of |w|_∞, that counts as rounding and not as a separating plane.
_MARGIN = 1e-6
# Relative singular values, of features rounded to 6e-8 and of their second moments, that belong to flat directions.
_FLAT_FEATURES, _FLAT_MOMENTS = 1e-5, 1e-10
_NEWTON_STEPS = 50


def linear_regression(
    key: RngKey,
    dim: int,
    *,
    num_examples: int,
    noise: float = 0.0,
    correlation: float = 0.0,
    flat: int = 0,
) -> Truth:
    """Linear regression at the least-squares solution of its own data.

        loss(x, y) = ½ (⟨w, x⟩ − y)²,    y = ⟨w_0, x⟩ + noise·N(0, 1),  w_0 ~ N(0, 1)
        λ = rank/2,  m = 1,    rank = dim − flat

    w* is the solution of least norm, found in float64. L_n is a quadratic about it, with noisy labels too: so
    the λ̂ of the localised posterior is `localized_llc` of the eigenvalues of XᵀX/n, and its λ is that of every
    regular model, with the flat directions left out (Watanabe 2009).

    Args:
        key: consumed.
        dim: number of features.
        num_examples: n, at least the rank.
        noise: standard deviation of the labels' noise.
        correlation: between any two of the first dim − flat features, in [0, 1).
        flat: number of features, the last ones, that are linear combinations of the others; below `dim`.

    Returns:
        Truth with params [dim] and data {"x": [n, dim], "y": [n]}.

    Raises:
        ValueError: on sizes that are not whole or out of range, negative noise, or a correlation outside [0, 1).
    """
    rank, count = _check(dim, flat, num_examples, correlation)
    if not noise >= 0:
        raise ValueError(f"noise: got {noise}, expected a standard deviation of at least 0")
    feature_key, weight_key, noise_key = jax.random.split(key, 3)
    x = _features(feature_key, count, rank, flat, correlation)
    labels = x @ jax.random.normal(weight_key, (dim,), jnp.float32)
    y = labels + noise * jax.random.normal(noise_key, (count,), jnp.float32)
    params = np.linalg.lstsq(np.asarray(x, np.float64), np.asarray(y, np.float64), rcond=_FLAT_FEATURES)[0]
    return Truth(_half_square, jnp.asarray(params, jnp.float32), {"x": x, "y": y}, Fraction(rank, 2), 1)


def _half_square(params: Float[Array, " d"], batch: Batch) -> Float[Array, " batch"]:
    return (batch["x"] @ params - batch["y"]) ** 2 / 2


def logistic_regression(
    key: RngKey,
    dim: int,
    *,
    num_examples: int,
    scale: float = 1.0,
    correlation: float = 0.0,
    flat: int = 0,
) -> Truth:
    """Logistic regression at the maximum-likelihood solution of its own data.

        loss(x, y) = log(1 + exp ⟨w, x⟩) − y ⟨w, x⟩,    y ~ Bernoulli(σ(⟨w_0, x⟩)),  |w_0| = scale
        λ = rank/2,  m = 1,    rank = dim − flat

    w* is found by Newton's method in float64, the one of least norm. It exists unless a plane through the
    origin separates the labels (Albert & Anderson 1984, "On the existence of maximum likelihood estimates in
    logistic regression models"): such data are refused. L_n is no quadratic, so λ̂ at finite nβ is not λ even
    without localisation.

    Args:
        key: consumed.
        dim: number of features; there is no intercept.
        num_examples: n, at least the rank.
        scale: length of the true weights w_0.
        correlation: as in `linear_regression`.
        flat: as in `linear_regression`.

    Returns:
        Truth with params [dim] and data {"x": [n, dim], "y": [n]}, y 0 or 1.

    Raises:
        ValueError: on sizes that are not whole or out of range, a scale that is not finite and ≥ 0, a
            correlation outside [0, 1), or labels that can be separated.
    """
    rank, count = _check(dim, flat, num_examples, correlation)
    if not (np.isfinite(scale) and scale >= 0):
        raise ValueError(f"scale: got {scale}, expected a finite length of at least 0")
    feature_key, weight_key, label_key = jax.random.split(key, 3)
    x = _features(feature_key, count, rank, flat, correlation)
    direction = jax.random.normal(weight_key, (dim,), jnp.float32)
    logits = x @ (scale * direction / jnp.linalg.norm(direction))
    y = jax.random.bernoulli(label_key, jax.nn.sigmoid(logits)).astype(jnp.float32)
    params = _newton(np.asarray(x, np.float64), np.asarray(y, np.float64))
    return Truth(_cross_entropy, jnp.asarray(params, jnp.float32), {"x": x, "y": y}, Fraction(rank, 2), 1)


def _cross_entropy(params: Float[Array, " d"], batch: Batch) -> Float[Array, " batch"]:
    logits = batch["x"] @ params
    return jax.nn.softplus(logits) - batch["y"] * logits


def _newton(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """The finite minimum of least norm; Newton's steps from 0 are halved until the loss falls."""
    _refuse_separable(x, y)
    weights = np.zeros(x.shape[1])
    for _ in range(_NEWTON_STEPS):
        probability = expit(x @ weights)
        gradient = x.T @ (probability - y) / len(y)
        hessian = (x.T * (probability * (1 - probability))) @ x / len(y)
        step = np.linalg.lstsq(hessian, gradient, rcond=_FLAT_MOMENTS)[0]
        if np.abs(step).max() < 1e-10:
            return weights
        before, size = _mean_cross_entropy(weights, x, y), 1.0
        while _mean_cross_entropy(weights - size * step, x, y) > before + 1e-15 and size > 1e-6:
            size /= 2
        weights = weights - size * step
    raise ValueError(f"no minimum found in {_NEWTON_STEPS} Newton steps; lower scale, or raise num_examples")


def _mean_cross_entropy(weights: NDArray, x: NDArray, y: NDArray) -> float:
    logits = x @ weights
    return float(np.mean(np.logaddexp(0, logits) - y * logits))


def _refuse_separable(x: NDArray, y: NDArray) -> None:
    """Maximise the mean margin over |w|_∞ ≤ 1 with no label on the wrong side: above 0 iff a plane separates."""
    margins = x * (2 * y - 1)[:, None]
    best = linprog(-margins.mean(0), A_ub=-margins, b_ub=np.zeros(len(y)), bounds=(-1, 1))
    if -best.fun > _MARGIN:
        raise ValueError(
            f"the {len(y)} labels are separable, so no finite minimum exists: lower scale, or raise num_examples"
        )


def _features(key: RngKey, count: int, rank: int, flat: int, correlation: float) -> Float[Array, "n dim"]:
    """The first `rank` Gaussian of unit variance, equally correlated; the last `flat` are combinations of them."""
    own_key, shared_key, mixing_key = jax.random.split(key, 3)
    own = jax.random.normal(own_key, (count, rank), jnp.float32)
    shared = jax.random.normal(shared_key, (count, 1), jnp.float32)
    independent = np.sqrt(1 - correlation) * own + np.sqrt(correlation) * shared
    mixing = jax.random.normal(mixing_key, (rank, flat), jnp.float32) / np.sqrt(rank)
    return jnp.concatenate([independent, independent @ mixing], axis=1).astype(jnp.float32)


def _check(dim: int, flat: int, num_examples: int, correlation: float) -> tuple[int, int]:
    (size,) = whole_numbers("dim", [dim], minimum=1)
    (dependent,) = whole_numbers("flat", [flat], minimum=0)
    if dependent >= size:
        raise ValueError(f"flat: got {dependent}, expected fewer than the {size} features")
    (count,) = whole_numbers("num_examples", [num_examples], minimum=size - dependent)
    if not 0 <= correlation < 1:
        raise ValueError(f"correlation: got {correlation}, expected 0 ≤ correlation < 1")
    return size - dependent, count
