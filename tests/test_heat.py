"""What batch noise adds to λ̂, against theory, and that it is told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import sghmc_llc, underdamped_llc

import sltjax
from sltjax.heat import gradient_noise, sample_judged, squared_step
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
    np.testing.assert_allclose(gradient_noise(KEY, posteriors, positions, truth.data, 10), exact, rtol=0.1)


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
    assert trace["heat"].shape == (1,)
    assert trace["heat"][0] == pytest.approx((expected - cold) / expected, rel=0.2)


def test_heat_is_left_out_where_there_is_none_or_theory_is_silent():
    for sampler in (GHMC(0.1), SGNHT(0.1), SGLD(0.1, preconditioner=Newton(1.0))):
        assert squared_step(sampler) is None
    assert squared_step(SGLD(0.1)) == 0.1


def test_an_estimate_that_batches_heat_says_so():
    x = 1 + 0.9 * jax.random.normal(KEY, (500,))
    lengths = {"num_chains": 4, "num_draws": 1000, "thin": 2, "burn_in": 500, "nbeta": 100.0}

    def estimate(batch_size):
        sampler = SGLD(5e-3)
        return sltjax.estimate_llc(
            KEY, lambda w, x: jnp.sum(w**2) * x, jnp.zeros(4), x, sampler=sampler, batch_size=batch_size, **lengths
        )

    assert any("batch noise raises it by about" in said for said in estimate(2).health.messages)
    assert not any("batch noise" in said for said in estimate(500).health.messages)
