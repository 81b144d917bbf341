"""Stochastic-gradient Langevin dynamics (Welling & Teh 2011), with a diagonal preconditioner s.

    w_i ← w_i − (ε·s_i/2)·∂_iU_B(w) + √(ε·s_i)·z_i,    z ~ N(0, 1)

Its stationary law is that of U up to O(ε): on a quadratic of curvature A the variance is 1 / (A·(1 − ε·s·A/4)).
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
class SGLDState:
    """The position of a chain, and the statistics of its preconditioner."""

    params: Params
    statistics: Adapted


@struct.dataclass
class SGLD:
    """Stochastic-gradient Langevin dynamics; stable while ε · (largest curvature of U, scaled by s) < 4.

    Attributes:
        step_size: ε > 0; a scalar, or one for each checkpoint of a block.
        noise: (key, params) -> a pytree of unit variance.
        preconditioner: the diagonal s, learnt in burn-in.
    """

    needs_full_data: ClassVar[bool] = False

    step_size: Scalar
    noise: Callable[[RngKey, Params], Params] = struct.field(pytree_node=False, default=gaussian)
    preconditioner: Preconditioner = Identity()

    def init(self, key: RngKey, params: Params) -> SGLDState:
        """Start a chain at `params`."""
        return SGLDState(params, adapted(self.preconditioner.init(params)))

    def step(self, key: RngKey, state: SGLDState, potential: Potential) -> tuple[SGLDState, Info]:
        """One step; the information is about the position before it."""
        (value, measured), gradient = jax.value_and_grad(potential, has_aux=True)(state.params)
        statistics, scale, drift = precondition(self.preconditioner, state.statistics, gradient, measured.pull)
        noise = self.noise(key, state.params)

        def move(w: Array, g: Array, z: Array, s: Scalar) -> Array:
            return w - self.step_size * s / 2 * g + jnp.sqrt(self.step_size * s) * z

        params = jax.tree.map(move, state.params, drift, noise, scale)
        return SGLDState(params, statistics), Info(state.params, value, measured)
