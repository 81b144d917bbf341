"""Susceptibilities of a small network's two components, against derivatives of posterior means by quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sltjax
from sltjax import observables
from sltjax.estimators import structure, susceptibilities
from sltjax.sampling import DEFAULT_OBSERVABLES, condition_all, sample_block
from sltjax.schedule import Schedule

NBETA, GAMMA, SEEDS = 30.0, 1.0, 25
RNG = np.random.default_rng(2)
X = RNG.uniform(-2, 2, 10).astype(np.float32)
DATA = {"x": X, "y": (1.2 * np.tanh(0.8 * X) + 0.3 * RNG.standard_normal(10)).astype(np.float32)}
ANCHOR = {"a": np.array([1.0], np.float32), "b": np.array([1.0], np.float32)}
PARTS = {name: sltjax.part(name) for name in ANCHOR}


def loss(params, batch):
    """Of a neuron: ½(y − a·tanh(b·x))²."""
    return 0.5 * (batch["y"] - params["a"] * jnp.tanh(params["b"] * batch["x"])) ** 2


def drawn(seeds):
    """Component -> what is recorded along its chains, [seed, chain, draw, ...]."""
    anchors = jax.tree.map(lambda w: np.tile(w, (seeds, 1)), ANCHOR)
    schedule = Schedule(num_chains=4, num_draws=600, burn_in=100, thin=2, batch_size=10)
    recorded = {**DEFAULT_OBSERVABLES, "losses": observables.losses(loss, DATA)}
    found = {}
    for name, part in PARTS.items():
        posteriors = condition_all(sltjax.LocalPosterior(loss, anchors, NBETA, GAMMA, select=part), DATA, 10)
        sampler = sltjax.MALA(0.1)
        found[name] = sample_block(jax.random.key(0), posteriors, np.arange(seeds), sampler, DATA, schedule, recorded)
    return found


@pytest.fixture(scope="module")
def traces():
    return drawn(SEEDS)


def at_seed(traces, seed):
    return {name: jax.tree.map(lambda x: x[seed], trace) for name, trace in traces.items()}


@pytest.fixture(scope="module")
def long(traces):
    return {name: {n: np.concatenate(x, axis=1) for n, x in trace.items()} for name, trace in traces.items()}


def exact():
    """−Cov(φ_C, ℓ_x − L) for both components: −1/nβ times the derivative of ⟨φ_C⟩ by quadrature."""
    return np.stack([[derivative(name, x) for x in range(10)] for name in PARTS])


def derivative(name, example, h=1e-3):
    """(⟨φ_C⟩_h − ⟨φ_C⟩_−h)/(2h·nβ), where the data's loss is L + h(ℓ_x − L)."""
    grid = np.linspace(-6, 8, 20_001)
    a, b = (grid if part == name else np.float64(ANCHOR[part][0]) for part in ("a", "b"))
    y, x = DATA["y"].astype(float)[:, None], X.astype(float)[:, None]
    losses = 0.5 * (y - a * np.tanh(b * x)) ** 2
    mean = losses.mean(axis=0)
    phi = mean - loss(ANCHOR, DATA).mean()

    def expectation(shift):
        exponent = -NBETA * (mean + shift * (losses[example] - mean)) - GAMMA / 2 * (grid - ANCHOR[name][0]) ** 2
        weight = np.exp(exponent - exponent.max())
        return np.sum(weight * phi) / np.sum(weight)

    return (expectation(h) - expectation(-h)) / (2 * h * NBETA)


def test_susceptibilities_are_the_derivative_of_the_posterior_mean_by_the_data(long):
    found = susceptibilities(long, mean_loss="delta_loss")
    assert found.components == ("a", "b")
    assert (np.abs(found.value - exact()) < 4 * found.std_error).all()
    assert found.std_error.max() < 0.06 * np.abs(exact()).max()
    assert all(health.ok for health in found.health)


def test_the_mean_of_recorded_examples_serves_where_they_are_the_data(long):
    """Batches were the full data: ΔL is the mean of the losses less a constant."""
    by_mean, by_record = susceptibilities(long), susceptibilities(long, mean_loss="delta_loss")
    np.testing.assert_allclose(by_mean.value, by_record.value, atol=1e-6)
    np.testing.assert_allclose(by_mean.value.sum(axis=1), 0, atol=1e-9)


def test_the_susceptibility_for_a_set_of_data_is_the_mean_over_it(long):
    groups = np.zeros((2, 10))
    groups[0, :4], groups[1, 4:] = 1 / 4, 1 / 6
    found = susceptibilities(long, groups=groups)
    np.testing.assert_allclose(found.value, susceptibilities(long).value @ groups.T, rtol=1e-8, atol=1e-12)


def test_intervals_hold_the_exact_value_as_often_as_they_say(traces):
    found = [susceptibilities(at_seed(traces, seed), mean_loss="delta_loss") for seed in range(SEEDS)]
    away = np.stack([np.abs(each.value - exact()) / each.std_error for each in found])
    assert 0.9 < np.mean(away < 1.96) < 0.99


def test_structure_finds_what_components_have_in_common(long):
    found = susceptibilities(long)
    seen = structure(found, 2)
    np.testing.assert_allclose(seen.standardised.mean(axis=1), 0, atol=1e-12)
    np.testing.assert_allclose(seen.standardised.std(axis=1), 1)
    np.testing.assert_allclose(seen.components @ seen.examples.T, seen.standardised, atol=1e-9)
    np.testing.assert_allclose(seen.std_error, found.std_error / found.value.std(axis=1, keepdims=True))
    alike = np.corrcoef(found.value)[0, 1]
    assert seen.explained[0] == pytest.approx((1 + abs(alike)) / 2)  # of a 2 × 2 correlation matrix


def test_misuse_is_told(long):
    with pytest.raises(ValueError, match="no traces given"):
        susceptibilities({})
    with pytest.raises(ValueError, match=r"the trace of 'a' holds .* expected \['elsewhere'\]"):
        susceptibilities(long, "elsewhere")
    fewer = {**long, "b": {**long["b"], "losses": long["b"]["losses"][:, :, :3]}}
    with pytest.raises(ValueError, match=r"other numbers of examples.*'a': 10, 'b': 3"):
        susceptibilities(fewer)
    with pytest.raises(ValueError, match="num_factors: got 3, expected 1 to 2"):
        structure(susceptibilities(long), 3)
