"""Whether chains have forgotten where they began, and how much their draws know (Vehtari et al. 2021).

Arrays of numpy stay numpy's, so that nothing is compiled for each length of a trace; those of jax may be traced.
"""

from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from sltjax.late import late
from sltjax.types import Scalar

Draws = Float[Array | np.ndarray, "chain draw"]


def rhat(x: Draws) -> Scalar:
    """Rank-normalised split R-hat, the larger of that of the draws and of their distances from the median (section 4).

    NaN where no draw differs from another, and of fewer than 4 draws, whose halves do not vary; beyond all bounds where
    chains stand still, each elsewhere.
    """
    xp = library_of(x)
    half = x.shape[1] // 2
    if half < 2:
        return xp.asarray(xp.nan)
    halves = xp.concatenate([x[:, :half], x[:, half : 2 * half]])
    distances = xp.abs(halves - xp.median(halves))
    return xp.fmax(_potential_scale_reduction(halves), _potential_scale_reduction(distances))


def _potential_scale_reduction(x: Draws) -> Scalar:
    """R-hat of normal scores of ranks (Gelman & Rubin 1992, with equation 14 of Vehtari et al.)."""
    xp = library_of(x)
    flat = x.ravel()
    ordered = xp.sort(flat)
    twice_ranks = xp.searchsorted(ordered, flat) + xp.searchsorted(ordered, flat, side="right") + 1
    z = _normal_quantile(xp, (twice_ranks / 2 - 3 / 8) / (flat.size + 1 / 4)).reshape(x.shape)
    within = xp.mean(xp.var(z, axis=1, ddof=1))
    between = xp.var(xp.mean(z, axis=1), ddof=1)
    ratio = xp.where(within > 0, between / xp.where(within > 0, within, 1.0), xp.inf)
    return xp.where(differ(x), xp.sqrt(ratio + 1 - 1 / x.shape[1]), xp.nan)


def effective_draws(x: Draws) -> Scalar:
    """The number of independent draws that would know the mean as well, at most draws · log₁₀ draws (section 3.2).

    Autocorrelations are summed by Geyer's initial monotone sequence (Geyer 1992). 0 where no draw differs from another.
    """
    xp = library_of(x)
    num_chains, num_draws = x.shape
    means = xp.mean(x, axis=1, keepdims=True)
    size = 2 ** (2 * num_draws - 1).bit_length()
    spectrum = xp.abs(xp.fft.rfft(x - means, size, axis=1)) ** 2
    covariance = xp.mean(xp.fft.irfft(spectrum, size, axis=1)[:, :num_draws], axis=0) / num_draws
    total = covariance[0] + (xp.var(means, ddof=1) if num_chains > 1 else 0.0)
    within = covariance[0] * num_draws / (num_draws - 1)
    later = 1 - (within - covariance[1:]) / xp.where(total > 0, total, 1.0)
    pairs = xp.concatenate([xp.ones(1), later])[: num_draws // 2 * 2].reshape(-1, 2)
    sums = pairs[:, 0] + pairs[:, 1]
    positive = xp.cumulative_prod(sums > 0)
    summed = xp.sum(positive * xp.minimum.accumulate(sums))
    is_next = xp.concatenate([xp.zeros(1), positive[:-1]]) * (1 - positive)
    time = 2 * summed - 1 + xp.sum(is_next * xp.maximum(pairs[:, 0], 0.0))
    count = num_chains * num_draws
    return xp.where(differ(x), count / xp.maximum(time, 1 / np.log10(count)), 0.0)


def differ(x: Draws) -> Any:
    """Whether any draw differs from another: a variance of equal numbers may be rounded to more than 0."""
    return x.max() > x.min()


def library_of(x: Any) -> Any:
    """numpy, or jax's."""
    return x.__array_namespace__()


def _normal_quantile(xp: ModuleType, p: Any) -> Any:
    return late("scipy.special" if xp is np else "jax.scipy.special").ndtri(p)
