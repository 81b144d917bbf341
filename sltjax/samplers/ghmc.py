"""Generalised Hamiltonian Monte Carlo with persistent momentum: exact on full data, at one gradient a step.

    p ← a·p + √(1 − a²)·z                                      z ~ N(0, 1)
    w', p' = one leapfrog step of length h in the metric 1/s
    accept where |u| < exp(−ΔH), else keep w and reverse p     (Horowitz 1991)

The momentum survives from step to step, so a chain crosses a valley in one go instead of diffusing along it; the
slice u moves slowly and on its own, which bunches rejections together and leaves long runs between the reversals
(Neal 2020, arXiv 2001.11950). Accepting by U itself makes the law exact at every step size and rules out
divergence. In burn-in h is driven to a target acceptance (Robbins–Monro, as in Hoffman & Gelman 2014) and the
preconditioner learns its scale s; both are kept while drawing.

One step size cannot enter a region where curvature is beyond 4/h², and a singular posterior has such regions, as
the arms of w₁²w₂² far from the origin: chains would miss their share, with nothing to show for it. So h goes
through a cycle of shorter steps, by the time alone, which leaves the law as it is.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array

from sltjax.samplers.adaptation import Adapted, adapted
from sltjax.samplers.noise import gaussian
from sltjax.samplers.preconditioners import Identity, Preconditioner
from sltjax.types import Info, Measured, Params, Potential, RngKey, Scalar

CYCLE = (1.0, 1.0, 0.5, 0.25)  # shares of h, each for a while
CYCLE_STEPS = 32
SLICE_STEP = 0.02  # how far the slice u ∈ [−1, 1) moves at a step: some hundred steps around


@struct.dataclass
class StepSize:
    """A step size on its way to the target acceptance.

    Attributes:
        log_step: log h, as used in burn-in.
        average: its mean over the later part of the chain, as used while drawing.
        count: steps seen.
    """

    log_step: Scalar
    average: Scalar
    count: Scalar

    def update(self, acceptance: Scalar, target: Scalar) -> "StepSize":
        """Lengthen the step where more than the target was accepted, by less and less."""
        count = self.count + 1
        log_step = self.log_step + (acceptance - target) / jnp.sqrt(count + 10)
        weight = 4 / (count + 4)
        return StepSize(log_step, (1 - weight) * self.average + weight * log_step, count)


@struct.dataclass
class GHMCState:
    """A chain: where it is, what U and its gradient are there, and what has been learnt."""

    params: Params
    momentum: Params
    potential: Scalar
    gradient: Params
    measured: Measured
    slice: Scalar
    time: Scalar
    step_size: Adapted
    statistics: Adapted


@struct.dataclass
class GHMC:
    """Generalised Hamiltonian Monte Carlo; every step must see the full data.

    Attributes:
        step_size: h > 0 to begin with, the longest of the cycle; a scalar, or one for each checkpoint of a block.
        persistence: a in [0, 1), the share of its momentum that a chain keeps at a step; 0 is MALA.
        acceptance: the share of steps to accept, to which h is driven in burn-in.
        preconditioner: the diagonal s, learnt in burn-in.
    """

    needs_full_data: ClassVar[bool] = True

    step_size: Scalar
    persistence: Scalar = 0.9
    acceptance: Scalar = 0.95
    preconditioner: Preconditioner = Identity()

    def init(self, key: RngKey, params: Params) -> GHMCState:
        """Start a chain at `params`; its first step is always accepted."""
        momentum_key, slice_key = jax.random.split(key)
        start = jnp.log(jnp.float32(self.step_size))
        zero = jnp.zeros(())
        return GHMCState(
            params=params,
            momentum=gaussian(momentum_key, params),
            potential=jnp.full((), jnp.inf, jnp.float32),
            gradient=optax.tree.zeros_like(params),
            measured=Measured(zero, optax.tree.zeros_like(params)),
            slice=jax.random.uniform(slice_key, minval=-1.0, maxval=1.0),
            time=jnp.zeros((), jnp.int32),
            step_size=adapted(StepSize(start, start, zero)),
            statistics=adapted(self.preconditioner.init(params)),
        )

    def step(self, key: RngKey, state: GHMCState, potential: Potential) -> tuple[GHMCState, Info]:
        """One step; the information is about the position after it."""
        learnt = state.step_size.learnt
        share = jnp.asarray(CYCLE)[state.time // CYCLE_STEPS % len(CYCLE)]
        step = share * jnp.exp(jnp.where(state.step_size.learning, learnt.log_step, learnt.average))
        scale = self.preconditioner.scale(state.statistics.learnt, state.params)
        root = jax.tree.map(jnp.sqrt, scale)

        def refresh(p: Array, z: Array) -> Array:
            return self.persistence * p + jnp.sqrt(1 - self.persistence**2) * z

        def kick(p: Array, g: Array, r: Scalar) -> Array:
            return p - step / 2 * r * g

        def drift(w: Array, p: Array, r: Scalar) -> Array:
            return w + step * r * p

        momentum = jax.tree.map(refresh, state.momentum, gaussian(key, state.params))
        halfway = jax.tree.map(kick, momentum, state.gradient, root)
        params = jax.tree.map(drift, state.params, halfway, root)
        (value, measured), gradient = jax.value_and_grad(potential, has_aux=True)(params)
        arrived = jax.tree.map(kick, halfway, gradient, root)

        log_ratio = state.potential - value + _kinetic_energy(momentum) - _kinetic_energy(arrived)
        log_ratio = jnp.where(jnp.isnan(log_ratio), -jnp.inf, log_ratio)
        level = (state.slice + 1 + SLICE_STEP) % 2 - 1
        accepted = jnp.log(jnp.abs(level)) < log_ratio
        # given acceptance the slice is uniform below exp(log_ratio): rescaled, it is uniform again
        level = jnp.where(accepted & jnp.isfinite(log_ratio), level * jnp.exp(-log_ratio), level)
        acceptance = jnp.exp(jnp.minimum(log_ratio, 0.0))

        def choose(new: Params, old: Params) -> Params:
            return jax.tree.map(lambda x, y: jnp.where(accepted, x, y), new, old)

        reversed_momentum = jax.tree.map(jnp.negative, momentum)
        here = (params, arrived, value, gradient, measured)
        there = (state.params, reversed_momentum, state.potential, state.gradient, state.measured)
        params, momentum, value, gradient, measured = choose(here, there)
        learnt_scale = self.preconditioner.update(state.statistics.learnt, gradient, measured.pull)
        moved = GHMCState(
            params,
            momentum,
            value,
            gradient,
            measured,
            level,
            state.time + 1,
            state.step_size.update(learnt.update(acceptance, self.acceptance)),
            state.statistics.update(learnt_scale),
        )
        return moved, Info(params, value, measured, acceptance)


def _kinetic_energy(momentum: Params) -> Scalar:
    return optax.tree.norm(momentum, squared=True) / 2
