"""Numerics chosen for the posterior at hand; the definition (loss, data, nβ, γ) is never touched.

The step size comes from the largest curvature κ of the potential that chains meet: not at the anchor, where a
singular loss may be flat, but where the posterior sends them. ε = 0.5 / κ is an eighth of the stability bound
4 / κ, which leaves the Leimkuhler–Matthews step a negligible bias, and room for batches to differ.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, Float, Int

from sltjax.posterior import LocalPosterior
from sltjax.samplers import LeimkuhlerMatthews
from sltjax.samplers.noise import gaussian
from sltjax.sampling import alone, as_threefry, condition_all, draw_batch, sample_block
from sltjax.schedule import Schedule
from sltjax.types import Batch, Info, Params, RngKey, Sampler
from sltjax.validation import count_examples

STEP_TIMES_CURVATURE = 0.5
ROUNDS = 4
POWER_ITERATIONS = 20
FIRST_STEP_SIZES = 10.0 ** np.arange(-14.0, 2.5, 0.5)
TINY = 1e-30


@struct.dataclass
class Calibration:
    """Numerics, and what they were chosen from.

    Attributes:
        sampler: with its step size set.
        schedule: lengths and sizes.
        curvature: the largest curvature of U met in each round of pilot chains; empty if the sampler was given.
    """

    sampler: Sampler
    schedule: Schedule
    curvature: tuple[float, ...] = struct.field(pytree_node=False, default=())


def calibrate(
    key: RngKey,
    posterior: LocalPosterior,
    data: Batch,
    *,
    sampler: Sampler | None = None,
    num_chains: int = 4,
    num_draws: int | None = None,
    burn_in: int | None = None,
    thin: int | None = None,
    batch_size: int | None = None,
) -> Calibration:
    """Choose the numerics that are left at None.

    Args:
        key: consumed.
        posterior: loss, anchor, nβ and γ.
        data: pytree of arrays [n, ...].
        sampler: None for `LeimkuhlerMatthews` at the step size found.
        num_chains: chains a checkpoint.
        num_draws: None for 2000.
        burn_in: None for as many steps as half of those of the draws.
        thin: None for 2.
        batch_size: None for 512, or all of the data where that is fewer.

    Raises:
        ValueError: the potential is not finite, or beyond measure, at every distance that was tried.
    """
    schedule = default_schedule(data, num_chains, num_draws, burn_in, thin, batch_size)
    if sampler is not None:
        return Calibration(sampler, schedule)
    posteriors = condition_all(posterior.at(alone(posterior.anchor)), data, schedule.batch_size)
    met = curvature_met(key, posteriors, np.zeros(1, int), data, schedule.batch_size)
    return Calibration(stable_sampler(met), schedule, tuple(map(float, met[:, 0])))


def stable_sampler(curvature: Float[np.ndarray, "round 1"]) -> LeimkuhlerMatthews:
    """The default sampler for one checkpoint, from what `curvature_met` found.

    Raises:
        ValueError: there is no stable step size.
    """
    if not np.isfinite(curvature).all():
        raise ValueError(
            f"no step size from {FIRST_STEP_SIZES[0]:g} to {FIRST_STEP_SIZES[-1]:g} is stable at the checkpoint: the "
            "loss is not finite there, or its curvature is beyond measure; check the loss, or pass a sampler"
        )
    return default_sampler(float(step_size(curvature)[0]))


def step_size(curvature: Float[np.ndarray, "round checkpoint"]) -> Float[np.ndarray, " checkpoint"]:
    """ε for what `curvature_met` found; its first round is a guess at the anchor and does not count."""
    return STEP_TIMES_CURVATURE / curvature[1:].max(axis=0)


def default_sampler(step_size: float | np.ndarray) -> LeimkuhlerMatthews:
    """The sampler used where none is given: the one of least bias at the price of SGLD."""
    return LeimkuhlerMatthews(step_size)


def default_schedule(
    data: Batch,
    num_chains: int,
    num_draws: int | None = None,
    burn_in: int | None = None,
    thin: int | None = None,
    batch_size: int | None = None,
) -> Schedule:
    """The lengths and sizes used where none are given; see `calibrate`."""
    thin = 2 if thin is None else thin
    num_draws = 2000 if num_draws is None else num_draws
    burn_in = num_draws * thin // 2 if burn_in is None else burn_in
    batch_size = min(512, count_examples(data)) if batch_size is None else batch_size
    return Schedule(num_chains, num_draws, burn_in, thin, batch_size)


def curvature_met(
    key: RngKey,
    posteriors: LocalPosterior,
    steps: Int[np.ndarray, " checkpoint"],
    data: Batch,
    batch_size: int,
) -> Float[np.ndarray, "round checkpoint"]:
    """The largest |eigenvalue| of the Hessian of U_B that pilot chains meet, for each checkpoint by itself.

    Args:
        key: consumed.
        posteriors: as `condition_all` makes them, all leaves [checkpoint, ...].
        steps: training step of each checkpoint, which seeds its noise.
        data: pytree of arrays [n, ...].
        batch_size: examples a step.

    Returns:
        A guess one step away from the anchor, then what each round of chains met, at the step size that the
        round before suggests; NaN where the potential is finite at no distance.
    """
    batch_key, near_key, *round_keys = jax.random.split(as_threefry(key), 2 + ROUNDS)
    batch = draw_batch(batch_key, data, batch_size)
    pilot = Schedule(num_chains=2, num_draws=4, burn_in=50, thin=50, batch_size=batch_size)
    found = [_curvature_a_step_away(near_key, posteriors, steps, batch)]
    for round_key in round_keys:
        sampler = default_sampler(STEP_TIMES_CURVATURE / found[-1])
        trace = sample_block(round_key, posteriors, steps, sampler, data, pilot, {"params": _position})
        met = np.asarray(_largest_curvature(near_key, posteriors, trace["params"], batch), np.float64)
        found.append(np.where(np.isfinite(met), met, 10 * found[-1]))  # pilots that diverged were too bold
    return np.stack(found)


def _position(params: Params, info: Info) -> Params:
    return params


def _curvature_a_step_away(
    key: Array, posteriors: LocalPosterior, steps: Int[np.ndarray, " checkpoint"], batch: Batch
) -> Float[np.ndarray, " checkpoint"]:
    """The curvature for which a first step, noise and all, is stable where it lands; steps grow until none is."""
    curvature = np.full(len(steps), np.nan)
    growing = np.ones(len(steps), bool)
    for size in FIRST_STEP_SIZES:
        positions = _a_step_away(key, posteriors.anchor, steps, np.float32(np.sqrt(size)))
        met = np.asarray(_largest_curvature(key, posteriors, positions, batch))
        growing &= size * met <= STEP_TIMES_CURVATURE
        if not growing.any():
            break
        curvature = np.where(growing, STEP_TIMES_CURVATURE / size, curvature)
    return curvature


@jax.jit
def _a_step_away(key: Array, anchors: Params, steps: Array, scale: Array) -> Params:
    def away(anchor: Params, step: Array) -> Params:
        noise = gaussian(jax.random.fold_in(key, step), anchor)
        return jax.tree.map(lambda w, z: (w + scale * z)[None, None], anchor, noise)

    return jax.vmap(away)(anchors, steps)


@jax.jit
def _largest_curvature(
    key: Array, posteriors: LocalPosterior, positions: Params, batch: Batch
) -> Float[Array, " checkpoint"]:
    """The largest |eigenvalue| of ∇²U_B over positions [checkpoint, chain, draw, ...], by power iteration."""

    def at_position(posterior: LocalPosterior, params: Params) -> Array:
        potential = posterior.potential(batch, posterior.anchor_terms(batch))
        gradient = jax.grad(lambda w: potential(w)[0])

        def iterate(direction: Params, _: None) -> tuple[Params, Array]:
            product = jax.jvp(gradient, (params,), (direction,))[1]
            norm = optax.tree.norm(product)
            return optax.tree.scale(1 / jnp.maximum(norm, TINY), product), norm

        start = gaussian(key, params)
        start = optax.tree.scale(1 / optax.tree.norm(start), start)
        return jax.lax.scan(iterate, start, length=POWER_ITERATIONS)[1][-1]

    def at_checkpoint(posterior: LocalPosterior, positions: Params) -> Array:
        flat = jax.tree.map(lambda w: w.reshape(-1, *w.shape[2:]), positions)
        return jnp.max(jax.lax.map(lambda params: at_position(posterior, params), flat))

    return jax.vmap(at_checkpoint)(posteriors, positions)
