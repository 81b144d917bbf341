"""How stiff a posterior is: measured where chains go, not at the anchor alone.

At a singular checkpoint the loss may be flat; what a step size must fit is the curvature where the posterior
sends the chains.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from sltjax import observables as observe
from sltjax.devices import fetch, in_turn
from sltjax.estimators.hessian import hessian_product
from sltjax.posterior import LocalPosterior
from sltjax.samplers import LeimkuhlerMatthews
from sltjax.samplers.noise import gaussian
from sltjax.sampling import draw_batch, sample_block
from sltjax.schedule import Schedule
from sltjax.threefry import as_threefry, portable
from sltjax.types import Batch, Info, Params, RngKey, Trace

STEP_TIMES_CURVATURE = 0.5  # an eighth of the stability bound of a Langevin step, which leaves room for batches
ROUNDS = 4
POWER_ITERATIONS = 20
FIRST_STEP_SIZES = 10.0 ** np.arange(-14.0, 3.0)
ROUGH_ITERATIONS = 8
TINY = 1e-30


def curvature_a_step_away(
    key: RngKey,
    posteriors: LocalPosterior,
    steps: Int[np.ndarray, " checkpoint"],
    data: Batch,
    batch_size: int,
) -> Float[np.ndarray, " checkpoint"]:
    """The curvature for which a first step, noise and all, is stable where it lands; steps grow until none is.

    Args:
        key: consumed.
        posteriors: as `condition_all` makes them, all leaves [checkpoint, ...].
        steps: training step of each checkpoint, which seeds its noise.
        data: pytree of arrays [n, ...].
        batch_size: that for which the posteriors were conditioned.

    Returns:
        For each checkpoint; NaN where the potential is finite at no distance, or its curvature beyond measure.
    """
    numbers = portable(key)
    curvature = np.full(len(steps), np.nan)
    growing = np.ones(len(steps), bool)
    for size in FIRST_STEP_SIZES:
        positions = _a_step_away(numbers, posteriors, steps, np.float32(np.sqrt(size)))
        met = fetch(largest_curvature(numbers, posteriors, positions, data, batch_size, ROUGH_ITERATIONS))
        growing &= size * met <= STEP_TIMES_CURVATURE
        if not growing.any():
            break
        curvature = np.where(growing, STEP_TIMES_CURVATURE / size, curvature)
    return curvature


def curvature_met(
    key: RngKey,
    posteriors: LocalPosterior,
    steps: Int[np.ndarray, " checkpoint"],
    data: Batch,
    batch_size: int,
    mesh: Mesh | None = None,
) -> tuple[Float[np.ndarray, "round checkpoint"], Trace]:
    """The largest |eigenvalue| of the Hessian of U_B that pilot chains meet, for each checkpoint by itself.

    Args:
        key: consumed.
        posteriors: as `condition_all` makes them, all leaves [checkpoint, ...].
        steps: training step of each checkpoint, which seeds its noise.
        data: pytree of arrays [n, ...].
        batch_size: examples a step.
        mesh: the devices that posteriors and data lie on, if there are several.

    Returns:
        A guess one step away from the anchor, then what each round of chains met, at the step size that the
        round before suggests, NaN where the potential is finite at no distance; and the trace of the last round,
        "params" and "delta_loss" at a few draws.
    """
    near_key, *round_keys = map(portable, jax.random.split(as_threefry(key), 1 + ROUNDS))
    pilot = Schedule(num_chains=2, num_draws=4, burn_in=50, thin=50, batch_size=batch_size)
    observables = {"params": position, "delta_loss": observe.delta_loss}
    found = [curvature_a_step_away(near_key, posteriors, steps, data, batch_size)]
    for round_key in round_keys:
        sampler = LeimkuhlerMatthews(STEP_TIMES_CURVATURE / found[-1])
        trace = sample_block(round_key, posteriors, steps, sampler, data, pilot, observables, mesh=mesh)
        largest = largest_curvature(near_key, posteriors, trace["params"], data, batch_size)
        met = np.asarray(fetch(largest), np.float64)
        found.append(np.where(np.isfinite(met), met, 10 * found[-1]))  # pilots that diverged were too bold
    return np.stack(found), trace


def position(params: Params, info: Info) -> Params:
    """Where the chain is: an observable for few draws."""
    return params


@jax.jit
def _a_step_away(key: RngKey, posteriors: LocalPosterior, steps: Array, scale: Array) -> Params:
    def away(posterior: LocalPosterior, step: Array) -> Params:
        noise = gaussian(jax.random.fold_in(as_threefry(key), step), posterior.start)
        return jax.tree.map(lambda w, z: (w + scale * z)[None, None], posterior.start, noise)

    return jax.vmap(away)(posteriors, steps)


@partial(jax.jit, static_argnames=("batch_size", "iterations", "mesh"))
def largest_curvature(
    key: RngKey,
    posteriors: LocalPosterior,
    positions: Params,
    data: Batch,
    batch_size: int,
    iterations: int = POWER_ITERATIONS,
    mesh: Mesh | None = None,
) -> Float[Array, " checkpoint"]:
    """The largest |eigenvalue| of ∇²U_B over positions [checkpoint, chain, draw, ...], by power iteration."""
    start_key = as_threefry(key)
    batch, rows = draw_batch(jax.random.fold_in(start_key, 1), data, batch_size)

    def at_position(posterior: LocalPosterior, params: Params) -> Array:
        potential = posterior.potential(batch, posterior.anchor_terms(batch, rows))
        times_hessian = hessian_product(lambda w: potential(w)[0], params)

        def iterate(direction: Params, _: None) -> tuple[Params, Array]:
            product = times_hessian(direction)
            norm = optax.tree.norm(product)
            return optax.tree.scale(1 / jnp.maximum(norm, TINY), product), norm

        start = gaussian(start_key, params)
        start = optax.tree.scale(1 / optax.tree.norm(start), start)
        return jax.lax.scan(iterate, start, length=iterations)[1][-1]

    def at_checkpoint(posterior: LocalPosterior, positions: Params) -> Array:
        return jnp.max(in_turn(lambda params: at_position(posterior, params), positions, mesh))

    return jax.vmap(at_checkpoint)(posteriors, positions)
