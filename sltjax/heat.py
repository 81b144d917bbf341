"""What the noise of batches adds to λ̂: measured where chains end, for `llc` to take off.

Gradient noise of covariance Σ raises λ̂ by (D/8)·tr Σ to first order, D the squared step along slow directions: on a
quadratic exactly so, whatever its axes, because tr(H·δV) = (D/4)·tr Σ for the covariance δV that the noise adds. A
singular posterior is such a quadratic across the set of minima that its chains move along. Σ grows with the distance
from the anchor, as chains do on their way, so that it is measured at their end.
"""

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from sltjax.curvature import largest_curvature
from sltjax.devices import fetch, in_turn
from sltjax.posterior import LocalPosterior
from sltjax.samplers import SGHMC, SGLD, Identity, LeimkuhlerMatthews, UnderdampedLangevin
from sltjax.sampling import DEFAULT_OBSERVABLES, Chains, draw_batch, trace_block
from sltjax.schedule import Schedule
from sltjax.threefry import as_threefry, portable
from sltjax.types import Batch, Params, RngKey, Sampler, Trace
from sltjax.validation import count_examples

VISITS = 16  # looks at the noise on the way, at least, where there are as many chunks


def sample_judged(
    key: RngKey,
    posteriors: LocalPosterior,
    steps: Int[np.ndarray, " checkpoint"],
    sampler: Sampler,
    data: Batch,
    schedule: Schedule,
    *,
    on_chunk: Callable[[int], None] = lambda chain_steps: None,
    **options: Any,
) -> Trace:
    """As `sample_block`, and with what `JudgedChains` see beside the draws."""
    chains = JudgedChains(key, posteriors, steps, sampler, data, schedule.num_chains, **options)
    return chains.run(schedule, on_chunk)


class JudgedChains:
    """`Chains`, and "heat" [checkpoint, chain] beside their draws: what batch noise adds to λ̂.

    It is left out on full data, where there is none, and for samplers of which theory does not say it.
    """

    def __init__(
        self,
        key: RngKey,
        posteriors: LocalPosterior,
        steps: Int[np.ndarray, " checkpoint"],
        sampler: Sampler,
        data: Batch,
        num_chains: int,
        *,
        looks_at_curvature: bool = False,
        **options: Any,
    ) -> None:
        """Start them, as `Chains` are started.

        With `looks_at_curvature` there is "curvature" [checkpoint], the largest that chains met, as well.
        """
        self._chains = Chains(key, posteriors, steps, sampler, data, num_chains, **options)
        self._distance = squared_step(sampler)
        self._key = jax.random.fold_in(as_threefry(key), 2**32 - 3)
        self._where, self._looks_at_curvature = (posteriors, data), looks_at_curvature
        self._seen: list[tuple[int, Array]] = []  # after how many draws, and the noise there
        self._met: list[Array] = []

    def run(self, schedule: Schedule, on_chunk: Callable[[int], None] = lambda chain_steps: None) -> Trace:
        """Run to the end of a schedule, from wherever an earlier one ended, as `Chains.run` does."""
        if self._distance is None or schedule.batch_size == count_examples(self._where[1]):
            return self._chains.run(schedule, on_chunk)
        chunks = math.ceil(schedule.num_draws / schedule.chunk)
        skip = itertools.cycle(range(max(1, chunks // VISITS)))

        def look(states: Any) -> None:
            if next(skip) == 0:
                self._look(states, schedule.batch_size)

        trace = self._chains.run(schedule, on_chunk, look)
        seen = [noise for draws, noise in self._seen if draws > schedule.burn_in_draws]
        noise = np.stack(fetch(seen)).mean(axis=0, dtype=np.float64)
        curvature = {"curvature": np.stack(fetch(self._met)).max(axis=0)} if self._met else {}
        return {**trace, "heat": heat_of_noise(noise, self._distance), **curvature}

    def _look(self, states: Any, batch_size: int) -> None:
        posteriors, data = self._where
        positions = jax.tree.map(lambda w: w[:, :, None], states.params)
        where = (portable(jax.random.fold_in(self._key, len(self._seen))), posteriors, positions, data, batch_size)
        self._seen.append((self._chains.done, _gradient_noise(*where, mesh=self._chains.mesh)))
        if self._looks_at_curvature and len(self._seen) % 4 == 1:  # it costs much more
            self._met.append(largest_curvature(*where, mesh=self._chains.mesh))


def trace_judged(
    key: RngKey,
    posteriors: LocalPosterior,
    steps: Int[np.ndarray, " checkpoint"],
    sampler: Sampler,
    data: Batch,
    schedule: Schedule,
) -> Trace:
    """As `sample_judged`, but as a pure function, for jit and vmap."""
    distance = squared_step(sampler)
    is_heated = distance is not None and schedule.batch_size != count_examples(data)
    noise_key = jax.random.fold_in(as_threefry(key), 2**32 - 3)

    def look(states: Any, index: Array) -> Any:
        if not is_heated:
            return ()
        positions = jax.tree.map(lambda w: w[:, :, None], states.params)
        return _gradient_noise(jax.random.fold_in(noise_key, index), posteriors, positions, data, schedule.batch_size)

    trace, noise = trace_block(key, posteriors, steps, sampler, data, schedule, DEFAULT_OBSERVABLES, look)
    return {**trace, "heat": heat_of_noise(jnp.mean(noise, axis=0), distance)} if is_heated else trace


def squared_step(sampler: Sampler) -> Any:
    """D, by which noise heats; None where theory does not say."""
    if not isinstance(getattr(sampler, "preconditioner", None), Identity):
        return None
    match sampler:
        case SGLD() | LeimkuhlerMatthews():
            return sampler.step_size
        case SGHMC():
            return 2 * sampler.step_size / sampler.friction
        case UnderdampedLangevin():
            return sampler.step_size**2 * (1 + sampler.persistence) / (1 - sampler.persistence)
    return None


def heat_of_noise(
    noise: Float[Array | np.ndarray, "checkpoint chain"], distance: Any
) -> Float[Array | np.ndarray, "checkpoint chain"]:
    """(D/8)·tr Σ, for a D of all checkpoints or one each."""
    return np.reshape(distance, (-1, 1)) * noise / 8


def heat_share(trace: Trace, posteriors: LocalPosterior) -> Float[np.ndarray, " checkpoint"]:
    """The heat of a trace as a share of its λ̂, or of that of one parameter where λ̂ is smaller; 0 if it has none.

    Infinite where a chain left the finite numbers.
    """
    value = fetch(posteriors.nbeta) * trace["delta_loss"].mean(axis=(1, 2))
    added = np.mean(trace["heat"], axis=1) if "heat" in trace else np.zeros(len(value))
    share = added / np.maximum(np.abs(value), 0.5)
    return np.where(np.isfinite(share), share, np.inf)


def gradient_noise(
    key: RngKey, posteriors: LocalPosterior, positions: Params, data: Batch, batch_size: int
) -> Float[np.ndarray, "checkpoint chain"]:
    """E|∇U_B(w) − ∇U(w)|² at positions [checkpoint, chain, draw, ...], for each chain.

    Half the squared difference of two independent batches estimates it without bias.
    """
    noise = fetch(_gradient_noise(portable(key), posteriors, positions, data, batch_size))
    return np.asarray(noise, np.float64)


@partial(jax.jit, static_argnames=("batch_size", "mesh"))
def _gradient_noise(
    key: RngKey,
    posteriors: LocalPosterior,
    positions: Params,
    data: Batch,
    batch_size: int,
    mesh: Mesh | None = None,
) -> Array:
    def at_position(posterior: LocalPosterior, params: Params, key: Array) -> Array:
        def gradient(key: Array) -> Params:
            batch, rows = draw_batch(key, data, batch_size)
            return jax.grad(posterior.potential(batch, posterior.anchor_terms(batch, rows)), has_aux=True)(params)[0]

        one, other = (gradient(part) for part in jax.random.split(key))
        return optax.tree.norm(optax.tree.sub(one, other), squared=True) / 2

    def at_checkpoint(posterior: LocalPosterior, positions: Params) -> Array:
        keys = jax.random.split(as_threefry(key), jax.tree.leaves(positions)[0].shape[:2])
        noise = in_turn(lambda both: at_position(posterior, *both), (positions, keys), mesh)
        return jnp.mean(noise, axis=1)

    return jax.vmap(at_checkpoint)(posteriors, positions)
