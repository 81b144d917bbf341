"""The short way: one checkpoint, one number."""

from collections.abc import Callable

import jax
import numpy as np

from sltjax.calibration import curvature_met, default_schedule, stable_sampler
from sltjax.estimators import llc
from sltjax.losses import restrict
from sltjax.posterior import LocalPosterior, default_nbeta
from sltjax.sampling import alone, condition_all, sample_block
from sltjax.types import Batch, Estimate, Loss, Params, RngKey, Sampler
from sltjax.validation import as_float32, count_examples, validate


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
    num_chains: int = 4,
    num_draws: int | None = None,
    burn_in: int | None = None,
    thin: int | None = None,
    select: Callable[[Params], Params] | None = None,
) -> Estimate:
    """Estimate the local learning coefficient λ at a checkpoint (Lau et al., arXiv 2308.12108).

        λ̂(w*) = nβ·(E_p[L_n(w)] − L_n(w*)),    p ∝ exp(−nβ·L_n(w) − γ/2·|w − w*|²)

    Args:
        key: consumed.
        loss: (params, batch) -> per-example losses [batch], pure; never a mean.
        params: the checkpoint w*, any pytree of floating-point arrays; it is left untouched.
        data: pytree of arrays [n, ...].
        nbeta: nβ; None for n / log n.
        gamma: γ; None for 1.
        sampler: None for the Leimkuhler–Matthews step at a calibrated step size.
        batch_size: examples a step; None for 512, or n where that is less.
        num_chains: independent chains.
        num_draws: recorded draws a chain; None for 2000.
        burn_in: steps before the first draw; None for half as many as the draws take.
        thin: steps a draw; None for 2.
        select: params -> a part of them, to sample that part alone with the rest held fixed.

    Returns:
        λ̂ with its standard error, each chain's own, and its health; look at `.health.messages`.

    Raises:
        ValueError, TypeError: an argument that cannot work; the message says what would.
    """
    params = as_float32(params)
    if select is not None:
        loss, params = restrict(loss, params, select)
    nbeta = default_nbeta(count_examples(data)) if nbeta is None else nbeta
    posterior = LocalPosterior(loss, params, nbeta, 1.0 if gamma is None else gamma)
    schedule = default_schedule(data, num_chains, num_draws, burn_in, thin, batch_size)
    validate(posterior, sampler, data, schedule)
    posteriors = condition_all(posterior.at(alone(params)), data, schedule.batch_size)
    pilot_key, chain_key = jax.random.split(key)
    step = np.zeros(1, int)
    if sampler is None:
        sampler = stable_sampler(curvature_met(pilot_key, posteriors, step, data, schedule.batch_size))
    trace = sample_block(chain_key, posteriors, step, sampler, data, schedule)
    return llc(jax.tree.map(lambda x: x[0], trace), nbeta)
