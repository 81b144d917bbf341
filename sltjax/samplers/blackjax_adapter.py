"""Any blackjax algorithm as a sampler, and with it NUTS and HMC: exact on full data at every step size.

In burn-in the step size is driven to a target acceptance by dual averaging (Nesterov 2009; Hoffman & Gelman 2014),
and the diagonal inverse mass matrix is the variance of the chain over windows that double, as in Stan; both are
kept while drawing. Windows that double need not know how long burn-in is: it ends with the last mass matrix whose
step size had time to settle. Unlike Stan's, the variances are not shrunk towards 10⁻³, which is no small number for
a posterior of precision nβ·h.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from sltjax.late import late
from sltjax.samplers.adaptation import Adapted, adapted
from sltjax.types import Info, Params, Potential, RngKey, Scalar

FIRST_WINDOW = 50  # steps of the first window, and steps that a new mass matrix's step size is given to settle


@struct.dataclass
class Metric:
    """What a blackjax kernel moves by.

    Attributes:
        step_size: h.
        inverse_mass: the diagonal M⁻¹, shape [d].
    """

    step_size: Scalar
    inverse_mass: Any


@struct.dataclass
class Window:
    """One window of the adaptation.

    Attributes:
        dual_averaging: of the step size.
        moments: of the positions in this window (Welford).
        inverse_mass: as learnt in the window before.
        age: steps since the window opened.
        length: steps of the window.
        settled: what to draw with, if burn-in were over.
    """

    dual_averaging: Any
    moments: Any
    inverse_mass: Any
    age: Scalar
    length: Scalar
    settled: Metric

    @property
    def current(self) -> Metric:
        """What to learn with."""
        return Metric(jnp.exp(self.dual_averaging.log_step_size), self.inverse_mass)


@struct.dataclass
class BlackjaxState:
    """The position of a chain, and what it has learnt."""

    params: Params
    window: Adapted


@struct.dataclass
class Blackjax:
    """A blackjax algorithm; every step must see the full data.

    It is started anew from the position at every step, which costs a gradient and loses what else its state holds:
    a kernel with persistent momentum, such as blackjax's GHMC, refreshes it.

    Attributes:
        algorithm: (log density, step size, inverse mass matrix) -> a blackjax.SamplingAlgorithm, whose steps report
            their `acceptance_rate`; a module-level function, or anything else that is equal to itself tomorrow, or
            else it is compiled again. The mass matrix may be ignored.
        step_size: h > 0 to begin with; a scalar, or one for each checkpoint of a block.
        acceptance: the share of steps to accept, to which h is driven in burn-in.
    """

    needs_full_data: ClassVar[bool] = True

    algorithm: Callable[[Callable[[Params], Array], Scalar, Array], Any] = struct.field(pytree_node=False)
    step_size: Scalar = 0.1
    acceptance: Scalar = 0.8

    def init(self, key: RngKey, params: Params) -> BlackjaxState:
        """Start a chain at `params`."""
        flat, _ = ravel_pytree(params)
        start = Metric(jnp.float32(self.step_size), jnp.ones_like(flat))
        averaging_init, _, _ = self._dual_averaging()
        opened = Window(
            dual_averaging=jax.tree.map(jnp.float32, averaging_init(start.step_size)),
            moments=_no_moments(start.inverse_mass),
            inverse_mass=start.inverse_mass,
            age=jnp.zeros(()),
            length=jnp.full((), float(FIRST_WINDOW)),
            settled=start,
        )
        return BlackjaxState(params, adapted(opened))

    def step(self, key: RngKey, state: BlackjaxState, potential: Potential) -> tuple[BlackjaxState, Info]:
        """One step; the information is about the position before it."""
        start_key, step_key = jax.random.split(key)
        window = state.window.learnt
        metric = jax.tree.map(
            lambda current, settled: jnp.where(state.window.learning, current, settled), window.current, window.settled
        )
        algorithm = self.algorithm(lambda params: -potential(params)[0], metric.step_size, metric.inverse_mass)
        moved, seen = algorithm.step(step_key, algorithm.init(state.params, start_key))
        value, measured = potential(state.params)  # merged with the evaluation in `algorithm.init` when compiled
        learnt = self._learn(window, moved.position, seen.acceptance_rate)
        info = Info(state.params, value, measured, seen.acceptance_rate)
        return BlackjaxState(moved.position, state.window.update(learnt)), info

    def _learn(self, window: Window, params: Params, acceptance: Scalar) -> Window:
        """The window after one more step, or the next one if that was its last."""
        averaging_init, averaging_update, averaging_final = self._dual_averaging()
        _, moments_update, moments_final = _welford()
        averaging = averaging_update(window.dual_averaging, acceptance)
        moments = moments_update(window.moments, ravel_pytree(params)[0])
        age = window.age + 1
        step_size = averaging_final(averaging)

        is_settled = age >= FIRST_WINDOW
        settled = jax.tree.map(
            lambda new, old: jnp.where(is_settled, new, old), Metric(step_size, window.inverse_mass), window.settled
        )
        grown = Window(averaging, moments, window.inverse_mass, age, window.length, settled)
        variance = moments_final(moments)[0]
        opened = Window(
            dual_averaging=averaging_init(step_size),
            moments=_no_moments(variance),
            inverse_mass=jnp.where((variance > 0) & jnp.isfinite(variance), variance, window.inverse_mass),
            age=jnp.zeros(()),
            length=2 * window.length,
            settled=settled,
        )
        return jax.tree.map(lambda new, old: jnp.where(age == window.length, new, old), opened, grown)

    def _dual_averaging(self) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
        return late("blackjax.adaptation.step_size").dual_averaging_adaptation(self.acceptance)


def _welford() -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    return late("blackjax.adaptation.mass_matrix").welford_algorithm(is_diagonal_matrix=True)


def _no_moments(like: Array) -> Any:
    return jax.tree.map(jnp.float32, _welford()[0](like.size))


@dataclasses.dataclass(frozen=True)
class _NUTS:
    max_num_doublings: int

    def __call__(self, log_density: Callable[[Params], Array], step_size: Scalar, inverse_mass: Array) -> Any:
        nuts = late("blackjax").nuts
        return nuts(log_density, step_size, inverse_mass, max_num_doublings=self.max_num_doublings)


@dataclasses.dataclass(frozen=True)
class _HMC:
    max_num_steps: int

    def __call__(self, log_density: Callable[[Params], Array], step_size: Scalar, inverse_mass: Array) -> Any:
        return late("blackjax").dynamic_hmc(
            log_density,
            step_size,
            inverse_mass,
            integration_steps_fn=lambda key: jax.random.randint(key, (), 1, self.max_num_steps + 1),
            next_random_arg_fn=lambda key: key,  # which every start draws anew
        )


def NUTS(step_size: Scalar = 0.1, acceptance: Scalar = 0.8, *, max_num_doublings: int = 10) -> Blackjax:
    """The No-U-turn sampler (Hoffman & Gelman 2014): the reference for a posterior small enough for full data.

    Args:
        step_size: h to begin with.
        acceptance: the mean acceptance along a trajectory, to which h is driven in burn-in.
        max_num_doublings: a step takes at most 2 to this power gradients; under vmap, as many as the longest.
    """
    return Blackjax(_NUTS(max_num_doublings), step_size, acceptance)


def HMC(step_size: Scalar = 0.1, acceptance: Scalar = 0.8, *, max_num_steps: int = 10) -> Blackjax:
    """Hamiltonian Monte Carlo (Duane et al. 1987), each trajectory of 1 to `max_num_steps` leapfrog steps.

    Of random length, because one that fits a direction's period never leaves its ellipse (Neal 2011, section 3.2).

    Args:
        step_size: h to begin with.
        acceptance: the share of steps to accept, to which h is driven in burn-in.
        max_num_steps: gradients a step at most; under vmap, about always.
    """
    return Blackjax(_HMC(max_num_steps), step_size, acceptance)
