import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import NBETA, QUADRATICS, SAMPLERS, assert_agrees

import sltjax
from sltjax.sampling import condition_all, sample_block
from sltjax.schedule import Schedule
from sltjax.truth import quadratic

over_samplers = pytest.mark.parametrize("name", SAMPLERS)


def draw(truth, sampler, gamma, *, seed=0, batch_size=None, anchored=True, num_draws=3000, num_chains=16):
    posterior = sltjax.LocalPosterior(truth.loss, truth.params, NBETA, gamma, anchored=anchored)
    return sltjax.sample(
        jax.random.key(seed),
        posterior,
        sampler,
        truth.data,
        num_chains=num_chains,
        num_draws=num_draws,
        burn_in=500,
        thin=4,
        batch_size=batch_size or truth.num_examples,
    )


@over_samplers
@pytest.mark.parametrize("problem", QUADRATICS)
@pytest.mark.parametrize("stiffness", [0.1, 1.0, 2.5])
def test_llc_is_exact_at_finite_steps(name, problem, stiffness):
    make, exact = SAMPLERS[name]
    curvatures, gamma = QUADRATICS[problem]
    step_size = stiffness / (NBETA * curvatures.max() + gamma)
    truth = quadratic(jax.random.key(1), curvatures, num_examples=64)
    trace = draw(truth, make(step_size), gamma)
    estimate = sltjax.llc(trace, NBETA)
    value = exact(curvatures, NBETA, gamma, step_size)
    assert_agrees(estimate, value, cap=0.02)


@over_samplers
@pytest.mark.slow
def test_bad_scaling_is_mixed_through_in_the_end(name):
    make, exact = SAMPLERS[name]
    curvatures = np.array([1e-3, 0.1])  # precisions 1 and 100: the slow one relaxes in 200 steps
    truth = quadratic(jax.random.key(1), curvatures, num_examples=64)
    step_size = 1.0 / (NBETA * curvatures.max())
    trace = draw(truth, make(step_size), 0.0, num_draws=50_000)
    estimate = sltjax.llc({"delta_loss": trace["delta_loss"][:, 12_500:]}, NBETA)
    value = exact(curvatures, NBETA, 0.0, step_size)
    assert_agrees(estimate, value, cap=0.02)


@over_samplers
def test_the_anchored_potential_cancels_additive_gradient_noise(name):
    make, exact = SAMPLERS[name]
    curvatures, gamma = QUADRATICS["even"]
    step_size = 0.5 / (NBETA * curvatures.max() + gamma)
    truth = quadratic(jax.random.key(1), curvatures, num_examples=64, gradient_noise=0.3)
    estimate = sltjax.llc(draw(truth, make(step_size), gamma, batch_size=4), NBETA)
    value = exact(curvatures, NBETA, gamma, step_size)
    assert_agrees(estimate, value, cap=0.02)


@over_samplers
def test_the_plain_potential_is_heated_by_gradient_noise_as_theory_says(name):
    make, exact = SAMPLERS[name]
    curvatures, gamma = QUADRATICS["even"]
    step_size = 0.5 / (NBETA * curvatures.max() + gamma)
    truth = quadratic(jax.random.key(1), curvatures, num_examples=64, gradient_noise=0.3)
    trace = draw(truth, make(step_size), gamma, batch_size=4, anchored=False)
    value = exact(curvatures, NBETA, gamma, step_size, 0.3**2, 4)
    assert value > 1.5 * exact(curvatures, NBETA, gamma, step_size)
    estimate = sltjax.llc(trace, NBETA)
    assert_agrees(estimate, value, cap=0.1)


@over_samplers
def test_dtype_and_structure_are_kept(name):
    params = {"a": jnp.ones((2, 3)), "b": [jnp.zeros(4)]}
    sampler = SAMPLERS[name][0](0.01)

    def potential(w):
        value = sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(w))
        return value, sltjax.types.Measured(value, value, optax.tree.zeros_like(w))

    state, info = sampler.step(jax.random.key(1), sampler.init(jax.random.key(0), params), potential)
    for moved in (state.params, info.params):
        assert jax.tree.structure(moved) == jax.tree.structure(params)
        assert all(
            a.dtype == b.dtype == jnp.float32 for a, b in zip(*map(jax.tree.leaves, (moved, params)), strict=True)
        )


@over_samplers
def test_one_compilation_serves_many_step_sizes(name):
    traces = []

    def potential(w):
        traces.append(1)
        return jnp.sum(w**2), sltjax.types.Measured(jnp.sum(w**2), jnp.sum(w**2), jnp.zeros_like(w))

    @jax.jit
    def step(sampler, w):
        return sampler.step(jax.random.key(0), sampler.init(jax.random.key(1), w), potential)[0].params

    make = SAMPLERS[name][0]
    moved = [step(make(step_size), jnp.ones(3)) for step_size in (0.01, 0.02, 0.03)]
    assert len(traces) == 1
    stacked = jax.vmap(step, in_axes=(0, None))(make(jnp.array([0.01, 0.02, 0.03])), jnp.ones(3))
    np.testing.assert_allclose(stacked, jnp.stack(moved), rtol=1e-6)


@over_samplers
def test_keys_decide_everything(name):
    curvatures, gamma = QUADRATICS["even"]
    truth = quadratic(jax.random.key(1), curvatures, num_examples=64)
    sampler = SAMPLERS[name][0](1e-5)
    first, again, other = (draw(truth, sampler, gamma, seed=seed)["delta_loss"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.any(first == other)
    assert not np.any(first[0] == first[1])


def test_step_sizes_may_differ_between_checkpoints():
    curvatures, gamma = QUADRATICS["even"]
    truth = quadratic(jax.random.key(1), curvatures, num_examples=64)
    anchors = jax.tree.map(lambda w: jnp.stack([w, w]), truth.params)
    posteriors = condition_all(sltjax.LocalPosterior(truth.loss, anchors, NBETA, gamma), truth.data, 64)
    schedule = Schedule(num_chains=2, num_draws=20, burn_in=5, thin=1, batch_size=64)

    def run(step_size, steps):
        sampler = sltjax.SGLD(step_size)
        return sample_block(jax.random.key(0), posteriors, steps, sampler, truth.data, schedule)["delta_loss"]

    both = run(np.array([1e-5, 1e-4], np.float32), np.array([0, 1]))
    np.testing.assert_array_equal(both[0], run(1e-5, np.array([0, 1]))[0])
    np.testing.assert_array_equal(both[1], run(1e-4, np.array([0, 1]))[1])
