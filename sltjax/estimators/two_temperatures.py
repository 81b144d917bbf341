"""λ from two temperatures, without the loss at the checkpoint (Watanabe 2013, JMLR 14, corollary 3).

λ = (E^{β1}[nL_n] − E^{β2}[nL_n]) / (1/β1 − 1/β2)
"""

import numpy as np

from sltjax.diagnostics import with_warnings
from sltjax.estimators.average import combination
from sltjax.estimators.learning_coefficient import excess
from sltjax.types import Estimate, Trace


def two_temperature_llc(first: Trace, second: Trace, nbeta: tuple[float, float]) -> Estimate:
    """The learning coefficient from how the mean loss falls between two temperatures.

        λ̂ = (E₁[L_n] − E₂[L_n]) / (1/nβ₁ − 1/nβ₂)

    L_n(w*) cancels, and with it what `llc` pays where the checkpoint is no minimum of the loss. The localisation
    does not: compare runs around the same anchor, at the same γ. Temperatures far apart give a smaller error, and
    a λ̂ that stands for a wider range of scales.

    Args:
        first: with "delta_loss" [chain, draw], sampled at nβ₁.
        second: the same at nβ₂, with noise of its own (another key, or another point of an `llc_curve`).
        nbeta: (nβ₁, nβ₂), positive and different.

    Returns:
        λ̂ with the error of two independent runs; `per_chain` pairs the chains as they stand, and each message says
        of which temperature it speaks.

    Raises:
        ValueError: temperatures that do not differ or are not positive, or runs of different numbers of chains.
    """
    if not (np.all(np.isfinite(nbeta)) and min(nbeta) > 0 and nbeta[0] != nbeta[1]):
        raise ValueError(f"nbeta: got {nbeta}, expected two different positive numbers; a ratio of 2 to 8 is usual")
    one, two = (excess(trace, float(x)) for x, trace in zip(nbeta, (first, second), strict=True))
    if len(one.per_chain) != len(two.per_chain):
        raise ValueError(f"got {len(one.per_chain)} and {len(two.per_chain)} chains, expected as many at each nβ")
    factors = np.array([1 / nbeta[0], -1 / nbeta[1]]) / (1 / nbeta[0] - 1 / nbeta[1])
    found = combination(factors, (one, two), [f"at nβ = {x:g}" for x in nbeta])
    if found.value < 0:
        said = "negative: the mean loss rises with nβ, as it cannot in equilibrium; raise burn_in, num_draws"
        return with_warnings(found, said)
    return found
