import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sltjax
from sltjax.calibration import curvature_met, step_size
from sltjax.sampling import condition_all

DATA = jnp.ones(100)


def posterior(potential, anchor, nbeta=1000.0, gamma=1.0):
    return sltjax.LocalPosterior(lambda w, batch: potential(w) * batch, anchor, nbeta, gamma)


@pytest.mark.parametrize("curvature", [0.01, 1.0, 300.0])
def test_on_a_quadratic_the_step_is_half_the_inverse_of_the_curvature(curvature):
    problem = posterior(lambda w: 0.5 * curvature * w[0] ** 2 + 0.001 * w[1] ** 2, jnp.zeros(2))
    found = sltjax.calibrate(jax.random.key(0), problem, DATA)
    assert found.sampler.step_size == pytest.approx(0.5 / (1000 * curvature + 1), rel=0.1)


def test_where_the_anchor_is_flat_the_step_fits_where_the_chains_go():
    problem = posterior(lambda w: jnp.sum(w**4), jnp.zeros(3))
    found = sltjax.calibrate(jax.random.key(0), problem, DATA)
    # E[w²] ≈ 0.34 / √nβ, so typical curvature is 12·nβ·w² ≈ 130 and the largest met some times that
    assert 0.5 / 2000 < found.sampler.step_size < 0.5 / 130


def test_calibration_keeps_what_it_is_given():
    problem = posterior(lambda w: jnp.sum(w**2), jnp.zeros(2))
    sampler = sltjax.SGLD(1e-5)
    found = sltjax.calibrate(jax.random.key(0), problem, DATA, sampler=sampler, num_draws=77, batch_size=9)
    assert found.sampler is sampler
    assert (found.schedule.num_draws, found.schedule.batch_size, found.schedule.thin) == (77, 9, 2)


def test_a_checkpoint_is_calibrated_by_itself():
    def alone(anchors, steps):
        problem = condition_all(posterior(lambda w: jnp.sum(w**4), jnp.asarray(anchors)), DATA, 100)
        return step_size(curvature_met(jax.random.key(0), problem, np.array(steps), DATA, 100))

    pair = alone([[0.0, 0.0], [1.0, 0.5]], [3, 8])
    np.testing.assert_allclose(pair[0], alone([[0.0, 0.0]], [3])[0], rtol=1e-4)
    np.testing.assert_allclose(pair[1], alone([[1.0, 0.5]], [8])[0], rtol=1e-4)
    assert pair[1] < pair[0]


def test_a_loss_that_is_not_finite_around_the_checkpoint_is_said_to_be():
    problem = posterior(lambda w: jnp.sqrt(-jnp.sum(w**2)), jnp.zeros(2))
    with pytest.raises(ValueError, match="no step size"):
        sltjax.calibrate(jax.random.key(0), problem, DATA)
