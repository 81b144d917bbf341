"""Stochastic-gradient Nosé–Hoover thermostat: momentum whose friction takes up the heat of the batches.

    p ← p − √(ε·s)·∇U_B(w)                      two half kicks of the same batch
    q ← a·p + √(1 − b²)·z,    a = exp(−ξ)       z ~ N(0, 1)
    w ← w + √(ε·s)·(p + q)/2
    ξ ← ξ + κ·(T − 1),    T = mean_i [(1 + 3a)·p_i² + (3 + a)·q_i²] / (4·(1 + a))
    p ← q

These are the dynamics of Ding et al. (2014) in the splitting of Leimkuhler & Shang (2016, arXiv 1505.06889);
without the last line but one it is `UnderdampedLangevin`. Batch noise heats the chain, T exceeds 1, friction grows.
The weights in T are such that E[T] = E[⟨w, ∇U⟩]/d at every step size and under any batch noise, as follows from the
stationarity of w² and ⟨w, q⟩; a chain in balance thus obeys the virial theorem of exp(−U), E[⟨w, ∇U⟩] = d. On a
quadratic with full gradients every direction is exact; with batch noise their mean is, while the noisier ones stay
too warm. The Euler form that was published, with T = |p|²/d, balances at E[⟨w, ∇U⟩]/d = 1 − ξ/2.
"""

from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array

from sltjax.samplers.adaptation import Adapted, adapted
from sltjax.samplers.noise import gaussian
from sltjax.samplers.preconditioners import Identity, Preconditioner, precondition
from sltjax.types import Info, Params, Potential, RngKey, Scalar


@struct.dataclass
class SGNHTState:
    """Position, momentum and friction ξ of a chain, and the statistics of its preconditioner."""

    params: Params
    momentum: Params
    friction: Scalar
    statistics: Adapted


@struct.dataclass
class SGNHT:
    """Stochastic-gradient Nosé–Hoover thermostat; stable while ε · (largest curvature of U, scaled by s) < 4.

    Attributes:
        step_size: ε > 0; a scalar, or one for each checkpoint of a block.
        persistence: b in (0, 1), the share of its momentum that a chain keeps at a step where nothing heats it.
        gain: κ > 0, how fast the friction follows; published as ε, which is too slow for small steps.
        noise: (key, params) -> a pytree of unit variance.
        preconditioner: the diagonal s, learnt in burn-in.
    """

    needs_full_data: ClassVar[bool] = False

    step_size: Scalar
    persistence: Scalar = 0.9
    gain: Scalar = 0.01
    noise: Callable[[RngKey, Params], Params] = struct.field(pytree_node=False, default=gaussian)
    preconditioner: Preconditioner = Identity()

    def init(self, key: RngKey, params: Params) -> SGNHTState:
        """Start a chain at `params`, with a momentum drawn from its law and the friction of no heat."""
        friction = -jnp.log(jnp.float32(self.persistence))
        return SGNHTState(params, gaussian(key, params), friction, adapted(self.preconditioner.init(params)))

    def step(self, key: RngKey, state: SGNHTState, potential: Potential) -> tuple[SGNHTState, Info]:
        """One step; the information is about the position before it."""
        (value, measured), gradient = jax.value_and_grad(potential, has_aux=True)(state.params)
        # Adam's drift, a force that lags behind, would drive the momentum: the gradient stays
        statistics, scale, _ = precondition(self.preconditioner, state.statistics, gradient, measured.pull)
        root = jax.tree.map(lambda s: jnp.sqrt(self.step_size * s), scale)
        kept = jnp.exp(-state.friction)

        def kick(p: Array, g: Array, r: Scalar) -> Array:
            return p - r * g

        def refresh(p: Array, z: Array) -> Array:
            return kept * p + jnp.sqrt(1 - self.persistence**2) * z

        def move(w: Array, p: Array, q: Array, r: Scalar) -> Array:
            return w + r / 2 * (p + q)

        kicked = jax.tree.map(kick, state.momentum, gradient, root)
        momentum = jax.tree.map(refresh, kicked, self.noise(key, state.params))
        params = jax.tree.map(move, state.params, kicked, momentum, root)
        before, after = (optax.tree.norm(p, squared=True) / optax.tree.size(p) for p in (kicked, momentum))
        temperature = ((1 + 3 * kept) * before + (3 + kept) * after) / (4 * (1 + kept))
        friction = state.friction + self.gain * (temperature - 1)
        return SGNHTState(params, momentum, friction, statistics), Info(state.params, value, measured)
