"""The free energy F_n = −log ∫ exp(−nL_n(w)) φ(w) dw, minus the log evidence of a model, from λ̂ and its chains.

WBIC = E^β[nL_n],  β = 1/log n                         (Watanabe 2013, JMLR 14)
F_n  ≈ nL_n(w*) + λ log n − (m − 1) log log n          (Watanabe 2009, theorem 6.7)
"""

import math

from sltjax.estimators.average import rescaled
from sltjax.estimators.learning_coefficient import excess
from sltjax.estimators.multiplicity import require_multiplicity
from sltjax.posterior import default_nbeta
from sltjax.types import Estimate, Trace


def wbic(trace: Trace, num_examples: int, anchor_loss: float) -> Estimate:
    """The widely applicable Bayesian information criterion, in nats (Watanabe 2013, JMLR 14).

        WBIC = E^β[nL_n(w)] = nL_n(w*) + log n · nβ·E[L_n(w) − L_n(w*)],    β = 1/log n

    It is absolute: F_n + O(√log n) with all that models of the same data share, so that the model of lower WBIC has
    the higher evidence. Where w* is no minimum it is right all the same, as λ̂ is not.

    Args:
        trace: with "delta_loss" [chain, draw], sampled at nβ = n/log n, the default; "heat" and "acceptance" are
            used as `llc` uses them.
        num_examples: n.
        anchor_loss: L_n(w*), the mean negative log-likelihood over the same n examples, constants included.

    Raises:
        ValueError: n is below 2, or the loss is not finite.
    """
    _require(num_examples, anchor_loss)
    found = excess(trace, default_nbeta(num_examples))
    return rescaled(found, math.log(num_examples), num_examples * anchor_loss)


def free_energy(llc: Estimate, num_examples: int, anchor_loss: float, multiplicity: int = 1) -> Estimate:
    """The free energy by its expansion, in nats (Watanabe 2009, theorem 6.7).

        F_n ≈ nL_n(w*) + λ̂ log n − (m − 1) log log n

    What stays bounded as n grows is left out, and with it the prior. The error is that of λ̂; `health` is its own.

    Args:
        llc: λ̂, or another estimate of λ; at finite nβ it lies below λ by what `multiplicity_correction` puts back.
        num_examples: n.
        anchor_loss: L_n(w*), the mean negative log-likelihood, at a minimum.
        multiplicity: m ≥ 1.

    Raises:
        ValueError: n is below 2, below 3 with m > 1, the loss is not finite, or m no whole number of at least 1.
    """
    _require(num_examples, anchor_loss, at_least=2 if multiplicity == 1 else 3)
    require_multiplicity(multiplicity)
    shared = (multiplicity - 1) * math.log(math.log(num_examples)) if multiplicity > 1 else 0.0
    return rescaled(llc, math.log(num_examples), num_examples * anchor_loss - shared)


def _require(num_examples: int, anchor_loss: float, at_least: int = 2) -> None:
    if num_examples < at_least:
        raise ValueError(f"num_examples: got {num_examples}, expected at least {at_least}")
    if not math.isfinite(anchor_loss):
        raise ValueError(f"anchor_loss: got {anchor_loss}, expected the mean loss at the checkpoint, a finite number")
