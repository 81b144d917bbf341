"""Underdamped Langevin dynamics by the BAOAB splitting, one gradient a step (Leimkuhler & Matthews 2013).

    p ← p − h·√s·∇U_B(w)                      two half kicks of the same batch
    q ← a·p + √(1 − a²)·z                      z ~ N(0, 1)
    w ← w + (h/2)·√s·(p + q),    p ← q

Positions are exact on a quadratic with full gradients at every stable h; a = 0 is the Leimkuhler–Matthews step
with ε = h². Along slow directions the chain diffuses (1 + a)/(1 − a) times as fast as that, and batch noise
heats it by as much more.
"""

from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array

from sltjax.samplers.adaptation import Adapted, adapted
from sltjax.samplers.noise import gaussian
from sltjax.samplers.preconditioners import Identity, Preconditioner, precondition
from sltjax.types import Info, Params, Potential, RngKey, Scalar


@struct.dataclass
class UnderdampedState:
    """Position and momentum of a chain, and the statistics of its preconditioner."""

    params: Params
    momentum: Params
    statistics: Adapted


@struct.dataclass
class UnderdampedLangevin:
    """Underdamped Langevin dynamics; stable while h² · (largest curvature of U, scaled by s) < 4.

    Attributes:
        step_size: h > 0; a scalar, or one for each checkpoint of a block.
        persistence: a in [0, 1), the share of its momentum that a chain keeps at a step.
        noise: (key, params) -> a pytree of unit variance.
        preconditioner: the diagonal s, learnt in burn-in.
    """

    needs_full_data: ClassVar[bool] = False

    step_size: Scalar
    persistence: Scalar = 0.5
    noise: Callable[[RngKey, Params], Params] = struct.field(pytree_node=False, default=gaussian)
    preconditioner: Preconditioner = Identity()

    def init(self, key: RngKey, params: Params) -> UnderdampedState:
        """Start a chain at `params`, with a momentum drawn from its law."""
        return UnderdampedState(params, gaussian(key, params), adapted(self.preconditioner.init(params)))

    def step(self, key: RngKey, state: UnderdampedState, potential: Potential) -> tuple[UnderdampedState, Info]:
        """One step; the information is about the position before it."""
        (value, measured), gradient = jax.value_and_grad(potential, has_aux=True)(state.params)
        # Adam's drift, a force that lags behind, would drive the momentum: the gradient stays
        statistics, scale, _ = precondition(self.preconditioner, state.statistics, gradient, measured.pull)
        root = jax.tree.map(jnp.sqrt, scale)

        def kick(p: Array, g: Array, r: Scalar) -> Array:
            return p - self.step_size * r * g

        def refresh(p: Array, z: Array) -> Array:
            return self.persistence * p + jnp.sqrt(1 - self.persistence**2) * z

        def move(w: Array, p: Array, q: Array, r: Scalar) -> Array:
            return w + self.step_size / 2 * r * (p + q)

        kicked = jax.tree.map(kick, state.momentum, gradient, root)
        momentum = jax.tree.map(refresh, kicked, self.noise(key, state.params))
        params = jax.tree.map(move, state.params, kicked, momentum, root)
        return UnderdampedState(params, momentum, statistics), Info(state.params, value, measured)
