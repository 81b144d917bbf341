"""The short way: one checkpoint, one number."""

from collections.abc import Callable

import jax
import numpy as np

from sltjax.calibration import ERROR, Asked, Stack, choose_num_chains, sample_to_error, settle
from sltjax.diagnostics import require_healthy
from sltjax.estimators import llc
from sltjax.posterior import LocalPosterior, default_nbeta
from sltjax.sampling import condition_all, over_cores
from sltjax.types import Batch, Estimate, Loss, Params, RngKey, Sampler
from sltjax.validation import as_float32, count_examples


def estimate_llc(
    key: RngKey,
    loss: Loss,
    params: Params,
    data: Batch,
    *,
    nbeta: float | None = None,
    gamma: float | None = None,
    sampler: Sampler | None = None,
    batch_size: int | None = None,
    num_chains: int | None = None,
    num_draws: int | None = None,
    burn_in: int | None = None,
    thin: int | None = None,
    error: float = ERROR,
    max_chain_steps: int | None = None,
    max_seconds: float | None = None,
    select: Callable[[Params], Params] | None = None,
    strict: bool = False,
) -> Estimate:
    """Estimate the local learning coefficient λ at a checkpoint (Lau et al., arXiv 2308.12108).

        λ̂(w*) = nβ·(E_p[L_n(w)] − L_n(w*)),    p ∝ exp(−nβ·L_n(w) − γ/2·|w − w*|²)

    Unless their length is settled, chains go on until they have come to the error and agree, or a budget is spent.

    Args:
        key: consumed.
        loss: (params, batch) -> per-example losses [batch], pure; never a mean.
        params: the checkpoint w*, any pytree of floating-point arrays; it is left untouched.
        data: pytree of arrays [n, ...].
        nbeta: nβ; None for n / log n.
        gamma: γ; None for 1.
        sampler: None, here and below, for what `calibrate` chooses.
        batch_size: examples a step.
        num_chains: independent chains.
        num_draws: recorded draws a chain.
        burn_in: steps before the first draw, in which samplers adapt.
        thin: steps a draw.
        error: the share of λ̂ to which the standard error is to come.
        max_chain_steps: steps times chains that may be taken, calibration included.
        max_seconds: the same in seconds, compilation apart.
        select: params -> a part of them, to sample that part alone with the rest held fixed; see `restrict` and `part`.
        strict: whether to raise where `health` says that something is wrong.

    Returns:
        λ̂ with its standard error, each chain's own, and its health; look at `.health.messages`.

    Raises:
        ValueError, TypeError: an argument that cannot work; the message says what would.
        UnhealthyError: if `strict`, and the estimate is not to be believed; it carries the estimate.
    """
    params = as_float32(params)
    nbeta = default_nbeta(count_examples(data)) if nbeta is None else nbeta
    posterior = LocalPosterior(loss, params, nbeta, 1.0 if gamma is None else gamma, select=select)
    asked = Asked(sampler, num_chains, num_draws, burn_in, thin, batch_size, error, max_chain_steps, max_seconds)
    size, cost = settle(asked, posterior, data)
    anchors, data, mesh = over_cores(params, data, choose_num_chains(asked, cost * size))
    posteriors = condition_all(posterior.at(anchors), data, size)
    trace = sample_to_error(key, Stack(posteriors, np.zeros(1, int), data, asked, size, cost, mesh))
    estimate = llc(jax.tree.map(lambda x: x[0], trace), nbeta)
    return require_healthy(estimate) if strict else estimate
