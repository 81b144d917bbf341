import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import BADLY_SCALED, NBETA, QUADRATICS, SAMPLERS, Revealing, assert_agrees, draw

import sltjax
from sltjax.samplers import Blackjax
from sltjax.samplers.adaptation import set_learning
from sltjax.samplers.blackjax_adapter import FIRST_WINDOW
from sltjax.truth import localized_llc, quadratic
from sltjax.types import Measured

CURVATURES = np.array([1.0, 100.0, 1e4])


def potential(w):
    value = jnp.sum(CURVATURES * w**2) / 2
    return value, Measured(value, jnp.zeros_like(w))


def mala(log_density, step_size, inverse_mass):
    return blackjax.mala(log_density, step_size)


def learn(sampler, steps):
    """The states of a chain that learns for `steps`, and draws for 20 more."""

    @jax.jit
    def run(sampler):
        def step(state, time):
            state, info = sampler.step(jax.random.key(time), set_learning(state, time < steps), potential)
            return state, (state, info)

        return jax.lax.scan(step, sampler.init(jax.random.key(0), jnp.zeros(3)), jnp.arange(steps + 20))[1]

    return run(sampler)


def test_windows_double_and_a_mass_matrix_draws_once_its_step_size_has_settled():
    states, infos = learn(sltjax.HMC(1.0), 420)
    window = states.window.learnt
    opened = np.flatnonzero(np.asarray(window.age) == 0) + 1
    np.testing.assert_array_equal(opened[:3], [FIRST_WINDOW, 3 * FIRST_WINDOW, 7 * FIRST_WINDOW])
    positions = np.asarray(states.params)
    for start, end in zip([0, *opened], opened, strict=False):
        variance = positions[start:end].var(axis=0, ddof=1)
        np.testing.assert_allclose(window.inverse_mass[end], variance, rtol=1e-3)
        before, after = end + FIRST_WINDOW - 2, end + FIRST_WINDOW - 1
        assert np.all(window.settled.inverse_mass[before] != window.inverse_mass[end])
        np.testing.assert_array_equal(window.settled.inverse_mass[after], window.inverse_mass[end])
    np.testing.assert_allclose(window.settled.inverse_mass[-1] * CURVATURES, 1, atol=0.6)
    assert 0.3 < window.settled.step_size[-1] < 2
    jax.tree.map(lambda x: np.testing.assert_array_equal(x[420:], x[419:-1]), window)
    np.testing.assert_allclose(infos.potential[1:], jax.vmap(lambda w: potential(w)[0])(states.params[:-1]), rtol=1e-6)
    np.testing.assert_array_equal(infos.params[1:], states.params[:-1])


@pytest.mark.parametrize("name", ["hmc", pytest.param("nuts", marks=pytest.mark.slow)])
def test_a_hopeless_first_step_size_is_recovered_from(name):
    """With the mean acceptance that was asked for, nearly: it is a mean over lengths and windows."""
    curvatures, gamma = BADLY_SCALED
    truth = quadratic(jax.random.key(1), curvatures, num_examples=64)
    for step_size in (10.0, 1e-7):
        sampler = Revealing(SAMPLERS[name].make(step_size**2, None))
        trace = draw(truth, sampler, gamma, thin=1)
        assert_agrees(sltjax.llc(trace, NBETA), localized_llc(curvatures, NBETA, gamma), cap=0.02)
        assert 0.7 < trace["revealed"].mean() < 0.97


@pytest.mark.slow
def test_any_blackjax_algorithm_will_do():
    curvatures, gamma = QUADRATICS["even"]
    truth = quadratic(jax.random.key(1), curvatures, num_examples=64)
    sampler = Blackjax(mala, step_size=1.0, acceptance=0.6)
    trace = draw(truth, Revealing(sampler), gamma)
    assert_agrees(sltjax.llc(trace, NBETA), localized_llc(curvatures, NBETA, gamma), cap=0.02)
    assert trace["revealed"].mean() == pytest.approx(0.6, abs=0.1)


def test_a_constructor_called_again_compiles_nothing_again():
    assert jax.tree.structure(sltjax.NUTS(0.1)) == jax.tree.structure(sltjax.NUTS(0.2))
    assert jax.tree.structure(sltjax.HMC(max_num_steps=5)) != jax.tree.structure(sltjax.HMC(max_num_steps=6))


@pytest.mark.slow
def test_the_position_is_evaluated_once():
    """Starting a kernel anew and measuring where it starts are merged when compiled."""

    def flops(step):
        return jax.jit(step).lower(jax.random.key(0), jnp.ones(1000)).compile().cost_analysis()["flops"]

    def deep(w):
        value = jnp.sum(jnp.tanh(jnp.outer(w, w)) ** 2)
        return value, Measured(value, w)

    sampler = Blackjax(mala, step_size=1e-3)

    def step(key, w):
        return sampler.step(key, sampler.init(key, w), deep)

    def bare(key, w):
        kernel = blackjax.mala(lambda w: -deep(w)[0], 1e-3)
        return kernel.step(key, kernel.init(w))

    assert flops(step) < 1.1 * flops(bare)
