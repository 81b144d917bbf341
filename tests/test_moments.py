import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sltjax.moments import mean


def autoregressive(rng, chains, draws, rho, shared=0.0):
    """Stationary AR(1) chains of unit variance, `shared` of which is common to all chains."""
    innovations = rng.normal(size=(draws + 1, chains)) * np.sqrt(1 - shared)
    innovations += rng.normal(size=(draws + 1, 1)) * np.sqrt(shared)
    x = np.empty((draws + 1, chains))
    x[0] = innovations[0]
    for t in range(1, draws + 1):
        x[t] = rho * x[t - 1] + np.sqrt(1 - rho**2) * innovations[t]
    return jnp.asarray(x[1:].T, jnp.float32)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("shared", [0.0, 0.6])
def test_standard_error_and_coverage(rho, shared):
    rng = np.random.default_rng(0)
    chains, draws = 4, 1000
    exact = np.sqrt((1 + rho) / (1 - rho) * (shared + (1 - shared) / chains) / draws)
    found = [mean(autoregressive(rng, chains, draws, rho, shared)) for _ in range(200)]
    values = np.array([float(m.value) for m in found])
    errors = np.array([float(m.std_error) for m in found])
    assert 0.9 * exact < np.median(errors) < 1.35 * exact
    assert np.mean(np.abs(values) < 2 * errors) > 0.9
    assert np.allclose([float(m.ess) for m in found], (np.array([1.0]) / errors**2), rtol=0.35)


def test_chains_that_disagree_are_no_better_than_their_number():
    rng = np.random.default_rng(0)
    apart = rng.normal(size=(4, 1000)) * 0.01 + np.array([[0.0], [1.0], [2.0], [3.0]])
    found = mean(jnp.asarray(apart, jnp.float32))
    assert found.std_error > 0.4
    assert found.ess < 10


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
@pytest.mark.parametrize("value", [2.5, 0.1, 17.3])
def test_draws_that_never_move_claim_no_certainty(array, value):
    found = mean(array(np.full((4, 999), value)))
    assert found.value == pytest.approx(value, rel=1e-5)
    assert np.isnan(found.std_error)
    assert found.ess == 0


def test_under_vmap():
    x = jax.random.normal(jax.random.key(0), (3, 4, 200))
    together = jax.vmap(mean)(x)
    for index in range(3):
        np.testing.assert_allclose(together.std_error[index], mean(x[index]).std_error, rtol=1e-5)
