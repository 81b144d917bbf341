"""The Metropolis-adjusted Langevin algorithm: SGLD on full data, with its error rejected (Roberts & Tweedie 1996).

    w'_i = w_i − (ε·s_i/2)·∂_iU(w) + √(ε·s_i)·z_i,    z ~ N(0, 1)
    accept with probability min(1, exp(U(w) − U(w') + (|z|² − |z'|²)/2))

where z' = √(ε·s)/2·(∇U(w) + ∇U(w')) − z would lead back. Exact at every step size. The acceptance is that of the
step size as given: it tells how wrong SGLD would be there. `GHMC` tunes its step, and keeps its direction. The
preconditioner learns from the proposals, accepted or not.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array

from sltjax.samplers.adaptation import Adapted, adapted
from sltjax.samplers.noise import gaussian
from sltjax.samplers.preconditioners import Identity, Preconditioner
from sltjax.types import Info, Measured, Params, Potential, RngKey, Scalar


@struct.dataclass
class MALAState:
    """A chain: where it is, what U and its gradient are there, and the statistics of its preconditioner."""

    params: Params
    potential: Scalar
    gradient: Params
    measured: Measured
    statistics: Adapted


@struct.dataclass
class MALA:
    """Metropolis-adjusted Langevin; every step must see the full data.

    Attributes:
        step_size: ε > 0, as in SGLD; a scalar, or one for each checkpoint of a block.
        preconditioner: the diagonal s, learnt in burn-in.
    """

    needs_full_data: ClassVar[bool] = True

    step_size: Scalar
    preconditioner: Preconditioner = Identity()

    def init(self, key: RngKey, params: Params) -> MALAState:
        """Start a chain at `params`; its first step is always accepted."""
        zero, zeros = jnp.zeros(()), optax.tree.zeros_like(params)
        measured = Measured(zero, zeros)
        statistics = adapted(self.preconditioner.init(params))
        return MALAState(params, jnp.float32(jnp.inf), zeros, measured, statistics)

    def step(self, key: RngKey, state: MALAState, potential: Potential) -> tuple[MALAState, Info]:
        """One step; the information is about the position after it."""
        noise_key, accept_key = jax.random.split(key)
        noise = gaussian(noise_key, state.params)
        scale = self.preconditioner.scale(state.statistics.learnt, state.params)
        root = jax.tree.map(lambda s: jnp.sqrt(self.step_size * s), scale)

        def propose(w: Array, g: Array, z: Array, r: Scalar) -> Array:
            return w - r**2 / 2 * g + r * z

        def noise_excess(z: Array, g: Array, h: Array, r: Scalar) -> Array:
            kick = r / 2 * (g + h)
            return jnp.sum(kick * (z - kick / 2))  # (z² − z'²)/2 without subtracting large sums

        params = jax.tree.map(propose, state.params, state.gradient, noise, root)
        (value, measured), gradient = jax.value_and_grad(potential, has_aux=True)(params)
        excess = optax.tree.sum(jax.tree.map(noise_excess, noise, state.gradient, gradient, root))
        log_ratio = state.potential - value + excess
        acceptance = jnp.where(jnp.isnan(log_ratio), 0.0, jnp.exp(jnp.minimum(log_ratio, 0.0)))
        accepted = jax.random.uniform(accept_key) < acceptance

        # a chain that rejects what lies far out would never learn that it is steep there
        is_finite = jnp.isfinite(optax.tree.norm(gradient, squared=True))
        seen, pull = _choose(is_finite, (gradient, measured.pull), (state.gradient, state.measured.pull))
        statistics = state.statistics.update(self.preconditioner.update(state.statistics.learnt, seen, pull))

        there = (params, value, gradient, measured)
        here = (state.params, state.potential, state.gradient, state.measured)
        params, value, gradient, measured = _choose(accepted, there, here)
        return MALAState(params, value, gradient, measured, statistics), Info(params, value, measured, acceptance)


def _choose(condition: Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), new, old)
