"""The Leimkuhler–Matthews step, the high-friction limit of BAOAB (Leimkuhler & Matthews 2013).

    w_{t+1} = w_t − (ε/2)·∇U_B(w_t) + √ε·(z_t + z_{t+1})/2,    z ~ N(0, 1)

Each z enters two steps. Written for the position before its noise, v_t = w_t − √ε·z_t/2, it needs neither a
stored nor a second draw of z:

    w_t = v_t + √ε·z_t/2,    v_{t+1} = w_t − (ε/2)·∇U_B(w_t) + √ε·z_t/2

At the price of SGLD its stationary law is right to second order in ε, and exact on a quadratic at every stable ε.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array

from sltjax.samplers.noise import gaussian
from sltjax.types import Info, Params, Potential, RngKey, Scalar


@struct.dataclass
class LeimkuhlerMatthewsState:
    """The position of a chain, short of half a step's noise."""

    params: Params


@struct.dataclass
class LeimkuhlerMatthews:
    """The Leimkuhler–Matthews step; stable while step_size · (largest curvature of U) < 4.

    Attributes:
        step_size: ε > 0; a scalar, or one for each checkpoint of a block.
        noise: (key, params) -> a pytree of unit variance.
    """

    step_size: Scalar
    noise: Callable[[RngKey, Params], Params] = struct.field(pytree_node=False, default=gaussian)

    def init(self, key: RngKey, params: Params) -> LeimkuhlerMatthewsState:
        """Start a chain at `params`."""
        return LeimkuhlerMatthewsState(params)

    def step(
        self, key: RngKey, state: LeimkuhlerMatthewsState, potential: Potential
    ) -> tuple[LeimkuhlerMatthewsState, Info]:
        """One step; the information is about w_t."""
        half_noise = jax.tree.map(lambda z: jnp.sqrt(self.step_size) / 2 * z, self.noise(key, state.params))
        params = jax.tree.map(jnp.add, state.params, half_noise)
        (value, measured), gradient = jax.value_and_grad(potential, has_aux=True)(params)

        def move(w: Array, g: Array, z: Array) -> Array:
            return w - self.step_size / 2 * g + z

        moved = jax.tree.map(move, params, gradient, half_noise)
        return LeimkuhlerMatthewsState(moved), Info(params, value, measured)
