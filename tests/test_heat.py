"""What batch noise adds to λ̂, against theory, and that it is told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import assert_agrees, sghmc_llc, underdamped_llc

import sltjax
from sltjax.estimators import HEAT_DOUBT
from sltjax.heat import JudgedChains, gradient_noise, sample_judged, squared_step
from sltjax.samplers import GHMC, SGHMC, SGLD, SGNHT, LeimkuhlerMatthews, Newton, UnderdampedLangevin
from sltjax.sampling import alone, condition_all
from sltjax.schedule import Schedule
from sltjax.truth import leimkuhler_matthews_llc, quadratic, sgld_llc

KEY = jax.random.key(0)


def test_the_heat_of_batches_is_the_variance_of_their_gradients():
    truth = quadratic(KEY, np.array([1.0, 2.0]), num_examples=500, curvature_noise=0.4)
    problem = sltjax.LocalPosterior(truth.loss, truth.params, 50.0, 1.0)
    posteriors = condition_all(problem.at(alone(truth.params)), truth.data, 10)
    w = np.array([0.3, -0.2], np.float32)
    positions = np.tile(w, (1, 4, 500, 1))
    exact = 50.0**2 * np.sum((0.4 * np.array([1.0, 2.0]) * w) ** 2) / 10
    noise = gradient_noise(KEY, posteriors, positions, truth.data, 10)
    assert noise.shape == (1, 4)
    np.testing.assert_allclose(noise, exact, rtol=0.2)


NBETA, GAMMA, BATCH_SIZE, STEP_SIZE = 100.0, 1.0, 8, 1e-3
CURVATURES = np.array([1.0, 1.0, 2.0])


@pytest.mark.parametrize(
    ("sampler", "theory"),
    [
        (SGLD(STEP_SIZE), sgld_llc),
        (LeimkuhlerMatthews(STEP_SIZE), leimkuhler_matthews_llc),
        (UnderdampedLangevin(STEP_SIZE**0.5, persistence=0.9), underdamped_llc),
        (SGHMC(STEP_SIZE, friction=0.1), sghmc_llc),
    ],
)
def test_the_heat_is_what_theory_says_of_each_sampler(sampler, theory):
    """For noise that is the same everywhere, to first order in the step size."""
    truth = quadratic(KEY, CURVATURES, num_examples=400, gradient_noise=0.5)
    posterior = sltjax.LocalPosterior(truth.loss, truth.params, NBETA, GAMMA, anchored=False)
    posteriors = condition_all(posterior.at(alone(truth.params)), truth.data, BATCH_SIZE)
    schedule = Schedule(num_chains=200, num_draws=20, burn_in=1000, thin=60, batch_size=BATCH_SIZE)
    trace = sample_judged(KEY, posteriors, np.zeros(1, int), sampler, truth.data, schedule)
    expected, cold = (theory(CURVATURES, NBETA, GAMMA, STEP_SIZE, c, BATCH_SIZE) for c in (0.25, 0.0))
    assert trace["heat"].shape == (1, 200)
    assert trace["heat"].mean() == pytest.approx(expected - cold, rel=0.2)


def test_chains_that_go_on_forget_the_heat_of_what_has_become_burn_in():
    """Anchored noise is 0 at the anchor, where chains begin, and grows with the distance from it."""
    truth = quadratic(KEY, CURVATURES, num_examples=400, curvature_noise=0.5)
    posterior = sltjax.LocalPosterior(truth.loss, truth.params, NBETA, GAMMA)
    posteriors = condition_all(posterior.at(alone(truth.params)), truth.data, BATCH_SIZE)
    chains = JudgedChains(KEY, posteriors, np.zeros(1, int), LeimkuhlerMatthews(1e-5), truth.data, 100)
    short = Schedule(num_chains=100, num_draws=40, burn_in=0, thin=2, batch_size=BATCH_SIZE)
    early = chains.run(short)["heat"].mean()
    late = chains.run(Schedule(100, 40, 2000, 2, BATCH_SIZE))["heat"].mean()
    alike = sample_judged(
        KEY, posteriors, np.zeros(1, int), LeimkuhlerMatthews(1e-5), truth.data, Schedule(100, 40, 2000, 2, BATCH_SIZE)
    )
    assert early < 0.2 * late
    assert late == pytest.approx(alike["heat"].mean(), rel=0.2)


def test_heat_is_left_out_where_there_is_none_or_theory_is_silent():
    for sampler in (GHMC(0.1), SGNHT(0.1), SGLD(0.1, preconditioner=Newton(1.0))):
        assert squared_step(sampler) is None
    assert squared_step(SGLD(0.1)) == 0.1


@pytest.mark.slow
def test_what_batches_add_is_taken_off():
    x = 1 + 0.9 * jax.random.normal(KEY, (500,))
    lengths = {"num_chains": 8, "num_draws": 4000, "thin": 2, "burn_in": 500, "nbeta": 100.0}

    def estimate(batch_size):
        return sltjax.estimate_llc(
            KEY,
            lambda w, x: jnp.sum(w**2) * x,
            jnp.zeros(4),
            x,
            sampler=LeimkuhlerMatthews(2e-3),
            batch_size=batch_size,
            **lengths,
        )

    exact = sltjax.truth.localized_llc(np.full(4, 2 * float(x.mean())), 100.0, 1.0)
    assert_agrees(estimate(500), exact, cap=0.02)
    assert_agrees(estimate(50), exact, cap=0.03)


def trace_with(heat, scatter=0.1):
    draws = np.random.default_rng(0).normal(2.0, scatter, (4, 2000))
    return {"delta_loss": draws, "heat": np.asarray(heat)}


def test_heat_widens_the_error_by_its_doubt_and_its_scatter():
    bare = sltjax.llc({"delta_loss": trace_with(0)["delta_loss"]}, 1.0)
    found = sltjax.llc(trace_with([0.08, 0.12, 0.08, 0.12]), 1.0)
    assert found.value == pytest.approx(bare.value - 0.1)
    np.testing.assert_allclose(found.per_chain, bare.per_chain - 0.1)
    scatter = np.std([0.08, 0.12, 0.08, 0.12], ddof=1) / 2
    assert found.std_error == pytest.approx(np.linalg.norm([bare.std_error, scatter, HEAT_DOUBT * 0.1]))
    assert found.health.ok


def test_much_heat_is_told():
    (said,) = sltjax.llc(trace_with(np.full(4, 0.5)), 1.0).health.messages
    assert "batch noise raised it by about 25%" in said
    (said,) = sltjax.llc(trace_with([0.1, np.inf, 0.1, 0.1]), 1.0).health.messages
    assert "not finite where chains end" in said


def test_the_heat_of_a_chain_that_failed_does_not_count():
    trace = trace_with([0.1, np.nan, 0.1, 0.1])
    trace["delta_loss"][1, 100:] = np.nan
    found = sltjax.llc(trace, 1.0)
    assert found.value == pytest.approx(np.mean(trace["delta_loss"][[0, 2, 3]]) - 0.1)
    assert len(found.health.messages) == 1
