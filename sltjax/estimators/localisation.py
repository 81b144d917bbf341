"""What the localisation γ/2·|w − w*|² takes from λ̂, read off the draws behind it: no further run, no Hessian."""

from collections.abc import Sequence

import numpy as np

from sltjax.diagnostics import first_failure
from sltjax.estimators.average import average
from sltjax.estimators.learning_coefficient import judged
from sltjax.types import Estimate, Trace


def localisation_bias(trace: Trace, nbeta: float, gamma: float) -> Estimate:
    """How much larger λ̂ would be without localisation, to first order in γ.

        dλ̂/dγ = −Cov_p(nβ·ΔL, |w − w*|²/2)
        λ̂(γ → 0) ≈ λ̂ + γ·Cov_p(nβ·ΔL, |w − w*|²/2)

    The derivative is exact for any loss (differentiate E_p[nβΔL] under p ∝ exp(−nβL_n − γ/2·|w − w*|²), Lau et
    al., arXiv 2308.12108); the step from γ to 0 is a tangent. In a direction of curvature h, of which λ̂ keeps the
    share f = nβh/(nβh + γ), the corrected value has 1 − (1 − f)²: a direction that γ holds altogether (f → 0)
    stays out of sight. Look at `directions_held` beside it. Negative where a weaker localisation would let the
    chains out to a more singular region.

    Args:
        trace: with "delta_loss" and "distance" [chain, draw], as `sample` records them.
        nbeta: the nβ at which it was sampled.
        gamma: the γ > 0 at which it was sampled.

    Returns:
        The bias, to be added to λ̂, with a standard error that holds for correlated draws.

    Raises:
        ValueError: the trace lacks one of the two, or nβ or γ is out of range.
    """
    return average(_excess_and_bias(trace, nbeta, gamma)[1])


def unlocalised_llc(trace: Trace, nbeta: float, gamma: float) -> Estimate:
    """λ̂ with the first-order `localisation_bias` put back, and the error of both together.

    Args:
        trace: with "delta_loss" and "distance" [chain, draw], as `sample` records them.
        nbeta: the nβ at which it was sampled.
        gamma: the γ > 0 at which it was sampled.

    Raises:
        ValueError: the trace lacks one of the two, or nβ or γ is out of range.
    """
    excess, bias = _excess_and_bias(trace, nbeta, gamma)
    return judged(average(excess + bias), trace)


def _excess_and_bias(trace: Trace, nbeta: float, gamma: float) -> tuple[np.ndarray, np.ndarray]:
    """nβ·ΔL, and the numbers whose mean is γ·Cov(nβ·ΔL, |w − w*|²/2), over the chains that stayed finite."""
    delta_loss, distance = _recorded(trace, "delta_loss"), _recorded(trace, "distance")
    _require_range(nbeta, gamma, positive=True)
    excess, penalty = nbeta * delta_loss, gamma / 2 * distance**2
    finite = (first_failure(excess) < 0) & (first_failure(penalty) < 0)
    if not finite.any():
        return excess, np.full_like(excess, np.nan)
    return excess, (excess - excess[finite].mean()) * (penalty - penalty[finite].mean())


def directions_held(trace: Trace, gamma: float) -> Estimate:
    """γ·E_p|w − w*|²: the number of directions, of d, that the localisation holds and not the loss.

    Integration by parts gives E_p⟨w − w*, ∇U⟩ = d for any potential U that confines the chain, hence

        γ·E_p|w − w*|² = d − nβ·E_p⟨w − w*, ∇L_n⟩

    On a quadratic it is Σ γ/(nβh + γ), d less the `effective_count`; flat directions count in full, whether or not
    they would ever matter to λ. Half of it bounds what γ can take from λ̂ there.

    Args:
        trace: with "distance" [chain, draw], as `sample` records it.
        gamma: the γ > 0 at which it was sampled.

    Raises:
        ValueError: the trace lacks the distance, or γ is out of range.
    """
    _require_range(1.0, gamma, positive=True)
    return average(gamma * _recorded(trace, "distance") ** 2)


def effective_count(curvatures: Sequence[float] | np.ndarray, nbeta: float, gamma: float) -> float:
    """Σ nβh/(nβh + γ): the number of directions that the loss holds and not the localisation, on a quadratic.

    Half of it is λ̂ there (Lau et al., arXiv 2308.12108); what is missing to half the number of curvatures above 0
    is the bias of γ.

    Args:
        curvatures: h ≥ 0 of the mean loss, shape [d]: the eigenvalues of its Hessian at w*.
        nbeta: nβ > 0.
        gamma: γ ≥ 0.

    Raises:
        ValueError: an argument out of its range.
    """
    h = np.atleast_1d(np.asarray(curvatures, float))
    _require_range(nbeta, gamma)
    if h.ndim != 1 or not np.all(np.isfinite(h) & (h >= 0)):
        raise ValueError(f"curvatures: got {curvatures!r}, expected finite numbers of at least 0, one a direction")
    held = nbeta * h[h > 0]
    return float(np.sum(held / (held + gamma)))


def _recorded(trace: Trace, name: str) -> np.ndarray:
    if name not in trace:
        raise ValueError(f"the trace holds {sorted(trace)}, expected {name!r}; add sltjax.observables.{name} to it")
    return np.asarray(trace[name], np.float64)


def _require_range(nbeta: float, gamma: float, *, positive: bool = False) -> None:
    if not (np.isfinite(nbeta) and nbeta > 0):
        raise ValueError(f"nbeta: got {nbeta}, expected a finite number above 0")
    if not np.isfinite(gamma) or gamma < 0 or (positive and gamma == 0):
        bound = "above 0; at γ = 0 there is no localisation" if positive else "of at least 0"
        raise ValueError(f"gamma: got {gamma}, expected a finite number {bound}")
