"""The registry: whatever enters here inherits every law of test_samplers.py."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from scipy.optimize import brentq

import sltjax
from sltjax import observables
from sltjax.samplers import Adam, Identity, Newton, RMSProp, gaussian, rademacher
from sltjax.samplers.adaptation import set_learning
from sltjax.truth import leimkuhler_matthews_llc, localized_llc, sgld_llc

PERSISTENCE = 0.9


@dataclass(frozen=True)
class Case:
    """A sampler, and what it must find.

    Attributes:
        make: (ε, largest precision of U) -> the sampler, with steps of SGLD's ε or h = √ε.
        exact: (h, nβ, γ, ε·s, gradient variance, batch size) -> λ̂ of a quadratic, for a scalar scale s.
        scale_power: its preconditioner gives a direction of precision A a scale of about A to minus this.
        is_linear: whether a step on a quadratic is a linear map of state and noise.
        copes: whether it learns to take steps of one size in units of each direction.
        is_main: whether its costlier tests run by default.
        thin: steps a draw.
    """

    make: Callable[[Any, Any], Any]
    exact: Callable[..., float]
    scale_power: float = 0.0
    is_linear: bool = False
    copes: bool = False
    is_main: bool = False
    thin: int = 4

    def step_size(self, stiffness, precisions):
        """The ε at which ε·s·A is at most about `stiffness`."""
        return stiffness * max(precisions) ** (self.scale_power - 1)


def underdamped_llc(h, nbeta, gamma, step_size, gradient_variance=0.0, batch_size=1):
    """Leimkuhler–Matthews, with batch noise (1 + a)/(1 − a) times as strong."""
    heat = gradient_variance * (1 + PERSISTENCE) / (1 - PERSISTENCE)
    return leimkuhler_matthews_llc(h, nbeta, gamma, step_size, heat, batch_size)


def sghmc_llc(h, nbeta, gamma, step_size, gradient_variance=0.0, batch_size=1):
    """SGLD at 2ε/(1 + a), with batch noise (1 + a)/(1 − a) times as strong, a = 1 − α."""
    heat = gradient_variance * (1 + PERSISTENCE) / (1 - PERSISTENCE)
    return sgld_llc(h, nbeta, gamma, 2 * step_size / (1 + PERSISTENCE), heat, batch_size)


def sgnht_llc(h, nbeta, gamma, step_size, gradient_variance=0.0, batch_size=1):
    """Each direction as its own heat has it, at the one persistence a where their mean is at temperature 1.

        A_i·V_i = ((1 + a)/(1 − a)·(N + H_i) + (3 + a)/(1 + a)·N)/4,   N = 1 − b²,   H_i = ε(nβ)²c/m / (1 − εA_i/4)

    from the stationary second moments of (w, p, q) in sgnht.py. Thermal fluctuations of a add about κ/(4d).
    """
    h = np.asarray(h, float)
    precision = nbeta * h + gamma
    noise = 1 - PERSISTENCE**2
    heat = step_size * nbeta**2 * gradient_variance / batch_size / (1 - step_size * precision / 4)

    def temperatures(a):
        return ((1 + a) / (1 - a) * (noise + heat) + (3 + a) / (1 + a) * noise) / 4

    balanced = temperatures(brentq(lambda a: temperatures(a).mean() - 1, 0.0, 1 - 1e-9))
    return float(np.sum(nbeta * h / precision * balanced) / 2)


def exact_llc(h, nbeta, gamma, step_size, gradient_variance=0.0, batch_size=1):
    """Of a sampler that is exact at every step size."""
    assert gradient_variance == 0
    return localized_llc(h, nbeta, gamma)


def _batch_samplers(noise):
    def root(sampler):
        return lambda step_size, **rest: sampler(step_size**0.5, persistence=PERSISTENCE, **rest)

    return {
        "sgld": (partial(sltjax.SGLD, noise=noise), sgld_llc),
        "leimkuhler-matthews": (partial(sltjax.LeimkuhlerMatthews, noise=noise), leimkuhler_matthews_llc),
        "underdamped": (root(partial(sltjax.UnderdampedLangevin, noise=noise)), underdamped_llc),
        "sghmc": (partial(sltjax.SGHMC, friction=1 - PERSISTENCE, noise=noise), sghmc_llc),
        "sgnht": (partial(sltjax.SGNHT, persistence=PERSISTENCE, noise=noise), sgnht_llc),
    }


# name -> (constructor from the largest precision, power of the precision in 1/s)
PRECONDITIONERS = {
    "": (lambda largest: Identity(), 0.0),
    " rmsprop": (lambda largest: RMSProp(), 0.5),
    " adam": (lambda largest: Adam(), 0.5),
    " newton": (Newton, 1.0),
}
NOISES = {"": gaussian, " ±1": rademacher}


def _all_samplers():
    for suffix, (preconditioner, power) in PRECONDITIONERS.items():
        copes = suffix == " newton"

        def with_scale(sampler, preconditioner=preconditioner):
            return lambda step_size, largest: sampler(step_size, preconditioner=preconditioner(largest))

        for noise_suffix, noise in NOISES.items():
            if noise_suffix and suffix:
                continue  # noise and scale do not meet: each is tried against the plain other
            for name, (sampler, exact) in _batch_samplers(noise).items():
                is_main = not noise_suffix and (copes or name + suffix == "sgld")
                case = Case(with_scale(sampler), exact, power, name != "sgnht", copes, is_main)
                yield name + noise_suffix + suffix, case
        ghmc = with_scale(lambda step_size, **rest: sltjax.GHMC(step_size**0.5, **rest))
        yield "mala" + suffix, Case(with_scale(sltjax.MALA), exact_llc, power, copes=copes, is_main=copes)
        yield "ghmc" + suffix, Case(ghmc, exact_llc, power, copes=copes, is_main=copes)
    for name, make in {"hmc": sltjax.HMC, "nuts": sltjax.NUTS}.items():

        def started(step_size, largest, make=make):
            return make(step_size**0.5)

        yield name, Case(started, exact_llc, copes=True, is_main=True, thin=1)


SAMPLERS = dict(_all_samplers())

# name -> (curvatures of the loss, γ), sampled at nβ = 1000
QUADRATICS = {
    "even": (np.array([1.0, 2.0, 5.0]), 10.0),
    "flat direction": (np.array([0.0, 1.0, 3.0]), 50.0),
}
BADLY_SCALED = (np.array([1e-3, 0.1, 10.0]), 0.0)  # precisions 1, 100 and 10⁴
NBETA = 1000.0


DRAWS = {"num_chains": 16, "num_draws": 3000}


@struct.dataclass
class Revealing:
    """A sampler whose Info shows the scale that it moves by in place of its acceptance, if it has a preconditioner.

    Attributes:
        sampler: the sampler.
        learns: 2 lets it learn along the whole chain, 1 in burn-in alone.
    """

    needs_full_data: ClassVar[bool] = False

    sampler: Any
    learns: Any = 1.0

    def init(self, key, params):
        return self.sampler.init(key, params)

    def step(self, key, state, potential):
        if not hasattr(self.sampler, "preconditioner"):
            return self.sampler.step(key, state, potential)
        state = set_learning(state, state.statistics.learning | (self.learns > 1))
        moved, info = self.sampler.step(key, state, potential)
        scale = self.sampler.preconditioner.scale(moved.statistics.learnt, state.params)
        return moved, info.replace(acceptance=scale * jnp.ones_like(state.params))


def even_delta_loss(params, info):
    """L_n(w) − L_n(w*) of the even quadratic, without batch noise."""
    return jnp.sum(QUADRATICS["even"][0] * jnp.square(params)) / 2


def revealed(params, info):
    """What `Revealing` reveals: a scale, or else the acceptance."""
    return info.acceptance


RECORDED = {"delta_loss": observables.delta_loss, "revealed": revealed}


def draw(truth, sampler, gamma, *, seed=0, batch_size=None, anchored=True, thin=4, **settings):
    """A trace of the ΔL around a truth, and of what was revealed; one program for equal shapes."""
    posterior = sltjax.LocalPosterior(truth.loss, truth.params, NBETA, gamma, anchored=anchored)
    settings = {"observables": RECORDED, "burn_in": 500 * thin} | DRAWS | settings
    batch_size = batch_size or truth.num_examples
    return sltjax.sample(
        jax.random.key(seed), posterior, sampler, truth.data, thin=thin, batch_size=batch_size, **settings
    )


def draw_and_expect(name, truth, curvatures, gamma, stiffness, **settings):
    """A trace of the named sampler, and the λ̂ that it must estimate, given the scale that each chain learnt."""
    case = SAMPLERS[name]
    precisions = NBETA * curvatures + gamma
    step_size = case.step_size(stiffness, precisions)
    sampler = case.make(step_size, precisions.max())
    trace = draw(truth, Revealing(sampler), gamma, thin=case.thin, **settings)
    if not case.scale_power:
        return trace, case.exact(curvatures, NBETA, gamma, step_size)
    scale = trace["revealed"][:, 0]
    np.testing.assert_array_equal(trace["revealed"], np.broadcast_to(scale[:, None], trace["revealed"].shape))
    return trace, exact_at_scale(case.exact, curvatures, gamma, step_size * scale)


def exact_at_scale(exact, curvatures, gamma, step_sizes):
    """λ̂ where every chain and direction has a step size of its own, shape [chain, d]."""
    directions = [
        exact([h], NBETA, gamma, float(e)) for chain in step_sizes for h, e in zip(curvatures, chain, strict=True)
    ]
    return np.sum(directions) / len(step_sizes)


def assert_agrees(estimate, exact, cap, bias=0.0):
    """Within four standard errors, which are capped so that noise cannot pass for agreement."""
    assert estimate.std_error < cap * exact
    assert abs(estimate.value - exact) < 4 * estimate.std_error + bias * exact
