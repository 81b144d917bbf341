"""The mean of a recorded number with its error and its health: what every estimator ends in."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from sltjax.diagnostics import first_failure, health
from sltjax.moments import mean
from sltjax.types import Estimate, Health


def average(x: Float[np.ndarray, "chain draw"]) -> Estimate:
    """The mean over the chains that stayed finite.

    Returns:
        A chain that did not stay finite is left out and named in `health`; where none did, the value is NaN.
    """
    finite = first_failure(x) < 0
    per_chain = np.where(finite, np.mean(np.where(finite[:, None], x, 0.0), axis=1), np.nan)
    if not finite.any():
        return Estimate(np.nan, np.nan, per_chain, health(x, None))
    value = mean(np.asarray(x[finite], np.float64))
    return Estimate(float(value.value), float(value.std_error), per_chain, health(x, value))


def rescaled(estimate: Estimate, factor: float, shift: float = 0.0) -> Estimate:
    """The estimate times a factor, plus a shift, both exact."""
    return dataclasses.replace(
        estimate,
        value=float(factor * estimate.value + shift),
        std_error=float(abs(factor) * estimate.std_error),
        per_chain=factor * estimate.per_chain + shift,
    )


def combination(
    factors: Sequence[float] | np.ndarray, estimates: Sequence[Estimate], names: Sequence[str], shift: float = 0.0
) -> Estimate:
    """Σ factor · estimate + shift, of estimates from independent runs of as many chains.

    Args:
        factors: one an estimate.
        estimates: of one run each; `per_chain` pairs the chains as they stand.
        names: of the runs: each message says of which it speaks.
        shift: exact.

    Returns:
        The sum with the error of independent terms, and of each number of their health the worst.
    """
    terms = [rescaled(estimate, float(factor)) for factor, estimate in zip(factors, estimates, strict=True)]
    return Estimate(
        float(sum(term.value for term in terms) + shift),
        float(np.linalg.norm([term.std_error for term in terms])),
        np.sum([term.per_chain for term in terms], axis=0) + shift,
        _weakest([estimate.health for estimate in estimates], names),
    )


def _weakest(healths: Sequence[Health], names: Sequence[str]) -> Health:
    """The worst of each number, and the messages of all."""
    failed = np.array([health.failed_draw for health in healths])
    first = np.argmax(failed >= 0, axis=0)
    return Health(
        np.take_along_axis(failed, first[None], axis=0)[0],
        max(health.rhat for health in healths),
        min(health.ess for health in healths),
        max((health.drift for health in healths), key=abs),
        tuple(f"{name}: {said}" for name, health in zip(names, healths, strict=True) for said in health.messages),
        min(health.acceptance for health in healths),
        max(health.heat for health in healths),
    )
