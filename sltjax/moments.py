"""Means over chains and draws, with Monte-Carlo errors that hold for correlated draws and correlated chains."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from sltjax.late import late
from sltjax.types import Scalar


@struct.dataclass
class Mean:
    """A mean over chains and draws.

    Attributes:
        value: the mean.
        std_error: its Monte-Carlo standard error.
        ess: the number of independent draws that would know the mean as well.
    """

    value: Scalar
    std_error: Scalar
    ess: Scalar


@jax.jit
def mean(x: Float[Array | np.ndarray, "chain draw"]) -> Mean:
    """The mean of one recorded number, with its standard error.

    The error is the larger of two, each blind to what the other sees. Taking the chains as independent, the
    spread between them tells of slow mixing (the multi-chain effective sample size, Vehtari et al. 2021); it
    misses noise that the chains share through their batches. Averaging over chains first keeps that noise in
    the series whose autocorrelation is then summed.
    """
    centre, scale = jnp.mean(x), jnp.std(x)
    z = (x - centre) / jnp.where(scale > 0, scale, 1.0)
    variance = jnp.maximum(_variance_of_mean(z), _variance_of_mean(jnp.mean(z, axis=0, keepdims=True)))
    # draws that never move say nothing: an error of 0 would be a claim of certainty
    std_error = jnp.where(scale > 0, scale * jnp.sqrt(variance), jnp.nan)
    return Mean(centre, std_error, jnp.where(scale > 0, 1 / variance, 0.0))


def _variance_of_mean(x: Float[Array | np.ndarray, "chain draw"]) -> Scalar:
    """The variance of the grand mean: that of a draw, over the effective number of draws."""
    num_chains = x.shape[0]
    within = jnp.mean(jnp.var(x, axis=1, ddof=1))
    between = jnp.var(jnp.mean(x, axis=1), ddof=1) if num_chains > 1 else 0.0
    return (within + between) / late("blackjax.diagnostics").effective_sample_size(x)
