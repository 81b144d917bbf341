"""Means over chains and draws, with Monte-Carlo errors that hold for correlated draws and correlated chains."""

from flax import struct

from sltjax.convergence import Draws, differ, effective_draws, library_of
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


def mean(x: Draws) -> Mean:
    """The mean of one recorded number, with its standard error; of numpy or, traced or not, of jax, as the draws are.

    The error is the larger of two, each blind to what the other sees. Taking the chains as independent, the
    spread between them tells of slow mixing (the multi-chain effective sample size, Vehtari et al. 2021); it
    misses noise that the chains share through their batches. Averaging over chains first keeps that noise in
    the series whose autocorrelation is then summed.
    """
    xp = library_of(x)
    centre, scale, moved = xp.mean(x), xp.std(x), differ(x)
    z = (x - centre) / xp.where(moved, scale, 1.0)
    variance = xp.maximum(_variance_of_mean(z), _variance_of_mean(xp.mean(z, axis=0, keepdims=True)))
    # draws that never move say nothing: an error of 0 would be a claim of certainty
    std_error = xp.where(moved, scale * xp.sqrt(variance), xp.nan)
    return Mean(centre, std_error, xp.where(moved, 1 / xp.where(moved, variance, 1.0), 0.0))


def _variance_of_mean(x: Draws) -> Scalar:
    """The variance of the grand mean: that of a draw, over the effective number of draws."""
    xp = library_of(x)
    num_chains = x.shape[0]
    within = xp.mean(xp.var(x, axis=1, ddof=1))
    between = xp.var(xp.mean(x, axis=1), ddof=1) if num_chains > 1 else 0.0
    draws = effective_draws(x)
    return (within + between) / xp.where(draws > 0, draws, 1.0)
