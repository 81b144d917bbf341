"""The local learning coefficient (Lau et al., arXiv 2308.12108).

λ̂(w*) = nβ·(E_p[L_n(w)] − L_n(w*)),    p the localised tempered posterior
"""

import dataclasses

import numpy as np

from sltjax.diagnostics import with_warning
from sltjax.estimators.average import average
from sltjax.types import Estimate, Trace

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
    return _judged_sign(excess(trace, nbeta))


def excess(trace: Trace, nbeta: float) -> Estimate:
    """nβ·(E_p[L_n(w)] − L_n(w*)) of any sign: λ̂ where w* is a minimum, and to be believed where it is none."""
    found = average(np.float64(nbeta) * np.asarray(trace["delta_loss"], np.float64))
    return judged_acceptance(without_heat(found, trace), trace)


def judged(estimate: Estimate, trace: Trace) -> Estimate:
    """A λ̂ without the heat of its batches, and with what its own value and its chains' acceptance say against it."""
    return _judged_sign(judged_acceptance(without_heat(estimate, trace), trace))


def _judged_sign(estimate: Estimate) -> Estimate:
    if not estimate.value < 0:
        return estimate
    remedy = "raise gamma or use behavioral_loss"
    return with_warning(estimate, f"negative: the checkpoint is no minimum of this loss; {remedy}")


def judged_acceptance(estimate: Estimate, trace: Trace) -> Estimate:
    """An estimate, with what the acceptance of its chains says against it."""
    accepted = float(np.mean(trace.get("acceptance", 1.0)))
    if accepted < MIN_ACCEPTANCE:
        said = f"chains stand still: {accepted:.0%} of their steps were accepted; lower the step size or raise burn_in"
        estimate = with_warning(estimate, said)
    return estimate


def without_heat(estimate: Estimate, trace: Trace) -> Estimate:
    """The estimate less what batch noise added to it, and an error that knows how well that is known."""
    if "heat" not in trace:
        return estimate
    by_chain = np.asarray(trace["heat"], np.float64)[np.isfinite(estimate.per_chain)]
    if not by_chain.size:
        return estimate
    if not np.isfinite(by_chain).all():
        return with_warning(estimate, "the noise of its batches is not finite where chains end: lower the step size")
    heat, scatter = by_chain.mean(), by_chain.std(ddof=min(1, by_chain.size - 1)) / np.sqrt(by_chain.size)
    cooled = dataclasses.replace(
        estimate,
        value=float(estimate.value - heat),
        std_error=float(np.linalg.norm([estimate.std_error, scatter, HEAT_DOUBT * heat])),
        per_chain=estimate.per_chain - heat,
    )
    share = heat / max(abs(estimate.value), 0.5)
    if share <= MAX_HEAT:
        return cooled
    said = f"batch noise raised it by about {share:.0%}, taken off to first order: raise batch_size or lower the step"
    return with_warning(cooled, said)
