"""Which examples a network treats as one: how their losses move together along its chains.

BIF(i, j) = −Cov_p(ℓ_i(w), ℓ_j(w)),    p the localised tempered posterior (Kreer et al., arXiv 2509.26544)
"""

import dataclasses

import numpy as np
from flax import struct
from jaxtyping import Float, Int

from sltjax.estimators.covariances import Covariance, Measure, Recorded, correlation, covariance

TILE = 512  # examples whose pairs with all others are held at once


@struct.dataclass
class Strongest:
    """For every example, those with which it is most connected.

    Attributes:
        index: which, the strongest first; shape [row, k].
        value: by how much, with its sign; same shape.
        std_error: the Monte-Carlo standard error of that; same shape.
    """

    index: Int[np.ndarray, "row k"]
    value: Float[np.ndarray, "row k"]
    std_error: Float[np.ndarray, "row k"]


def bayesian_influence(losses: Recorded, queries: Recorded | None = None) -> Covariance:
    """The Bayesian influence of each example on the loss of each query (Kreer et al., arXiv 2509.26544).

        BIF(i, j) = −Cov_p(ℓ_i, ℓ_j) = ∂E_p[ℓ_j]/∂c_i    for p ∝ exp(−Σ_i c_i·ℓ_i(w) − γ/2·|w − w*|²)

    Negative where more of example i makes example j better. In our posterior c_i = nβ/n for each of the n examples of
    the data, so that without example i the mean loss of j changes by −(nβ/n)·BIF(i, j) to first order. The correlation
    that the paper compares examples by is `correlation`, whose sign is the opposite.

    Args:
        losses: ℓ_i at every draw, [chain, draw, example], as `observables.losses` records it.
        queries: ℓ_j along the same chains, [chain, draw, query]; None for the examples themselves.

    Returns:
        [example, query], with Monte-Carlo standard errors.

    Raises:
        ValueError: they are not recorded along the same chains.
    """
    found = covariance(losses, queries)
    return dataclasses.replace(found, value=-found.value)


def strongest(
    losses: Recorded, queries: Recorded | None = None, k: int = 10, measure: Measure = correlation
) -> Strongest:
    """For every example the k queries with which it is most connected, by the size of the measure.

    The full matrix is never held: pairs are gone through in tiles of examples.

    Args:
        losses: [chain, draw, example].
        queries: [chain, draw, query], along the same chains; None for the examples, each its own first.
        k: how many.
        measure: `correlation`, or `covariance`, of which the sign is opposite to that of `bayesian_influence`.

    Raises:
        ValueError: k is not between 1 and the number of queries.
    """
    queries = losses if queries is None else queries
    if not 1 <= k <= queries.shape[2]:
        raise ValueError(f"k: got {k}, expected 1 to {queries.shape[2]}, the number of queries")
    tiles = [_strongest(losses[:, :, first : first + TILE], queries, k, measure) for first in _firsts(losses)]
    return Strongest(*(np.concatenate(parts) for parts in zip(*tiles, strict=True)))


def _firsts(losses: Recorded) -> range:
    return range(0, losses.shape[2], TILE)


def _strongest(losses: Recorded, queries: Recorded, k: int, measure: Measure) -> tuple[np.ndarray, ...]:
    found = measure(losses, queries)
    size = np.nan_to_num(np.abs(found.value), nan=-1.0)
    index = np.argsort(-size, axis=1, kind="stable")[:, :k]
    return index, np.take_along_axis(found.value, index, 1), np.take_along_axis(found.std_error, index, 1)
