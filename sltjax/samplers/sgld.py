"""Stochastic-gradient Langevin dynamics (Welling & Teh 2011).

    w ← w − (ε/2)·∇U_B(w) + √ε·z,    z ~ N(0, 1)

Its stationary law is that of U up to O(ε): on a quadratic of curvature A the variance is 1 / (A·(1 − ε·A/4)).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array

from sltjax.samplers.noise import gaussian
from sltjax.types import Info, Params, Potential, RngKey, Scalar


@struct.dataclass
class SGLDState:
    """The position of a chain."""

    params: Params


@struct.dataclass
class SGLD:
    """Stochastic-gradient Langevin dynamics; stable while step_size · (largest curvature of U) < 4.

    Attributes:
        step_size: ε > 0; a scalar, or one for each checkpoint of a block.
        noise: (key, params) -> a pytree of unit variance.
    """

    step_size: Scalar
    noise: Callable[[RngKey, Params], Params] = struct.field(pytree_node=False, default=gaussian)

    def init(self, key: RngKey, params: Params) -> SGLDState:
        """Start a chain at `params`."""
        return SGLDState(params)

    def step(self, key: RngKey, state: SGLDState, potential: Potential) -> tuple[SGLDState, Info]:
        """One step; the information is about the position before it."""
        (value, measured), gradient = jax.value_and_grad(potential, has_aux=True)(state.params)
        noise = self.noise(key, state.params)

        def move(w: Array, g: Array, z: Array) -> Array:
            return w - self.step_size / 2 * g + jnp.sqrt(self.step_size) * z

        params = jax.tree.map(move, state.params, gradient, noise)
        return SGLDState(params), Info(state.params, value, measured)
