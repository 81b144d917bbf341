import dataclasses
import functools
import itertools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import BADLY_SCALED, NBETA, QUADRATICS, SAMPLERS, assert_agrees, draw_and_expect, even_delta_loss
from jax.flatten_util import ravel_pytree
from scipy.linalg import solve_discrete_lyapunov

import sltjax
from sltjax.samplers.adaptation import set_learning
from sltjax.sampling import condition_all, kinds_of, sample_block
from sltjax.schedule import Schedule
from sltjax.truth import localized_llc, quadratic
from sltjax.types import Measured

slow = pytest.mark.slow
KINDS = [name for name in SAMPLERS if "±1" not in name]  # the noise changes moments, and nothing else
PLAIN = [name for name, case in SAMPLERS.items() if case.scale_power == 0]


def over(names, default=lambda case: case.is_main):
    """Tests over samplers, of which some run by default."""
    return pytest.mark.parametrize(
        "name", [pytest.param(name, marks=[] if default(SAMPLERS[name]) else slow) for name in names]
    )


def some(*names):
    """Their cases."""
    return [SAMPLERS[name] for name in names]


def is_for_batches(name):
    return not SAMPLERS[name].make(1.0, 1.0).needs_full_data


def scale_is_constant(name):
    """Whether the scale before the first step is that of a Newton curvature, or 1."""
    return SAMPLERS[name].scale_power in (0, 1)


def potential(w):
    value = sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(w))
    return value, Measured(value, optax.tree.zeros_like(w))


@functools.cache
def draw_on(problem, name, stiffness):
    curvatures, gamma = QUADRATICS[problem]
    truth = quadratic(jax.random.key(1), curvatures, num_examples=64)
    return draw_and_expect(name, truth, curvatures, gamma, stiffness)


@over(SAMPLERS)
@pytest.mark.parametrize("problem", QUADRATICS)
@pytest.mark.parametrize("stiffness", [pytest.param(0.1, marks=slow), pytest.param(1.0, marks=slow), 2.5])
def test_llc_is_exact_at_finite_steps(name, problem, stiffness):
    trace, exact = draw_on(problem, name, stiffness)
    assert_agrees(sltjax.llc(trace, NBETA), exact, cap=0.02)


@over([name for name, case in SAMPLERS.items() if case.copes])
def test_bad_scaling_is_mixed_through(name):
    curvatures, gamma = BADLY_SCALED
    truth = quadratic(jax.random.key(1), curvatures, num_examples=64)
    trace, exact = draw_and_expect(name, truth, curvatures, gamma, 1.0)
    assert_agrees(sltjax.llc(trace, NBETA), exact, cap=0.02)


@over([name for name, case in SAMPLERS.items() if not case.copes])
@slow
def test_bad_scaling_is_mixed_through_in_the_end(name):
    curvatures = np.array([1e-3, 0.1])  # precisions 1 and 100: the slow one relaxes in 200 steps
    truth = quadratic(jax.random.key(1), curvatures, num_examples=64)
    trace, exact = draw_and_expect(name, truth, curvatures, 0.0, 1.0, num_draws=50_000, burn_in=50_000)
    assert_agrees(sltjax.llc(trace, NBETA), exact, cap=0.02)


@pytest.mark.parametrize("name", [name for name in KINDS if SAMPLERS[name].is_linear and scale_is_constant(name)])
def test_the_law_of_a_step_is_as_theory_says(name):
    """A step on a quadratic is linear in state, noise and batch: its stationary variance, from its own Jacobians."""
    case, curvature, gamma, batch_size, largest = SAMPLERS[name], 2.0, 10.0, 4, 500.0
    precision = NBETA * curvature + gamma

    @jax.jit
    def jacobians(sampler):
        start = set_learning(sampler.init(jax.random.key(0), jnp.zeros(1)), False)
        moving = [field.name for field in dataclasses.fields(start) if field.name != "statistics"]
        flat, unravel = ravel_pytree({name: getattr(start, name) for name in moving})
        scale = sampler.preconditioner.scale(start.statistics.learnt, jnp.zeros(1))

        def step(flat, noise, force):
            def tilted(w):
                value = jnp.sum(precision * w**2 / 2 + force * w)
                return value, Measured(value, jnp.zeros_like(w))

            state = start.replace(**unravel(flat))
            moved, info = sampler.replace(noise=lambda key, params: noise).step(jax.random.key(0), state, tilted)
            return ravel_pytree({name: getattr(moved, name) for name in moving})[0], info.params

        return jax.jacobian(step, argnums=(0, 1, 2))(jnp.zeros_like(flat), jnp.zeros(1), jnp.zeros(1)), scale

    for stiffness, gradient_noise in itertools.product((0.1, 1.0, 2.5), (0.0, 0.3)):
        step_size = stiffness / precision * largest**case.scale_power
        found = jacobians(case.make(step_size, largest))
        ((keep, kick, heat), (see, blur, _)), scale = jax.tree.map(lambda x: np.asarray(x, float), found)
        heat = heat * NBETA * gradient_noise / batch_size**0.5
        variance = see @ solve_discrete_lyapunov(keep, kick @ kick.T + heat @ heat.T) @ see.T + blur @ blur.T
        scaled = step_size * float(np.squeeze(scale))
        exact = case.exact([curvature], NBETA, gamma, scaled, gradient_noise**2, batch_size)
        assert NBETA * curvature * variance.item() / 2 == pytest.approx(exact, rel=1e-3)


@over([name for name in PLAIN if is_for_batches(name)], default=lambda case: case in some("sgld"))
def test_the_anchored_potential_cancels_additive_gradient_noise(name):
    curvatures, gamma = QUADRATICS["even"]
    truth = quadratic(jax.random.key(1), curvatures, num_examples=64, gradient_noise=0.3)
    trace, exact = draw_and_expect(name, truth, curvatures, gamma, 0.5, batch_size=4)
    assert_agrees(sltjax.llc(trace, NBETA), exact, cap=0.02)


@over([name for name in PLAIN if is_for_batches(name)], default=lambda case: case in some("sgld", "sgnht"))
def test_gradient_noise_heats_the_plain_potential_as_theory_says(name):
    case = SAMPLERS[name]
    curvatures, gamma = QUADRATICS["even"]
    step_size = case.step_size(0.5, NBETA * curvatures + gamma)
    exact = case.exact(curvatures, NBETA, gamma, step_size, 0.3**2, 4)
    heating = exact / localized_llc(curvatures, NBETA, gamma)
    assert heating == pytest.approx(1, abs=0.01) if name.startswith("sgnht") else heating > 1.5
    truth = quadratic(jax.random.key(1), curvatures, num_examples=64, gradient_noise=0.3)
    recorded = {"delta_loss": even_delta_loss}
    trace, _ = draw_and_expect(name, truth, curvatures, gamma, 0.5, batch_size=4, anchored=False, observables=recorded)
    assert_agrees(sltjax.llc(trace, NBETA), exact, cap=0.03)


@pytest.mark.parametrize("name", KINDS)
def test_types_and_structure_are_kept(name):
    params = {"a": jnp.ones((2, 3)), "b": [jnp.zeros(4)]}
    sampler = SAMPLERS[name].make(0.01, 1.0)

    def step(key):
        start = sampler.init(key, params)
        return start, *sampler.step(key, start, potential)

    start, state, info = jax.eval_shape(step, jax.random.key(0))
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    assert state.params == info.params == info.measured.pull == shapes
    assert info.potential.shape == ()
    assert str(jax.tree.structure(state)) == str(jax.tree.structure(start))
    for (path, before), after in zip(jax.tree.leaves_with_path(start), jax.tree.leaves(state), strict=True):
        assert before == after, path  # weak types count: they would compile the second chunk of a chain anew


@pytest.mark.parametrize("name", KINDS)
def test_one_compilation_serves_many_hyperparameters(name):
    traces = []

    @jax.jit
    def step(sampler, w):
        traces.append(1)
        start = sampler.init(jax.random.key(1), w)
        return sampler.step(jax.random.key(0), start, potential)[0].params

    for factor in (0.0, 0.05, 0.1):
        step.trace(varied(name, factor), jnp.ones(3))
    assert len(traces) == 1


def test_no_two_samplers_are_taken_for_one_another():
    """To jax they are equal where their fields are, and its cache may run one's program for the other."""
    kinds = {kinds_of(case.make(1.0, 1.0)) for case in SAMPLERS.values()}
    assert len(kinds) == len(SAMPLERS)


@over(KINDS, default=lambda case: case in some("sgnht newton", "mala newton"))
def test_hyperparameters_may_be_mapped_over(name):
    def step(sampler, w):
        start = sampler.init(jax.random.key(1), w)
        return sampler.step(jax.random.key(0), start, potential)[0].params

    samplers = [varied(name, factor) for factor in (0.0, 0.05, 0.1)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *samplers)
    mapped = jax.jit(jax.vmap(step, in_axes=(0, None)))(stacked, jnp.ones(3))
    np.testing.assert_allclose(mapped, jnp.stack([jax.jit(step)(s, jnp.ones(3)) for s in samplers]), rtol=1e-5)
    assert not np.allclose(mapped[0], mapped[1])


def varied(name, factor):
    leaves, treedef = jax.tree.flatten(SAMPLERS[name].make(0.01, 2.0))
    return treedef.unflatten([jnp.float32(x) * (1 - factor / place) for place, x in enumerate(leaves, 1)])


@over(KINDS, default=lambda case: case in some("sgld", "sgnht newton", "mala newton", "nuts"))
def test_keys_decide_everything(name):
    curvatures, gamma = QUADRATICS["even"]
    truth = quadratic(jax.random.key(1), curvatures, num_examples=64)
    first = draw_on("even", name, 2.5)[0]["delta_loss"]
    again, other = (draw_and_expect(name, truth, curvatures, gamma, 2.5, seed=s)[0]["delta_loss"] for s in (0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.mean(first == other) < 0.01
    assert np.mean(first[0] == first[1]) < 0.01


@pytest.mark.parametrize("name", KINDS)
def test_keys_are_used_once(name):
    sampler = SAMPLERS[name].make(0.01, 2.0)

    def step(key):
        start_key, key = jax.random.split(key)
        return sampler.step(key, sampler.init(start_key, jnp.ones(3)), potential)[0].params

    with jax.debug_key_reuse(True):
        jax.eval_shape(jax.jit(step), jax.random.key(0))


def test_a_restricted_chain_moves_nothing_else():
    features = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
    target = np.array([1.0, -1.0], np.float32)
    params = {"moved": target, "frozen": np.array([2.0], np.float32)}

    def loss(params, batch):
        return jnp.square(batch @ (params["moved"] - target) * params["frozen"]) / 2

    restricted, start = sltjax.restrict(loss, params, lambda params: {"moved": params["moved"]})
    posterior = sltjax.LocalPosterior(restricted, start, NBETA, 1.0)
    recorded = {"params": lambda params, info: params, "delta_loss": lambda params, info: info.measured.delta_loss}
    trace = sltjax.sample(
        jax.random.key(0),
        posterior,
        sltjax.SGLD(1e-4),
        features,
        observables=recorded,
        num_chains=2,
        num_draws=100,
        burn_in=10,
        batch_size=64,
    )
    assert set(trace["params"]) == {"moved"}
    moved = trace["params"]["moved"]
    assert np.all(moved.std(axis=1) > 0.01)
    expected = np.mean(np.square((moved - target) @ features.T * 2) / 2, axis=-1)
    np.testing.assert_allclose(trace["delta_loss"], expected, rtol=1e-3)


SHARDED = """
import jax, jax.numpy as jnp, optax, sys
from jax.sharding import AxisType, NamedSharding, PartitionSpec
sys.path.insert(0, "tests")
from cases import SAMPLERS
from sltjax.types import Measured

mesh = jax.make_mesh((4,), ("model",), axis_types=(AxisType.Auto,))
shards = NamedSharding(mesh, PartitionSpec("model"))
params = {"a": jax.device_put(jnp.ones((8, 3)), shards), "b": jax.device_put(jnp.zeros(4), shards)}

def potential(w):
    value = sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(w))
    return value, Measured(value, optax.tree.zeros_like(w))

for name in sys.argv[1:]:
    sampler = SAMPLERS[name].make(0.01, 2.0)
    start = jax.jit(sampler.init)(jax.random.key(0), params)
    state, info = jax.jit(lambda key, state: sampler.step(key, state, potential))(jax.random.key(1), start)
    for where, tree in {"init": start.params, "state": state.params, "info": info.params}.items():
        for leaf in jax.tree.leaves(tree):
            assert leaf.sharding.is_equivalent_to(shards, leaf.ndim), (name, where, leaf.sharding)
"""


@slow
def test_sharding_is_kept():
    names = [name for name in KINDS if SAMPLERS[name].is_main]
    environment = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", SHARDED, *names], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


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
