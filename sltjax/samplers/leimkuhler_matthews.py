"""The Leimkuhler–Matthews step, the high-friction limit of BAOAB (Leimkuhler & Matthews 2013).

    w_{t+1} = w_t − (ε/2)·∇U_B(w_t) + √ε·(z_t + z_{t+1})/2,    z ~ N(0, 1)

With a diagonal preconditioner s, ε·s_i stands in place of ε for parameter i.

Each z enters two steps. Written for the position before its noise, v_t = w_t − √ε·z_t/2, it needs neither a
stored nor a second draw of z:

    w_t = v_t + √ε·z_t/2,    v_{t+1} = w_t − (ε/2)·∇U_B(w_t) + √ε·z_t/2

At the price of SGLD its stationary law is right to second order in ε, and exact on a quadratic at every stable ε.
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
class LeimkuhlerMatthewsState:
    """The position of a chain, short of half a step's noise, and the statistics of its preconditioner."""

    params: Params
    statistics: Adapted


@struct.dataclass
class LeimkuhlerMatthews:
    """The Leimkuhler–Matthews step; stable while ε · (largest curvature of U, scaled by s) < 4.

    Attributes:
        step_size: ε > 0; a scalar, or one for each checkpoint of a block.
        noise: (key, params) -> a pytree of unit variance.
        preconditioner: the diagonal s, learnt in burn-in.
    """

    needs_full_data: ClassVar[bool] = False

    step_size: Scalar
    noise: Callable[[RngKey, Params], Params] = struct.field(pytree_node=False, default=gaussian)
    preconditioner: Preconditioner = Identity()

    def init(self, key: RngKey, params: Params) -> LeimkuhlerMatthewsState:
        """Start a chain at `params`."""
        return LeimkuhlerMatthewsState(params, adapted(self.preconditioner.init(params)))

    def step(
        self, key: RngKey, state: LeimkuhlerMatthewsState, potential: Potential
    ) -> tuple[LeimkuhlerMatthewsState, Info]:
        """One step; the information is about w_t."""
        scale = self.preconditioner.scale(state.statistics.learnt, state.params)
        noise = self.noise(key, state.params)
        half_noise = jax.tree.map(lambda z, s: jnp.sqrt(self.step_size * s) / 2 * z, noise, scale)
        params = jax.tree.map(jnp.add, state.params, half_noise)
        (value, measured), gradient = jax.value_and_grad(potential, has_aux=True)(params)
        statistics, _, drift = precondition(self.preconditioner, state.statistics, gradient, measured.pull)

        def move(w: Array, g: Array, z: Array, s: Scalar) -> Array:
            return w - self.step_size * s / 2 * g + z

        moved = jax.tree.map(move, params, drift, half_noise, scale)
        return LeimkuhlerMatthewsState(moved, statistics), Info(params, value, measured)
