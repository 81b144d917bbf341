"""The local learning coefficient (Lau et al., arXiv 2308.12108).

λ̂(w*) = nβ·(E_p[L_n(w)] − L_n(w*)),    p the localised tempered posterior
"""

import numpy as np

from sltjax.estimators.average import average
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
    return average(np.float64(nbeta) * np.asarray(trace["delta_loss"], np.float64))
