"""Stochastic-gradient Hamiltonian Monte Carlo: SGLD with momentum (Chen, Fox & Guestrin 2014, arXiv 1402.4102).

    p_i ← (1 − α)·p_i − ε·s_i·∂_iU_B(w) + √(2α·ε·s_i)·z_i,    z ~ N(0, 1)
    w ← w + p

Its stationary law is that of U up to O(ε), as a case of Ma, Chen & Fox (2015, arXiv 1506.04696). On a quadratic of
curvature A the variance is 1 / (A·(1 − ε·s·A/(2·(2 − α)))): that of SGLD at the step size 2ε/(2 − α), with batch
noise (2 − α)/α times as strong. α = 1 is SGLD at 2ε. `UnderdampedLangevin` has no such bias at the same price.
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
class SGHMCState:
    """Position and momentum p/√(ε·s) of a chain, and the statistics of its preconditioner."""

    params: Params
    momentum: Params
    statistics: Adapted


@struct.dataclass
class SGHMC:
    """Stochastic-gradient HMC; stable while ε · (largest curvature of U, scaled by s) < 2·(2 − α).

    Attributes:
        step_size: ε > 0; a scalar, or one for each checkpoint of a block.
        friction: α in (0, 1], the share of its momentum that a chain loses at a step.
        noise: (key, params) -> a pytree of unit variance.
        preconditioner: the diagonal s, learnt in burn-in.
    """

    needs_full_data: ClassVar[bool] = False

    step_size: Scalar
    friction: Scalar = 0.1
    noise: Callable[[RngKey, Params], Params] = struct.field(pytree_node=False, default=gaussian)
    preconditioner: Preconditioner = Identity()

    def init(self, key: RngKey, params: Params) -> SGHMCState:
        """Start a chain at `params`, with a momentum of about its law."""
        return SGHMCState(params, gaussian(key, params), adapted(self.preconditioner.init(params)))

    def step(self, key: RngKey, state: SGHMCState, potential: Potential) -> tuple[SGHMCState, Info]:
        """One step; the information is about the position before it."""
        (value, measured), gradient = jax.value_and_grad(potential, has_aux=True)(state.params)
        # Adam's drift, a force that lags behind, would drive the momentum: the gradient stays
        statistics, scale, _ = precondition(self.preconditioner, state.statistics, gradient, measured.pull)
        root = jax.tree.map(lambda s: jnp.sqrt(self.step_size * s), scale)

        def kick(p: Array, g: Array, z: Array, r: Scalar) -> Array:
            return (1 - self.friction) * p - r * g + jnp.sqrt(2 * self.friction) * z

        def move(w: Array, p: Array, r: Scalar) -> Array:
            return w + r * p

        momentum = jax.tree.map(kick, state.momentum, gradient, self.noise(key, state.params), root)
        params = jax.tree.map(move, state.params, momentum, root)
        return SGHMCState(params, momentum, statistics), Info(state.params, value, measured)
