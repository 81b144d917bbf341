"""Health: from the draws behind an estimate to a verdict with cause and remedy."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from sltjax.convergence import Draws, library_of, rhat
from sltjax.moments import Mean, mean
from sltjax.types import Estimate, Health, Scalar

MAX_RHAT = 1.01  # Vehtari et al. 2021, section 4
MIN_ESS = 100.0
MAX_DRIFT = 4.0
TOO_BOLD = "the step size is too large; lower it, or raise gamma"


def first_failure(x: Float[np.ndarray, "chain draw"]) -> Int[np.ndarray, " chain"]:
    """The first draw of each chain that is not finite, −1 where all are."""
    bad = ~np.isfinite(x)
    return np.where(bad.any(axis=1), bad.argmax(axis=1), -1)


def health(x: Float[np.ndarray, "chain draw"], value: Mean | None) -> Health:
    """Judge the draws of one recorded number.

    Args:
        x: all chains, whether finite or not.
        value: the mean over the finite ones, None if there are none.
    """
    failed = first_failure(x)
    if value is None:
        return _with_messages(Health(failed, np.nan, 0.0, np.nan, ()))
    finite = np.asarray(x[failed < 0], np.float64)
    return _with_messages(Health(failed, float(rhat(finite)), float(value.ess), float(drift(finite)), ()))


def drift(x: Draws) -> Scalar:
    """The change from the first third of the draws to the last, in its standard errors; NaN where neither moved."""
    xp = library_of(x)
    third = max(2, x.shape[1] // 3)
    first, last = mean(x[:, :third]), mean(x[:, -third:])
    return (last.value - first.value) / xp.hypot(first.std_error, last.std_error)


def _with_messages(health: Health) -> Health:
    return dataclasses.replace(health, messages=messages(health))


def messages(health: Health) -> tuple[str, ...]:
    """What the numbers of a health say, each with cause and remedy; empty if nothing is wrong."""
    failed = np.asarray(health.failed_draw)
    if np.all(failed >= 0):
        first = failed.min()
        return (f"all {len(failed)} chains left the finite numbers, the first at draw {first}: {TOO_BOLD}",)
    spread, ess, drift = health.rhat, health.ess, health.drift
    verdicts = [
        (
            np.any(failed >= 0),
            f"{np.sum(failed >= 0)} of {len(failed)} chains left the finite numbers and are left out: {TOO_BOLD}",
        ),
        (not ess > 0, "the loss never moved: no draw differs from another; check that it depends on the parameters"),
        (abs(drift) > MAX_DRIFT, f"still drifting by {drift:+.1f} standard errors: raise burn_in or num_draws"),
        (spread > MAX_RHAT, f"the chains disagree (R-hat {spread:.3f}): raise burn_in and num_draws"),
        (0 < ess < MIN_ESS, f"only {ess:.0f} effective draws: raise num_draws"),
    ]
    return tuple(message for wrong, message in verdicts if wrong)


class UnhealthyError(ValueError):
    """An estimate that is not to be believed, raised where the user asked to be strict.

    Attributes:
        estimate: the number, its error, and what is wrong with it.
    """

    def __init__(self, estimate: Estimate) -> None:
        self.estimate = estimate
        said = "; ".join(estimate.health.messages)
        super().__init__(f"λ̂ = {estimate.value:.4g} ± {estimate.std_error:.2g} is not to be believed: {said}")


def require_healthy(estimate: Estimate) -> Estimate:
    """The estimate, if nothing is wrong with it.

    Raises:
        UnhealthyError: something is; it carries the estimate.
    """
    if not estimate.health.ok:
        raise UnhealthyError(estimate)
    return estimate


def with_warnings(estimate: Estimate, *warnings: str) -> Estimate:
    """The estimate, with more things wrong with it."""
    health = dataclasses.replace(estimate.health, messages=(*estimate.health.messages, *warnings))
    return dataclasses.replace(estimate, health=health)
