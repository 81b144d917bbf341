import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import assert_agrees

import sltjax
from sltjax import sampling
from sltjax.calibration import (
    AFFORDABLE,
    BATCH_SIZE,
    HEAT,
    MARGIN,
    MIN_DRAWS,
    Asked,
    _longer,
    _round_number,
    choose_batch_size,
    gradient_flops,
)
from sltjax.curvature import curvature_a_step_away, curvature_met
from sltjax.rules import TOO_HOT
from sltjax.samplers import GHMC, SGLD, UnderdampedLangevin
from sltjax.sampling import condition_all
from sltjax.schedule import Schedule
from sltjax.truth import deep_linear, localized_llc, quadratic

DATA = jnp.ones(100)
KEY = jax.random.key(0)


def posterior(potential, anchor, nbeta=1000.0, gamma=1.0):
    return sltjax.LocalPosterior(lambda w, batch: potential(w) * batch, anchor, nbeta, gamma)


def conditioned(problem, batch_size=100, data=DATA):
    return condition_all(problem, data, batch_size)


@pytest.mark.parametrize("curvature", [0.01, 1.0, 300.0])
def test_the_curvature_of_a_quadratic_is_found(curvature):
    problem = posterior(lambda w: 0.5 * curvature * w[0] ** 2 + 0.001 * w[1] ** 2, jnp.zeros((1, 2)))
    met, _ = curvature_met(KEY, conditioned(problem), np.zeros(1, int), DATA, 100)
    np.testing.assert_allclose(met[1:], 1000 * curvature + 1, rtol=0.05)
    rough = curvature_a_step_away(KEY, conditioned(problem), np.zeros(1, int), DATA, 100)
    exact = 1000 * curvature + 1
    assert exact <= rough[0] < 20 * exact


def test_where_the_anchor_is_flat_curvature_is_that_where_chains_go():
    problem = posterior(lambda w: jnp.sum(w**4), jnp.zeros((1, 3)))
    met, _ = curvature_met(KEY, conditioned(problem), np.zeros(1, int), DATA, 100)
    # E[w²] ≈ 0.34 / √nβ, so typical curvature is 12·nβ·w² ≈ 130 and the largest met some times that
    assert 130 < met[1:].max() < 2000


def test_a_checkpoint_is_measured_by_itself():
    def alone_at(anchors, steps):
        problem = posterior(lambda w: jnp.sum(w**4), jnp.asarray(anchors))
        return curvature_met(KEY, conditioned(problem), np.array(steps), DATA, 100)[0][1:].max(axis=0)

    pair = alone_at([[0.0, 0.0], [1.0, 0.5]], [3, 8])
    np.testing.assert_allclose(pair[0], alone_at([[0.0, 0.0]], [3])[0], rtol=1e-4)
    np.testing.assert_allclose(pair[1], alone_at([[1.0, 0.5]], [8])[0], rtol=1e-4)
    assert pair[1] > pair[0]


def test_affordable_data_are_used_whole_and_the_sampler_is_exact():
    truth = quadratic(KEY, np.array([1.0, 2.0]), num_examples=64)
    found = sltjax.calibrate(KEY, sltjax.LocalPosterior(truth.loss, truth.params, 100.0, 1.0), truth.data)
    assert isinstance(found.sampler, GHMC)
    assert found.schedule.batch_size == 64
    assert 0.7 < found.acceptance[0] < 0.99
    assert found.heat[0] == 0
    assert found.chain_steps == found.schedule.num_steps * found.schedule.num_chains
    assert found.seconds > 0
    (pilot,) = found.pilot
    assert abs(pilot.value - localized_llc([1.0, 2.0], 100.0, 1.0)) < 4 * pilot.std_error


def test_the_cost_of_a_gradient_is_that_of_its_products():
    truth = deep_linear(KEY, (20, 30, 20), 3, num_examples=100)
    cost = gradient_flops(sltjax.LocalPosterior(truth.loss, truth.params, 100.0, 1.0), truth.data)
    assert 6 * 1200 < cost < 1.2 * 6 * 1200


@pytest.mark.slow
def test_data_that_cannot_be_afforded_are_batched_by_their_noise():
    n = 3000
    data = {"x": jax.random.normal(KEY, (n, 3))}

    def loss(w, batch):
        noise = 1 + 0.5 * batch["x"]
        return 0.5 * (noise @ w**2)

    problem = sltjax.LocalPosterior(loss, jnp.zeros(3), 300.0, 1.0)
    few = sltjax.calibrate(KEY, problem, data, batch_size=4)
    many = sltjax.calibrate(KEY, problem, data, batch_size=1024)
    assert isinstance(few.sampler, UnderdampedLangevin)
    reach = [c.sampler.step_size**2 * (1 + c.sampler.persistence) / (1 - c.sampler.persistence) for c in (few, many)]
    assert reach[1] > 5 * reach[0]
    assert 0.006 < few.heat[0] < TOO_HOT * HEAT * 0.01
    assert many.heat[0] < few.heat[0]
    estimate = sltjax.estimate_llc(KEY, loss, jnp.zeros(3), data, nbeta=300.0, batch_size=1024)
    means = np.asarray(1 + 0.5 * data["x"].mean(0))
    assert_agrees(estimate, localized_llc(means, 300.0, 1.0), cap=0.03)


@pytest.mark.slow
def test_noise_that_grows_on_the_way_slows_the_steps():
    """Where the first pilots stop there is a tenth of the noise that there is where the chains come to rest."""
    truth = deep_linear(KEY, (6, 6, 6, 6), 2, num_examples=1000)
    problem = sltjax.LocalPosterior(truth.loss, truth.params, 145.0, 1.0)
    found = sltjax.calibrate(KEY, problem, truth.data, batch_size=100, error=0.02)
    assert found.pace.noise > 2
    assert found.pace.curvature > 1.5
    assert found.heat[0] < TOO_HOT * HEAT * 0.02


def test_large_models_get_batches():
    data = {"x": jnp.ones((2000, 4))}
    wide = jnp.zeros((4, 200_000))
    problem = sltjax.LocalPosterior(lambda w, batch: jnp.sum((batch["x"] @ w) ** 2, axis=-1), wide, 10.0, 1.0)
    cost = gradient_flops(problem, data)
    assert cost * 2000 > AFFORDABLE
    assert choose_batch_size(Asked(), cost, 2000) == BATCH_SIZE
    assert choose_batch_size(Asked(sampler=GHMC(0.1)), cost, 2000) == 2000
    assert choose_batch_size(Asked(sampler=SGLD(0.1)), 1.0, 2000) == BATCH_SIZE
    assert choose_batch_size(Asked(batch_size=7), cost, 2000) == 7


def test_what_is_settled_is_kept():
    problem = posterior(lambda w: jnp.sum(w**2), jnp.zeros(2))
    sampler = SGLD(1e-5)
    found = sltjax.calibrate(KEY, problem, DATA, sampler=sampler, num_chains=3, num_draws=77, thin=5, batch_size=9)
    assert found.sampler is sampler
    assert dataclasses.asdict(found.schedule) == {
        "num_chains": 3,
        "num_draws": 77,
        "burn_in": 96,
        "thin": 5,
        "batch_size": 9,
    }
    assert found.pilot_steps == 0


def test_lengths_follow_the_error_asked_for():
    problem = posterior(lambda w: jnp.sum(w**2), jnp.zeros(2))
    rough, fine = (sltjax.calibrate(KEY, problem, DATA, error=error) for error in (0.03, 0.01))
    assert 4 < fine.schedule.num_draws * fine.schedule.thin / (rough.schedule.num_draws * rough.schedule.thin) < 12


@pytest.mark.slow
def test_budgets_are_kept_and_what_was_wanted_is_said():
    problem = posterior(lambda w: jnp.sum(w**2), jnp.zeros(2))
    found = sltjax.calibrate(KEY, problem, DATA, error=0.001, max_chain_steps=100_000)
    assert found.pilot_steps + found.chain_steps <= 100_000
    assert found.wanted_draws > found.schedule.num_draws
    in_time = sltjax.calibrate(KEY, problem, DATA, error=0.0005, max_seconds=0.01)
    assert in_time.wanted_draws > in_time.schedule.num_draws


@pytest.mark.parametrize("name", ["error", "max_chain_steps", "max_seconds"])
def test_budgets_that_make_no_sense_are_refused(name):
    problem = posterior(lambda w: jnp.sum(w**2), jnp.zeros(2))
    value = -1 if name == "max_chain_steps" else -1.0
    with pytest.raises(ValueError, match=f"{name} must be positive"):
        sltjax.calibrate(KEY, problem, DATA, **{name: value})


def test_a_loss_that_is_not_finite_around_the_checkpoint_is_said_to_be():
    problem = posterior(lambda w: jnp.sqrt(-jnp.sum(w**2)), jnp.zeros(2))
    with pytest.raises(ValueError, match="no step size"):
        sltjax.calibrate(KEY, problem, DATA)


def test_strict_raises_with_the_estimate():
    with pytest.raises(sltjax.UnhealthyError, match="raise num_draws") as caught:
        sltjax.estimate_llc(
            KEY, lambda w, b: jnp.sum(w**2) * b, jnp.zeros(2), DATA, nbeta=100.0, num_draws=20, thin=1, strict=True
        )
    assert np.isfinite(caught.value.estimate.value)


# Chains that go on


@pytest.fixture
def ran(monkeypatch):
    """Of every run of chains: how long they were when it began, how long when it ended, and its schedule."""
    original, seen = sampling.Chains.run, []

    def spied(chains, schedule, *options):
        begun = chains.done
        trace = original(chains, schedule, *options)
        seen.append((begun, chains.done, schedule))
        return trace

    monkeypatch.setattr(sampling.Chains, "run", spied)
    return seen


def test_the_pilot_is_the_beginning_of_the_chains(ran):
    """One program, and no step twice."""
    truth = quadratic(KEY, np.array([1.0, 2.0, 3.0]), num_examples=50)
    before = sampling._advance._cache_size()
    estimate = sltjax.estimate_llc(KEY, truth.loss, truth.params, truth.data, nbeta=100.0, error=0.03)
    assert sampling._advance._cache_size() == before + 1
    assert len(ran) > 1
    assert [begun for begun, _, _ in ran] == [0, *(done for _, done, _ in ran[:-1])]
    assert estimate.health.ok
    assert estimate.std_error < 0.03 * estimate.value
    assert ran[-1][2].num_draws >= MIN_DRAWS
    assert_agrees(estimate, localized_llc([1.0, 2.0, 3.0], 100.0, 1.0), cap=0.03)


def test_a_burn_in_that_is_settled_is_kept(ran):
    """Shorter than a pilot's, whose first draws nobody recorded: its chains do not go on."""
    truth = quadratic(KEY, np.array([1.0, 2.0, 3.0]), num_examples=50)
    estimate = sltjax.estimate_llc(KEY, truth.loss, truth.params, truth.data, nbeta=100.0, error=0.03, burn_in=200)
    assert [(begun, schedule.burn_in) for begun, _, schedule in ran] == [(0, 999), (0, 200)]
    assert_agrees(estimate, localized_llc([1.0, 2.0, 3.0], 100.0, 1.0), cap=0.03)


SHORT = Schedule(num_chains=4, num_draws=MIN_DRAWS, burn_in=1000, thin=4, batch_size=100)


def saw(value=10.0, std_error=0.0999, rhat=1.001, ess=2000.0, drift=0.0):
    return sltjax.Estimate(value, std_error, np.full(4, value), sltjax.Health(np.full(4, -1), rhat, ess, drift, ()))


@pytest.mark.parametrize(
    ("seen", "factor"),
    [
        (saw(), 1.0),
        (saw(std_error=0.11), MARGIN * 1.21),
        (saw(ess=200.0), MARGIN * 2),
        (saw(rhat=1.02), MARGIN),
        (saw(drift=-5.0), MARGIN),
        (saw(rhat=1.2), 2 * MARGIN),
        (saw(value=np.nan, std_error=np.nan, ess=0.0, rhat=np.nan, drift=np.nan), 1.0),
    ],
)
def test_chains_go_on_as_long_as_they_fall_short(seen, factor):
    longer = _longer(Asked(error=0.01), SHORT, (saw(), seen), np.zeros(2), 10**6)
    assert longer.thin == SHORT.thin
    assert longer == SHORT or longer.num_draws == _round_number(float(longer.num_draws), 1e6)
    assert longer.burn_in == max(SHORT.burn_in, longer.num_draws * longer.thin // 4)
    assert factor <= longer.num_draws / SHORT.num_draws < 1.13 * factor


def test_chains_stop_where_the_budget_does():
    spent = Schedule(num_chains=4, num_draws=1560, burn_in=1560, thin=4, batch_size=100)
    assert _longer(Asked(error=0.01), spent, (saw(rhat=1.02),), np.zeros(1), 8000) == spent
    longer = _longer(Asked(error=0.01), SHORT, (saw(std_error=1.0),), np.zeros(1), 4000)
    assert SHORT.num_steps < longer.num_steps <= 4000


def test_a_budget_too_small_for_an_estimate_is_kept_and_told(ran):
    truth = quadratic(KEY, np.array([1.0, 2.0, 3.0]), num_examples=50)
    estimate = sltjax.estimate_llc(
        KEY, truth.loss, truth.params, truth.data, nbeta=100.0, num_chains=4, max_chain_steps=1500
    )
    taken = [schedule.num_steps * schedule.num_chains for _, _, schedule in ran]
    assert taken[0] < taken[-1] <= 1500
    assert any("raise" in message for message in estimate.health.messages)


def test_lengths_are_round_numbers():
    assert [_round_number(draws, 1e6) for draws in (3.0, 500.0, 512.0, 513.0, 1000.0, 1025.0)] == [
        3,
        512,
        512,
        576,
        1024,
        1152,
    ]
    assert _round_number(1025.0, 1100.0) == 1100
