"""What per-example losses say of generalisation: WAIC and the singular fluctuation ν (Watanabe 2010, JMLR 11).

V_n = Σ_i Var_w[ℓ_i(w)],    WAIC = T_n + V_n/n at β = 1,    ν = lim (β/2)·E[V_n]

Both are smooth functions of means over the chains. Their errors are those of their linearisations: the mean of what
a draw adds to the value, which is 0, has the standard error of the value, autocorrelation and all.
"""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float

from sltjax.diagnostics import with_warnings
from sltjax.estimators.average import average, rescaled
from sltjax.estimators.learning_coefficient import judged_acceptance
from sltjax.types import Estimate, Trace

PIECE = 256  # examples in float64 at once
MAX_VARIANCE = 0.4  # of one example's log-likelihood (Vehtari, Gelman & Gabry 2017, arXiv 1507.04544, section 2.2)

Losses = Float[np.ndarray, "chain draw example"]
Terms = tuple[Float[np.ndarray, " example"], Float[np.ndarray, "chain draw example"]]


def waic(trace: Trace) -> Estimate:
    """The widely applicable information criterion, in nats an example (Watanabe 2010, JMLR 11).

        WAIC = T_n + V_n/n,    T_n = −(1/n) Σ_i log E_w[exp(−ℓ_i(w))],    V_n = Σ_i Var_w[ℓ_i(w)]

    Its mean over data is that of the Bayes generalisation loss, to order 1/n, whether the model is regular or
    singular. Chains on the full data: batch noise widens V_n, and nothing is taken off here.

    Args:
        trace: with "losses" [chain, draw, example], the negative log-likelihood of each of the n examples that the
            posterior was given, sampled at β = 1, which is nβ = n; "acceptance" is judged where it is there.

    Returns:
        The value over the chains that stayed finite, warned of where examples of large variance carry it.

    Raises:
        ValueError: the trace has no such losses.
    """
    losses = _recorded(trace)
    found = _summed(losses, _generalisation, 1 / losses.shape[-1])
    outliers = int(np.sum(_spread(losses) > MAX_VARIANCE))
    if outliers:
        said = (
            f"the log-likelihood of {outliers} of {losses.shape[-1]} examples varies by more than {MAX_VARIANCE} over "
            "the posterior: WAIC is not to be trusted there; compare with a loss on held-out data"
        )
        found = with_warnings(found, said)
    return judged_acceptance(found, trace)


def singular_fluctuation(trace: Trace, beta: float = 1.0) -> Estimate:
    """ν, which with λ gives the Bayes generalisation and training loss (Watanabe 2009; 2010, JMLR 11).

        ν̂ = (β/2)·V_n,    V_n = Σ_i Var_w[ℓ_i(w)]

    Regular and realisable: d/2, as λ is. On average over data, generalisation loss exceeds the entropy by
    ((λ − ν)/β + ν)/n and training loss by ((λ − ν)/β − ν)/n, to order 1/n.

    Args:
        trace: with "losses" [chain, draw, example], as `waic` takes them; "acceptance" is judged where it is there.
        beta: β = nβ/n, at which it was sampled.

    Raises:
        ValueError: the trace has no such losses, or β is not positive and finite.
    """
    if not (np.isfinite(beta) and beta > 0):
        raise ValueError(f"beta: got {beta}, expected a positive number, 1 for the posterior at nβ = n")
    return judged_acceptance(_summed(_recorded(trace), _variance, beta / 2), trace)


def _variance(losses: Losses) -> Terms:
    squares = (losses - losses.mean(axis=(0, 1))) ** 2
    value = squares.mean(axis=(0, 1))
    return value, squares - value


def _generalisation(losses: Losses) -> Terms:
    least = losses.min(axis=(0, 1))
    likelihood = np.exp(least - losses)
    mean = likelihood.mean(axis=(0, 1))
    variance, of_draws = _variance(losses)
    return least - np.log(mean) + variance, of_draws - (likelihood / mean - 1)


def _summed(losses: Losses, terms: Callable[[Losses], Terms], factor: float) -> Estimate:
    """Σ_i of the terms, which are a value an example and what each draw adds to it, times a factor."""
    finite = np.isfinite(losses).all(axis=(1, 2))
    added = np.where(np.isfinite(losses).all(axis=2), 0.0, np.nan)
    value = 0.0 if finite.any() else np.nan
    for piece in _pieces(losses[finite]):
        of_examples, of_draws = terms(piece)
        value += of_examples.sum()
        added[finite] += of_draws.sum(axis=2)
    return rescaled(average(added), factor, factor * value)


def _spread(losses: Losses) -> Float[np.ndarray, " example"]:
    """The variance of each example's loss over the chains that stayed finite, NaN where none did."""
    finite = np.isfinite(losses).all(axis=(1, 2))
    if not finite.any():
        return np.full(losses.shape[-1], np.nan)
    return np.concatenate([piece.var(axis=(0, 1)) for piece in _pieces(losses[finite])])


def _pieces(losses: Losses) -> Iterator[Losses]:
    for start in range(0, losses.shape[-1] if losses.size else 0, PIECE):
        yield losses[..., start : start + PIECE].astype(np.float64)


def _recorded(trace: Trace) -> Losses:
    losses = np.asarray(trace.get("losses", np.nan))
    if losses.ndim != 3 or not losses.size:
        got = f'"losses" of shape {list(losses.shape)}' if "losses" in trace else f"{sorted(trace)}"
        raise ValueError(
            f'the trace holds {got}, expected "losses" [chain, draw, example]; '
            "record sltjax.observables.losses(loss, data)"
        )
    return losses
