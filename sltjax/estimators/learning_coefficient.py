"""The local learning coefficient (Lau et al., arXiv 2308.12108).

λ̂(w*) = nβ·(E_p[L_n(w)] − L_n(w*)),    p the localised tempered posterior
"""

import numpy as np

from sltjax.diagnostics import with_warning
from sltjax.estimators.average import average
from sltjax.types import Estimate, Trace

MIN_ACCEPTANCE = 0.3  # MALA does best at 0.57, HMC at 0.65 (Roberts & Rosenthal 1998; Beskos et al. 2013)
MIN_HEAT = 0.03  # a share of λ̂: what a sweep may have by default; as much as two standard errors is let pass, too


def llc(trace: Trace, nbeta: float) -> Estimate:
    """λ̂ from recorded loss differences.

    Args:
        trace: with "delta_loss" [chain, draw], as `sample` records it; "acceptance" and "heat", the share of λ̂ that
            batch noise adds, are judged where they are there.
        nbeta: the inverse temperature nβ at which it was sampled.

    Returns:
        λ̂ (dimensionless, not clipped at 0) over the chains that stayed finite. A chain that did not is left
        out and named in `health`; where none did, the value is NaN.
    """
    return judged(average(np.float64(nbeta) * np.asarray(trace["delta_loss"], np.float64)), trace)


def judged(estimate: Estimate, trace: Trace) -> Estimate:
    """A λ̂ with what its own value and the acceptance of its chains say against it, and the noise of its batches."""
    if estimate.value < 0:
        remedy = "raise gamma or use behavioral_loss"
        estimate = with_warning(estimate, f"negative: the checkpoint is no minimum of this loss; {remedy}")
    heat = float(np.max(trace.get("heat", 0.0)))
    if heat > max(MIN_HEAT, 2 * estimate.std_error / max(abs(estimate.value), 0.5)):
        estimate = with_warning(
            estimate, f"batch noise raises it by about {heat:.0%}: raise batch_size or lower the step size"
        )
    accepted = float(np.mean(trace.get("acceptance", 1.0)))
    if accepted < MIN_ACCEPTANCE:
        said = f"chains stand still: {accepted:.0%} of their steps were accepted; lower the step size or raise burn_in"
        estimate = with_warning(estimate, said)
    return estimate
