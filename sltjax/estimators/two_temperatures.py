"""λ from two temperatures, without the loss at the checkpoint (Watanabe 2013, JMLR 14, corollary 3).

λ = (E^{β1}[nL_n] − E^{β2}[nL_n]) / (1/β1 − 1/β2)
"""

import numpy as np

from sltjax.estimators.average import average
from sltjax.estimators.learning_coefficient import without_heat
from sltjax.types import Estimate, Health, Trace


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
    one, two = (
        without_heat(average(x * np.asarray(trace["delta_loss"], np.float64)), trace)
        for x, trace in zip(nbeta, (first, second), strict=True)
    )
    if len(one.per_chain) != len(two.per_chain):
        raise ValueError(f"got {len(one.per_chain)} and {len(two.per_chain)} chains, expected as many at each nβ")
    a, b = np.reciprocal(nbeta) / (1 / nbeta[0] - 1 / nbeta[1])
    value = float(a * one.value - b * two.value)
    error = float(np.hypot(a * one.std_error, b * two.std_error))
    return Estimate(value, error, a * one.per_chain - b * two.per_chain, _weaker(one, two, nbeta, value))


def _weaker(one: Estimate, two: Estimate, nbeta: tuple[float, float], value: float) -> Health:
    """The worse of each number, and the messages of both."""
    a, b = one.health, two.health
    messages = [f"at nβ = {x:g}: {said}" for x, h in zip(nbeta, (a, b), strict=True) for said in h.messages]
    if value < 0:
        messages.append("negative: the mean loss rises with nβ, as it cannot in equilibrium; raise burn_in, num_draws")
    return Health(
        np.where(a.failed_draw >= 0, a.failed_draw, b.failed_draw),
        max(a.rhat, b.rhat),
        min(a.ess, b.ess),
        max(a.drift, b.drift, key=abs),
        tuple(messages),
        heat=max(a.heat, b.heat),
    )
