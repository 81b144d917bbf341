"""The local learning coefficient (Lau et al., arXiv 2308.12108).

λ̂(w*) = nβ·(E_p[L_n(w)] − L_n(w*)),    p the localised tempered posterior
"""

import jax
import numpy as np

from sltjax.diagnostics import first_failure, health
from sltjax.moments import mean
from sltjax.types import Estimate, Trace


def llc(trace: Trace, nbeta: float) -> Estimate:
    """λ̂ from recorded loss differences.

    Args:
        trace: with "delta_loss" [chain, draw], as `sample` records it.
        nbeta: the inverse temperature nβ at which it was sampled.

    Returns:
        λ̂ (dimensionless, not clipped at 0) over the chains that stayed finite. A chain that did not is left
        out and named in `health`; where none did, the value is NaN.
    """
    x = np.float64(nbeta) * np.asarray(trace["delta_loss"], np.float64)
    finite = first_failure(x) < 0
    per_chain = np.where(finite, np.mean(np.where(finite[:, None], x, 0.0), axis=1), np.nan)
    if not finite.any():
        return Estimate(np.nan, np.nan, per_chain, health(x, None))
    value = jax.device_get(mean(x[finite].astype(np.float32)))
    return Estimate(float(value.value), float(value.std_error), per_chain, health(x, value))
