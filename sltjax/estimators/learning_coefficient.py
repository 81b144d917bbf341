"""The local learning coefficient (Lau et al., arXiv 2308.12108).

λ̂(w*) = nβ·(E_p[L_n(w)] − L_n(w*)),    p the localised tempered posterior
"""

import dataclasses

import numpy as np

from sltjax.diagnostics import with_warnings
from sltjax.estimators.average import average
from sltjax.types import Estimate, Health, Trace

MIN_ACCEPTANCE = 0.3  # MALA does best at 0.57, HMC at 0.65 (Roberts & Rosenthal 1998; Beskos et al. 2013)
HEAT_DOUBT = 0.2  # the share by which first-order theory may miss the heat: "The heat of batches" in ACCURACY.md
MAX_HEAT = 0.1  # a share of λ̂, beyond which first order is not enough


def llc(trace: Trace, nbeta: float) -> Estimate:
    """λ̂ from recorded loss differences.

    Args:
        trace: with "delta_loss" [chain, draw], as `sample` records it; "heat" [chain], what batch noise adds to λ̂, is
            taken off where it is there, and "acceptance" [chain, draw] judged.
        nbeta: the inverse temperature nβ at which it was sampled.

    Returns:
        λ̂ (dimensionless, not clipped at 0) over the chains that stayed finite. A chain that did not is left
        out and named in `health`; where none did, the value is NaN.
    """
    return _judged_value(excess(trace, nbeta))


def excess(trace: Trace, nbeta: float) -> Estimate:
    """nβ·(E_p[L_n(w)] − L_n(w*)) of any sign: λ̂ where w* is a minimum, and to be believed where it is none."""
    found = average(np.float64(nbeta) * np.asarray(trace["delta_loss"], np.float64))
    return judged_acceptance(without_heat(found, trace), trace)


def judged(estimate: Estimate, trace: Trace) -> Estimate:
    """A λ̂ without the heat of its batches, and with what its own value and its chains' acceptance say against it."""
    return _judged_value(judged_acceptance(without_heat(estimate, trace), trace))


def _judged_value(estimate: Estimate) -> Estimate:
    return with_warnings(estimate, *value_doubts(estimate))


def value_doubts(estimate: Estimate) -> tuple[str, ...]:
    """What a λ̂ itself says against it."""
    if not estimate.value < 0:
        return ()
    return ("negative: the checkpoint is no minimum of this loss; raise gamma or use behavioral_loss",)


def judged_acceptance(estimate: Estimate, trace: Trace) -> Estimate:
    """An estimate, with what the acceptance of its chains says against it."""
    health = dataclasses.replace(estimate.health, acceptance=float(np.mean(trace.get("acceptance", 1.0))))
    return with_warnings(dataclasses.replace(estimate, health=health), *acceptance_doubts(health))


def acceptance_doubts(health: Health) -> tuple[str, ...]:
    """What the acceptance of its chains says against an estimate."""
    if not health.acceptance < MIN_ACCEPTANCE:
        return ()
    said = f"{health.acceptance:.0%} of their steps were accepted; lower the step size or raise burn_in"
    return (f"chains stand still: {said}",)


def heat_doubts(health: Health) -> tuple[str, ...]:
    """What the heat of its batches says against a λ̂."""
    if not np.isfinite(health.heat):
        return ("the noise of its batches is not finite where chains end: lower the step size",)
    if health.heat <= MAX_HEAT:
        return ()
    raised = f"batch noise raised it by about {health.heat:.0%}"
    return (f"{raised}, taken off to first order: raise batch_size or lower the step",)


def without_heat(estimate: Estimate, trace: Trace) -> Estimate:
    """The estimate less what batch noise added to it, and an error that knows how well that is known.

    Where that noise is not finite, nothing can be taken off, and `health` says so.
    """
    if "heat" not in trace:
        return estimate
    by_chain = np.asarray(trace["heat"], np.float64)[np.isfinite(estimate.per_chain)]
    if not by_chain.size:
        return estimate
    if not np.isfinite(by_chain).all():
        return _with_heat(estimate, np.nan)
    heat, scatter = by_chain.mean(), by_chain.std(ddof=min(1, by_chain.size - 1)) / np.sqrt(by_chain.size)
    cooled = dataclasses.replace(
        estimate,
        value=float(estimate.value - heat),
        std_error=float(np.linalg.norm([estimate.std_error, scatter, HEAT_DOUBT * heat])),
        per_chain=estimate.per_chain - heat,
    )
    return _with_heat(cooled, float(heat / max(abs(estimate.value), 0.5)))


def _with_heat(estimate: Estimate, share: float) -> Estimate:
    health = dataclasses.replace(estimate.health, heat=share)
    return with_warnings(dataclasses.replace(estimate, health=health), *heat_doubts(health))
